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
        outside: somebody outside waits for it; such work isn't taken any more once the engine stops.
    """

    apply: Callable[[Unit], Reply | None]
    done: Callable[[Reply], None] | None = None
    fail: Callable[[BaseException], None] | None = None
    outside: bool = False


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


@dataclass(slots=True, eq=False)
class Unit:
    """One append unit being built."""

    now_us: int
    records: list[NewRecord] = field(default_factory=list[NewRecord])
    rows: Changes = field(default_factory=Changes)
    expected: dict[str, Version] = field(default_factory=dict[str, Version])
    residents: dict[str, Resident] = field(default_factory=dict[str, Resident])
    versions: dict[str, int] = field(default_factory=dict[str, int])  # run → version after this unit
    placed: list[tuple[Fact, int]] = field(default_factory=list[tuple[Fact, int]])  # facts that need their position
    ready: deque[Resident] = field(default_factory=deque[Resident])  # runs that may have facts to deliver
    begun: list[tuple[str, str, int]] = field(
        default_factory=list[tuple[str, str, int]]
    )  # `at_most_once` attempts started in it
    abandoned: list[tuple[str, str]] = field(
        default_factory=list[tuple[str, str]]
    )  # (run, step) nobody waits for any more
    work: list[tuple[Work, Reply]] = field(default_factory=list[tuple[Work, Reply]])
    created: deque[Resident] = field(default_factory=deque["Resident"])  # runs that may begin in this unit
    pure: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # steps that needn't wait for the disk
    timers_gone: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    failed: bool = False  # its outcome is known, and it isn't in the log
    on_durable: list[Callable[[int], None]] = field(
        default_factory=list[Callable[[int], None]]
    )  # get the first record's position
    actions: list[Callable[[], None]] = field(
        default_factory=list[Callable[[], None]]
    )  # log lines and the like, held until it is durable
    look_back: list[tuple[str, e.WaitStarted]] = field(
        default_factory=list[tuple[str, e.WaitStarted]]
    )  # topic waits with `since`

    def append(self, resident: Resident, event: e.Event) -> None:
        """Add an event of a run: record, state and rows."""
        state = resident.state
        stream = run_stream(state.run)
        if stream not in self.expected:
            self.expected[stream] = Version(state.version)
        self._record(stream, event)
        advance(state, event, time_us=self.now_us, rows=self.rows)
        self.residents[state.run] = resident
        self.versions[state.run] = state.version
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
