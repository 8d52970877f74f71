"""
Taking up runs that failed: what is done again and what isn't, who is told, and engines that die in the middle.

What is looked at is the log, and how often functions were called.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from polos import (
    ExecutionHandle,
    Polos,
    PolosClient,
    Queue,
    RateLimit,
    RetryPolicy,
    StepExecutionError,
    WorkflowContext,
    events,
    workflow,
)
from polos.engine import events as e
from polos.errors import CommandRefused, QueueFull, UnknownRun
from polos.store.faults import Fault
from polos.testing.simulation import Call, Simulation
from polos.views import timeline

from tests.test_dedup import begun_at_once
from tests.test_queues import starts

CALLS: Counter[str] = Counter()
DOWN: set[str] = set()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()
    DOWN.clear()


def call(name: str) -> str:
    """Do something, unless it is down."""
    CALLS[name] += 1
    if name in DOWN:
        raise OSError(f"{name} is down")
    return f"{name} is done"


@workflow(id="pay_and_send")
async def pay_and_send(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Two steps, the second of which may fail."""
    number = await ctx.step.uuid("number")
    paid = await ctx.step.run("pay", call, "pay")
    sent = await ctx.step.run("send", call, "send", max_retries=0)
    return [number, paid, sent]


def retry(sim: Simulation, run: str) -> Call:
    """Retry a run and go on until nothing happens."""
    made = sim.send("retry", run=run)
    sim.settle()
    return made


def children(sim: Simulation, workflow_id: str) -> list[str]:
    """Give the runs of a workflow."""
    return [run for run, state in sim.audit.states.items() if state.workflow == workflow_id]


def kinds(sim: Simulation, run: str) -> list[str]:
    """Give how often a run was reopened and how it ended each time."""
    wanted = (e.RunReopened, e.RunCompleted, e.RunFailed, e.RunCancelled)
    return [type(event).__name__ for event, _, _ in sim.audit.histories[run] if isinstance(event, wanted)]


# ----------------------------------------------------------------------------------- what is done again


def test_what_failed_is_done_again_and_nothing_else() -> None:
    """A retry runs the failed step once more and hands out what was finished; the run stays the same one."""
    DOWN.add("send")
    with Simulation([pay_and_send]) as sim:
        run = sim.create(pay_and_send, {}).run
        sim.settle()
        failed = sim.audit.end_of(run)
        DOWN.clear()
        retried = retry(sim, run)
        result = sim.result(run)

        assert isinstance(failed, e.RunFailed)
        assert retried.reply is not None
        assert {"pay": 1, "send": 2} == CALLS
        assert ["pay is done", "send is done"] == result[1:]
        assert [run] == list(sim.audit.states)
        assert ["RunFailed", "RunReopened", "RunCompleted"] == kinds(sim, run)
        sim.audit.check_rows()
        sim.audit.check_folding(run)


def test_it_can_fail_again_and_be_retried_again() -> None:
    """Each retry tries what failed once more, also after another life of the engine, until it goes well."""
    DOWN.add("send")
    with Simulation([pay_and_send]) as sim:
        run = sim.create(pay_and_send, {}).run
        sim.settle()
        for _ in range(3):
            retry(sim, run)
            sim.recover()
        DOWN.clear()
        retry(sim, run)
        number = next(event.value for event, _, _ in sim.audit.histories[run] if isinstance(event, e.ValueRecorded))

        assert {"pay": 1, "send": 5} == CALLS
        assert number == sim.result(run)[0]
        assert ["RunFailed", "RunReopened"] * 4 + ["RunCompleted"] == kinds(sim, run)


def test_only_what_failed_or_was_cancelled_can_be_retried() -> None:
    """A run that completed, is under way or is unknown refuses, and says so; nothing is recorded."""
    with Simulation([pay_and_send]) as sim:
        run = sim.create(pay_and_send, {}).run
        early = sim.send("retry", run=run)
        sim.settle()
        records = len(sim.audit.histories[run])
        late = retry(sim, run)
        unknown = retry(sim, "nobody")

        assert isinstance(early.error, CommandRefused)
        assert "hasn't ended" in str(early.error)
        assert isinstance(late.error, CommandRefused)
        assert "completed" in str(late.error)
        assert isinstance(unknown.error, UnknownRun)
        assert records == len(sim.audit.histories[run])


def test_attempts_of_the_run_are_counted_anew() -> None:
    """A retried run has all the attempts that its policy allows, and they look up what any attempt finished."""

    @workflow(id="stubborn", retries=RetryPolicy(max_retries=1, base_delay_seconds=0))
    async def stubborn(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("pay", call, "pay")
        return call("body")

    DOWN.add("body")
    with Simulation([stubborn]) as sim:
        run = sim.create(stubborn, {}).run
        sim.settle()
        retry(sim, run)
        DOWN.clear()
        retry(sim, run)

        assert {"pay": 1, "body": 5} == CALLS
        assert "body is done" == sim.result(run)


def test_a_failure_that_was_handled_is_tried_again_too() -> None:
    """All steps that ended in failure run again, not only the last one: the code may take another way this time."""

    @workflow(id="with_a_way_out")
    async def with_a_way_out(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        try:
            return await ctx.step.run("first", call, "first", max_retries=0)
        except StepExecutionError:
            return await ctx.step.run("second", call, "second", max_retries=0)

    DOWN.update({"first", "second"})
    with Simulation([with_a_way_out]) as sim:
        run = sim.create(with_a_way_out, {}).run
        sim.settle()
        DOWN.discard("first")
        retry(sim, run)

        assert "first is done" == sim.result(run)
        assert {"first": 2, "second": 1} == CALLS


def test_answers_and_signals_are_kept_and_what_expired_is_waited_for_again() -> None:
    """An answered suspend and a consumed signal are handed out again; a wait that expired waits anew."""

    @workflow(id="asking")
    async def asking(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        answer = await ctx.step.suspend("approval", {"of": "ada"})
        signal = await ctx.step.wait_for_signal("go")
        late = await ctx.step.suspend("second", {}, timeout=60)
        return [answer.data, signal, late.data]

    with Simulation([asking]) as sim:
        run = sim.create(asking, {}).run
        sim.run_for(1)
        sim.send("resume", run=run, key="approval", data=1)
        sim.send("signal", run=run, name="go", data=2)
        sim.settle()
        assert isinstance(sim.audit.end_of(run), e.RunFailed)
        sim.send("retry", run=run)
        sim.run_for(30)
        sim.send("resume", run=run, key="second", data=3)
        sim.settle()

        assert [1, 2, 3] == sim.result(run)


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancelled_run_can_be_retried(begun: bool) -> None:
    """A run that was cancelled, before it began or in a wait, goes on; its timeout counts from the new beginning."""

    @workflow(id="napping", run_timeout_seconds=100)
    async def napping(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("pay", call, "pay")
        await ctx.step.wait_for("nap", seconds=80)
        return "rested"

    with Simulation([napping]) as sim:
        run = sim.create(napping, {}, start_after=None if begun else 60).run
        sim.run_for(50)
        sim.send("cancel", run=run)
        sim.settle()
        state = sim.audit.states[run]
        cancelled = state.cancelled_by
        retry(sim, run)

        assert cancelled == "user"
        assert "rested" == sim.result(run)
        assert (None, None) == (state.cancelled_by, state.cancel_requested_us)
        assert {"pay": 1} == CALLS


def test_a_run_that_diverged_is_cancelled_first_and_then_retried_with_any_code() -> None:
    """One that waits for fitting code refuses and says what to do; given up, a retry looks finished work up by name."""

    @workflow(id="changing")
    async def before(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("pay", call, "pay")
        return await ctx.step.suspend("ok", {})

    @workflow(id="changing")
    async def after(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("count", call, "count")
        return await ctx.step.run("pay", call, "pay")

    with Simulation([before]) as sim:
        run = sim.create(before, {}).run
        sim.run_for(1)
        sim.crash()
        sim.workflows = {"changing": after}
        sim.start()
        sim.send("resume", run=run, key="ok", data=1)
        sim.settle()
        refused = retry(sim, run)
        sim.send("cancel", run=run)
        sim.send("cancel", run=run)
        sim.settle()
        retry(sim, run)

        assert "set aside (diverged)" in str(refused.error)
        assert "pay is done" == sim.result(run)
        assert {"pay": 1, "count": 1} == CALLS


def test_a_run_that_its_queue_refused_can_be_retried() -> None:
    """A child that failed because its queue was full begins when its parent is retried and there is room."""

    @workflow(id="crowded", queue=Queue("crowded", 1, key_concurrency_limit=1, max_queued=0))
    async def crowded(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.wait_for_signal("go") if payload.get("wait") else None
        await ctx.step.run("work", hang, payload.get("seconds", 0))
        return "done"

    @workflow(id="crowding")
    async def crowding(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.invoke_and_wait("child", crowded, {})

    async def hang(seconds: float) -> None:
        await pause(seconds)

    with Simulation([crowded, crowding]) as sim:
        sim.create(crowded, {"seconds": 10})
        run = sim.create(crowding, {}).run
        sim.run_for(1)
        full = sim.audit.end_of(run)
        failed = children(sim, "crowded")[-1]
        too_early = sim.send("retry", run=failed)
        sim.settle()
        retry(sim, run)

        assert isinstance(full, e.RunFailed)
        assert isinstance(too_early.error, QueueFull)
        assert "done" == sim.result(run)
        assert 2 == len(children(sim, "crowded"))


async def pause(seconds: float) -> None:
    """Take a while."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


# --------------------------------------------------------------------------------------- at most once


def test_a_step_that_may_have_had_its_effect_isnt_called_again() -> None:
    """An `at_most_once` step that was given up while it was under way is of unknown outcome in the retry."""

    async def hang() -> None:
        CALLS["charge"] += 1
        await pause(1_000)

    @workflow(id="charging")
    async def charging(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.run("charge", hang, effect="at_most_once")

    with Simulation([charging]) as sim:
        run = sim.create(charging, {}).run
        sim.run_for(1)
        sim.send("cancel", run=run)
        sim.run_for(1)
        assert isinstance(sim.audit.end_of(run), e.RunCancelled)
        sim.send("retry", run=run)
        sim.run_for(1)
        sim.recover()
        sim.run_for(1)
        waiting = sim.audit.states[run].unknown
        sim.send("resolve", run=run, step="charge", outcome="completed", value="charged")
        sim.settle()

        assert 1 == waiting
        assert "charged" == sim.result(run)
        assert {"charge": 1} == CALLS
        assert [] == sim.audit.violations


def test_one_that_failed_is_called_again_because_somebody_asks_for_it() -> None:
    """An `at_most_once` step whose failure is known runs once more: a retry is what a person wants."""

    @workflow(id="charging_once")
    async def charging_once(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.run("charge", call, "charge", effect="at_most_once")

    DOWN.add("charge")
    with Simulation([charging_once]) as sim:
        run = sim.create(charging_once, {}).run
        sim.settle()
        DOWN.clear()
        retry(sim, run)

        assert "charge is done" == sim.result(run)
        assert {"charge": 2} == CALLS


def test_bodies_that_do_io_themselves_look_up_what_is_finished() -> None:
    """A body with `deterministic=False` is retried by the same look-up."""

    @workflow(id="untidy", deterministic=False)
    async def untidy(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("pay", call, "pay")
        return await ctx.step.run("send", call, "send", max_retries=0)

    DOWN.add("send")
    with Simulation([untidy]) as sim:
        run = sim.create(untidy, {}).run
        sim.settle()
        DOWN.clear()
        retry(sim, run)

        assert "send is done" == sim.result(run)
        assert {"pay": 1, "send": 2} == CALLS


# ---------------------------------------------------------------------------------- queues and their like


def test_singletons_and_rates_hold_for_retried_runs() -> None:
    """A retried run waits for the singleton that is under way, and its start counts for the rate of its queue."""

    @workflow(id="one_by_one", queue=Queue("one_by_one", rate_limit=RateLimit(1, 60)))
    async def one_by_one(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("nap", pause, 5.0)
        return await ctx.step.run("ship", call, "ship", max_retries=0)

    DOWN.add("ship")
    with Simulation([one_by_one]) as sim:
        first = sim.create(one_by_one, {}, singleton="s", singleton_policy="queue").run
        sim.run_for(30)
        DOWN.clear()
        second = sim.create(one_by_one, {}, singleton="s", singleton_policy="queue").run
        sim.run_for(32)
        sim.send("retry", run=first)
        sim.run_for(1)
        sim.recover()
        sim.settle()
        begun = [at_us for at_us, _ in starts(sim)]
        again = [at for event, at, _ in sim.audit.histories[first] if isinstance(event, e.RunStarted)][1]

        assert ["ship is done"] * 2 == [sim.result(first), sim.result(second)]
        assert 1 == begun_at_once(sim, "s")
        assert again - max(begun) >= 60_000_000
        sim.audit.check_rows()


def test_every_start_of_a_run_counts_for_the_rate() -> None:
    """A run that began and was retried has begun twice: after a restart, too, nothing else begins before its time."""

    @workflow(id="two_a_minute", queue=Queue("two_a_minute", rate_limit=RateLimit(2, 60)))
    async def two_a_minute(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.run("ship", call, "ship", max_retries=0)

    DOWN.add("ship")
    with Simulation([two_a_minute]) as sim:
        first = sim.create(two_a_minute, {}).run
        sim.run_for(10)
        DOWN.clear()
        sim.send("retry", run=first)
        sim.run_for(10)
        sim.recover()
        second = sim.create(two_a_minute, {}).run
        sim.settle()
        begun = [at_us for run in (first, second) for event, at_us, _ in sim.audit.histories[run]
                 if isinstance(event, e.RunStarted)]  # fmt: skip

        assert [0, 10, 60] == [(at_us - begun[0]) // 1_000_000 for at_us in begun]


# -------------------------------------------------------------------------------------- failing commits


@pytest.mark.parametrize("fault", list(Fault))
def test_a_retry_whose_commit_fails_is_one_retry(fault: Fault) -> None:
    """Whether the log took it or not, who asked hears that it goes on, and it does so once."""
    DOWN.add("send")
    with Simulation([pay_and_send]) as sim:
        run = sim.create(pay_and_send, {}).run
        sim.settle()
        DOWN.clear()
        sim.plan.next(fault)
        made = retry(sim, run)

        assert made.reply is not None, made.error
        assert {"pay": 1, "send": 2} == CALLS
        assert ["RunFailed", "RunReopened", "RunCompleted"] == kinds(sim, run)


def test_a_run_whose_end_isnt_durable_yet_begins_when_it_is() -> None:
    """A retry that comes while the failure is on its way to the disk looks nothing up before it is there."""

    @workflow(id="hasty", retries=RetryPolicy(max_retries=0))
    async def hasty(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        number = await ctx.step.uuid("number")
        return [number, call("body")]

    DOWN.add("body")
    with Simulation([hasty], latency_us_max=1_000_000, seed=5) as sim:
        run = sim.create(hasty, {}).run
        made = sim.send("retry", run=run)
        for _ in range(200):
            sim.run_for(0.05)
            if CALLS["body"]:
                DOWN.clear()
            if made.error is not None:
                made = sim.send("retry", run=run)
            else:
                sim.engine.wake(run)  # as a slot does that it was given before it ended
        sim.settle()
        number = next(event.value for event, _, _ in sim.audit.histories[run] if isinstance(event, e.ValueRecorded))

        assert [number, "body is done"] == sim.result(run)


# ---------------------------------------------------------------------------------------- from a program


@pytest.mark.anyio
async def test_a_client_retries_by_handle(tmp_path: Path) -> None:
    """`handle.retry` works with the program's client and another's; one whose engine is gone keeps it for the next."""
    DOWN.add("send")
    async with Polos(data_dir=tmp_path) as polos, PolosClient(data_dir=tmp_path) as client:
        handle = await pay_and_send.invoke(polos, {})
        failed = await polos._wait_ended(handle.id)
        await handle.retry()
        await polos._wait_ended(handle.id)
        await ExecutionHandle(id=handle.id).retry(client)
        await client._wait_ended(handle.id)
        with pytest.raises(UnknownRun):
            await polos.retry("nobody")
    DOWN.clear()
    async with PolosClient(data_dir=tmp_path) as client:
        await client.retry(handle.id, by="ada", reason="it is up again")
    async with Polos(data_dir=tmp_path) as polos:
        polos.engine.intake.look()
        await pay_and_send.invoke(polos, {})  # when this is durable, so is what was kept
        found = await polos._wait_ended(handle.id)
        with pytest.raises(CommandRefused, match="nothing to retry"):
            await handle.retry(polos)
        with polos._log().reader() as reader:
            shown = [entry.text for entry in timeline(reader, handle.id)]

    assert "failed" == failed["status"]
    assert ("completed", None) == (found["status"], found["error"])
    assert "retried by ada: it is up again" in shown


@pytest.mark.anyio
async def test_a_stream_goes_on_after_a_retry(tmp_path: Path) -> None:
    """Who reads from the beginning sees the failure, the retry and the end; who was told of the failure was done."""
    DOWN.add("send")
    async with Polos(data_dir=tmp_path) as polos:
        handle = await pay_and_send.invoke(polos, {})
        first = [one.event_type async for one in events.stream_workflow(polos, "pay_and_send", handle.id, 0)]
        DOWN.clear()
        await handle.retry()
        await polos._wait_ended(handle.id)
        second = [one.event_type async for one in events.stream_workflow(polos, "pay_and_send", handle.id, 0)]

    assert "workflow_failed" == first[-1]
    assert first == second[: len(first)]
    assert ["workflow_retried", "step_start", "step_finish", "workflow_finish"] == second[len(first) :]
