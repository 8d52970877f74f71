"""Triggers whose runs a sound log can never take: such an event makes none, as is recorded; all others make theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from polos import EventPayload, WorkflowContext, workflow
from polos.engine import events as e
from polos.errors import CommandRefused, PolosUsageError
from polos.runtime.intake import Intake
from polos.store.log import AppendUnit, Epoch, Receipt
from polos.store.memory import MemoryLog
from polos.testing.simulation import Simulation

from tests.test_triggers import got, publish, trigger_events

POISON = 7


@workflow(id="takes poison", trigger_on_event="drinks", from_beginning=True)
async def takes(ctx: WorkflowContext, payload: EventPayload) -> int:
    """Take an event."""
    return int(payload.data["n"])


@workflow(id="takes much poison", trigger_on_event="drinks", batch_size=5, batch_timeout_seconds=30)
async def takes_many(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Take five."""
    return len(payload["events"])


@workflow(id="takes water")
async def beside(ctx: WorkflowContext) -> int:
    """Have nothing to do with it."""
    return await ctx.step.run("work", lambda: 1)


def with_poison(payload: bytes) -> bool:
    return b'"n":%d}' % POISON in payload


def with_both(payload: bytes) -> bool:
    return b'"n":1}' in payload and b'"n":2}' in payload


class Picky:
    """A log in memory that never takes a run with poison, nor events of some types."""

    is_poison = staticmethod(with_poison)

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
        self.refused, self.on = 0, True
        append = MemoryLog.append

        def refuse(log: MemoryLog, units: Sequence[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
            records = [record for unit in units for record in unit.records]
            poison = any(self.is_poison(record.payload) for record in records if record.type == "RunCreated")
            if self.on and (poison or any(record.type in kinds for record in records)):
                self.refused += 1
                raise PolosUsageError("never")
            return append(log, units, epoch=epoch)

        monkeypatch.setattr(MemoryLog, "append", refuse)


def failed(sim: Simulation, trigger: str) -> list[tuple[int, str]]:
    """Give the places of the events that made no run, and why."""
    with sim.store.log.reader() as reader:
        rows = [int(key[2]) for key, _ in reader.rows(("trigger_failed", trigger))]
    found = [event for event in trigger_events(sim, trigger) if isinstance(event, e.TriggerFailed)]
    assert rows == [event.position for event in found]
    return [(event.position, f"{event.error_type}: {event.message}") for event in found]


def test_an_event_whose_run_cannot_be_recorded_makes_none(monkeypatch: pytest.MonkeyPatch):
    """It is found among many, recorded once, and left out by the next engine, too; whoever goes back tries it again."""
    with Simulation([takes, beside]) as sim:
        log = Picky(monkeypatch)
        publish(sim, "drinks", *range(1, 11))
        sim.run_for(10)
        run = sim.create(beside, None).run
        publish(sim, "drinks", 11, 12)
        sim.settle()
        others = [[number] for number in range(1, 13) if number != POISON]
        ((where, why),) = failed(sim, "takes poison")
        tried = log.refused
        assert (others, "PolosUsageError: never", 1) == (got(sim, "takes poison"), why, sim.result(run))
        assert tried < 20

        sim.crash()
        sim.start()
        publish(sim, "drinks", 13)
        sim.settle()
        assert [*others, [13]] == got(sim, "takes poison")
        assert tried == log.refused

        log.on = False
        sim.send("trigger", trigger="takes poison", to=where - 1)
        sim.settle()
        assert [POISON] in got(sim, "takes poison")


def test_many_such_events_in_a_row_arent_looked_for_each(monkeypatch: pytest.MonkeyPatch):
    """Only the first ones are looked for among others; behind them as many events as ever are taken at a time."""
    with Simulation([takes]) as sim:
        log = Picky(monkeypatch)
        publish(sim, "drinks", *[POISON] * 40, 1, 2, 3)
        sim.settle()

        assert ([[1], [2], [3]], 40) == (got(sim, "takes poison"), len(failed(sim, "takes poison")))
        assert log.refused < 2 * 40 + 20  # the first refusal of two doesn't tell yet whose work it is about


def test_of_a_batch_only_the_event_that_cannot_be_recorded_is_left_out(monkeypatch: pytest.MonkeyPatch):
    """The others come in smaller batches, and those behind it in whole ones again."""
    with Simulation([takes_many]) as sim:
        Picky(monkeypatch)
        publish(sim, "drinks", *range(1, 21))
        sim.run_for(60)

        batches = [[1, 2, 3, 4, 5], [6], [8, 9, 10, 11, 12], [13, 14, 15, 16, 17], [18, 19, 20]]
        fired = [event for event in trigger_events(sim, "takes much poison") if isinstance(event, e.TriggerFired)]
        assert batches == got(sim, "takes much poison")
        assert [False, False, False, False, True] == [event.waited for event in fired]
        assert 1 == len(failed(sim, "takes much poison"))


def test_a_batch_that_cannot_be_recorded_as_a_whole_is_cut(monkeypatch: pytest.MonkeyPatch):
    """No event is left out if each of them can be recorded, and later batches are whole again."""
    monkeypatch.setattr(Picky, "is_poison", staticmethod(with_both))
    with Simulation([takes_many]) as sim:
        Picky(monkeypatch)
        publish(sim, "drinks", *range(1, 6))
        sim.run_for(60)
        publish(sim, "drinks", *range(6, 16))
        sim.settle()

        assert [[1], [2], [3], [4], [5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]] == got(sim, "takes much poison")
        assert [] == failed(sim, "takes much poison")


def test_a_trigger_that_cannot_record_anything_rests(monkeypatch: pytest.MonkeyPatch):
    """Nobody waits for it, it stands before the event, and goes on when somebody changes it or with the next engine."""
    with Simulation([takes, beside]) as sim:
        log = Picky(monkeypatch, "TriggerFailed")
        publish(sim, "drinks", 1, POISON, 8)
        sim.run_for(10)
        tried = log.refused
        run = sim.create(beside, None).run
        publish(sim, "drinks", 9)
        sim.settle()
        assert ([[1]], 1, tried) == (got(sim, "takes poison"), sim.result(run), log.refused)

        sim.send("trigger", trigger="takes poison", paused=False)
        sim.run_for(10)
        assert [[1]] == got(sim, "takes poison")
        assert tried < log.refused < 30

        log.on = False
        sim.crash()
        sim.start()
        sim.settle()
        assert [[1], [POISON], [8], [9]] == got(sim, "takes poison")


def test_a_run_that_is_refused_before_the_log_sees_it_makes_none(monkeypatch: pytest.MonkeyPatch):
    """Whoever decides may say no, too, and would say so again."""
    start: Any = Intake.start_run

    def refuses(self: Intake, unit: Any, run: str, created: e.RunCreated) -> bool:
        if isinstance(created.input, dict) and created.input["data"] == {"n": POISON}:
            raise CommandRefused("no")
        return bool(start(self, unit, run, created))

    monkeypatch.setattr(Intake, "start_run", refuses)
    with Simulation([takes]) as sim:
        publish(sim, "drinks", 1, POISON, 8)
        sim.settle()

        assert [[1], [8]] == got(sim, "takes poison")
        assert ["CommandRefused: no"] == [why for _, why in failed(sim, "takes poison")]
