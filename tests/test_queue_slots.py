"""Slots and places that would be lost, or given to two: what histories of queues once showed, each alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.engine.projections import run_stream
from polos.runtime.settings import Settings
from polos.store.faults import Fault
from polos.testing.simulation import Simulation

from tests.property.test_queue_histories import nap

ONE: dict[str, Any] = {"concurrency_limit": 1}


@workflow(id="slots work")
async def work(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Sleep for a moment in the body, or in a step."""
    if payload.get("body"):
        await asyncio.sleep(5)
    await ctx.step.run("nap", nap, payload.get("seconds", 1.0))


@workflow(id="slots direct", deterministic=False)
async def direct(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """A body that isn't replayed."""
    await ctx.step.run("before", nap, 1.0)
    await ctx.step.wait_for("pause", seconds=20)
    return "done"


@workflow(id="slots naps")
async def naps(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Wait without a slot, then work."""
    await ctx.step.wait_for("pause", seconds=20)
    await ctx.step.run("after", nap, 1.0)


def started(sim: Simulation, run: str) -> bool:
    """Tell whether a run was begun."""
    return "RunStarted" in sim.stream(run)


def test_who_is_cancelled_in_line_frees_its_place() -> None:
    """A singleton that is cancelled before it began lets the next one in, and leaves memory."""
    with Simulation([work]) as sim:
        sim.send("queue", queue="lane", changes=ONE, create=True)
        sim.create(work, {"seconds": 60.0}, queue="lane")
        first = sim.create(work, {}, queue="lane", singleton="x")
        sim.run_for(1)
        second = sim.create(work, {}, queue="lane", singleton="x", singleton_policy="cancel_old")
        sim.run_for(1)

        assert first.run not in sim.engine.residents
        sim.settle()
        assert [] == sim.audit.living()
        assert [False, True] == [started(sim, first.run), started(sim, second.run)]


def test_who_is_evicted_keeps_its_slot() -> None:
    """A run that leaves memory in a short timer lets nobody in beside it, and goes on in its slot."""
    with Simulation([work]) as sim:
        sim.send("queue", queue="lane", changes=ONE, create=True)
        sim.create(work, {"body": True}, queue="lane")
        waiting = sim.create(work, {}, queue="lane")
        sim.run_for(1)
        assert 1 <= sim.evict()
        sim.run_for(1)

        assert not started(sim, waiting.run)
        sim.settle()
        assert started(sim, waiting.run)
        assert 0 == sim.engine.lines.held


def test_who_is_cancelled_while_evicted_frees_its_slot() -> None:
    """A run that isn't in memory and has a slot ends: its slot is another's."""
    with Simulation([work]) as sim:
        sim.send("queue", queue="lane", changes=ONE, create=True)
        sleeping = sim.create(work, {"body": True}, queue="lane")
        waiting = sim.create(work, {}, queue="lane")
        sim.run_for(1)
        sim.evict()
        sim.send("cancel", run=sleeping.run)
        sim.run_for(0.5)

        assert started(sim, waiting.run)


def test_a_direct_body_that_stood_in_line_is_begun_anew() -> None:
    """After a crash it finds its queue full: when it is its turn, it begins anew."""
    with Simulation([work, direct], settings=Settings(inbox_poll_seconds=0, max_concurrent_workflows=1)) as sim:
        waits = sim.create(direct, {})
        sim.run_for(5)
        sim.create(work, {"seconds": 40.0})
        sim.run_for(1)
        sim.recover()
        sim.settle()

        assert "done" == sim.result(waits.run)
        assert [] == sim.audit.living()


def order(sim: Simulation, **runs: str) -> list[str]:
    """Name what happened to some runs, in the order of the log: who, and the type of the event."""
    names = {run_stream(run): name for name, run in runs.items()}
    with sim.store.log.reader() as reader:
        return [f"{names[record.stream]} {record.type}" for record in reader.records() if record.stream in names]


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.UNKNOWN_LOST])
def test_whose_end_was_lost_keeps_its_slot(fault: Fault) -> None:
    """A cancellation whose commit fails frees no slot: the step still runs, so nobody comes in beside it."""
    with Simulation([work]) as sim:
        sim.send("queue", queue="lane", changes=ONE, create=True)
        first = sim.create(work, {"seconds": 60.0}, queue="lane")
        waiting = sim.create(work, {"seconds": 40.0}, queue="lane")
        sim.run_for(1)
        sim.plan.next(fault)
        sim.send("cancel", run=first.run)
        sim.settle()

        names = order(sim, first=first.run, waiting=waiting.run)
        assert names.index("first RunCancelled") < names.index("waiting RunStarted")
        assert 0 == sim.engine.lines.held


def test_who_got_a_slot_that_was_never_free_waits_for_it_again() -> None:
    """A run that would go on in the slot of another, whose end is lost with its commit, stands in line once more."""
    with Simulation([work, naps]) as sim:
        sim.send("queue", queue="lane", changes=ONE, create=True)
        goes_on = sim.create(naps, {}, queue="lane")
        sim.run_for(2)
        first = sim.create(work, {"seconds": 60.0}, queue="lane")
        sim.run_for(30)  # the timer of the one has fired, and the other has the slot
        sim.plan.next(Fault.REFUSED)
        sim.send("cancel", run=first.run)
        sim.settle()

        names = order(sim, first=first.run, goes_on=goes_on.run)
        assert names.index("goes_on TimerFired") < names.index("first RunCancelled")
        assert names.index("first RunCancelled") < names.index("goes_on StepScheduled")
        assert 0 == sim.engine.lines.held
