"""Who waits for an engine that has lost its log, or can't read it, is answered all the same, or told what to do."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from polos import EventPayload, SchedulePayload, WorkflowContext, workflow
from polos.errors import BlobMissing, EngineNotRunning, PolosError, StoreDamaged, StoreFailed
from polos.runtime.client import PolosClient
from polos.runtime.following import LogMoves
from polos.runtime.loading import Loader
from polos.runtime.replying import refuse_all
from polos.runtime.unit import Work
from polos.store.log import AppendUnit, Epoch, Position, Receipt
from polos.testing import Fault, Simulation
from polos.testing.simulation import QUIET, Call


@workflow(id="lost_waits")
async def waits(ctx: WorkflowContext) -> Any:
    """Wait for a signal, do a step, and end with what was sent."""
    ctx.on_query("asked", lambda: "asked")
    sent = await ctx.step.wait_for_signal("go")
    return await ctx.step.run("say it", lambda: sent)


@workflow(id="lost_single")
async def single(ctx: WorkflowContext) -> Any:
    """Be one at a time."""
    return await ctx.step.wait_for_signal("go")


@workflow(id="lost_tick", schedule=True)
async def tick(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    """Come every minute."""
    return "ticked"


@workflow(id="lost_event", trigger_on_event="lost_orders")
async def event(ctx: WorkflowContext, payload: EventPayload) -> Any:
    """Come with each event."""
    return payload.data


class FailingLog:
    """A log that can't be read for a while, or can't be appended to for ever."""

    def __init__(self, log: Any) -> None:
        """Take the log that does the work."""
        self.log = log
        self.reads = 0
        self.unreadable: Callable[[int], bool] = lambda _number: False  # told which read it is, counted by `reads`
        self.refusal: PolosError | None = None

    def __getattr__(self, name: str) -> Any:
        """Give everything else as it is."""
        return getattr(self.log, name)

    def reader(self) -> Any:
        """Open a view, or fail."""
        self.reads += 1
        if self.unreadable(self.reads):
            raise StoreFailed("planned: the log can't be read")
        return self.log.reader()

    def append(self, units: list[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
        """Append, or fail."""
        if self.refusal is not None:
            raise self.refusal
        receipts: list[Receipt] = self.log.append(units, epoch=epoch)
        return receipts


def failing(sim: Simulation) -> FailingLog:
    """Put a log that may fail in front of the one of a world that isn't started."""
    log: Any = FailingLog(sim.store.log)
    sim.store.log = log
    found: FailingLog = log
    return found


def task_of(sim: Simulation, awaited: Any) -> asyncio.Task[Any]:
    """Begin to await something on the engine's loop."""
    return sim.loop.create_task(awaited)


def client_of(sim: Simulation) -> Any:
    """Give a client of the program that the engine is in."""
    return PolosClient.over(sim.store, clock=sim.clock)


# ------------------------------------------------------------------------------------ another one has it


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in this process", "in another"])
def test_who_waits_for_a_result_gets_it_from_the_new_owner(elsewhere: bool) -> None:
    """The engine that was fenced off will never hear of the end, and whoever waits there follows the log."""
    with Simulation([waits]) as sim:
        run = sim.create(waits, None).run
        sim.run_ready()
        former = sim.engine
        waiting = task_of(sim, client_of(sim)._wait_ended(run))
        sim.run_ready()
        sim.take_over()
        if elsewhere:
            sim.store.owner_engine = former  # the program of the former knows of no other
        late = task_of(sim, former.execute("late", {"kind": "signal", "run": run, "name": "other"}))
        sim.run_ready()
        assert isinstance(late.exception(), StoreFailed)
        assert "ask that one" in str(late.exception())
        later = task_of(sim, client_of(sim)._wait_ended(run))
        sim.run_ready()
        assert not waiting.done()
        assert not later.done()

        sim.send("signal", run=run, name="go", data="gone")
        sim.run_for(2)
        assert ["gone", "gone"] == [waiting.result()["result"], later.result()["result"]]


def test_an_engine_that_has_nothing_to_append_notices_that_it_was_fenced_off() -> None:
    """The run waits for something, and what comes is the new owner's: it has ended for who waits at the former, too."""
    with Simulation([waits], settings=replace(QUIET, inbox_poll_seconds=0.02)) as sim:
        run = sim.create(waits, None).run
        sim.run_for(1)
        former = sim.engine
        waiting = task_of(sim, client_of(sim)._wait_ended(run))
        sim.run_for(1)
        sim.take_over()
        sim.store.owner_engine = former
        sim.send("signal", run=run, name="go", data="gone")
        sim.run_for(3)

        assert "gone" == waiting.result()["result"]
        assert former.recovery.over is not None


def test_a_fenced_engine_stops_at_once() -> None:
    """What comes up there is nobody's any more, so there is nothing to wait for, be the grace as long as it may."""
    with Simulation([waits], settings=replace(QUIET, stop_grace_seconds=1_000)) as sim:
        run = sim.create(waits, None).run
        sim.run_ready()
        former = sim.engine
        sim.take_over()
        late = task_of(sim, former.execute("late", {"kind": "signal", "run": run, "name": "go"}))
        sim.run_ready()
        assert isinstance(late.exception(), StoreFailed)
        former.wake(run)
        stopping = task_of(sim, former.stop())
        sim.run_for(1)

        assert stopping.done()


def test_what_is_lost_while_the_engine_stops_is_refused_at_once() -> None:
    """It tries again while its disk is full, until the grace is over, unless it finds that another has the log."""
    with Simulation([waits], settings=replace(QUIET, stop_grace_seconds=1_000)) as sim:
        run = sim.create(waits, None).run
        sim.run_ready()
        former = sim.engine
        sim.plan.next(Fault.FULL)
        asked = task_of(sim, former.execute("late", {"kind": "signal", "run": run, "name": "go"}))
        sim.run_ready()
        stopping = task_of(sim, former.stop())
        sim.run_ready()
        sim.store.acquire_ownership()
        sim.run_for(1)

        assert stopping.done()
        assert isinstance(asked.exception(), StoreFailed)


# ------------------------------------------------------------------------------------ nobody can have it


def test_who_waits_for_a_log_that_is_damaged_is_told() -> None:
    """Nobody ends the run, and the log doesn't move: ends and streams fail with what was found."""
    sim = Simulation([waits])
    log = failing(sim)
    with sim:
        run, ended = sim.create(waits, None).run, sim.create(waits, None).run
        sim.run_ready()
        sim.send("signal", run=ended, name="go", data="gone")
        sim.run_ready()
        client = client_of(sim)
        waiting = [task_of(sim, client._wait_ended(run)), task_of(sim, LogMoves(sim.store).behind(Position(10_000)))]
        sim.run_ready()
        log.refusal = StoreDamaged("planned: page 7 is torn")
        asked = sim.send("signal", run=run, name="other")
        sim.run_for(2)
        later, known = (task_of(sim, client._wait_ended(name)) for name in (run, ended))
        sim.run_ready()

        assert isinstance(asked.error, StoreFailed)
        for task in (*waiting, later):
            assert isinstance(task.exception(), EngineNotRunning)
            assert "page 7" in str(task.exception())
        assert "gone" == known.result()["result"]


# ------------------------------------------------------------------------------------ it can't be read for a while


def ask(sim: Simulation, runs: list[str]) -> list[Call]:
    """Ask for all kinds of things at once, in one commit."""
    return [
        sim.send("signal", run=runs[0], name="go", data="gone"),
        sim.send("cancel", run=runs[1]),
        sim.send("query", run=runs[2], name="asked", args=[]),
        sim.send("publish", topic="lost", events=[{"data": 1}]),
        sim.create(waits, None),
        sim.create(single, None, singleton="one", singleton_policy="queue"),
    ]


@pytest.mark.parametrize("fault", [Fault.FULL, Fault.UNKNOWN_LOST, Fault.UNKNOWN_KEPT])
def test_an_engine_that_can_not_read_the_log_tries_again(fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    """At whichever place reading fails after a failed commit, all callers get their answers and all runs go on."""
    caplog.set_level(logging.CRITICAL, "polos")
    assert reads_until(lambda number: read_fails(fault, number)) > 20


def reads_until(fails: Callable[[int], bool]) -> int:
    """Have the first read fail, then the second, and so on until there are no more; gives how many there were."""
    number = 1
    while fails(number):
        number += 1
    return number


def read_fails(fault: Fault, number: int) -> bool:
    """Have one read fail after a failed commit; tells whether there were so many."""
    sim = Simulation([waits, single])
    log = failing(sim)
    with sim:
        runs = [sim.create(waits, None).run for _ in range(3)]
        first = sim.create(single, None, singleton="one", singleton_policy="queue").run
        sim.run_ready()
        ended = task_of(sim, client_of(sim)._wait_ended(runs[0]))
        sim.run_ready()
        sim.plan.next(fault)
        calls = ask(sim, runs)
        sim.run_ready()
        assert sim.engine.broken is not None

        def fails(which: int) -> bool:
            return which == number

        log.reads, log.unreadable = 0, fails
        sim.run_for(5)
        reached = log.reads >= number
        log.unreadable = lambda _which: False
        sim.run_for(5)

        assert [] == [call.command for call in calls if call.reply is None]
        assert sim.engine.broken is None
        assert "gone" == sim.result(runs[0])
        # Who waits for the end reads, too, and is told if that fails.
        assert isinstance(ended.exception(), StoreFailed) or "gone" == ended.result()["result"]
        sim.send("signal", run=first, name="go", data="first")
        sim.run_for(5)
        sim.send("signal", run=calls[-1].run, name="go", data="second")
        sim.run_for(5)
        assert ["first", "second"] == [sim.result(first), sim.result(calls[-1].run)]
    return reached


@pytest.mark.parametrize("fault", [None, Fault.FULL, Fault.UNKNOWN_KEPT])
def test_schedules_and_triggers_that_can_not_read_the_log_try_again(
    fault: Fault | None, caplog: pytest.LogCaptureFixture
) -> None:
    """At whichever place reading fails, with a failed commit before it or without, each occurrence and event comes."""
    caplog.set_level(logging.CRITICAL, "polos")
    assert reads_until(lambda number: look_fails(fault, number)) > 10


def look_fails(fault: Fault | None, number: int) -> bool:
    """Have one read fail in two minutes; tells whether there were so many."""
    sim = Simulation([tick, event])
    log = failing(sim)
    with sim:
        sim.send("schedule", action="set", workflow="lost_tick", said={"cron": "* * * * *"})
        sim.run_for(1)
        if fault is not None:
            sim.plan.next(fault)
        log.reads, log.unreadable = 0, lambda which: which == number
        call = sim.send("publish", topic="lost_orders", events=[{"data": 1}])
        sim.run_for(130)
        reached = log.reads >= number

        came = sorted((state.workflow, sim.result(run)) for run, state in sim.audit.states.items())
        assert [("lost_event", 1), ("lost_tick", "ticked"), ("lost_tick", "ticked")] == came
        assert call.reply is not None
    return reached


def test_an_engine_that_can_not_read_the_log_stops() -> None:
    """Who waits is refused when the grace is over, as with a full disk."""
    sim = Simulation([waits])
    log = failing(sim)
    with sim:
        run = sim.create(waits, None).run
        sim.run_ready()
        sim.plan.next(Fault.UNKNOWN_LOST)
        call = sim.send("signal", run=run, name="go", data="gone")
        sim.run_ready()
        log.unreadable = lambda _which: True
        sim.run_for(5)
        assert not call.answered

        stopping = task_of(sim, sim.engine.stop())
        sim.run_for(60)
        assert stopping.done()
        assert isinstance(call.error, StoreFailed)


@pytest.mark.parametrize("kind", [BlobMissing, RuntimeError])
def test_a_run_that_can_not_be_read_again_holds_up_nobody(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for it is told why, and everybody else goes on."""
    error = kind("planned")  # not a parameter, which would keep the stack that it was raised in
    whole = Loader.events
    with Simulation([waits]) as sim:
        lost, other = sim.create(waits, None).run, sim.create(waits, None).run
        sim.run_ready()

        def events(self: Loader, run: str) -> Any:
            if run == lost:
                raise error
            return whole(self, run)

        monkeypatch.setattr(Loader, "events", events)
        sim.plan.next(Fault.FULL)
        calls = [sim.send("signal", run=run, name="go", data="gone") for run in (lost, other)]
        sim.run_for(5)

        assert calls[0].error is error
        assert "gone" == sim.result(other)
        assert sim.engine.broken is None


# ------------------------------------------------------------------------------------ who is told


def test_who_comes_to_grief_over_a_refusal_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """One that raises, and one that has something else decided, are refused like everybody behind them."""
    told: list[BaseException] = []
    waiting: deque[Work] = deque()

    def apply(_unit: object) -> None:
        raise AssertionError("nothing is decided any more")

    def raises(_error: BaseException) -> None:
        raise RuntimeError("a bug")

    def goes_on(_error: BaseException) -> None:
        waiting.append(Work(apply))

    waiting.extend([Work(apply, fail=raises), Work(apply, fail=goes_on), Work(apply), Work(apply, fail=told.append)])
    error = EngineNotRunning("over")
    refuse_all(waiting, error)

    assert [error] == told
    assert "a bug" in caplog.text
