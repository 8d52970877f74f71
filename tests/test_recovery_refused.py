"""A log that refuses writes for long: what waits for it stays as much as it is, and is decided when it can be."""

from __future__ import annotations

from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.engine import events as e
from polos.testing import Fault, Simulation


@workflow(id="refused-for-long")
async def patient(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    answer = await ctx.step.wait_for_signal("go")
    return await ctx.step.run("double", lambda: 2 * answer)


def waiting(sim: Simulation) -> int:
    """Count what waits to be decided or recorded."""
    engine = sim.engine
    return len(engine.work) + sum(len(unit.waiting()) for unit in engine.in_flight.values())


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("fault", [Fault.FULL, Fault.UNKNOWN_LOST])
def test_a_log_that_is_full_for_a_minute(fault: Fault, begun: bool):
    """However often an append is tried again, no more waits for it than at first, and then everything is answered."""
    with Simulation([patient]) as sim:
        started = sim.create(patient, {}) if begun else None
        sim.run_for(1)
        sim.plan.always(fault)
        started = started or sim.create(patient, {})
        told = sim.send("signal", run=started.run, name="go", data=21)
        sim.send_again(told)  # changes nothing, and rests on what isn't recorded
        sim.run_for(1)
        count = waiting(sim)
        for seconds in (1, 60):  # at the end more attempts than Python nests calls
            sim.run_for(seconds)
            assert count == waiting(sim)
        assert sim.plan.failed > 1_200
        assert not told.answered
        sim.plan.never()
        sim.settle()

        assert {"outcome": "accepted"} == told.reply
        end = sim.audit.end_of(started.run)
        assert isinstance(end, e.RunCompleted)
        assert 42 == end.result
        assert {} == sim.engine.recovery.stuck


def test_a_full_log_is_told_once_a_minute(caplog: pytest.LogCaptureFixture):
    """Twenty attempts a second aren't twenty lines a second; another reason is told at once."""
    with Simulation([patient]) as sim:
        sim.plan.always(Fault.FULL)
        sim.create(patient, {})
        sim.run_for(59)
        assert ["no space is left"] == told(caplog)
        sim.run_for(2)
        assert ["no space is left"] * 2 == told(caplog)
        sim.plan.always(Fault.REFUSED)
        sim.run_for(1)
        assert ["no space is left", "no space is left", "the write failed"] == told(caplog)
        assert sim.plan.failed > 1_000
        sim.plan.never()
        sim.settle()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give why the log refused, as often as it was said."""
    lines = [record.getMessage() for record in caplog.records]
    return [line.split(": ")[2].partition(" on the device")[0].partition(";")[0] for line in lines]
