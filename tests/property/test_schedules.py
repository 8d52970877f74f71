"""
Each occurrence of a schedule exactly once: as a run, or as one that is recorded as skipped.

The engine dies at any moment and is down for any time, clocks jump, and what holds changes in between. Which
occurrences there had to be is computed from the `ScheduleSet` events alone.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from polos import SchedulePayload, WorkflowContext, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import SCHEDULE_PREFIX
from polos.engine.schedule import cron_of
from polos.engine.schedule_state import OVERLAPS
from polos.testing.simulation import Simulation

from tests.campaign import SEED, scaled

SCHEDULE = "beat:k"


async def nap(seconds: float) -> None:
    """Take a while."""
    loop = asyncio.get_running_loop()
    waited = loop.create_future()
    alarm = loop.call_later(seconds, waited.set_result, None)
    try:
        await waited
    finally:
        alarm.cancel()


@workflow(id="beat", schedule=True)
async def beat(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    """Take half a minute up to three minutes."""
    await ctx.step.run("nap", nap, 30.0 + payload.timestamp.minute % 6 * 30)
    return payload.timestamp.isoformat()


def decided(sim: Simulation) -> tuple[list[e.Event], dict[int, list[str]]]:
    """Give the schedule's events, and what was decided of each occurrence."""
    with sim.store.log.reader() as reader:
        events = [
            decode(record.type, record.schema_version, record.payload)
            for record in reader.stream(SCHEDULE_PREFIX + SCHEDULE)
        ]
    found: dict[int, list[str]] = {}
    said: e.ScheduleSet | None = None
    for event in events:
        if isinstance(event, e.ScheduleSet):
            said = event
        elif isinstance(event, e.ScheduleFired):
            found.setdefault(event.occurrence_us, []).append("fired")
        elif isinstance(event, e.ScheduleSkipped):
            assert said is not None
            cron, at_us = cron_of(said.cron, said.timezone), event.occurrence_us
            while True:
                found.setdefault(at_us, []).append(event.reason)
                at_us = cron.after(at_us)
                if event.before_us is None or at_us >= event.before_us:
                    break
    return events, found


def check(sim: Simulation) -> None:
    """Every occurrence was decided once, and what fired has its run."""
    events, found = decided(sim)
    state = sim.audit.schedules[SCHEDULE_PREFIX + SCHEDULE]
    sets = [event for event in events if isinstance(event, e.ScheduleSet)]
    changed_us = _set_times(sim)
    wanted: set[int] = set()
    ends_us = [*changed_us[1:], state.next_us - 1]
    for said, from_us, to_us in zip(sets, changed_us, ends_us, strict=True):
        # What comes behind a change, up to the next one, is what this one says.
        cron, at_us = cron_of(said.cron, said.timezone), from_us
        while (at_us := cron.after(at_us)) <= to_us:
            wanted.add(at_us)

    assert sorted(wanted) == sorted({*found, *state.buffered})
    assert all(len(outcomes) == 1 for outcomes in found.values()), found
    fired = {event.run for event in events if isinstance(event, e.ScheduleFired)}
    assert fired == set(sim.audit.states)
    assert all(isinstance(sim.audit.histories[run][0][0], e.RunCreated) for run in fired)


def _set_times(sim: Simulation) -> list[int]:
    with sim.store.log.reader() as reader:
        return [record.time_us for record in reader.stream(SCHEDULE_PREFIX + SCHEDULE) if record.type == "ScheduleSet"]


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_each_occurrence_once(overlap: str) -> None:
    """Whatever dies, stands still or jumps, no occurrence is lost, and none comes twice."""
    for number in range(scaled(6, 400)):
        chance = Random(f"{SEED} {overlap} {number}")
        with Simulation([beat], seed=number, latency_us_max=chance.choice([0, 200_000])) as sim:
            said: dict[str, Any] = {
                "cron": "* * * * *",
                "key": "k",
                "overlap": overlap,
                "catch_up_seconds": chance.choice([None, 0, 240, 3600]),
                "jitter_seconds": chance.choice([0, 0, 20, 150]),
            }
            sim.send("schedule", action="set", workflow="beat", said=said)
            sim.run_for(1)
            for _ in range(12):
                _disturb(sim, chance, said)
            if not sim.alive:
                sim.start()
            sim.world.crash_at.clear()
            sim.run_for(1)
            sim.audit.check_rows()
            check(sim)


def _disturb(sim: Simulation, chance: Random, said: dict[str, Any]) -> None:
    """Let something happen."""
    match chance.choice(["run", "run", "crash", "down", "tick", "tick", "jump", "change", "rest"]):
        case "run":
            sim.run_for(chance.randrange(1, 400))
        case "crash":
            sim.recover()
        case "down":
            sim.crash()
            sim.clock.advance(chance.randrange(1, 1_500) * 1_000_000)
        case "tick":
            sim.world.crash_at.add(sim.world.ticks + chance.randrange(1, 12))
            sim.run_for(chance.randrange(60, 300))
        case "jump":
            sim.clock.jump(chance.randrange(-600, 900) * 1_000_000)
        case "change":
            said["cron"] = chance.choice(["* * * * *", "*/2 * * * *", "1-59/3 * * * *"])
            sim.send("schedule", action="set", workflow="beat", said=dict(said))
        case _:
            action = chance.choice(["pause", "resume"])
            sim.send("schedule", action=action, schedule=SCHEDULE)
    if not sim.alive:
        sim.start()
    sim.run_for(chance.choice([0, 1, 61]))


@pytest.mark.parametrize("overlap", ["skip", "buffer_all", "terminate_other"])
def test_a_crash_at_every_moment(overlap: str) -> None:
    """The process dies at each single thing that can't be taken back, a change of the expression included."""

    def play(sim: Simulation) -> None:
        said: dict[str, Any] = {"cron": "* * * * *", "key": "k", "overlap": overlap, "catch_up_seconds": 600}
        call = sim.draft("schedule", action="set", workflow="beat", said=said)
        change = sim.draft("schedule", action="set", workflow="beat", said={**said, "cron": "*/2 * * * *"})
        for wanted, seconds in ((call, 150), (change, 250)):
            while wanted.reply is None:
                if not sim.alive:
                    sim.start()
                sim.send_again(wanted)
                sim.run_for(1)
            sim.run_for(seconds)
            if not sim.alive:
                sim.start()
        sim.run_for(100)

    with Simulation([beat]) as sim:
        play(sim)
        check(sim)
        ticks = sim.world.ticks
    assert ticks > 10
    for tick in range(1, ticks + 1):
        with Simulation([beat]) as sim:
            sim.world.crash_at.add(tick)
            play(sim)
            if not sim.alive:
                sim.start()
                sim.run_for(1)
            check(sim)


def test_order_is_kept() -> None:
    """Occurrences that are made up come one after another, the oldest first."""
    with Simulation([beat]) as sim:
        said: dict[str, Any] = {"cron": "* * * * *", "key": "k", "catch_up_seconds": 480}
        sim.send("schedule", action="set", workflow="beat", said=said)
        sim.run_for(80)
        sim.crash()
        sim.clock.advance(1_200_000_000)
        sim.start()
        sim.run_for(3_600)
        fired = [event.occurrence_us for event in decided(sim)[0] if isinstance(event, e.ScheduleFired)]

        assert len([at_us for at_us in fired[1:9] if at_us < 1_767_225_600_000_000 + 1_280_000_000]) == 8
        assert all(earlier < later for earlier, later in pairwise(fired))
        check(sim)
