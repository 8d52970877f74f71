"""
What the shell builds: append units, runs in memory, and work that can be decided again.

A piece of `Work` is one thing that happened or was asked for. Deciding it gives a `Unit`: the events
of one run, what its code asked for on them, and everything that follows in other runs of the same
log. When the commit of a unit fails, the runs it touched are thrown away and read again, and its work
is decided once more on what is really there: facts are kept, code that ran ahead isn't.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from polos.engine import events as e
from polos.engine.codec import encode
from polos.engine.json import Json
from polos.engine.projections import Changes, advance, run_stream, system_rows
from polos.engine.state import ENDED, RunState
from polos.replay.facts import Fact
from polos.runtime.ports import RunCode
from polos.store.log import AppendUnit, NewRecord, Version

__all__ = ["Reply", "Resident", "Unit", "Work", "settle"]

Reply = dict[str, Json]


def settle(future: asyncio.Future[None]) -> None:
    """Let a future be done, if nobody gave it up."""
    if not future.done():
        future.set_result(None)


@dataclass(slots=True)
class Work:
    """
    One thing to decide.

    Attributes:
        apply: decides it into a unit; called again after a failed commit. It may raise before it
            changed anything, which is the refusal.
        done: gets what `apply` returned, when it is durable.
        fail: gets the refusal.
        run: the run that it is about, if it is about one.
        outside: somebody outside waits for it; such work isn't taken any more once the engine stops.
    """

    apply: Callable[[Unit], Reply | None]
    done: Callable[[Reply], None] | None = None
    fail: Callable[[BaseException], None] | None = None
    outside: bool = False
    run: str | None = None


@dataclass(slots=True)
class Resident:
    """A run in memory."""

    state: RunState
    code: RunCode | None = None
    facts: deque[Fact] = field(default_factory=deque[Fact])  # recorded, not delivered to the code yet
    durable: int = 0  # version up to which the stream is on disk
    performed: int = 0  # debts up to this version were taken up
    in_flight: int = 0  # units on their way to the disk
    has_slot: bool = False
    last_unit: Unit | None = None
    input: Json = None
    end: e.Event | None = None  # what ended it
    forcing: bool = False

    @property
    def run(self) -> str:
        """The run's id."""
        return self.state.run

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.state.phase in ENDED

    @property
    def idle(self) -> bool:
        """Whether nothing is lost by taking it out of memory, its steps aside."""
        return not (self.in_flight or self.facts)


@final
class Unit:
    """
    One append unit being built.

    Attributes:
        now_us: time of its records.
        records: what is appended.
        rows: how rows change.
        expected: version of each stream before this unit.
        residents: the runs it touches.
        versions: version of each of them after it.
        placed: facts that need their position, with the index of their record.
        ready: runs that may have facts to deliver.
        created: runs that may begin in this unit.
        begun: `at_most_once` attempts started in it.
        abandoned: steps that nobody waits for any more, by run and name.
        timers_gone: timers that nobody waits for any more.
        pure: steps that needn't wait for the disk.
        look_back: topic waits that accept earlier events.
        work: what was decided into it, with the replies.
        actions: log lines and the like, held until it is durable.
        refused: what was refused on the strength of it, with the refusals.
        on_durable: called with its first record's position.
        failed: its outcome is known, and it isn't in the log.
    """

    # Made for every step, so that what it costs to make counts.
    __slots__ = (
        "abandoned", "actions", "begun", "created", "expected", "failed", "look_back", "now_us", "on_durable",
        "placed", "pure", "ready", "records", "refused", "residents", "rows", "timers_gone", "versions", "work",
    )  # fmt: skip

    def __init__(self, now_us: int) -> None:
        """Start empty."""
        self.now_us: int = now_us
        self.failed: bool = False
        self.records: list[NewRecord] = []
        self.rows: Changes = {}
        self.expected: dict[str, Version] = {}
        self.residents: dict[str, Resident] = {}
        self.versions: dict[str, int] = {}
        self.placed: list[tuple[Fact, int]] = []
        self.ready: deque[Resident] = deque()
        self.created: deque[Resident] = deque()
        self.begun: list[tuple[str, str, int]] = []
        self.abandoned: list[tuple[str, str]] = []
        self.timers_gone: list[tuple[str, str]] = []
        self.pure: list[tuple[str, str]] = []
        self.look_back: list[tuple[str, e.WaitStarted]] = []
        self.work: list[tuple[Work, Reply]] = []
        self.refused: list[tuple[Work, Exception]] = []
        self.actions: list[Callable[[], None]] = []
        self.on_durable: list[Callable[[int], None]] = []

    def append(self, resident: Resident, event: e.Event) -> None:
        """Add an event of a run: record, state and rows."""
        state = resident.state
        stream = run_stream(state.run)
        if stream not in self.expected:
            self.expected[stream] = Version(state.version)
        # The last record of a log need not be its newest (one that waits for its blob is overtaken), so an engine that
        # starts under a clock that was set back can be behind some runs.
        self.now_us = max(self.now_us, state.last_time_us)
        self._record(stream, event)
        advance(state, event, time_us=self.now_us, rows=self.rows)
        self.residents[state.run] = resident
        self.versions[state.run] = state.version
        if state.phase in ENDED and resident.end is None:
            resident.end = event
        if type(event) in e.FACTS:
            fact = Fact(version=state.version, event=event, time_us=self.now_us)
            resident.facts.append(fact)
            if isinstance(event, e.WaitSatisfied):
                self.placed.append((fact, len(self.records) - 1))
            self.ready.append(resident)
        elif isinstance(event, e.StepAbandoned):
            self.abandoned.append((state.run, event.name))
        elif isinstance(event, e.TimerCancelled):
            self.timers_gone.append((state.run, event.name))
        elif isinstance(event, e.WaitStarted):
            if event.since is not None:
                self.look_back.append((state.run, event))
        elif isinstance(event, e.StepAttemptStarted):
            self.begun.append((state.run, event.name, event.attempt))

    def rests_on(self, resident: Resident | None) -> None:
        """Note a run that is only looked at: an answer waits until what was seen there is durable."""
        if resident is not None:
            self.residents.setdefault(resident.run, resident)

    def append_system(self, stream: str, event: e.Event) -> int:
        """Add an event of a stream that is no run's; gives its index in the unit."""
        self._record(stream, event)
        self.rows.update(system_rows(event))
        return len(self.records) - 1

    def _record(self, stream: str, event: e.Event) -> None:
        name, schema_version, payload = encode(event)
        blobs: tuple[str, ...] = ()
        if isinstance(event, e.CodeRegistered) and isinstance(event.blobs, dict):
            blobs = tuple(str(digest) for digest in event.blobs.values())
        elif isinstance(event, e.RangeSealed):
            blobs = event.segments
        self.records.append(
            NewRecord(
                stream=stream,
                type=name,
                schema_version=schema_version,
                time_us=self.now_us,
                payload=payload,
                blobs=blobs,
            )
        )

    def sealed(self) -> AppendUnit:
        """Give what the log takes."""
        return AppendUnit(records=tuple(self.records), expected=self.expected, rows=tuple(self.rows.items()))
