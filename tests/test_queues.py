"""
Queues on the engine: limits, keys, turns, rates, pauses and full queues, also across crashes.

What is looked at is the log. How many runs of a queue are under way is counted at every one of its positions, so a
limit that was exceeded for a moment shows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, PolosClient, Queue, RateLimit, WorkflowContext, batch_invoke, queue, queues, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.evolve import evolve
from polos.engine.projections import RUN_PREFIX, queue_of
from polos.engine.state import RunState, status
from polos.errors import QueueFull, StepExecutionError, UnknownQueue
from polos.retention import Retention
from polos.runtime import lines
from polos.store.faults import Fault
from polos.testing.clock import VirtualClock
from polos.testing.simulation import Call, Simulation
from polos.types import BatchWorkflowInput


async def nap(seconds: float) -> float:
    """Take a while."""
    loop = asyncio.get_running_loop()
    waited = loop.create_future()
    loop.call_later(seconds, waited.set_result, None)
    await waited
    return seconds


@workflow(id="work", queue={"name": "lane", "concurrency_limit": 10, "key_concurrency_limit": 2})
async def work(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Work, wait, work."""
    await ctx.step.run("before", nap, 1.0)
    if payload.get("wait"):
        await ctx.step.wait_for("pause", seconds=60)
    await ctx.step.run("after", nap, 1.0)
    return str(payload.get("name"))


def under_way(sim: Simulation) -> Iterator[tuple[int, dict[str, RunState]]]:
    """Give time and runs after each record of the log."""
    states: dict[str, RunState] = {}
    with sim.store.log.reader() as reader:
        for record in reader.records():
            if record.stream.startswith(RUN_PREFIX):
                run = record.stream.removeprefix(RUN_PREFIX)
                state = states.setdefault(run, RunState(run=run))
                event = decode(record.type, record.schema_version, record.payload)
                evolve(state, event, time_us=record.time_us)
                yield record.time_us, states


def most(sim: Simulation) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Give how many runs of each queue, and of each key, were ever running at once."""
    queues_most: Counter[str] = Counter()
    keys_most: Counter[tuple[str, str]] = Counter()
    for _, states in under_way(sim):
        # What woke a run that waited may be recorded before it is the run's turn: then nothing is under way yet.
        running = [state for state in states.values() if status(state) == "running" and state.busy > 0]
        for name, count in Counter(queue_of(state) for state in running).items():
            queues_most[name] = max(queues_most[name], count)
        for key, count in Counter((queue_of(state), state.concurrency_key or "") for state in running).items():
            keys_most[key] = max(keys_most[key], count)
    return queues_most, keys_most


def starts(sim: Simulation) -> list[tuple[int, str]]:
    """Give the first starts of all runs, by time."""
    with sim.store.log.reader() as reader:
        return [
            (record.time_us, record.stream.removeprefix(RUN_PREFIX))
            for record in reader.records()
            if record.type == "RunStarted" and b'"attempt":1' in record.payload
        ]


def ended(sim: Simulation) -> int:
    """Count the runs that completed."""
    return sum(isinstance(sim.audit.end_of(run), e.RunCompleted) for run in sim.audit.states)


@workflow(id="narrow", queue=Queue("narrow", 3))
async def narrow(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Work for a second."""
    await ctx.step.run("nap", nap, 1.0)


@pytest.mark.parametrize("crash_every", [0, 3, 7])
def test_limits_hold_for_queue_and_key(crash_every: int) -> None:
    """No more runs than its queue and its key allow are ever running, also if the engine is killed."""
    with Simulation([work, narrow], seed=3) as sim:
        for number in range(12):
            sim.create(work, {"name": number}, queue="lane", concurrency_key=f"k{number % 3}")
            sim.create(narrow, {}, queue="narrow", concurrency_key=None)
        for moment in range(40):
            sim.run_for(0.5)
            if crash_every and moment % crash_every == crash_every - 1:
                sim.recover()
        sim.settle()
        of_queue, of_key = most(sim)

        assert 24 == ended(sim)
        assert (3, 6) == (of_queue["narrow"], of_queue["lane"])
        assert {2} == {count for (name, _), count in of_key.items() if name == "lane"}


def test_the_limit_of_a_queue_counts_all_its_keys() -> None:
    """With a limit of its own for keys, the queue's limit counts them together."""

    @workflow(id="both", queue=Queue("both", 3, key_concurrency_limit=2))
    async def both(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        await ctx.step.run("nap", nap, 1.0)

    with Simulation([both]) as sim:
        for number in range(12):
            sim.create(both, {}, queue="both", concurrency_key=f"k{number % 4}")
        sim.settle()
        of_queue, of_key = most(sim)

    assert 3 == of_queue["both"]
    assert max(of_key.values()) <= 2


@pytest.mark.parametrize("crash", [False, True])
def test_who_waits_holds_no_slot(crash: bool) -> None:
    """A run that waits for a timer frees its slot, and stands in line again when the timer has fired."""
    with Simulation([work]) as sim:
        for number in range(6):
            sim.create(work, {"name": number, "wait": True}, queue="lane", concurrency_key="k")
        sim.run_for(10)
        waiting = sum(status(state) == "waiting" for state in sim.audit.states.values())
        sim.run_for(53.5)
        if crash:  # some were woken, and aren't running yet
            sim.recover()
        sim.settle()

        assert 6 == waiting
        assert 6 == ended(sim)
        assert 2 == most(sim)[1]["lane", "k"]


@workflow(id="single", queue=Queue("single", 1, key_concurrency_limit=1))
async def single(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Work for a second."""
    await ctx.step.run("nap", nap, 1.0)


def order_of(sim: Simulation) -> list[Any]:
    """Give the names of runs in the order in which they began."""
    return [sim.audit.histories[run][0][0].input.get("name") for _, run in starts(sim)]  # type: ignore[union-attr]


def test_priority_then_age() -> None:
    """The higher priority begins first; among equals the older run."""
    with Simulation([single]) as sim:
        for name, priority in (("first", 0), ("low", 0), ("high", 9), ("higher", 10), ("high too", 9)):
            sim.create(single, {"name": name}, queue="single", priority=priority)
            sim.run_for(0.01)
        sim.settle()

        assert ["first", "higher", "high", "high too", "low"] == order_of(sim)


def test_runs_of_one_moment_begin_in_their_order() -> None:
    """What one command asked for, and several of one moment, begins in the order in which it was asked for."""
    with Simulation([single]) as sim:
        asked = [sim.draft_run(single, {"name": number}, queue="single") for number in range(12)]
        created: list[Any] = [call.command["runs"] for call in asked[:6]]
        sim.send("create", run=asked[0].run, runs=[one for runs in created for one in runs])
        for call in asked[6:]:
            sim.send_again(call)
        sim.settle()

        assert list(range(12)) == order_of(sim)


@pytest.mark.parametrize("deterministic", [True, False])
def test_children_of_one_moment_begin_in_their_order(*, deterministic: bool) -> None:
    """Items of a batch begin in the order in which they were given, within a priority; so do children one by one."""

    @workflow(id="batching", deterministic=deterministic)
    async def batching(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        def item(name: int, **more: Any) -> BatchWorkflowInput:
            return BatchWorkflowInput(id="single", payload={"name": name}, **more)

        await ctx.step.batch_invoke("batch", [item(number) for number in range(1, 7)])
        await asyncio.gather(*(ctx.step.invoke(f"{number}", single, {"name": number}) for number in range(7, 13)))
        await ctx.step.batch_invoke_and_wait("all", [item(number) for number in range(13, 19)])

    with Simulation([single, batching]) as sim:
        sim.create(single, {"name": 0}, queue="single")
        sim.run_for(0.1)
        sim.create(batching, {})
        sim.settle()

        assert list(range(19)) == [name for name in order_of(sim) if name is not None]


@pytest.mark.anyio
async def test_the_items_of_a_batch_are_in_their_order(tmp_path: Path) -> None:
    """A client's ids of one moment, and after its clock went back, sort by the order of the items."""
    clock = VirtualClock(seed=1)
    client = PolosClient(data_dir=tmp_path, clock=clock)
    async with Polos(data_dir=tmp_path):
        first = await client.batch_invoke([BatchWorkflowInput(id="single", payload={})] * 20)
        clock.jump(-5_000_000)
        second = await client.batch_invoke([BatchWorkflowInput(id="single", payload={})] * 20)

    ids = [handle.id for handle in (*first, *second)]
    assert sorted(ids) == ids


def test_keys_take_turns() -> None:
    """Who has one run waiting isn't held up by who has ten."""
    with Simulation([single]) as sim:
        for number in range(10):
            sim.create(single, {"name": f"big {number}"}, queue="single", concurrency_key="big")
        sim.create(single, {"name": "small"}, queue="single", concurrency_key="small")
        sim.settle()

        assert order_of(sim).index("small") <= 2


def test_children_have_the_priority_of_their_parent() -> None:
    """A child stands where its parent would stand."""

    @workflow(id="parent")
    async def parent(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        await ctx.step.invoke_and_wait("child", single, {"name": "child"})

    with Simulation([single, parent]) as sim:
        for number in range(3):
            sim.create(single, {"name": number}, queue="single")
            sim.run_for(0.1)
        sim.create(parent, {}, priority=5)
        sim.settle()

        assert [0, "child", 1, 2] == [name for name in order_of(sim) if name is not None]


@pytest.mark.parametrize("crash", [False, True])
def test_a_rate_is_kept_in_every_window(crash: bool) -> None:
    """In no window of the period there are more starts than the rate allows, also across a crash."""

    @workflow(id="rated", queue=Queue("rated", rate_limit=RateLimit(3, 10.0), key_rate_limit=RateLimit(2, 10.0)))
    async def rated(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        return None

    with Simulation([rated], latency_us_max=50_000, seed=1) as sim:
        for number in range(20):
            sim.create(rated, {}, queue="rated", concurrency_key=f"k{number % 2}")
        for _ in range(30):
            sim.run_for(3.3)
            if crash:
                sim.recover()
        sim.settle()
        times = [time_us for time_us, _ in starts(sim)]
        keys = [sim.audit.states[run].concurrency_key for _, run in starts(sim)]

    assert 20 == len(times)
    for first, fourth in zip(times, times[3:], strict=False):
        assert fourth - first >= 10_000_000
    for key in ("k0", "k1"):
        own = [time_us for time_us, found in zip(times, keys, strict=True) if found == key]
        for first, third in zip(own, own[2:], strict=False):
            assert third - first >= 10_000_000
    # Nothing is held up longer than the rate wants: 20 starts, 3 every 10 seconds.
    assert times[-1] - times[0] <= 75_000_000


def test_delayed_runs_begin_at_their_moment(tmp_path: Path) -> None:
    """`start_after` and `start_at` say when a run may begin; nobody waits in line before."""

    async def main() -> list[Any]:
        async with Polos(data_dir=tmp_path) as polos:
            past = await narrow.invoke(polos, {}, start_at=datetime(2020, 1, 1))  # noqa: DTZ001  # taken for UTC
            later = await narrow.invoke(polos, {}, start_at=datetime(2400, 1, 1, tzinfo=UTC))
            soon = await narrow.invoke(polos, {}, start_after=0.01)
            ended = [(await polos._wait_ended(handle.id))["status"] for handle in (past, soon)]
            return [*ended, (await polos.get_execution(later.id))["status"], polos.engine.lines.queued("narrow")]

    assert ["completed", "completed", "queued", 0] == asyncio.run(main())


@pytest.mark.anyio
async def test_a_full_queue_refuses(tmp_path: Path) -> None:
    """Beyond `max_queued` nothing is created: an invoke raises, a batch raises as a whole, a child fails its step."""

    @workflow(id="small", queue=Queue("small", max_queued=2))
    async def small(ctx: WorkflowContext) -> None:
        return None

    @workflow(id="asks for more")
    async def asks_for_more(ctx: WorkflowContext) -> str:
        try:
            await ctx.step.invoke_and_wait("child", small)
        except StepExecutionError as error:
            return str(error)
        return "it fits"

    async with Polos(data_dir=tmp_path) as polos:
        await queues.pause(polos, "small")
        await small.invoke(polos)
        with pytest.raises(QueueFull, match=r"the queue 'small' is full: 1 runs wait in it, 2 more .* max_queued is 2"):
            await batch_invoke(polos, [BatchWorkflowInput(id="small")] * 2)
        await small.invoke(polos)
        with pytest.raises(QueueFull):
            await small.invoke(polos)
        assert 2 == queues.get(polos, "small").queued
        assert "is full" in await asks_for_more.run(polos)
        await queues.resume(polos, "small")
        for row in await polos.list_executions(workflow_id="small", status="queued"):
            await polos._wait_ended(row["id"])
        assert await asks_for_more.run(polos) == "it fits"


@pytest.mark.anyio
async def test_a_queue_is_changed_while_runs_wait(tmp_path: Path) -> None:
    """Pause, resume and new limits count at once, hold after a restart, and are told."""
    async with Polos(data_dir=tmp_path) as polos:
        await queues.pause(polos, "narrow")
        handle = await narrow.invoke(polos, {})
        assert (True, 1, 3) == (
            queues.get(polos, "narrow").paused,
            queues.get(polos, "narrow").queued,
            queues.get(polos, "narrow").key_concurrency_limit,
        )
        await queues.configure(polos, "narrow", concurrency_limit=7, rate_limit=RateLimit(5, 2.5))
    async with Polos(data_dir=tmp_path) as polos:
        found = queues.get(polos, "narrow")
        assert (True, 7, RateLimit(5, 2.5), 3) == (
            found.paused, found.concurrency_limit, found.rate_limit, found.key_concurrency_limit,
        )  # fmt: skip
        assert "queued" == (await polos.get_execution(handle.id))["status"]
        async with PolosClient(data_dir=tmp_path) as client:
            await queues.configure(client, "narrow", rate_limit=None)
            await queues.resume(client, "narrow")
        assert "completed" == (await polos._wait_ended(handle.id))["status"]
        assert queues.get(polos, "narrow").rate_limit is None
        assert "narrow" in [one.name for one in queues.list(polos)]


@pytest.mark.anyio
async def test_a_queue_that_nobody_named_isnt_held_up(tmp_path: Path) -> None:
    """A misspelt name is told, with the one that was meant; every queue that somebody means is known."""

    @workflow(id="in a named queue", queue="named")
    async def in_named(ctx: WorkflowContext) -> None:
        return None

    @workflow(id="in its own")
    async def in_its_own(ctx: WorkflowContext) -> None:
        return None

    over = asyncio.Event()

    @workflow(id="under way")
    async def under_way(ctx: WorkflowContext) -> None:
        await ctx.step.run("wait", over.wait)

    async with Polos(data_dir=tmp_path) as polos:

        @workflow(id="defined later", queue="later")
        async def defined_later(ctx: WorkflowContext) -> None:
            return None

        for act in (queues.pause, queues.resume, partial(queues.configure, concurrency_limit=1)):
            with pytest.raises(UnknownQueue, match=r"no queue 'naemd': .*; is it 'named'\?"):
                await act(polos, "naemd")
            for known in ("named", "in its own", "later"):
                await act(polos, known)
        assert "naemd" not in [one.name for one in queues.list(polos)]
        async with PolosClient(data_dir=tmp_path) as client:
            with pytest.raises(UnknownQueue):
                await queues.pause(client, "tenant-1")
            await queues.configure(client, "tenant-1", max_queued=5, create=True)
            await queues.pause(client, "tenant-1")
        await under_way.invoke(polos, queue="tenant-2")
        assert "tenant-2" in [one.name for one in queues.list(polos)]
        await queues.pause(polos, "tenant-2")
        over.set()

    assert defined_later.queue_name == "later"
    assert in_named.queue_name == "named"


def test_a_queue_whose_code_isnt_here_is_known_if_it_ever_ran() -> None:
    """Runs of a workflow that another program knows may wait, and are to be held up here."""

    @workflow(id="ran once")
    async def ran_once(ctx: WorkflowContext) -> None:
        return None

    @workflow(id="here")
    async def here(ctx: WorkflowContext) -> None:
        return None

    with Simulation([ran_once]) as sim:
        sim.create(ran_once, None)
        sim.settle()
        store = sim.store
    with Simulation([here], store=store) as sim:
        assert {"outcome": "accepted"} == pause(sim, "ran once").reply
        assert {"outcome": "accepted"} == pause(sim, "here").reply


@workflow(id="quick in a queue", retention=Retention(max_count=0))
async def quick(ctx: WorkflowContext) -> None:
    """End at once, and be archived soon."""


@workflow(id="asks of a tenant")
async def asks(ctx: WorkflowContext) -> None:
    """Ask for children in a queue that nobody else names."""
    for number in range(2):
        await ctx.step.invoke_and_wait(f"{number}", quick, queue="tenant-c")


def named_by_runs(sim: Simulation) -> list[tuple[str, str]]:
    """Give what was recorded of queues, and by whom."""
    with sim.store.log.reader() as reader:
        found = [decode(one.type, one.schema_version, one.payload) for one in reader.records()]
    return [(event.queue, event.by) for event in found if isinstance(event, e.QueueConfigured)]


def test_a_queue_that_a_run_named_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when nobody is in it, after a crash and when its runs are archived; it is recorded once, and not kept."""
    monkeypatch.setattr(lines, "NAMED_KEPT", 1)
    with Simulation([quick, asks]) as sim:
        for name in ("tenant-b", "tenant-a"):
            sim.create(quick, None, queue=name)
            sim.settle()
        run = sim.create(quick, None, queue="tenant-b").run
        sim.create(asks, None)
        sim.settle()
        assert {"outcome": "accepted"} == pause(sim, "tenant-b").reply
        sim.run_for(10 * 60)
        with sim.store.log.reader() as reader:
            assert reader.row(("archived", run)) is not None

        sim.crash()
        sim.start()
        recorded = [("tenant-b", "run"), ("tenant-a", "run"), ("tenant-c", "run"), ("tenant-b", "user")]
        assert recorded == named_by_runs(sim)
        assert (False, True) == (sim.engine.lines.is_configured("tenant-a"), sim.engine.lines.is_configured("tenant-b"))
        for name in ("tenant-a", "tenant-c"):
            assert {"outcome": "accepted"} == pause(sim, name).reply
        assert isinstance(pause(sim, "tenant-d").error, UnknownQueue)
        held = sim.create(quick, None, queue="tenant-c").run
        sim.settle()
        assert "RunStarted" not in sim.stream(held)


def test_a_queue_whose_first_run_was_lost_is_named_by_the_next_try() -> None:
    """What was on its way with a commit that failed is recorded again, and once."""
    with Simulation([quick]) as sim:
        sim.plan.next(Fault.UNKNOWN_LOST)
        sim.create(quick, None, queue="tenant-e")
        sim.settle()

        assert [("tenant-e", "run")] == named_by_runs(sim)


def pause(sim: Simulation, queue: str) -> Call:
    """Pause a queue."""
    call = sim.send("queue", queue=queue, changes={"paused": True})
    sim.settle()
    return call


@pytest.mark.anyio
async def test_new_code_says_something_new(tmp_path: Path) -> None:
    """What was changed by hand outlives a restart, until the code says something else than before."""

    def define(limit: int) -> None:
        @workflow(id="changing", queue=Queue("changing", limit))
        async def changing(ctx: WorkflowContext) -> None:
            return None

    limits: list[int | None] = []
    for limit, by_hand in ((3, 5), (3, None), (4, None)):
        define(limit)
        async with Polos(data_dir=tmp_path) as polos:
            if by_hand is not None:
                await queues.configure(polos, "changing", key_concurrency_limit=by_hand)
            await polos.invoke("changing")
            limits.append(queues.get(polos, "changing").key_concurrency_limit)

    assert [5, 5, 4] == limits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"concurrency_limit": 0}, "concurrency_limit of queue 'w' must be a number from 1, it is 0"),
        ({"concurrency_limit": True}, "concurrency_limit of queue 'w' must be a number from 1, it is True"),
        ({"key_concurrency_limit": -1}, "key_concurrency_limit of queue 'w' must be a number from 1, it is -1"),
        ({"max_queued": -1}, "max_queued of queue 'w' must be a number from 0, it is -1"),
        ({"name": ""}, "the name of a queue must not be empty"),
        ({"speed": 3}, r"the queue of workflow 'w' can't have \['speed'\]"),
        ({"rate_limit": {"limit": 0, "period_seconds": 1}}, "limit of a RateLimit must be a number from 1, it is 0"),
        ({"rate_limit": {"limit": 1, "period_seconds": 0}}, "period_seconds of a RateLimit must be a positive number"),
        ({"rate_limit": {"limit": 1}}, "rate_limit has 'limit' and 'period_seconds'"),
        (3, "queue must be a name, a Queue or a dict, it is 3"),
    ],
)
def test_what_a_queue_cant_be(given: Any, message: str) -> None:
    """Bad limits are refused where the workflow is defined, with the argument's name."""

    async def body(ctx: WorkflowContext) -> None:
        return None

    with pytest.raises(ValueError, match=message):
        workflow(id="w", queue=given)(body)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start_after": 1, "start_at": datetime(2030, 1, 1, tzinfo=UTC)}, "give one of them"),
        ({"start_after": -1}, "start_after must be"),
        ({"priority": 1.5}, "priority must be a whole number"),
        ({"priority": 2**40}, "priority must be a whole number"),
    ],
)
@pytest.mark.anyio
async def test_what_an_invoke_cant_say(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    """Bad arguments of an invoke are refused by their names."""
    async with Polos(data_dir=tmp_path) as polos:
        with pytest.raises(ValueError, match=message):
            await narrow.invoke(polos, {}, **given)


def test_a_rate_must_be_one() -> None:
    """What isn't a `RateLimit` is refused, and equal ones are equal."""
    wrong: Any = 5
    with pytest.raises(TypeError, match="rate_limit of queue 'q' must be a RateLimit, it is 5"):
        queue("q", rate_limit=wrong)
    assert {RateLimit(1, 2)} == {RateLimit(1, 2), RateLimit(1, 2)}
    assert "Queue('q', 3, max_queued=1)".replace(", 3", ", concurrency_limit=3") == repr(queue("q", 3, max_queued=1))


def test_a_run_that_begins_later_is_no_matter_of_a_full_queue() -> None:
    """Whether `max_queued` is reached is asked of those that stand in line, and who begins later doesn't."""

    @workflow(id="full_now", queue=Queue("full_now", max_queued=1))
    async def full_now(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        """Do nothing."""

    with Simulation([full_now]) as sim:
        sim.send("queue", queue="full_now", changes={"paused": True})
        there = sim.create(full_now, {}, queue="full_now")
        sim.run_ready()
        refused = sim.create(full_now, {}, queue="full_now")
        later = sim.create(full_now, {}, queue="full_now", start_after=60)
        flurry = sim.create(full_now, {}, queue="full_now", debounce_seconds=60)
        past = sim.create(full_now, {}, queue="full_now", start_at=datetime(2020, 1, 1, tzinfo=UTC))
        sim.run_ready()

        assert [None, QueueFull, None, None, QueueFull] == [
            call.error and type(call.error) for call in (there, refused, later, flurry, past)
        ]

        sim.send("queue", queue="full_now", changes={"paused": False})
        sim.settle()
        assert 3 == ended(sim)
