"""Turns of the engine on the program's loop: how long they are, and what isn't done in them in vain."""

from __future__ import annotations

import pytest
from polos import WorkflowContext, workflow
from polos.runtime.loading import Loader
from polos.runtime.settings import TURN_US
from polos.runtime.unit import Unit, Work
from polos.testing.simulation import Simulation


@workflow(id="takes turns")
async def takes_turns(ctx: WorkflowContext) -> int:
    """Take a step."""
    return await ctx.step.run("step", lambda: 1)


def test_work_that_takes_long_gives_others_their_turn() -> None:
    """However many pieces of work there are, they are decided in their order, for five milliseconds at a time."""
    told: list[object] = []
    with Simulation([takes_turns]) as sim:

        def slow(number: int) -> Work:
            def apply(_unit: Unit) -> None:
                told.append(number)
                sim.clock._monotonic_us += TURN_US // 2  # so long it takes

            return Work(apply)

        def other() -> None:
            told.append("other")

        for number in range(5):
            sim.engine.post(slow(number))
        for _ in range(2):
            sim.loop.call_soon(other)
        sim.loop.call_soon(lambda: sim.loop.call_soon(other))
        sim.settle()

    assert [0, 1, "other", "other", 2, 3, "other", 4] == told


def test_a_run_that_ended_is_not_read_to_be_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is woken too often, as many had something for it, costs nothing when it is over; nor does an unknown run."""
    read: list[str] = []
    load = Loader._load

    def noting(self: Loader, run: str) -> object:
        read.append(run)
        return load(self, run)

    monkeypatch.setattr(Loader, "_load", noting)
    with Simulation([takes_turns]) as sim:
        run = sim.create(takes_turns, None).run
        sim.settle()
        for _ in range(3):
            sim.engine.wake(run)
            sim.engine.wake(run, slot=True)
        sim.engine.wake("no run")
        sim.settle()

        assert 1 == sim.result(run)
    assert [] == read
