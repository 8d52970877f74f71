"""What events start in a sweep: runs of triggers are awaited, compared and swept like those that a run starts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from polos import EventPayload, WorkflowContext, workflow
from polos.testing import CrashOutcome, CrashSweepFailed, Outside
from polos.testing.sweep import sweep
from polos.testing.sweep_report import CrashReport

pytestmark = pytest.mark.sweep

post = Outside("post")


async def send(number: int) -> int:
    """Send a bill."""
    post.note("sent", number=number)
    return number


async def send_once(number: int) -> int:
    """Send a bill, unless it was sent."""
    if number not in [sent["number"] for sent in post.notes("sent")]:
        post.note("sent", number=number)
    return number


async def slow() -> None:
    """Take its time."""
    await asyncio.sleep(5)


@workflow(id="swept-order")
async def order(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Publish some events, one after another."""
    for number in range(payload["orders"]):
        await ctx.step.wait_for(f"next-{number}", seconds=25)
        await ctx.step.publish_event(f"tell-{number}", topic="swept/orders", data={"number": number})
    return "ordered"


@workflow(id="swept-bill", trigger_on_event="swept/orders")
async def bill(ctx: WorkflowContext, payload: EventPayload) -> dict[str, Any]:
    """Send what was ordered, at a price of the day."""
    price = await ctx.step.random("price")
    await ctx.step.wait_for("night", hours=8)
    sent = await ctx.step.run("send", send_once, payload.data["number"])
    return {"sent": sent, "cents": int(1000 * price), "event": payload.id, "run": ctx.execution_id}


@workflow(id="swept-two-orders")
async def two_orders(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Publish two events side by side, one after a step that is slow, and slower still after a crash."""

    async def after(waiting: Any, number: int) -> None:
        await waiting
        await ctx.step.publish_event(f"tell-{number}", topic="swept/orders", data={"number": number})

    await asyncio.gather(after(ctx.step.run("slow", slow), 0), after(ctx.step.wait_for("soon", seconds=6), 1))


@workflow(id="swept-hasty-bill", trigger_on_event="swept/orders")
async def hasty(ctx: WorkflowContext, payload: EventPayload) -> int:
    """Send what was ordered, once more after a crash."""
    return int(await ctx.step.run("send", send, payload.data["number"]))


@workflow(id="swept-archive", trigger_on_event="swept/*", batch_size=10, batch_timeout_seconds=60)
async def archive(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Send what came within a minute."""
    for event in payload["events"]:
        await ctx.step.run(f"send-{event['data']['number']}", send_once, event["data"]["number"])
    return len(payload["events"])


@workflow(
    id="swept-broken-bill", trigger_on_event="swept/orders", trigger_filter=lambda event: event.data["number"] > 0
)
async def broken(ctx: WorkflowContext, payload: EventPayload) -> None:
    """Fail."""
    raise LookupError("no address")


@workflow(id="swept-shop")
async def shop(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Have a child publish them."""
    return str(await ctx.step.invoke_and_wait("order", order, payload))


def swept(*workflows: Any, orders: int = 2, **options: Any) -> CrashReport:
    """Sweep what publishes, with those that listen."""
    return sweep(order, {"orders": orders}, workflows=workflows, **{"processes": 0, "pairs": 0, **options})


def each_once(outcome: CrashOutcome) -> None:
    """Check that each was sent, and once."""
    assert [0, 1] == sorted(sent["number"] for sent in post.notes("sent"))
    assert ["", "tell-0→swept-bill", "tell-1→swept-bill"] == sorted(run.path for run in outcome.executions)
    assert [False, True, True] == [run.triggered for run in outcome.executions]
    assert {"completed"} == {run.status for run in outcome.executions}


@pytest.mark.parametrize("options", [{"pairs": 20}, {"downtime_seconds": 7200}, {"from_remains": False}])
def test_what_an_event_starts_is_awaited_and_compared(options: dict[str, Any]):
    """Killed anywhere, each event makes one run, with the same values; ids of events and runs aren't compared."""
    report = swept(bill, check=each_once, **options)

    assert len(report.points) == report.singles > 30
    assert () == report.left_out


def test_events_that_are_published_side_by_side_may_come_in_any_order():
    """After a crash it is another one: what an event starts is told apart by the step that published the event."""
    orders: set[tuple[int, ...]] = set()

    def each(outcome: CrashOutcome) -> None:
        each_once(outcome)
        orders.add(tuple(sent["number"] for sent in post.notes("sent")))

    report = sweep(two_orders, {}, workflows=[bill], check=each, processes=0, pairs=20)

    assert len(report.points) == report.singles
    assert {(0, 1), (1, 0)} == orders


def test_ids_of_events_have_those_of_runs_in_them():
    """A child that is started later has another id, and so has what it publishes: nothing that a crash does wrong."""

    def billed(outcome: CrashOutcome) -> None:
        assert ["", "order", "order/tell-0→swept-bill"] == sorted(run.path for run in outcome.executions)

    report = sweep(shop, {"orders": 1}, workflows=[bill], check=billed, processes=0, pairs=0, downtime_seconds=7200)

    assert len(report.points) == report.singles


def test_it_is_so_in_child_processes():
    """They know by name which triggers fire."""
    report = swept(bill, check=each_once, real=True, points=6, pairs=1)

    assert (6, 1) == (report.singles, report.pairs)


@pytest.mark.parametrize("real", [False, True])
def test_what_goes_wrong_in_it_is_found(real: bool):
    """A second bill after a crash, which nobody could see who sweeps the publisher alone."""

    def once(_outcome: CrashOutcome) -> None:
        assert 1 == post.count("sent")

    with pytest.raises(CrashSweepFailed) as failed:
        swept(hasty, orders=1, check=once, real=real)

    assert "after_effect_before_outcome:1" == str(failed.value.points[0])
    assert any("[tell-0→swept-hasty-bill]" in line for line in failed.value.before)


def test_only_those_that_are_given_fire():
    """One that is registered has nothing to do with a sweep that doesn't name it."""

    def alone(outcome: CrashOutcome) -> None:
        assert [""] == [run.path for run in outcome.executions]

    assert swept(check=alone).singles


def test_a_batch_may_be_another_after_a_crash():
    """So its runs aren't compared, but lived to their end, with the wait for a batch that isn't full, and checked."""
    sizes: set[tuple[int, ...]] = set()

    def all_sent(outcome: CrashOutcome) -> None:
        batches = [run for run in outcome.executions if run.triggered]
        sizes.add(tuple(run.result for run in batches))
        assert [0, 1, 2] == sorted(sent["number"] for sent in post.notes("sent"))
        assert {("completed", False)} == {(run.status, run.compared) for run in batches}
        assert [""] == [run.path for run in outcome.executions if run.compared]

    swept(archive, orders=3, check=all_sent, downtime_seconds=100)

    assert {(3,)} < sizes, "downtime has parted some"


def test_one_that_fails_by_itself_has_to_be_meant():
    """Nobody waits for it, so nobody else would be told; what the filter leaves out starts nothing."""
    with pytest.raises(
        CrashSweepFailed, match=r"triggered run 'tell-1→swept-broken-bill' failed: LookupError: no address; if"
    ):
        swept(broken)

    assert swept(broken, orders=1).singles
    assert swept(broken, check=lambda _: None).singles


@workflow(id="swept-echo", trigger_on_event="swept/echoes")
async def echo(ctx: WorkflowContext, payload: EventPayload) -> None:
    """Say it once more, for ever."""
    await ctx.step.publish_event("again", topic="swept/echoes", data={})


@workflow(id="swept-calls")
async def calls(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Say it once."""
    await ctx.step.publish_event("once", topic="swept/echoes", data={})


def test_runs_that_begin_without_end_are_told_as_a_whole():
    """The histories are told on another thread while the life begins more of them; what is shown stays short."""
    with pytest.raises(CrashSweepFailed, match="the life as a whole, which gets on all the time") as failed:
        sweep(calls, {}, workflows=[echo], processes=0, pairs=0, patience_seconds=0.3)

    assert "_bootstrap" not in str(failed.value), "the program is nowhere on the stack"
    assert max(map(len, str(failed.value).splitlines())) < 400


@workflow(id="swept-countdown", trigger_on_event="swept/countdowns")
async def countdown(ctx: WorkflowContext, payload: EventPayload) -> float:
    """Start the next one, some times."""
    left: int = payload.data["left"]
    if left:
        await ctx.step.publish_event("next", topic="swept/countdowns", data={"left": left - 1})
    return left + round(await ctx.step.random("price"), 3)


@workflow(id="swept-start")
async def start(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Start the first one."""
    await ctx.step.publish_event("first", topic="swept/countdowns", data=payload)


def test_a_long_chain_of_runs_has_short_paths_of_its_own():
    """Each is compared with its like, whose path is the same in each scenario, and draws what it drew."""
    paths: set[tuple[str, ...]] = set()

    def each(outcome: CrashOutcome) -> None:
        paths.add(tuple(sorted(run.path for run in outcome.executions)))

    sweep(start, {"left": 30}, workflows=[countdown], check=each, processes=0, pairs=3, points=12)

    ((first, *others),) = paths
    assert first == ""
    assert len(set(others)) == 31
    assert len(max(others, key=len)) < 300
