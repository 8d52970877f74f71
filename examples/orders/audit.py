"""
What happened, from two sources that don't know each other, and whether it is what should have happened.

The log is read record by record; the provider's books are read from its own file. Every check compares them with
each other, or each of them with what the CSV file says should become of an order. Nothing here asks the engine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from examples.orders.order import Order, expected, expected_effects
from examples.orders.provider import Call, Provider
from examples.orders.scene import Kill
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import RUN_PREFIX, fold_rows
from polos.store.check import VerifyReport, verify
from polos.store.directory import open_store
from polos.store.log import Key, Record

OUTCOMES = ("shipped", "declined", "rejected", "refunded", "invalid")


@dataclass(frozen=True)
class Entry:
    """A record of the log and the event in it."""

    record: Record
    event: e.Event

    @property
    def run(self) -> str:
        return self.record.stream.removeprefix(RUN_PREFIX)


@dataclass(frozen=True)
class Check:
    """A promise, what both sources say of it, and whether it holds."""

    promise: str
    log: str
    provider: str
    holds: bool


@dataclass(frozen=True)
class Recovery:
    """How long it took from a kill to the first new event, and to the first step that ended, in seconds."""

    first_event: float | None
    first_step: float | None


def fold(records: Iterable[Record]) -> Iterator[tuple[Key, bytes]]:
    """Give the rows that the records of a log fold to; `verify` compares them with those in the store."""
    events = ((one.stream, decode(one.type, one.schema_version, one.payload), one.time_us) for one in records)
    yield from fold_rows(events).items()


class Audit:
    """Both sources, read once."""

    def __init__(self, folder: Path, orders: list[Order], kills: list[Kill], *, kills_wanted: int) -> None:
        self.orders = orders
        self.kills = kills
        self.kills_wanted = kills_wanted
        with open_store(folder / "data", read_only=True) as store, store.log.reader() as reader:
            self.entries = [
                Entry(record, decode(record.type, record.schema_version, record.payload)) for record in reader.records()
            ]
        provider = Provider(folder / "provider.sqlite")
        self.calls = provider.calls()
        self.effects = provider.effects()
        self.verified: VerifyReport = verify(folder / "data", fold=f"{__name__}:fold")

    # -------------------------------------------------------------------------------------- the log

    @cached_property
    def runs(self) -> dict[str, list[Entry]]:
        """Give what is recorded of each run."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            if entry.record.stream.startswith(RUN_PREFIX):
                found[entry.run].append(entry)
        return found

    @cached_property
    def runs_of(self) -> dict[str, list[str]]:
        """Give the runs of each order."""
        found: dict[str, list[str]] = defaultdict(list)
        for run, entries in self.runs.items():
            created = entries[0].event
            if isinstance(created, e.RunCreated) and created.workflow == "order":
                found[_field(created.input, "order_id")].append(run)
        return found

    @cached_property
    def results(self) -> dict[str, Any]:
        """Give what the run of each order returned."""
        found: dict[str, Any] = {}
        for order_id, runs in self.runs_of.items():
            match self.runs[runs[-1]][-1].event:
                case e.RunCompleted(result=result):
                    found[order_id] = result
                case _:
                    pass
        return found

    @cached_property
    def completed_us(self) -> dict[str, int]:
        """Give when each step, by its idempotency key, was recorded as completed."""
        return {
            f"{entry.run}/{entry.event.name}": entry.record.time_us
            for entry in self.entries
            if isinstance(entry.event, e.StepCompleted)
        }

    @cached_property
    def receipts(self) -> Counter[str]:
        """Give the receipts for effects that the log holds."""
        return Counter(
            str(entry.event.value)
            for entry in self.entries
            if isinstance(entry.event, e.StepCompleted) and entry.event.value and entry.event.name != "validate"
        )

    def under_way(self, kill: Kill) -> int:
        """Tell how many orders had begun and not ended when the worker was killed."""
        count = 0
        for run, *_ in self.runs_of.values():
            begin, end = self.runs[run][0].record.position, self.runs[run][-1].record.position
            count += begin <= kill.position < end
        return count

    def recovery(self, kill: Kill) -> Recovery:
        """
        Tell how long it took after a kill until the log went on.

        By time as well as by position: a commit that the kill cut short at its very end is there, but shows only
        when the next writer has looked at it.
        """
        new = [entry for entry in self.entries if entry.record.position > kill.position]
        after = [entry for entry in new if entry.record.time_us > kill.at_us]
        event = next((entry for entry in after), None)
        step = next((entry for entry in after if isinstance(entry.event, e.StepCompleted)), None)
        return Recovery(
            None if event is None else (event.record.time_us - kill.at_us) / 1e6,
            None if step is None else (step.record.time_us - kill.at_us) / 1e6,
        )

    # --------------------------------------------------------------------------------- the provider

    @cached_property
    def calls_of(self) -> dict[str, list[Call]]:
        """Give the calls of each idempotency key."""
        found: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            found[call.key].append(call)
        return found

    @cached_property
    def effects_of(self) -> dict[str, Counter[str]]:
        """Give the kinds of effect that each order had."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for effect in self.effects:
            found[effect.order_id][effect.kind] += 1
        return found

    def seen_outside(self, order: Order) -> str:
        """Tell what became of an order, by the provider's books alone."""
        effects = self.effects_of[order.order_id]
        asked = {call.kind for call in self.calls if call.order_id == order.order_id} if effects["release"] else set()
        if effects["refund"]:
            return "refunded"
        if effects["parcel"]:
            return "shipped"
        if effects["release"]:
            return "declined" if "charge" in asked else "rejected"
        return "invalid" if effects == {"mail": 1} else "unfinished"

    # -------------------------------------------------------------------------------------- promises

    def outcomes(self) -> list[tuple[str, int, int, int]]:
        """Give each outcome with its number of orders by the CSV file, by the log, and by the provider."""
        wanted: Counter[str] = Counter(expected(order) for order in self.orders)
        logged = Counter(result["outcome"] for result in self.results.values())
        outside = Counter(self.seen_outside(order) for order in self.orders)
        return [(name, wanted[name], logged[name], outside[name]) for name in OUTCOMES]

    def checks(self) -> list[Check]:
        """Compare what happened with what was promised."""
        return [
            self._finished(), self._outcome(), self._once(), self._charges(), self._receipts(), self._not_again(),
            self._recovered(), self._sound(),
        ]  # fmt: skip

    def _finished(self) -> Check:
        wanted = {order.order_id for order in self.orders}
        single = sum(len(runs) == 1 for runs in self.runs_of.values())
        mailed = sum(self.effects_of[order_id]["mail"] == 1 for order_id in wanted)
        return Check(
            "every order finished, none lost, none twice",
            f"{len(self.results)} of {len(wanted)} ended, {single} with one run",
            f"{mailed} customers told once",
            wanted == self.results.keys() == self.runs_of.keys() and single == mailed == len(wanted),
        )

    def _outcome(self) -> Check:
        logged = outside = 0
        for order in self.orders:
            result = self.results.get(order.order_id) or {}
            logged += result.get("outcome") == expected(order)
            outside += self.seen_outside(order) == expected(order)
        return Check(
            "each order came out as its row says",
            f"{logged} of {len(self.orders)}",
            f"{outside} of {len(self.orders)}",
            logged == outside == len(self.orders),
        )

    def _once(self) -> Check:
        doubled = lost = 0
        for order in self.orders:
            wanted, found = Counter(expected_effects(order)), self.effects_of[order.order_id]
            doubled += (found - wanted).total()
            lost += (wanted - found).total()
        return Check(
            "each effect happened exactly once",
            f"{self.receipts.total():,} receipts",
            f"{len(self.effects):,} effects, {doubled} too many, {lost} lost",
            not doubled and not lost,
        )

    def _charges(self) -> Check:
        charged = [order for order in self.orders if expected(order) in ("shipped", "refunded")]
        receipts = sum("charge" in result for result in self.results.values())
        booked = [effect for effect in self.effects if effect.kind == "charge"]
        doubled = len(booked) - len({effect.order_id for effect in booked})
        wanted_cents = sum(order.total_cents for order in charged)
        cents = sum(effect.cents for effect in booked)
        return Check(
            "no charge doubled, none lost",
            f"{receipts} orders charged, should be {len(charged)}",
            f"{len(booked)} charges, {doubled} doubled: {cents / 100:,.2f} of {wanted_cents / 100:,.2f}",
            receipts == len(booked) == len(charged) and not doubled and cents == wanted_cents,
        )

    def _receipts(self) -> Check:
        outside = Counter(effect.receipt for effect in self.effects)
        unknown, unused = self.receipts - outside, outside - self.receipts
        return Check(
            "the two books name the same receipts",
            f"{unknown.total()} that the provider doesn't know",
            f"{unused.total()} that the log doesn't know",
            not unknown and not unused,
        )

    def _not_again(self) -> Check:
        late = sum(call.at_us > self.completed_us.get(call.key, call.at_us) for call in self.calls)
        cut = sum(len({call.process for call in calls}) > 1 for calls in self.calls_of.values())
        return Check(
            "no completed step was called again",
            f"{len(self.completed_us):,} steps completed",
            f"{len(self.calls):,} calls, {late} after completion, {cut} steps cut short by a kill",
            not late,
        )

    def _recovered(self) -> Check:
        found = [self.recovery(kill) for kill in self.kills]
        back = sum(one.first_event is not None and one.first_step is not None for one in found)
        busy = sum(self.under_way(kill) > 0 for kill in self.kills)
        return Check(
            "the worker was killed at work, and went on",
            f"{back} of {self.kills_wanted} recovered",
            f"{len({call.process for call in self.calls})} processes called",
            back == busy == self.kills_wanted,
        )

    def _sound(self) -> Check:
        report = self.verified
        said = f"{report.records:,} records, {report.rows:,} rows, {report.blobs} blobs: chain {report.chain[:12]}…"
        return Check(
            "the log is as it was written, rows are its fold",
            said if report.damage is None else f"{report.damage.place}: {report.damage.message}",
            "",
            report.ok,
        )


def _field(value: Any, name: str) -> str:
    return str(value[name])
