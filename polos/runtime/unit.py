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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.codec import encode
from polos.engine.json import Json
from polos.engine.projections import Changes, advance, run_stream, system_rows
from polos.engine.state import ENDED, RunState
from polos.replay.facts import Fact, carries_place
from polos.runtime.ports import RunCode
from polos.store.log import AppendUnit, NewRecord, Position, Version

__all__ = ["Reply", "Resident", "Unit", "Work", "settle"]

Reply = dict[str, Json]


# Containers that few units need, and with what they begin.
_RARE: Final[dict[str, Callable[[], Any]]] = {
    "abandoned": list, "actions": list, "begun": list, "created": deque, "look_back": list, "on_durable": list,
    "placed": list, "pure": list, "refused": list, "timers_gone": list,
}  # fmt: skip


_NOTED: Final = frozenset({e.StepAbandoned, e.TimerCancelled, e.WaitStarted, e.StepAttemptStarted})
_WITH_BLOBS: Final = frozenset({e.CodeRegistered, e.RangeSealed})


def _blobs_of(event: e.Event) -> tuple[str, ...]:
    if isinstance(event, e.RangeSealed):
        return event.segments
    if isinstance(event, e.CodeRegistered) and isinstance(event.blobs, dict):
        return tuple(str(digest) for digest in event.blobs.values())
    return ()


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
        wakes: the run that it has looked at, if it does nothing else.
        inner: the work that this one goes on with, if it is that and waits for one thing more.
    """

    apply: Callable[[Unit], Reply | None]
    done: Callable[[Reply], None] | None = None
    fail: Callable[[BaseException], None] | None = None
    outside: bool = False
    run: str | None = None
    wakes: str | None = None
    inner: Work | None = None


@dataclass(slots=True)
class Resident:
    """A run in memory."""

    state: RunState
    code: RunCode | None = None
    facts: Sequence[Fact] = ()  # recorded, not delivered to the code yet
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

    def landed(self, version: int) -> None:
        """A unit that the run is in is durable, and with it the run up to a version; 0 if it was only looked at."""
        self.in_flight -= 1
        self.durable = max(self.durable, version)
        if not self.in_flight:
            self.last_unit = None  # it holds all that was decided in it, and the run itself

    def add_fact(self, fact: Fact) -> None:
        """Keep a fact until the code sees it. Nearly always there is none: an empty queue for each run is much."""
        if not isinstance(self.facts, deque):
            self.facts = deque(self.facts)
        self.facts.append(fact)

    def take_fact(self) -> Fact:
        """Take the next fact that the code is to see; there is one."""
        assert isinstance(self.facts, deque), "facts are kept by `add_fact`"
        fact: Fact = self.facts.popleft()
        if not self.facts:
            self.facts = ()
        return fact

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
        first: the position that its first record will have; 0 while that isn't known.
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
        shown: code has been told of the place of one of its records, so that it must have no other.
        plain: it has none of the containers that few units need; they are made when they are first asked for.
    """

    # Made for every step, so that what it costs to make counts.
    __slots__ = (
        *_RARE, "expected", "failed", "first", "now_us", "plain", "ready", "records", "residents", "rows", "shown",
        "versions", "work",
    )  # fmt: skip

    if TYPE_CHECKING:
        placed: list[tuple[Fact, int]]
        created: deque[Resident]
        begun: list[tuple[str, str, int]]
        abandoned: list[tuple[str, str]]
        timers_gone: list[tuple[str, str]]
        pure: list[tuple[str, str]]
        look_back: list[tuple[str, e.WaitStarted]]
        refused: list[tuple[Work, Exception]]
        actions: list[Callable[[], None]]
        on_durable: list[Callable[[int], None]]
    else:

        def __getattr__(self, name: str) -> Any:
            """Make a container that few units need."""
            if name not in _RARE:
                raise AttributeError(name)
            self.plain = False
            setattr(self, name, _RARE[name]())
            return getattr(self, name)

    def __init__(self, now_us: int, first: int = 0) -> None:
        """Start empty."""
        self.now_us: int = now_us
        self.first: int = first
        self.failed: bool = False
        self.shown: bool = False
        self.plain: bool = True
        self.records: list[NewRecord] = []
        self.rows: Changes = {}
        self.expected: dict[str, Version] = {}
        self.residents: dict[str, Resident] = {}
        self.versions: dict[str, int] = {}
        self.ready: deque[Resident] = deque()
        self.work: list[tuple[Work, Reply]] = []

    def append(self, resident: Resident, event: e.Event) -> None:
        """Add an event of a run: record, state and rows."""
        state, kind = resident.state, type(event)
        run = state.run
        stream = run_stream(run)
        if stream not in self.expected:
            self.expected[stream] = Version(state.version)
        # The last record of a log need not be its newest (one that waits for its blob is overtaken), so an engine that
        # starts under a clock that was set back can be behind some runs.
        self.now_us = max(self.now_us, state.last_time_us)
        self._record(stream, event)
        had_ended = state.phase in ENDED
        advance(state, event, time_us=self.now_us, rows=self.rows)
        self.residents[run] = resident
        self.versions[run] = state.version
        if not had_ended and state.phase in ENDED:
            resident.end = event
        if kind in e.FACTS:
            fact = Fact(version=state.version, event=event, time_us=self.now_us)
            resident.add_fact(fact)
            if kind is e.WaitSatisfied and carries_place(event):
                self._place(fact)
            self.ready.append(resident)
        elif kind in _NOTED:
            self._note(run, event)

    def _place(self, fact: Fact) -> None:
        """Say where the record of a fact, the last one by now, stands in the log, or have it said when it is there."""
        index = len(self.records) - 1
        if self.first:
            fact.position = self.first + index
            self.shown = True
        else:
            self.placed.append((fact, index))

    def _note(self, run: str, event: e.Event) -> None:
        match event:
            case e.StepAbandoned():
                self.abandoned.append((run, event.name))
            case e.TimerCancelled():
                self.timers_gone.append((run, event.name))
            case e.WaitStarted() if event.since is not None:
                self.look_back.append((run, event))
            case e.StepAttemptStarted():
                self.begun.append((run, event.name, event.attempt))
            case _:
                pass

    def rests_on(self, resident: Resident | None) -> None:
        """Note a run that is only looked at: an answer waits until what was seen there is durable."""
        if resident is not None:
            self.residents.setdefault(resident.run, resident)

    def stay_behind(self, residents: dict[str, Resident]) -> None:
        """
        Have it follow what changed runs in memory that it only looked at, or else a blob might be waited for there.

        What was decided rests on what was seen, and who rests on such a run waits for the last unit that has it.
        """
        for run, resident in self.residents.items():
            if run not in self.versions and residents.get(run) is resident:
                self.expected.setdefault(run_stream(run), Version(resident.state.version))

    def append_system(self, stream: str, event: e.Event) -> int:
        """Add an event of a stream that is no run's; gives its index in the unit."""
        self._record(stream, event)
        self.rows.update(system_rows(event))
        return len(self.records) - 1

    def _record(self, stream: str, event: e.Event) -> None:
        name, schema_version, payload = encode(event)
        blobs: tuple[str, ...] = ()
        if type(event) in _WITH_BLOBS:
            blobs = _blobs_of(event)
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

    def waiting(self) -> list[Work]:
        """Give the work that waits for the outcome: what was decided into it, and what was refused on its strength."""
        return [work for work, _ in self.work] + ([] if self.plain else [work for work, _ in self.refused])

    def sealed(self) -> AppendUnit:
        """Give what the log takes."""
        first = Position(self.first) if self.shown else None
        rows = tuple(self.rows.items())
        return AppendUnit(records=tuple(self.records), expected=self.expected, rows=rows, first=first)
