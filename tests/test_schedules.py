"""
Schedules on the engine: each occurrence fires once or is recorded as skipped, whatever happens in between.

Time is virtual. Which occurrences there are is told by the log, event by event.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, SchedulePayload, WorkflowContext, schedules, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import SCHEDULE_PREFIX
from polos.errors import CommandRefused, UnknownSchedule
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


def said(sim: Simulation, **fields: Any) -> None:
    """Say something of the schedule `tick:global`."""
    sim.send("schedule", action="set", workflow="tick", said=fields)
    sim.run_for(0.1)


def test_what_has_come_when_a_schedule_changes_fires() -> None:
    """An occurrence that jitter still holds back belongs to what was said before, and fires when that changes."""
    with Simulation([tick]) as sim:
        said(sim, cron="* * * * *", jitter_seconds=3_000)
        sim.run_for(61)
        before = told(sim, "tick:global")
        said(sim, cron="*/5 * * * *")
        sim.run_for(300)

        assert [] == before
        assert [("fired", 1), ("fired", 5)] == told(sim, "tick:global")


def test_saying_the_same_again_changes_nothing() -> None:
    """Only something new is recorded, and a new engine begins no new life of a schedule."""
    with Simulation([tick]) as sim:
        for _ in range(3):
            said(sim, cron="* * * * *")
            sim.recover()

        assert ["ScheduleSet"] == [type(event).__name__ for event in history(sim, "tick:global")]


@pytest.mark.parametrize(
    ("catch_up_seconds", "expected"),
    [
        (None, [("fired", 1), ("missed", 2), ("fired", 21), ("fired", 22)]),
        (0, [("fired", 1), ("missed", 2), ("fired", 22)]),
        (200, [("fired", 1), ("missed", 2), ("fired", 19), ("fired", 20), ("fired", 21), ("fired", 22)]),
    ],
)
def test_missed_occurrences(catch_up_seconds: float | None, expected: list[tuple[str, int]]) -> None:
    """After twenty minutes of downtime what is young enough is made up, in order; the rest is recorded as skipped."""
    with Simulation([tick]) as sim:
        said(sim, cron="* * * * *", catch_up_seconds=catch_up_seconds)
        sim.run_for(90)
        sim.crash()
        sim.clock.advance(1_200_000_000)
        sim.start()
        sim.run_for(40)

        assert expected == told(sim, "tick:global")


def test_paused_resumed_deleted() -> None:
    """Nothing comes of a schedule that is paused or deleted, and what would have come is recorded as skipped."""
    with Simulation([tick]) as sim:
        said(sim, cron="* * * * *")
        for action, seconds in (("pause", 150), ("resume", 60), ("delete", 150)):
            sim.send("schedule", action=action, schedule="tick:global")
            sim.run_for(seconds)
        gone = sim.send("schedule", action="resume", schedule="tick:global")
        sim.run_for(1)

        assert [("paused", 1), ("fired", 3)] == told(sim, "tick:global")
        assert isinstance(gone.error, UnknownSchedule)


def test_triggered_and_filled_in() -> None:
    """A run by hand is asked for once however often it is sent; a backfill creates what never ran, and only that."""
    with Simulation([tick]) as sim:
        said(sim, cron="* * * * *")
        sim.run_for(130)
        once = sim.draft("schedule", action="trigger", schedule="tick:global", run=sim.new_run_id())
        for _ in range(2):
            sim.send_again(once)
            sim.run_for(1)
        from_us = START_US - 3 * MINUTE_US
        filled = [
            sim.send("schedule", action="backfill", schedule="tick:global", from_us=from_us, to_us=START_US * 2)
            for _ in range(2)
        ]
        sim.run_for(1)

        assert [4, 0] == [len(call.reply["detail"]["runs"]) for call in filled]  # type: ignore[index, call-overload, arg-type]
        whys = [event.why for event in history(sim, "tick:global") if isinstance(event, e.ScheduleFired)]
        assert ["due", "due", "trigger", *["backfill"] * 4] == whys
        assert 7 == len(sim.audit.states)


def test_a_hundred_thousand_occurrences_missed_cost_one_event() -> None:
    """A year of downtime is one record, and decided at once."""
    with Simulation([tick]) as sim:
        said(sim, cron="* * * * *")
        sim.crash()
        sim.clock.advance(365 * 86_400_000_000)
        sim.start()
        sim.run_for(1)

        assert ["missed", "fired"] == [what for what, _ in told(sim, "tick:global")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0 0 30 2 *", "cron '0 0 30 2 \\*' never comes"),
        ("* * * * * *", "cron must have five fields"),
        ("61 * * * *", "cron '61 .*' can't be read"),
        ("H * * * *", "cron 'H .*' isn't standard: 'H'"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "timezone must be an IANA name .*, it is 'Mars/Olympus'"),
        ({"cron": "* * * * *", "key": ""}, "key must not be empty"),
        ({"cron": "* * * * *", "overlap": "queue"}, "overlap must be one of skip, .*; it is 'queue'"),
        ({"cron": "* * * * *", "catch_up_seconds": -1}, "catch_up_seconds must be a number of seconds, .*; it is -1"),
        ({"cron": "* * * * *", "jitter_seconds": True}, "jitter_seconds must be a number of seconds, .*; it is True"),
        ({"cron": "* * * * *", "every": 5}, r"schedule can't have \['every'\]"),
        ({"timezone": "UTC"}, "schedule must have 'cron'"),
        (5, "schedule must be a cron expression, a dict or a bool, it is 5"),
    ],
)
def test_what_a_schedule_cant_be(given: Any, message: str) -> None:
    """Bad schedules are refused where the workflow is defined, with the argument's name."""
    with pytest.raises(ValueError, match=message):
        workflow(id="w", schedule=given)(lambda ctx: None)


@pytest.mark.anyio
async def test_the_code_says_something_else(tmp_path: Path) -> None:
    """What was changed by hand outlives a restart; a new word of the code counts, and what it drops is deleted."""

    def define(schedule: Any) -> None:
        @workflow(id="declared", schedule=schedule)
        async def declared(ctx: WorkflowContext) -> None:
            return None

    found: list[Any] = []
    for schedule, act in (
        ("0 3 * * *", schedules.pause), ("0 3 * * *", schedules.delete), ("0 3 * * *", None), ("0 4 * * *", None),
        ({"cron": "0 4 * * *", "key": "other"}, None), (True, None),
    ):  # fmt: skip
        define(schedule)
        async with Polos(data_dir=tmp_path) as polos:
            await polos.invoke("declared")
            found.append([(one.key, one.cron, one.paused) for one in schedules.list(polos, "declared")])
            if act is not None:
                await act(polos, "declared:global")
    assert [
        [("global", "0 3 * * *", False)], [("global", "0 3 * * *", True)], [], [("global", "0 4 * * *", False)],
        [("other", "0 4 * * *", False)], [],
    ] == found  # fmt: skip


@pytest.mark.anyio
async def test_who_cant_be_scheduled(tmp_path: Path) -> None:
    """A workflow that doesn't say that it may be scheduled isn't, nor is one that the engine doesn't know."""

    @workflow(id="unscheduled")
    async def unscheduled(ctx: WorkflowContext) -> None:
        return None

    async with Polos(data_dir=tmp_path) as polos:
        for name in ("unscheduled", "unheard of"):
            with pytest.raises(CommandRefused, match=f"workflow '{name}' can't be scheduled"):
                await schedules.create(polos, name, "* * * * *")
        with pytest.raises(ValueError, match="cron must have five fields"):
            await schedules.create(polos, "tick", "*")
        made = await schedules.create(polos, "tick", "0 5 * * *", "Asia/Tokyo", "a:b")
        assert ("tick:a:b", "a:b", 20) == (made, schedules.get(polos, made).key,
                                           schedules.get(polos, made).upcoming[0].hour)  # fmt: skip
        with pytest.raises(UnknownSchedule):
            schedules.get(polos, "tick:nobody")
