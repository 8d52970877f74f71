"""
Schedules, as the engine keeps to them.

Nothing is held in memory but what is on its way to the disk: which schedule comes next is the first row of those that
are ordered by time, so a hundred thousand of them cost what one costs, at the start as well. One alarm stands at that
moment. What has come then is decided schedule by schedule, each in a unit of its own that has the event and the run
that follows from it: either both are in the log, or neither.

A run of a schedule has an id that follows from schedule and occurrence. So even what is asked for twice, as by a
backfill, is one run.

What can never be recorded (see `polos.runtime.suspects`) isn't tried for ever. Occurrences are then decided one at a
time; one that is refused alone makes no run, and is recorded as skipped for that reason, so it is the same for the
next engine. If that is refused, too, the schedule rests, and stands before that occurrence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import orjson

from polos.clock import uuid7
from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.json import Json
from polos.engine.projections import SCHEDULE_PREFIX, advance_schedule
from polos.engine.schedule_state import (
    ScheduleEvent,
    ScheduleState,
    close,
    decide_due,
    next_of,
    read_schedule_row,
    schedule_id,
    split_id,
)
from polos.errors import CommandRefused, EngineNotRunning, PolosStoreError, QueueFull, UnknownSchedule
from polos.runtime.foreign import check_run_id, text_of
from polos.runtime.reads import rfc3339
from polos.runtime.recovery import CANT_READ
from polos.runtime.unit import Reply, Unit, Work
from polos.scheduling import SaidSchedule, read_schedule
from polos.store.log import Version

if TYPE_CHECKING:
    from polos.definition import Workflow
    from polos.runtime.engine import Engine
    from polos.store.log import Reader

__all__ = ["BACKFILL_MAX", "TAG", "Schedules"]

_log = logging.getLogger("polos")

TAG: Final = "schedule:"
# So many occurrences are filled in by one command.
BACKFILL_MAX: Final = 1_000
# So many schedules are on their way to be decided at a time.
LOOK_MAX: Final = 256

# After so many refusals in a row it is decided one occurrence at a time, and that one is skipped; then it rests.
ALONE: Final = 1
SKIPS: Final = 2

_CANCELS: Final = ("cancel_other", "terminate_other")


class Schedules:
    """Fires what is due."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine."""
        self._engine = engine
        self._held: dict[str, tuple[ScheduleState, int, Unit]] = {}  # not durable yet: state, version, who says so
        self._touched: dict[int, set[str]] = {}  # unit → the schedules it changes
        self._posted: set[str] = set()
        self._refused: dict[str, int] = {}  # how many times in a row what was decided of a schedule was refused
        self._awaited: dict[str, str] = {}  # run → the schedule that has occurrences waiting for its end
        self._alarm: Any = None
        self._alarm_us: int | None = None
        self._looking = False

    # ----------------------------------------------------------------------------------------- state

    def read(self, schedule: str) -> tuple[ScheduleState | None, int]:
        """Give a schedule as it is recorded or about to be, and the version of its stream."""
        held = self._held.get(schedule)
        if held is not None:
            return held[0], held[1]
        with self._engine.store.log.reader() as reader:
            row = reader.row(("schedule", *split_id(schedule)))
            version = reader.version(SCHEDULE_PREFIX + schedule)
        return (None if row is None else read_schedule_row(row)), version

    def _get(self, unit: Unit, schedule: str) -> ScheduleState:
        """Give a schedule, up to date: what has come is decided."""
        state, _ = self.read(schedule)
        if state is None or state.said.deleted:
            raise UnknownSchedule(f"there is no schedule {schedule!r} in this store")
        self._settle(schedule, unit, hurry=True)
        state, _ = self.read(schedule)
        assert state is not None, "it was there a moment ago"
        return state

    def _record(self, unit: Unit, event: ScheduleEvent) -> ScheduleState:
        schedule = event.schedule
        before, version = self.read(schedule)
        unit.expected.setdefault(SCHEDULE_PREFIX + schedule, Version(version))
        unit.append_system(SCHEDULE_PREFIX + schedule, event)
        after = advance_schedule(before, event, rows=unit.rows)
        self._held[schedule] = (after, version + 1, unit)
        self._touched.setdefault(id(unit), set()).add(schedule)
        if isinstance(event, e.ScheduleFired):
            assert before is not None, "it was set before it fires"
            self._start(unit, before, event)
        return after

    # ----------------------------------------------------------------------------------------- what is due

    def look_soon(self) -> None:
        """Look what is due when the present callback is over."""
        if not self._looking and not self._engine.stopping:
            self._looking = True
            self._engine.loop.call_soon(self._look)

    def _look(self) -> None:
        """Have decided what is due, and be called again when the next one is."""
        self._looking = False
        engine = self._engine
        if engine.stopping or engine.broken is not None:
            return
        try:
            wanted, next_us = self._read_due(engine.now_us())
        except CANT_READ as error:
            engine.recovery.read_again(self.look_soon, error)
            return
        for schedule in wanted:
            self._post(schedule)
        self._arm(next_us)

    def _read_due(self, now_us: int) -> tuple[list[str], int | None]:
        """Give the schedules that are due, and when the next one is."""
        wanted: list[str] = []
        with self._engine.store.log.reader() as reader:
            for key, _ in reader.rows(("schedule_due",)):
                if int(key[1]) > now_us:
                    return wanted, int(key[1])
                if len(wanted) + len(self._posted) >= LOOK_MAX:
                    break  # when one of those is durable, this is looked at again
                schedule = schedule_id(str(key[2]), str(key[3]))
                if not (schedule in self._held or schedule in self._posted or self._rests(schedule)):
                    wanted.append(schedule)
        return wanted, None

    def _post(self, schedule: str) -> None:
        self._posted.add(schedule)
        tried = 0

        def apply(unit: Unit) -> None:
            nonlocal tried
            tried = self._refused.get(schedule, 0)
            if not self._rests(schedule):
                self._settle(schedule, unit)

        def done(_reply: Reply) -> None:
            self._posted.discard(schedule)
            if tried:
                self._recorded(schedule, tried)
            self.look_soon()

        def fail(error: BaseException) -> None:
            self._posted.discard(schedule)
            if not isinstance(error, (EngineNotRunning, PolosStoreError)):
                self._note_refusal(schedule, error)

        self._engine.post(Work(apply, done=done, fail=fail))

    def _rests(self, schedule: str) -> bool:
        return self._refused.get(schedule, 0) > SKIPS

    def _recorded(self, schedule: str, tried: int) -> None:
        """What was decided after a refusal is durable: the next occurrence gets a try of its own, then all of them."""
        if tried == SKIPS:
            self._refused[schedule] = ALONE
        else:
            self._refused.pop(schedule, None)
        self._post(schedule)

    def _note_refusal(self, schedule: str, error: BaseException) -> None:
        """What was decided can never be recorded: find out which occurrence it is, and go on without it."""
        tried = self._refused[schedule] = self._refused.get(schedule, 0) + 1
        if tried == SKIPS:
            _log.error("an occurrence of schedule %s makes no run, since that was refused: %s", schedule, error)
        if not self._rests(schedule):
            self._post(schedule)
            return
        _log.error("the schedule %s rests until it is changed or the engine starts again: %s", schedule, error)

    def _arm(self, due_us: int | None) -> None:
        if due_us != self._alarm_us:
            self.close()
            if due_us is not None:
                self._alarm_us = due_us
                self._alarm = self._engine.clock.call_at(due_us, self._due)

    def _due(self) -> None:
        self._alarm = self._alarm_us = None
        self._look()

    def close(self) -> None:
        """Wait for no moment any more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._alarm_us = None

    def _settle(self, schedule: str, unit: Unit, *, hurry: bool = False) -> None:
        """Decide what of a schedule has come."""
        state, _ = self.read(schedule)
        if state is None or state.quiet:
            return
        under_way = self._under_way(state)
        if under_way and state.said.overlap in _CANCELS and state.due_us <= unit.now_us:
            for run in under_way:
                self._stop(unit, run, terminate=state.said.overlap == "terminate_other")
            under_way = self._under_way(state)
        tried = self._refused.get(schedule, 0)
        for event in decide_due(
            state,
            unit.now_us,
            under_way=under_way,
            run_of=partial(_run_of, schedule),
            obstacle=partial(self._obstacle, state.said.workflow, tried),
            hurry=hurry,
        ):
            state = self._record(unit, event)
            if tried and not hurry:
                break
        if state.buffered:
            for run in self._under_way(state):
                self._awaited[run] = schedule

    def _obstacle(self, queue: str, tried: int) -> str | None:
        """Tell why an occurrence makes no run, None if it does."""
        if tried >= SKIPS:
            return "refused"
        try:
            self._engine.lines.room(queue, 1)
        except QueueFull:
            return "queue_full"
        return None

    def _under_way(self, state: ScheduleState) -> tuple[str, ...]:
        """Give the runs of a schedule that haven't ended; one that continued as new is meant by its successor."""
        found = (self._alive(run) for run in state.runs)
        return tuple(run for run in found if run is not None)

    def _alive(self, run: str) -> str | None:
        loader = self._engine.loader
        while True:
            if loader.is_alive(run):
                return run
            resident = self._engine.residents.get(run)
            if resident is not None:
                successor = resident.state.successor
            else:
                with self._engine.store.log.reader() as reader:
                    row = reader.row(("run", run))
                successor = None if row is None else orjson.loads(row)["successor"]
            if successor is None:
                return None
            run = successor

    def ended(self, run: str) -> None:
        """The end of a run is durable: what waits for it may begin."""
        schedule = self._awaited.pop(run, None)
        if schedule is not None and not self._engine.stopping:
            self._post(schedule)

    # ----------------------------------------------------------------------------------------- runs

    def _start(self, unit: Unit, state: ScheduleState, event: e.ScheduleFired) -> None:
        """Create the run of an occurrence."""
        engine, said = self._engine, state.said
        definition = engine.bodies.find(said.workflow)
        at_us, cron = event.occurrence_us, state.cron
        last_us = cron.before(at_us - 1) if event.why == "backfill" else state.last_us
        payload: dict[str, Json] = {
            "timestamp": rfc3339(at_us),
            "last_timestamp": rfc3339(last_us),
            "timezone": said.timezone,
            "schedule_id": state.id,
            "key": said.key,
            "upcoming": rfc3339(cron.after(at_us)),
        }
        seconds = None if definition is None else definition.run_timeout_seconds
        created = e.RunCreated(
            workflow=said.workflow,
            input=payload if definition is None or definition.has_payload_param else None,
            root=event.run,
            root_workflow=said.workflow,
            origin=f"{TAG}{state.id}",
            run_timeout_us=None if seconds is None else round(seconds * 1e6),
            queue_limit=1,
            # Who allows all has no line: each run is a key of its own.
            concurrency_key=f"{said.key}@{rfc3339(at_us)}" if said.overlap == "allow_all" else said.key,
            priority=-1 if event.why == "backfill" else 0,
            tags=(*(() if definition is None else definition.tags), TAG + state.id),
            deployment=engine.settings.deployment_id,
            kind="workflow" if definition is None else definition.workflow_type,
        )
        engine.intake.start_run(unit, event.run, created)

    def _stop(self, unit: Unit, run: str, *, terminate: bool) -> None:
        """Ask a run to stop; with `terminate` it is over at once and can't clean up."""
        engine = self._engine
        resident = engine.loader.get(run)
        request = c.RequestCancel(by="schedule", grace_us=engine.grace_us(resident), reason="the next one is due")
        if resident.state.cancel_requested_us is None:
            engine.decide_on(unit, resident, request)
        if terminate and not resident.ended:
            engine.decide_on(unit, resident, c.ForceCancel(by="schedule", close=True))
            engine.activations.close_code(resident)

    # ----------------------------------------------------------------------------------------- commands

    def command(self, unit: Unit, command: dict[str, Json]) -> Reply:
        """
        Decide what somebody wants of a schedule.

        Raises:
            CommandRefused: it can't be.
            UnknownSchedule: there is none of that id.
        """
        action = command.get("action")
        if action == "set":
            return self._set_by_hand(unit, command)
        schedule = str(command.get("schedule"))
        by = str(command.get("by") or "user")
        match action:
            case "pause":
                state = self._get(unit, schedule)
                if not state.said.paused:
                    self._set(unit, schedule, by=by, paused=True)
            case "resume":
                state = self._get(unit, schedule)
                if state.said.paused:
                    self._set(unit, schedule, by=by, paused=False)
                    self._settle(schedule, unit)
            case "delete":
                self._get(unit, schedule)
                self._set(unit, schedule, by=by, deleted=True, paused=False)
            case "trigger":
                run = text_of(command, "run")
                check_run_id(run)
                return self._trigger(unit, schedule, run)
            case "backfill":
                return self._backfill(unit, schedule, command.get("from_us"), command.get("to_us"))
            case _:
                raise CommandRefused(f"unknown action {action!r} of a schedule; was it written by a newer polos?")
        return {"outcome": "accepted"}

    def _set_by_hand(self, unit: Unit, command: dict[str, Json]) -> Reply:
        try:
            said = read_schedule(command.get("said"))
        except (TypeError, ValueError) as error:
            raise CommandRefused(f"a schedule can't be set like this: {error}") from error
        workflow = command.get("workflow")
        if said is None or not isinstance(workflow, str):
            raise CommandRefused(f"a schedule is set by 'workflow' and 'said', not by {command!r}")
        definition = self._engine.bodies.find(workflow)
        if definition is None:
            raise CommandRefused(f"workflow {workflow!r} can't be scheduled: the engine doesn't know it")
        if not definition.is_schedulable:
            raise CommandRefused(f"workflow {workflow!r} can't be scheduled: it isn't defined with schedule=True, "
                                 f"nor with a schedule of its own")  # fmt: skip
        schedule = schedule_id(workflow, said.key)
        state, _ = self.read(schedule)
        wanted = said.recorded()
        if state is None or state.said.deleted or any(getattr(state.said, name) != wanted[name] for name in wanted):
            self._set(unit, schedule, by=str(command.get("by") or "user"), deleted=False, **wanted)
        return {"outcome": "accepted", "detail": {"schedule": schedule}}

    def _set(self, unit: Unit, schedule: str, *, by: str, **changes: Any) -> None:
        """
        Change what holds for a schedule, from this moment on.

        What has come by now is decided by what held until now, and what comes later by what holds then; so there is no
        occurrence that both or neither of them would decide.
        """
        self._settle(schedule, unit, hurry=True)
        state, _ = self.read(schedule)
        said: dict[str, Any] = {"declared": None, "paused": False, "deleted": False}
        if state is not None:
            said.update({name: getattr(state.said, name) for name in e.ScheduleSet.__slots__})
            if not state.said.deleted:
                for event in close(state, unit.now_us, "paused" if state.said.paused else "changed"):
                    state = self._record(unit, event)
                for at_us in state.buffered if changes.get("deleted") else ():
                    gone = e.ScheduleSkipped(schedule=schedule, occurrence_us=at_us, reason="deleted")
                    self._record(unit, gone)
        workflow, key = split_id(schedule)
        said |= {**changes, "schedule": schedule, "workflow": workflow, "key": key, "by": by}
        self._record(unit, e.ScheduleSet(**{**said, **next_of(said, schedule, unit.now_us)}))
        self._refused.pop(schedule, None)  # whoever changes it wants it tried again

    def _trigger(self, unit: Unit, schedule: str, run: str) -> Reply:
        state = self._get(unit, schedule)
        if self._engine.loader.exists(run):
            unit.rests_on(self._engine.residents.get(run))
            return {"outcome": "existing"}
        self._engine.lines.room(state.said.workflow, 1)
        others = self._under_way(state)
        fired = e.ScheduleFired(schedule=schedule, occurrence_us=unit.now_us, run=run, why="trigger", others=others)
        self._record(unit, fired)
        return {"outcome": "accepted"}

    def _backfill(self, unit: Unit, schedule: str, from_us: Json, to_us: Json) -> Reply:
        state = self._get(unit, schedule)
        if type(from_us) is not int or type(to_us) is not int or not 0 <= from_us <= to_us:
            raise CommandRefused(f"a backfill goes from a moment to one behind it, not from {from_us!r} to {to_us!r}")
        runs: list[Json] = []
        at_us = state.cron.after(from_us - 1)
        wanted: list[int] = []
        while at_us <= min(to_us, unit.now_us):
            wanted.append(at_us)
            if len(wanted) > BACKFILL_MAX:
                raise CommandRefused(f"there are more than {BACKFILL_MAX} occurrences between these moments; "
                                     f"fill them in piece by piece")  # fmt: skip
            at_us = state.cron.after(at_us)
        missing = [at_us for at_us in wanted if at_us not in state.buffered]
        missing = [at_us for at_us in missing if not self._engine.loader.exists(_run_of(schedule, at_us))]
        self._engine.lines.room(state.said.workflow, len(missing))
        for at_us in missing:
            run = _run_of(schedule, at_us)
            fired = e.ScheduleFired(schedule=schedule, occurrence_us=at_us, run=run, why="backfill")
            self._record(unit, fired)
            runs.append(run)
        return {"outcome": "accepted", "detail": {"runs": runs}}

    # ----------------------------------------------------------------------------------------- the code

    def declare(self, definitions: Iterable[Workflow[Any]]) -> None:
        """Take up what the code says of schedules; for the start."""

        def apply(unit: Unit) -> None:
            for definition in definitions:
                self._declare(unit, definition.id, definition.said_schedule)

        self._engine.post(Work(apply))

    def _declare(self, unit: Unit, workflow: str, said: SaidSchedule | None) -> None:
        own = None if said is None else schedule_id(workflow, said.key)
        with self._engine.store.log.reader() as reader:
            known = [schedule_id(workflow, str(key[2])) for key, _ in reader.rows(("schedule_code", workflow))]
        for schedule in known:
            if schedule != own:
                # The workflow is here and doesn't say this any more. One that isn't here may be in another program.
                self._set(unit, schedule, by="code", deleted=True, paused=False, declared=None)
        if said is None or own is None:
            return
        wanted = said.recorded()
        state, _ = self.read(own)
        if state is None or state.said.declared != wanted:
            self._set(unit, own, by="code", declared=wanted, deleted=False, **wanted)

    # ----------------------------------------------------------------------------------------- durability

    def recover(self, reader: Reader) -> None:
        """Take up what is recorded: who waits for a run to end, and what comes next."""
        for key, _ in reader.rows(("schedule_buffer",)):
            self._post(schedule_id(str(key[1]), str(key[2])))
        self.look_soon()

    def durable(self, unit: Unit) -> None:
        """A unit is on disk."""
        touched = self._touched.pop(id(unit), None)
        if touched is not None:
            for schedule in touched:
                if self._held[schedule][2] is unit:
                    del self._held[schedule]
            self.look_soon()

    def forget_undurable(self) -> None:
        """Units on their way were lost."""
        self._held.clear()
        self._touched.clear()
        self.look_soon()


def _run_of(schedule: str, occurrence_us: int) -> str:
    """Give the id of the run of an occurrence: the same whenever it is asked for."""
    return uuid7(occurrence_us, sha256(f"{schedule}@{occurrence_us}".encode()).digest()[:8])
