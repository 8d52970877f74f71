"""Plain functions in a simulation: they hold their threads while virtual time passes, and one thing runs at a time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from polos import StepExecutionError, workflow
from polos.engine import events as e
from polos.testing.simulation import Simulation
from polos.testing.waiting import perform_in_thread

RUNNING: list[int] = []


def slow(seconds: float) -> int:
    """Take time; gives which call it was."""
    RUNNING.append(1)
    assert [1] == RUNNING, "two functions run at the same time"
    RUNNING.pop()
    effect = perform_in_thread(takes_us=round(seconds * 1e6))
    return effect.number


@workflow(id="waiting-two")
async def two(ctx, payload: dict) -> Any:
    """Have two functions wait at the same time."""
    return await asyncio.gather(ctx.step.run("long", slow, 20), ctx.step.run("short", slow, 5))


@workflow(id="waiting-late")
async def late(ctx, payload: dict) -> str:
    """Have a function come back when its time is up."""
    try:
        await ctx.step.run("late", slow, 60, timeout_seconds=5, max_retries=1, base_delay=1)
    except StepExecutionError as error:
        return str(error)
    return "in time"


def test_functions_wait_beside_each_other():
    """Two functions of 20 and 5 seconds take 20: the short one is over first, on whichever thread."""
    with Simulation([two]) as sim:
        call = sim.create(two, {})
        sim.run_for(10)
        ended = [event.name for event, _, _ in sim.audit.histories[call.run] if isinstance(event, e.StepCompleted)]
        began_us = sim.clock.monotonic_us()
        sim.settle()

        assert ["short"] == ended
        assert [1, 1] == sim.result(call.run)
        assert sim.clock.monotonic_us() - began_us < 11_000_000


def test_what_comes_back_late_is_nobodys():
    """A function that is over when its time is long up changes nothing: its step has failed, after two calls."""
    with Simulation([late]) as sim:
        call = sim.create(late, {})
        sim.settle()

        assert "took longer than 5" in sim.result(call.run)
        assert [(1, True), (2, True)] == [(effect.number, effect.ended) for effect in sim.world.effects]


def test_a_crash_ends_functions_that_wait():
    """The next life calls the function again; nothing is heard of the dead one, and no thread is left."""
    before = threading.active_count()
    with Simulation([two]) as sim:
        call = sim.create(two, {})
        sim.run_for(10)
        sim.recover()
        sim.settle()

        assert [2, 1] == sim.result(call.run)
        assert [("long", False), ("short", True), ("long", True)] == [
            (effect.name, effect.ended) for effect in sim.world.effects
        ]
    assert before == threading.active_count()


@pytest.mark.parametrize("moment", ["begins", "ends"])
def test_a_process_dies_of_what_a_function_does(moment: str):
    """A crash that is ordered for the beginning or the end of a plain function ends the life there."""
    with Simulation([late]) as sim:
        call = sim.create(late, {})
        sim.run_ready()
        ticks = sim.world.ticks
        sim.crash()
    with Simulation([late]) as sim:
        sim.world.crash_at.add(ticks if moment == "begins" else ticks + 1)
        call = sim.create(late, {})
        sim.settle()
        died = not sim.alive
        if died:
            sim.start()
            sim.settle()

        assert died
        assert "took longer than 5" in sim.result(call.run)
