"""
Schedules on the engine: each occurrence fires once or is recorded as skipped, whatever happens in between.

Time is virtual. Which occurrences there are is told by the log, event by event.
"""

from __future__ import annotations

import asyncio

import pytest
from polos import SchedulePayload, WorkflowContext, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import SCHEDULE_PREFIX
from polos.testing.clock import START_US
from polos.testing.simulation import Simulation

MINUTE_US = 60_000_000


async def nap(seconds: float) -> float:
    """Take a while."""
    loop = asyncio.get_running_loop()
    waited = loop.create_future()
    alarm = loop.call_later(seconds, waited.set_result, None)
    try:
        await waited
    finally:
        alarm.cancel()
    return seconds


@workflow(id="tick", schedule=True)
async def tick(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    """Say when."""
    return payload.timestamp.isoformat()


@workflow(id="slow", schedule=True)
async def slow(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    """Take over two minutes."""
    await ctx.step.run("nap", nap, 140.0)
    return payload.timestamp.isoformat()


def history(sim: Simulation, schedule: str) -> list[e.Event]:
    """Give the events of a schedule."""
    with sim.store.log.reader() as reader:
        return [
            decode(record.type, record.schema_version, record.payload)
            for record in reader.stream(SCHEDULE_PREFIX + schedule)
        ]


def told(sim: Simulation, schedule: str) -> list[tuple[str, int]]:
    """Give what became of each occurrence, in minutes from the start."""
    found: list[tuple[str, int]] = []
    for event in history(sim, schedule):
        if isinstance(event, e.ScheduleFired):
            found.append(("fired", (event.occurrence_us - START_US) // MINUTE_US))
        elif isinstance(event, e.ScheduleSkipped):
            found.append((event.reason, (event.occurrence_us - START_US) // MINUTE_US))
    return found


def test_each_occurrence_fires_once() -> None:
    """A run for every minute, created at that minute, with a payload that says so."""
    with Simulation([tick]) as sim:
        sim.send("schedule", action="set", workflow="tick", said={"cron": "* * * * *"})
        sim.run_for(200)

        fired = [event for event in history(sim, "tick:global") if isinstance(event, e.ScheduleFired)]
        assert [("fired", 1), ("fired", 2), ("fired", 3)] == told(sim, "tick:global")
        assert ["2026-01-01T00:01:00+00:00", "2026-01-01T00:02:00+00:00", "2026-01-01T00:03:00+00:00"] == [
            sim.result(event.run) for event in fired
        ]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", [("fired", 1), ("overlap", 2), ("overlap", 3), ("fired", 4), ("overlap", 5), ("overlap", 6)]),
        ("allow_all", [("fired", minute) for minute in range(1, 7)]),
        ("buffer_all", [("fired", 1), ("fired", 2), ("fired", 3)]),
        ("buffer_one", [("fired", 1), ("overlap", 3), ("fired", 2), ("overlap", 5), ("fired", 4)]),
        ("terminate_other", [("fired", minute) for minute in range(1, 7)]),
        ("cancel_other", [("fired", minute) for minute in range(1, 7)]),
    ],
)
def test_overlap(overlap: str, expected: list[tuple[str, int]]) -> None:
    """What becomes of an occurrence while a run is under way is the policy's to say."""
    with Simulation([slow]) as sim:
        sim.send("schedule", action="set", workflow="slow", said={"cron": "* * * * *", "overlap": overlap})
        sim.run_for(6 * 60 + 25)

        assert expected == told(sim, "slow:global")
