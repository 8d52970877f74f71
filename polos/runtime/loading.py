"""
Reading runs from the log: fold the stream, and run the code on what it has already seen.

A fact whose version is at most the last recorded `cause` was delivered: the code is run on it and must
ask for exactly what is recorded. Facts behind that were recorded and never seen; they go the live way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import orjson

from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.evolve import evolve
from polos.engine.json import Json
from polos.engine.projections import run_stream
from polos.engine.state import ENDED, Phase, RunState
from polos.errors import PolosUsageError, RecordsSealed, UnknownRun
from polos.replay.divergence import Divergence
from polos.replay.driver import Driver
from polos.replay.facts import Fact
from polos.runtime.archived import refuse_archived
from polos.runtime.ports import RunCode
from polos.runtime.unit import Resident, Unit, Work
from polos.store.log import Version

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Loader", "Stored", "input_of", "replay"]

_log = logging.getLogger("polos")

# Event, time in microseconds, position.
Stored = tuple[e.Event, int, int]


def replay(code: RunCode, events: list[Stored], *, attempt_version: int) -> list[Fact]:
    """
    Run code on the facts of an attempt that it had already seen.

    Args:
        code: was just made.
        events: the whole stream.
        attempt_version: version of the attempt's `RunStarted`.

    Returns:
        The facts that the code hasn't seen yet, in order.

    Raises:
        Divergence: the code asks for something else than what is recorded.
    """
    if not isinstance(code, Driver):
        raise Divergence(cause=attempt_version, recorded="a deterministic body", asked="none any more", line=None)
    facts: list[Fact] = []
    by_cause: dict[int, list[e.Event]] = {}
    last_cause = 0
    for version, (event, time_us, position) in enumerate(events[attempt_version - 1 :], attempt_version):
        cause = getattr(event, "cause", None)
        if cause is not None and cause >= attempt_version:
            by_cause.setdefault(cause, []).append(event)
            last_cause = max(last_cause, cause)
        if type(event) in e.FACTS:
            fact = Fact(version=version, event=event, time_us=time_us, position=position)
            if isinstance(event, e.ResultReused):
                fact.source, _, fact.source_position = events[event.version - 1]
            facts.append(fact)
    unseen: list[Fact] = []
    code.foresee(facts)
    for fact in facts:
        if fact.version <= last_cause:
            code.activate(fact, recorded=by_cause.get(fact.version, ()))
        else:
            unseen.append(fact)
    return unseen


def input_of(events: Iterable[e.Event]) -> Json:
    """Give what a run was asked for with: a later call of its key may have replaced what it was created with."""
    found: Json = None
    for event in events:
        match event:
            case e.RunCreated() | e.RunDebounced():
                found = event.input
            case e.RunStarted():
                break
            case _:
                pass
    return found


class Loader:
    """Brings runs into memory."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine whose runs they become."""
        self._engine = engine
        # No run has an id behind this one. Ids follow the time, so that hardly any new run has to be looked for.
        self._last_id: str | None = None

    # --------------------------------------------------------------------------------- looking up

    def get(self, run: str) -> Resident:
        """
        Give a run, read if need be. One that ended is given with its state alone and isn't kept.

        Raises:
            UnknownRun: there is none with that id.
        """
        resident = self._engine.residents.pop(run, None)
        if resident is not None:
            self._engine.residents[run] = resident  # used last
            return resident
        return self._load(run)

    def find(self, run: str) -> Resident | None:
        """
        Give a run that is alive, None if it ended or doesn't exist.

        One that ended isn't read for that: its history may be long, and who had it woken many times while it lived, as
        its children do, would have it read as often afterwards.
        """
        if not self.is_alive(run):
            return None
        resident = self.get(run)
        return None if resident.ended else resident

    @property
    def last_id(self) -> str:
        """The greatest id of a run, as far as it is known."""
        return self._last_id or ""

    def exists(self, run: str) -> bool:
        """Tell whether there is a run with that id."""
        if run in self._engine.residents:
            return True
        if self._last_id is not None and run > self._last_id:
            return False
        with self._engine.store.log.reader() as reader:
            return reader.version(run_stream(run)) > 0

    def is_alive(self, run: str) -> bool:
        """Tell whether a run exists and hasn't ended, without reading it."""
        resident = self._engine.residents.get(run)
        if resident is not None:
            return not resident.ended
        with self._engine.store.log.reader() as reader:
            row = reader.row(("run", run))
        return row is not None and orjson.loads(row)["ended_us"] is None

    def was_begun(self, run: str) -> bool:
        """Tell whether it is durable that a run was begun and hasn't ended, without reading it."""
        with self._engine.store.log.reader() as reader:
            row = reader.row(("run", run))
        if row is None:
            return False
        found = orjson.loads(row)
        return found["started_us"] is not None and found["ended_us"] is None

    def create(self, run: str) -> Resident:
        """Give the place for a run that is about to be created."""
        resident = Resident(RunState(run=run))
        self._engine.residents[run] = resident
        if self._last_id is not None and run > self._last_id:
            self._last_id = run
        return resident

    def event_at(self, run: str, version: int) -> tuple[e.Event, int]:
        """Read one event of a run, and its position."""
        with self._engine.store.log.reader() as reader:
            for record in reader.stream(run_stream(run), after=Version(version - 1), limit=1):
                return decode(record.type, record.schema_version, record.payload), record.position
        message = f"run {run} has no event {version}"
        raise AssertionError(message)

    def events(self, run: str) -> list[Stored]:
        """
        Read a run's whole stream.

        Raises:
            UnknownRun: it is empty.
            RunArchived: the run was archived.
        """
        with self._engine.store.log.reader() as reader:
            try:
                found: list[Stored] = [
                    (decode(record.type, record.schema_version, record.payload), record.time_us, record.position)
                    for record in reader.stream(run_stream(run))
                ]
            except RecordsSealed:
                refuse_archived(reader, run)
                raise
        if not found:
            message = f"there is no run {run!r} in this store"
            raise UnknownRun(message)
        return found

    # ------------------------------------------------------------------------------------- reading

    def _load(self, run: str) -> Resident:
        events = self.events(run)
        state = RunState(run=run)
        end: e.Event | None = None
        for event, time_us, _ in events:
            had_ended = state.phase in ENDED
            evolve(state, event, time_us=time_us)
            if state.phase in ENDED and not had_ended:
                end = event
        resident = Resident(state, durable=state.version)
        resident.input = input_of(event for event, _, _ in events)
        if state.phase in ENDED:
            resident.end = end
            with self._engine.store.log.reader() as reader:
                refuse_archived(reader, run)  # it may be, and its records not have left the log yet
            return resident
        self._engine.residents[run] = resident
        resident.has_slot = self._engine.lines.holds(run)
        if state.phase in (Phase.ACTIVE, Phase.CANCELLING) and not self._engine.stopping:
            self._revive(resident, events)
        self._engine.debts.perform(resident)
        return resident

    def evict(self, run: str) -> bool:
        """Take an idle run out of memory; False if it isn't there or has something under way."""
        resident = self._engine.residents.get(run)
        if resident is None or not resident.idle or self._engine.performer.running(run):
            return False
        if resident.code is not None and resident.code.direct:
            return False  # it can't be run again without repeating what it does itself
        # What has a slot has a short timer under way, or a step between two attempts, and nobody may come in between.
        self._engine.discard(resident, keeps_slot=resident.has_slot)
        return True

    def make_room(self) -> None:
        """
        Let idle runs go, the least recently used first, when too many are in memory.

        Never while a unit is being built: a run that was just read for it is as idle as any other, and would be read
        a second time, beside the first one.
        """
        residents = self._engine.residents
        excess = len(residents) - self._engine.settings.resident_runs_max
        if excess <= 0:
            return
        for run in list(islice(residents, excess + 16)):
            if excess <= 0:
                return
            excess -= self._engine.evict(run)

    def _revive(self, resident: Resident, events: list[Stored]) -> None:
        state = resident.state
        engine = self._engine
        if state.aside == "poisoned" or resident.run in engine.poisoned:
            return
        if resident.run in engine.recovery.stuck:
            verdict = engine.recovery.stuck[resident.run]
            if verdict is not None:
                self._later(resident, verdict)
            return
        missing = engine.bodies.missing(state)
        if missing is not None:
            self._later(resident, c.SetAside(reason=missing[0], message=missing[1]))
            return
        if state.direct:
            self._revive_direct(resident, events)
            return
        started = events[state.attempt_version - 1][0]
        assert isinstance(started, e.RunStarted), "an attempt begins with its start"
        code = engine.bodies.make(engine, resident, python=started.python)
        engine.debts.enter_code(resident.run, len(events))
        try:
            unseen = replay(code, events, attempt_version=state.attempt_version)
        except (Divergence, PolosUsageError) as error:
            code.discard()
            report = error.report if isinstance(error, Divergence) else {}
            _log.error("run %s doesn't fit its history: %s", resident.run, error)
            self._later(resident, c.Diverge(report=report, message=str(error)))
            return
        finally:
            engine.debts.leave_code()
        resident.code = code
        for fact in unseen:
            resident.add_fact(fact)
        if state.aside is not None:
            self._later(resident, c.Readmit(by="engine"))
        elif unseen and engine.debts.waking != resident.run:
            # Who is being woken sees them anyway; woken once more, it might be evicted and read again for ever.
            engine.wake(resident.run)

    def _revive_direct(self, resident: Resident, events: list[Stored]) -> None:
        """Begin a direct body anew, unless its code is still alive in this process."""
        kept = self._engine.bodies.take_kept(resident.run)
        if kept is not None:
            resident.code = kept
            for version, (event, time_us, position) in enumerate(events[kept.seen :], kept.seen + 1):
                if type(event) in e.FACTS:
                    # Recorded by a commit whose outcome wasn't known, so nobody has handed it over.
                    resident.add_fact(Fact(version=version, event=event, time_us=time_us, position=position))
            if resident.facts:
                self._engine.wake(resident.run)
            return

        def apply(unit: Unit) -> None:
            found = self._engine.loader.find(resident.run)
            if found is not None:
                self.begin_anew(unit, found)

        self._engine.post(Work(apply))

    def begin_anew(self, unit: Unit, resident: Resident) -> None:
        """Begin a direct body anew, if it is one without code: one that was read again, or stood in line for that."""
        under_way = resident.state.phase in (Phase.ACTIVE, Phase.CANCELLING) and resident.state.direct
        kept_out = resident.run in self._engine.poisoned or resident.run in self._engine.recovery.stuck
        if under_way and resident.code is None and not kept_out:
            self._engine.activations.begin(unit, resident)

    def _later(self, resident: Resident, command: c.Command) -> None:
        """Decide something about a run in its turn, and look at its debts afterwards."""
        run = resident.run

        def apply(unit: Unit) -> None:
            found = self._engine.loader.find(run)
            if found is None:
                return
            self._engine.decide_on(unit, found, command)
            if isinstance(command, c.Readmit):
                unit.ready.append(found)

        self._engine.post(Work(apply, done=lambda _reply: self._engine.perform_again(run)))

    # ------------------------------------------------------------------------------------ start-up

    def recover(self) -> None:
        """Find what was under way, and have it looked at."""
        engine = self._engine
        runs: dict[str, None] = {}
        with engine.store.log.reader() as reader:
            # Keys sort as their texts do.
            known = (key for kind in ("run", "archived") for key, _ in reader.rows((kind,), limit=1, reverse=True))
            self._last_id = max((str(key[1]) for key in known), default="")
            engine.lines.recover(reader)
            engine.schedules.recover(reader)
            for wanted in ("pending_cancel", "no_code", "pinned", "diverged", "poisoned", "internal_error"):
                for key, _ in reader.rows(("status", wanted)):
                    runs[str(key[-1])] = None
            outbox = dict.fromkeys(str(key[1]) for key, _ in reader.rows(("outbox",)))
            # A fact may be recorded and not delivered; and whoever can be asked about a step wasn't asked by us.
            for key, _ in (*reader.rows(("unseen",)), *reader.rows(("status", "step_outcome_unknown"))):
                runs[str(key[-1])] = None
            timers = [(int(key[1]), str(key[2])) for key, _ in reader.rows(("timer",))]
            engine.intake.topics.recover(reader)
        for due_us, run in timers:
            engine.timers.add(due_us, (run, "", ""))
        for run in runs:
            engine.wake(run)
        for run in outbox:
            if run not in runs:
                self._send_rest(run)

    def _send_rest(self, run: str) -> None:
        """Take up what a run owes other logs; it may have ended."""

        def apply(unit: Unit) -> None:
            resident = self.get(run)
            unit.residents[run] = resident
            self._engine.debts.perform(resident)

        self._engine.post(Work(apply))
