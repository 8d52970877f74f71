"""Slots and places that would be lost, or given to two: what histories of queues once showed, each alone."""

from __future__ import annotations

import asyncio
from typing import Any

from polos import WorkflowContext, workflow
from polos.runtime.settings import Settings
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


def started(sim: Simulation, run: str) -> bool:
    """Tell whether a run was begun."""
    return "RunStarted" in sim.stream(run)


def test_who_is_cancelled_in_line_frees_its_place() -> None:
    """A singleton that is cancelled before it began lets the next one in, and leaves memory."""
    with Simulation([work]) as sim:
        sim.send("queue", queue="lane", changes=ONE)
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
        sim.send("queue", queue="lane", changes=ONE)
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
        sim.send("queue", queue="lane", changes=ONE)
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
