"""
Runs that the engine closes without asking their code: cancelled for good, or while their code doesn't fit.

Such an end is nobody's request. If it named a fact for its cause, replay would take that fact for delivered, and code
that never saw it would be said to ask for what isn't recorded.
"""

from __future__ import annotations

from typing import Any

import pytest
from polos import Workflow, WorkflowContext, workflow
from polos.engine import events as e
from polos.testing.simulation import Simulation
from polos.testing.world import world

from tests.property.playing import play
from tests.property.programs import program
from tests.property.replaying import check_replay


async def act() -> str:
    """Have an effect."""
    await world().perform()
    return "done"


async def waits(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Wait, and act."""
    await ctx.step.wait_for_signal("go")
    return str(await ctx.step.run("act", act))


async def changed(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Ask for something else."""
    return str(await ctx.step.run("other", act))


@pytest.fixture
def original() -> Workflow[str]:
    """Give the code that the run began with."""
    return workflow(id="closed")(waits)


def test_e6_closed_while_its_code_did_not_fit(original: Workflow[str]) -> None:
    """E6: a run that was closed while its code didn't fit replays with the code that fits, up to what that has seen."""
    with Simulation([original]) as sim:
        run = sim.create(original, {}).run
        sim.settle()
        sim.crash()
        sim.workflows[original.id] = workflow(id="closed")(changed)
        sim.start()
        sim.send("signal", run=run, name="go", data=1)
        sim.run_for(1)
        assert 1 == len(sim.audit.diverged)
        sim.send("cancel", run=run)
        sim.run_for(1)
        sim.send("cancel", run=run)
        sim.run_for(1)

        assert isinstance(sim.audit.end_of(run), e.RunCancelled)
        assert [] == sim.world.effects
        sim.workflows[original.id] = original
        sim.recover()
        check_replay(sim, run)


def test_closed_at_the_end_of_its_grace() -> None:
    """A run whose cleaning up outlasts its grace ends cancelled, not failed, and replays."""
    with Simulation([program]) as sim:
        call = sim.create(program, {"do": ["finally", ["signal", "never", None], ["wait", 36_000.0]]})
        sim.run_for(1)
        sim.send("cancel", run=call.run)
        sim.run_for(130)

        end = sim.audit.end_of(call.run)
        assert isinstance(end, e.RunCancelled)
        assert "user" == end.by
        check_replay(sim, call.run)


def test_nothing_is_left_to_do_after_the_end() -> None:
    """A run that ended keeps its end, whatever still comes for it."""
    with Simulation([program]) as sim:
        call = play(sim, ["state", "a"], [])
        for kind, fields in (("signal", {"name": "x"}), ("cancel", {}), ("update", {"name": "bump"})):
            sim.send(kind, run=call.run, **fields)
        length = len(sim.audit.histories[call.run])
        sim.settle()

        assert length == len(sim.audit.histories[call.run])
