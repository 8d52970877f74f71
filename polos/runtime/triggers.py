"""
Triggers while an engine runs: events of topics become runs, each event once for each trigger.

A trigger is a reader of the log with a cursor. What it has seen is the position of an event, recorded by the very unit
that creates the run, so a crash can neither lose an event nor hand it out twice. Whoever publishes does nothing for a
trigger but tell it, when the event is durable; so a trigger costs a publisher one look into an index, and the filter,
which is the program's code, is called from here and never by the writer.

Events come two ways. As they are published they are *told*, and kept in memory. A trigger that lags (after a start, a
pause, a reset, a failed commit, or because its queue is full and it holds enough) is told nothing; it *reads* its
topics from the log, a piece at a time with the program's own callbacks in between, until it is level again.

At most one unit of a trigger is on its way. So whenever one is lost, what the rows say is where the trigger stands,
and everything else about it is thrown away and read again. That is the only way back, and it is the same after a crash.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import field, replace
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Final, final

import orjson

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.json import Json, message_of
from polos.engine.patterns import Patterns, is_pattern, matches
from polos.engine.projections import TRIGGER_PREFIX, topic_stream
from polos.errors import CommandRefused, EngineNotRunning, PolosStoreError, QueueFull
from polos.runtime.reads import rfc3339
from polos.runtime.recovery import CANT_READ
from polos.runtime.streams import Versions
from polos.runtime.unit import Reply, Unit, Work
from polos.runtime.wary import Wary
from polos.store.log import Key, Position, Reader
from polos.types.events import EventPayload

if TYPE_CHECKING:
    from polos.definition import Workflow
    from polos.runtime.engine import Engine
    from polos.triggering import Trigger

__all__ = ["Triggers", "stored_trigger"]

_log = logging.getLogger("polos")

PIECE_EVENTS: Final = 256  # read from the log, or judged, before the program's own callbacks get a turn
PIECE_TOPICS: Final = 512  # looked at for the same
RUNS_MAX: Final = 64  # made in one unit
KEPT_EVENTS: Final = 1_024  # in memory, if a batch isn't larger: beyond that they are read when they are needed
SKIPPED_MAX: Final = 250  # events that don't count, after which that is recorded
MATCHES_KEPT: Final = 10_000  # topics whose triggers are known by heart


@final
@dataclass(frozen=True, slots=True)
class _Told:
    """A published event."""

    position: int
    time_us: int
    event: e.EventPublished

    def payload(self) -> dict[str, Json]:
        """Give it as a run gets it."""
        return {
            "id": self.event.event_id,
            "sequence_id": self.position * 4096,
            "topic": self.event.topic,
            "event_type": self.event.event_type,
            "data": self.event.data,
            "created_at": rfc3339(self.time_us),
        }


@final
@dataclass(slots=True)
class _Pass:
    """One way through the log up to its head: first which topics have anything new, then what that is."""

    target: int
    topics: list[str]
    listing: bool
    after: Key | None = None
    versions: Versions = field(default_factory=Versions)


@final
@dataclass(slots=True, eq=False)
class _Listener:
    """
    A trigger whose code this process has.

    Attributes:
        workflow: what it starts.
        said: what the code says of it.
        held: what is recorded of it; None before that is durable.
        cursor: up to where its events are seen, as recorded or on its way.
        read: up to where they are in memory.
        raw: events that weren't judged yet.
        batch: events that count, the oldest first.
        taken: how many of those are in the unit on its way.
        skipped: how many that don't count were read since anything was recorded.
        failed: positions behind the cursor of events that make no run: the filter raised, or the run was refused.
        wary: what follows from refusals.
        behind: whether there may be more in the log than in memory.
        missed: position of the last event that it wasn't told of.
        busy: whether a unit is on its way.
        full: whether its queue takes no more.
        alarm: rings when the oldest event has waited long enough.
        under_way: where it is in the log, if it is reading.
    """

    workflow: Workflow[Any]
    said: Trigger
    held: e.TriggerRegistered | None = None
    cursor: int = 0
    read: int = 0
    raw: deque[_Told] = field(default_factory=deque[_Told])
    batch: deque[_Told] = field(default_factory=deque[_Told])
    taken: int = 0
    skipped: int = 0
    failed: set[int] = field(default_factory=set[int])
    wary: Wary = field(default_factory=Wary)
    behind: bool = True
    missed: int = 0
    busy: bool = False
    full: bool = False
    alarm: Any = None
    under_way: _Pass | None = None

    @property
    def active(self) -> bool:
        """Whether it may make runs."""
        return self.held is not None and not self.held.paused and not self.wary.rests

    @property
    def kept(self) -> int:
        """How many events are in memory."""
        return len(self.raw) + len(self.batch)

    @property
    def kept_max(self) -> int:
        """How many may be."""
        return max(KEPT_EVENTS, 2 * self.said.batch_size)

    @property
    def queue(self) -> str:
        """The queue of its runs."""
        return self.workflow.queue_name or self.workflow.id

    def due_us(self) -> int | None:
        """Tell from when on the batch goes although it isn't full; None if there is none."""
        if not self.batch:
            return None
        seconds = self.said.batch_timeout_seconds
        return self.batch[0].time_us + (0 if seconds is None else round(seconds * 1e6))

    def is_ready(self, now_us: int) -> bool:
        """Tell whether there is anything to decide."""
        if self.raw or (self.skipped >= SKIPPED_MAX and not self.batch):
            return True
        return not self.full and self.may_fire(now_us)

    def may_fire(self, now_us: int) -> bool:
        """Tell whether a run may be made of what is there."""
        if len(self.batch) >= self.said.batch_size:
            return True
        due_us = self.due_us()
        # While more is to be read the batch may get full; what was published long ago needn't wait for that long.
        return due_us is not None and due_us <= now_us and not self.behind

    def forget(self) -> None:
        """Throw away what is in memory: everything behind the cursor is read again."""
        self.raw.clear()
        self.batch.clear()
        self.taken = self.skipped = 0
        self.read = self.cursor
        self.behind = True
        self.full = False
        self.under_way = None


def stored_trigger(reader: Reader, trigger: str) -> e.TriggerRegistered | None:
    """Give what is recorded of a trigger, with the cursor that it has by now; None if there is none."""
    row = reader.row(("trigger", trigger))
    cursor = reader.row(("trigger_cursor", trigger))
    if row is None or cursor is None:
        return None
    return replace(e.TriggerRegistered(**orjson.loads(row)), cursor=int(cursor))


class Triggers:
    """Makes runs of events."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine."""
        self._engine = engine
        self._listeners: dict[str, _Listener] = {}
        self._by_topic: dict[str, list[_Listener]] = {}
        self._patterns: Patterns[_Listener] = Patterns()
        self._matches: dict[str, list[_Listener]] = {}

    # ------------------------------------------------------------------------------- registration

    def declare(self, workflows: Iterable[Workflow[Any]]) -> None:
        """
        Take up what the code says of triggers; before anything else is decided, so that no event is on its way.

        A new trigger starts behind the head, as does one whose topic is another now. Any other change keeps its place.
        """
        known = list(workflows)
        if all(workflow.trigger is None for workflow in known):
            with self._engine.store.log.reader() as reader:
                if not any(True for _ in reader.rows(("trigger",), limit=1)):
                    return

        def apply(unit: Unit) -> None:
            with self._engine.store.log.reader() as reader:
                head = reader.head().position
                for workflow in known:
                    self._declare(unit, workflow, stored_trigger(reader, workflow.id), head)

        def done(_reply: Reply) -> None:
            for listener in self._listeners.values():
                self._soon(listener)

        self._engine.post(Work(apply, done=done))

    def _declare(self, unit: Unit, workflow: Workflow[Any], before: e.TriggerRegistered | None, head: int) -> None:
        said = workflow.trigger
        if said is None:
            if before is not None and before.topic is not None:
                self._record(unit, e.TriggerRegistered(trigger=workflow.id, by="code", cursor=before.cursor))
            return
        listener = self._listeners.get(workflow.id)
        if listener is None:
            listener = self._listeners[workflow.id] = _Listener(workflow, said)
            if is_pattern(said.topic):
                self._patterns.add(said.topic, listener)
            else:
                self._by_topic.setdefault(said.topic, []).append(listener)
        fresh = before is None or before.topic != said.topic
        cursor = (0 if said.from_beginning else head) if before is None or fresh else before.cursor
        paused = before is not None and before.paused and not fresh
        given: dict[str, Any] = said.recorded()
        wanted = e.TriggerRegistered(trigger=workflow.id, by="code", cursor=cursor, paused=paused, **given)
        if before is None or replace(before, by="code") != wanted:
            self._record(unit, wanted)
        self._hold(listener, wanted)

    def _record(self, unit: Unit, event: e.TriggerRegistered) -> None:
        unit.append_system(TRIGGER_PREFIX + event.trigger, event)

    def _hold(self, listener: _Listener, event: e.TriggerRegistered) -> None:
        listener.held = event
        listener.cursor = event.cursor
        listener.forget()
        with self._engine.store.log.reader() as reader:
            after = ("trigger_failed", event.trigger, event.cursor)
            rows = reader.rows(("trigger_failed", event.trigger), after=after)
            listener.failed = {int(key[2]) for key, _ in rows}

    def change(self, unit: Unit, trigger: str, by: str, *, paused: bool | None, to: int | str | None) -> None:
        """
        Change what holds for a trigger.

        Args:
            unit: takes the event.
            trigger: its id.
            by: who wants it.
            paused: whether it makes runs; None leaves it.
            to: position behind which it goes on, "now" for behind the head; None leaves it.

        Raises:
            CommandRefused: there is no such trigger.
        """
        listener = self._listeners.get(trigger)
        with self._engine.store.log.reader() as reader:
            head = reader.head().position
            held = stored_trigger(reader, trigger) if listener is None else listener.held
        if held is None or held.topic is None:
            raise CommandRefused(f"there is no trigger {trigger!r}: no workflow of that id has trigger_on_event")
        cursor = held.cursor if listener is None else listener.cursor
        if to is not None:
            cursor = head if to == "now" else min(int(to), head)
        event = replace(held, by=by, cursor=cursor, paused=held.paused if paused is None else paused)
        self._record(unit, event)
        if listener is not None:
            listener.wary = Wary()  # whoever changes it wants it tried again
            self._hold(listener, event)
            if to is not None:
                listener.failed.clear()  # whoever goes back wants them tried again
            unit.on_durable.append(lambda _first: self._soon(listener))

    # ------------------------------------------------------------------------------------- events

    @property
    def are_level(self) -> bool:
        """Whether all that was published has led to what it leads to, for the triggers that make runs."""
        return not any(one.active and (one.busy or one.behind or one.kept) for one in self._listeners.values())

    def listening(self, topic: str) -> list[_Listener]:
        """Give the triggers that a topic has."""
        found = self._matches.get(topic)
        if found is None:
            found = [*self._by_topic.get(topic, ()), *self._patterns.matching(topic)]
            if len(self._matches) >= MATCHES_KEPT:
                self._matches.clear()
            self._matches[topic] = found
        return found

    def published(self, unit: Unit, topic: str, events: list[tuple[int, e.EventPublished]]) -> None:
        """Have the triggers told of events that are being published, when those are durable."""
        if self._listeners and self.listening(topic):
            unit.on_durable.append(partial(self._tell, topic, events, unit))

    def _tell(self, topic: str, events: list[tuple[int, e.EventPublished]], unit: Unit, first: int) -> None:
        for listener in self.listening(topic):
            for index, event in events:
                position = first + index
                if position <= listener.read:
                    continue  # it was read before anybody could tell
                if listener.behind or not listener.active or listener.kept >= listener.kept_max:
                    listener.behind = True
                    listener.missed = position
                else:
                    listener.raw.append(_Told(position, unit.records[index].time_us, event))
                    listener.read = position
            self._look(listener)

    # ------------------------------------------------------------------------------------ reading

    def _soon(self, listener: _Listener) -> None:
        self._engine.loop.call_soon(self._look, listener)

    def _look(self, listener: _Listener) -> None:
        """Do the next thing that a trigger has to do."""
        engine = self._engine
        if listener.busy or engine.stopping or engine.broken is not None or not listener.active:
            return
        if listener.behind and listener.kept < listener.kept_max:
            try:
                self._read(listener)
            except CANT_READ as error:
                engine.recovery.read_again(partial(self._look, listener), error)
                return
        if listener.is_ready(engine.now_us()):
            listener.busy = True
            engine.post(
                Work(
                    partial(self._decide, listener),
                    done=partial(self._decided, listener),
                    fail=partial(self._undecided, listener),
                )
            )
        elif listener.behind and listener.kept < listener.kept_max:
            self._soon(listener)
        else:
            self._arm(listener)

    def _read(self, listener: _Listener) -> None:
        """Read a piece of what lies behind."""
        with self._engine.store.log.reader() as reader:
            way = listener.under_way
            if way is None:
                topic = listener.said.topic
                listed = is_pattern(topic)
                way = _Pass(reader.head().position, [] if listed else [topic], listed)
                listener.under_way = way
            if way.listing:
                self._list(listener, way, reader)
                return
            after = Position(listener.read)
            streams = [way.versions.behind(reader, topic_stream(topic), after) for topic in way.topics]
            merged = heapq.merge(*streams, key=lambda record: record.position)
            records = list(islice(takewhile(lambda record: record.position <= way.target, merged), PIECE_EVENTS))
        for record in records:
            event = decode(record.type, record.schema_version, record.payload)
            assert isinstance(event, e.EventPublished), "a topic's stream holds events of the topic"
            way.versions.note(record)
            listener.raw.append(_Told(int(record.position), record.time_us, event))
            listener.read = int(record.position)
        if len(records) < PIECE_EVENTS:
            listener.read = max(listener.read, way.target)
            listener.under_way = None
            listener.behind = listener.missed > way.target

    @staticmethod
    def _list(listener: _Listener, way: _Pass, reader: Reader) -> None:
        """Look at some topics: which of them match and have anything new."""
        count = 0
        for key, _ in reader.rows(("topic",), after=way.after, limit=PIECE_TOPICS):
            count += 1
            topic = str(key[1])
            if matches(listener.said.topic, topic):
                last = next(reader.stream(topic_stream(topic), reverse=True, limit=1))
                if last.position > listener.read:
                    way.topics.append(topic)
            way.after = key
        way.listing = count == PIECE_TOPICS

    # ----------------------------------------------------------------------------------- deciding

    def _decide(self, listener: _Listener, unit: Unit) -> None:
        """Judge what was read, and make runs of what counts."""
        listener.taken = 0
        held = listener.held
        if held is None or held.paused:
            return
        for _ in range(min(len(listener.raw), PIECE_EVENTS)):
            told = listener.raw.popleft()
            guilty = listener.wary.guilty
            if guilty is not None and guilty[0] == told.position and told.position not in listener.failed:
                self._fail(listener, unit, told, guilty[1], "made no run, since that was refused,")
                return  # what others lead to is recorded apart from it
            if self._counts(listener, unit, told):
                listener.batch.append(told)
            else:
                listener.skipped += 1
        size, runs_max = listener.wary.share(listener.said.batch_size, RUNS_MAX)
        for runs in range(runs_max):
            left = len(listener.batch) - listener.taken
            if left == 0 or (left < size and (listener.raw or not self._is_due(listener, unit))):
                break
            if listener.full or not self._has_room(listener, runs + 1):
                break
            self._fire(listener, unit, list(islice(listener.batch, listener.taken, listener.taken + size)))
        if listener.skipped >= SKIPPED_MAX and not listener.batch and not listener.raw:
            listener.cursor = listener.read
            skipped = e.TriggerSkipped(trigger=listener.workflow.id, cursor=listener.read, events=listener.skipped)
            unit.append_system(TRIGGER_PREFIX + listener.workflow.id, skipped)
            listener.skipped = 0

    def _is_due(self, listener: _Listener, unit: Unit) -> bool:
        """Tell whether what is left goes although it is no full batch."""
        if listener.behind:
            return False
        seconds = listener.said.batch_timeout_seconds
        waited_us = unit.now_us - listener.batch[listener.taken].time_us
        return seconds is None or waited_us >= round(seconds * 1e6)

    def _has_room(self, listener: _Listener, coming: int) -> bool:
        try:
            self._engine.lines.room(listener.queue, coming)
        except QueueFull:
            listener.full = True
            self._engine.lines.when_room(listener.queue, partial(self._room, listener))
            return False
        return True

    def _room(self, listener: _Listener) -> None:
        listener.full = False
        self._soon(listener)

    def _counts(self, listener: _Listener, unit: Unit, told: _Told) -> bool:
        """Ask the filter; what it raises is recorded once, and means no."""
        accepts = listener.said.filter
        if told.position in listener.failed:
            return False
        if accepts is None:
            return True
        try:
            # A copy of its own: whatever the filter does to the event, the run gets what was published.
            copied = orjson.loads(orjson.dumps(told.payload()))
            return bool(accepts(EventPayload.model_validate(copied)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # the program's code: whatever it raises, it didn't say yes
            self._fail(listener, unit, told, error, "has a filter that failed")
            return False

    @staticmethod
    def _fail(listener: _Listener, unit: Unit, told: _Told, error: BaseException, what: str) -> None:
        """Record that an event makes no run."""
        failed = e.TriggerFailed(
            trigger=listener.workflow.id,
            event_id=told.event.event_id,
            position=told.position,
            topic=told.event.topic,
            error_type=type(error).__name__,
            message=message_of(error),
        )
        unit.append_system(TRIGGER_PREFIX + listener.workflow.id, failed)
        listener.failed.add(told.position)
        unit.actions.append(
            lambda: _log.warning(
                "trigger %s %s on event %s, which doesn't count for it: %s: %s",
                failed.trigger, what, failed.event_id, failed.error_type, failed.message,
            )
        )  # fmt: skip

    def _fire(self, listener: _Listener, unit: Unit, events: list[_Told]) -> None:
        """Record that the trigger fired, and create the run, in this unit."""
        engine, workflow, said = self._engine, listener.workflow, listener.said
        run = engine.new_run_id()
        listener.taken += len(events)
        payloads: list[Json] = [told.payload() for told in events]
        given: Json = {"events": payloads} if said.batched else payloads[0]
        seconds = workflow.run_timeout_seconds
        created = e.RunCreated(
            workflow=workflow.id,
            input=given if workflow.has_payload_param else None,
            root=run,
            root_workflow=workflow.id,
            origin=f"{TRIGGER_PREFIX}{workflow.id}:{events[0].position}",
            run_timeout_us=None if seconds is None else round(seconds * 1e6),
            queue=workflow.queue_name,
            queue_limit=workflow.queue_concurrency_limit,
            tags=workflow.tags,
            deployment=engine.settings.deployment_id,
            kind=workflow.workflow_type,
        )
        listener.cursor = events[-1].position
        listener.skipped = 0
        fired = e.TriggerFired(
            trigger=workflow.id,
            run=run,
            cursor=listener.cursor,
            events=len(events),
            first=events[0].position,
            waited=said.batch_timeout_seconds is not None and len(events) < said.batch_size and not listener.wary.most,
        )
        unit.append_system(TRIGGER_PREFIX + workflow.id, fired)
        engine.intake.start_run(unit, run, created)

    def _decided(self, listener: _Listener, _reply: Reply) -> None:
        """What was decided is durable."""
        listener.busy = False
        listener.wary.recorded(listener.taken, listener.cursor, listener.failed)
        for _ in range(listener.taken):
            listener.batch.popleft()
        listener.taken = 0
        listener.failed = {position for position in listener.failed if position > listener.cursor}
        self._soon(listener)

    def _undecided(self, listener: _Listener, error: BaseException) -> None:
        """What was decided never happened: back to what is recorded."""
        listener.busy = False
        if isinstance(error, Exception) and not isinstance(error, (EngineNotRunning, PolosStoreError)):
            listener.wary.refused([told.position for told in islice(listener.batch, listener.taken)], error)
            if listener.wary.rests:
                _log.error(
                    "trigger %s can't go on, and rests until it is changed or the engine starts again: %s",
                    listener.workflow.id, error,
                )  # fmt: skip
        with self._engine.store.log.reader() as reader:
            self._reread(listener, reader)

    def _reread(self, listener: _Listener, reader: Reader) -> None:
        listener.held = stored_trigger(reader, listener.workflow.id)
        if listener.held is not None:
            self._hold(listener, listener.held)
        if not self._engine.stopping:
            self._soon(listener)

    # -------------------------------------------------------------------------------------- time

    def _arm(self, listener: _Listener) -> None:
        """Wake up when the oldest event has waited long enough."""
        self._disarm(listener)
        due_us = listener.due_us()
        if due_us is not None and not listener.full:
            listener.alarm = self._engine.clock.call_at(due_us, partial(self._look, listener))

    @staticmethod
    def _disarm(listener: _Listener) -> None:
        if listener.alarm is not None:
            listener.alarm.cancel()
            listener.alarm = None

    def close(self) -> None:
        """The engine stops: make no runs any more."""
        for listener in self._listeners.values():
            self._disarm(listener)

    def forget_undurable(self, reader: Reader) -> None:
        """Units on their way were lost: what is recorded counts."""
        for listener in self._listeners.values():
            self._reread(listener, reader)
