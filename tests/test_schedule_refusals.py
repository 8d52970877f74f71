"""Schedules whose runs a sound log can never take: such an occurrence is recorded as skipped, others make runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from polos.engine import events as e
from polos.engine.json import Json
from polos.errors import PolosUsageError
from polos.store.log import AppendUnit, Epoch, NewRecord, Receipt
from polos.store.memory import MemoryLog
from polos.testing.simulation import Simulation

from tests.test_schedules import history, slow, tick, told

MINUTE = "2026-01-01T00:%02d:00"


def at(*minutes: int) -> Callable[[NewRecord], bool]:
    """Say what is refused: runs of these minutes."""
    wanted = [f'"timestamp":"{MINUTE % minute}'.encode() for minute in minutes]
    return lambda record: record.type == "RunCreated" and any(text in record.payload for text in wanted)


class Picky:
    """A log in memory that never takes some records."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, never: Callable[[NewRecord], bool]) -> None:
        self.refused, self.on = 0, True
        append = MemoryLog.append

        def refuse(log: MemoryLog, units: Sequence[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
            if self.on and any(never(record) for unit in units for record in unit.records):
                self.refused += 1
                raise PolosUsageError("never")
            return append(log, units, epoch=epoch)

        monkeypatch.setattr(MemoryLog, "append", refuse)


def schedule(sim: Simulation, workflow: str, **said: Json) -> None:
    """Have a workflow run each minute."""
    wanted: Json = {"cron": "* * * * *", "timezone": "UTC", "key": "global", **said}
    sim.send("schedule", action="set", workflow=workflow, said=wanted)
    sim.run_ready()


def test_an_occurrence_that_cannot_be_recorded_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded once, is the same for the next engine, and the next ones make their runs."""
    with Simulation([tick]) as sim:
        log = Picky(monkeypatch, at(2))
        schedule(sim, "tick")
        sim.run_for(4 * 60 + 1)
        expected = [("fired", 1), ("refused", 2), ("fired", 3), ("fired", 4)]
        assert expected == told(sim, "tick:global")
        tried = log.refused
        assert 0 < tried < 10

        sim.recover()
        sim.run_for(60)
        assert [*expected, ("fired", 5)] == told(sim, "tick:global")
        assert tried == log.refused


def test_of_missed_occurrences_only_the_one_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that would be decided with it are decided by themselves."""
    with Simulation([tick]) as sim:
        Picky(monkeypatch, at(3, 5))
        schedule(sim, "tick", overlap="allow_all", catch_up_seconds=3600)
        sim.run_ready()
        sim.stop()
        sim.clock.jump(6 * 60 * 1_000_000)
        sim.start()
        sim.run_for(10)

        what = ["fired", "fired", "refused", "fired", "refused", "fired"]
        assert list(zip(what, range(1, 7), strict=True)) == told(sim, "tick:global")


def test_one_that_waited_for_a_run_to_end_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was buffered isn't forgotten when it is refused."""
    with Simulation([slow]) as sim:
        Picky(monkeypatch, at(2))
        schedule(sim, "slow", overlap="buffer_one")
        sim.run_for(5 * 60 + 1)

        assert [("fired", 1), ("overlap", 3), ("refused", 2), ("fired", 4)] == told(sim, "slow:global")


def test_what_waits_behind_one_that_is_skipped_begins_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited for the run that has ended, and not for the moment at which the schedule is due again."""
    with Simulation([slow]) as sim:
        Picky(monkeypatch, at(2))
        schedule(sim, "slow", overlap="buffer_all")
        sim.run_for(3 * 60 + 30)

        assert [("fired", 1), ("refused", 2), ("fired", 3)] == told(sim, "slow:global")


def test_a_schedule_that_cannot_record_anything_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again when somebody changes it, and by the next engine."""
    with Simulation([tick]) as sim:
        log = Picky(monkeypatch, lambda record: record.type in {"ScheduleFired", "ScheduleSkipped"})
        schedule(sim, "tick")
        sim.run_for(10 * 60)
        tried = log.refused
        assert 0 < tried < 10
        assert ["ScheduleSet"] == [type(event).__name__ for event in history(sim, "tick:global")]

        log.on = False
        sim.run_for(60)
        assert [] == told(sim, "tick:global")
        sim.send("schedule", action="pause", schedule="tick:global")
        sim.send("schedule", action="resume", schedule="tick:global")
        sim.run_for(61)
        assert ("fired", 12) == told(sim, "tick:global")[-1]

        log.on = True
        sim.run_for(61)
        log.on = False
        sim.recover()
        sim.run_for(60)
        assert isinstance(history(sim, "tick:global")[-1], e.ScheduleFired)
