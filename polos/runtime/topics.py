"""
Events of topics, and who waits for what.

Waits are rows. A wait that was just decided isn't on disk yet, but an event published now must reach
it; so the changes of units on their way are kept beside the rows until they are durable.

A wait with `since` gets the first event behind that, which needn't be the one that is published now: code goes on
within the unit that publishes, and asks for the next one there, while others of that unit, or of units on their way,
are still to be taken. Such a wait is answered from what is durable, if something is; else, with events on their way,
when they are. Events of one topic become durable in their order, so the first one that is found is the first.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.json import Json
from polos.engine.projections import Changes, run_stream, topic_stream
from polos.runtime.unit import Unit, Work
from polos.store.log import Key, Reader, Version

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Topics"]

# How far back a command that is decided again looks for its events: more than one group of commits holds.
AGAIN_EVENTS_MAX = 10_000

_KINDS = ("topic_wait", "suspend")


class Topics:
    """Publishes events and finds waits."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine."""
        self._engine = engine
        self._fresh: dict[Key, tuple[bytes | None, int]] = {}
        self._on_their_way: Counter[str] = Counter()  # units with events, by topic

    def publish(
        self, unit: Unit, topic: str, bodies: list[dict[str, Json]], origin: str, *, run: str | None, root: str | None
    ) -> list[int]:
        """
        Publish events, and satisfy everybody who waits for the topic with the first of them (D15).

        Args:
            unit: takes the events.
            topic: the topic.
            bodies: objects with "data" and "event_type".
            origin: id of the command or message; event ids are made of it.
            run: the run that publishes, if one does.
            root: the root of its tree.

        Returns:
            For each event, the index of its record in the unit.
        """
        waiting = self._waiting(unit, ("topic_wait", topic))
        indexes: list[int] = []
        published: list[e.EventPublished] = []
        for number, body in enumerate(bodies):
            event_type = body.get("event_type")
            event = e.EventPublished(
                topic=topic,
                data=body.get("data"),
                event_type=None if event_type is None else str(event_type),
                event_id=f"{origin}:{number}",
                run=run,
                root=root,
            )
            indexes.append(unit.append_system(topic_stream(topic), event))
            published.append(event)
        if published:
            events = list(zip(indexes, published, strict=True))
            self._engine.intake.triggers.published(unit, topic, events)
            for target, name in waiting:
                self._satisfy(unit, target, name, published[0], index=indexes[0])
            self._on_their_way[topic] += 1
            unit.on_durable.append(lambda _first: self._landed(topic))
        return indexes

    def _landed(self, topic: str) -> None:
        self._on_their_way[topic] -= 1
        if self._on_their_way[topic] <= 0:
            del self._on_their_way[topic]

    def _satisfy(self, unit: Unit, run: str, name: str, event: e.EventPublished, *, index: int) -> None:
        resident = self._engine.loader.find(run)
        if resident is None:
            return
        op = resident.state.ops.get(name)
        since = None if op is None else op.since
        if since is not None and (self._on_their_way[event.topic] or self._is_any_behind(event.topic, since)):
            unit.on_durable.append(lambda _first: self.look_back(run, name, event.topic, since))
            return
        satisfied = e.WaitSatisfied(
            name=name,
            kind="topic",
            key=event.topic,
            data=event.data,
            event_id=event.event_id,
            event_type=event.event_type,
            back=len(unit.records) - index,
            created_us=unit.now_us,
        )
        self._engine.decide_on(unit, resident, c.SatisfyTopicWait(name=name, event=satisfied))

    def look_back(self, run: str, name: str, topic: str, since: int) -> None:
        """Satisfy a wait that accepts earlier events, if there is one."""

        def apply(unit: Unit) -> None:
            found = self._first_behind(topic, since)
            resident = None if found is None else self._engine.loader.find(run)
            if found is None or resident is None or name not in resident.state.ops:
                return
            event, position, time_us = found
            satisfied = e.WaitSatisfied(
                name=name,
                kind="topic",
                key=topic,
                data=event.data,
                event_id=event.event_id,
                event_type=event.event_type,
                sequence_id=position * 4096,
                created_us=time_us,
            )
            self._engine.decide_on(unit, resident, c.SatisfyTopicWait(name=name, event=satisfied))

        self._engine.post(Work(apply))

    def _is_any_behind(self, topic: str, since: int) -> bool:
        """Tell whether the log has an event of a topic behind a sequence id; looks at the last one alone."""
        with self._engine.store.log.reader() as reader:
            last = next(iter(reader.stream(topic_stream(topic), reverse=True, limit=1)), None)
        return last is not None and last.position * 4096 > since

    def _first_behind(self, topic: str, since: int) -> tuple[e.EventPublished, int, int] | None:
        """Find the oldest event of a topic behind a sequence id, by halving: a topic may be long."""
        stream = topic_stream(topic)
        with self._engine.store.log.reader() as reader:
            low, high = 0, int(reader.version(stream))  # it is behind version `low`, or there is none behind `high`
            while low < high:
                middle = (low + high) // 2
                found = next(iter(reader.stream(stream, after=Version(middle), limit=1)), None)
                if found is None or found.position * 4096 > since:
                    high = middle
                else:
                    low = middle + 1
            for record in reader.stream(stream, after=Version(low), limit=1):
                event = decode(record.type, record.schema_version, record.payload)
                assert isinstance(event, e.EventPublished), "a topic's stream holds events of the topic"
                return event, int(record.position), record.time_us
        return None

    def published(self, topic: str, origin: str) -> list[int]:
        """Give the sequence ids of the events that a command or message has published, in their order."""
        found: list[int] = []
        with self._engine.store.log.reader() as reader:
            for record in reader.stream(topic_stream(topic), reverse=True, limit=AGAIN_EVENTS_MAX):
                event = decode(record.type, record.schema_version, record.payload)
                assert isinstance(event, e.EventPublished), "a topic's stream holds events of the topic"
                if event.event_id.rpartition(":")[0] == origin:
                    found.append(int(record.position) * 4096)
        return found[::-1]

    def suspended(self, unit: Unit, root: str, key: str) -> list[tuple[str, str]]:
        """Give run and name of the open waits for an answer in a tree, the oldest first."""
        return self._waiting(unit, ("suspend", root, key))

    def _waiting(self, unit: Unit, prefix: Key) -> list[tuple[str, str]]:
        """Give run and name of the waits below a prefix, in the order of their keys."""
        found: dict[Key, str] = {}
        with self._engine.store.log.reader() as reader:
            for key, value in reader.rows(prefix):
                found[key[len(prefix) :]] = value.decode()
        fresh: Changes = {key: value for key, (value, _) in self._fresh.items()}
        for changes in (fresh, unit.rows):
            for key, name in changes.items():
                if key[: len(prefix)] == prefix:
                    rest = key[len(prefix) :]
                    if name is None:
                        found.pop(rest, None)
                    else:
                        found[rest] = name.decode()
        return [(str(rest[-2]), name) for rest, name in sorted(found.items())]

    def note(self, unit: Unit) -> None:
        """Keep what a unit on its way says of waits."""
        for key, value in unit.rows.items():
            if key[0] in _KINDS:
                self._fresh[key] = (value, id(unit))

    def durable(self, unit: Unit) -> None:
        """What this unit says is in the rows now."""
        for key in unit.rows:
            if key[0] in _KINDS:
                held = self._fresh.get(key)
                if held is not None and held[1] == id(unit):
                    del self._fresh[key]

    def forget_undurable(self) -> None:
        """Units on their way were lost, or kept without our hearing of it."""
        topics = {*self._on_their_way, *(str(key[1]) for key in self._fresh if key[0] == "topic_wait")}
        with self._engine.store.log.reader() as reader:
            for topic in sorted(topics):
                self.recover(reader, topic)
        self._fresh.clear()  # not before all was read: if that fails, it is to be done once more
        self._on_their_way.clear()

    def recover(self, reader: Reader, *topics: str) -> None:
        """Look back for the waits that accept earlier events: who would have done it may have been killed before."""
        for key, value in reader.rows(("topic_wait", *topics)):
            topic, run, name = str(key[1]), str(key[-2]), value.decode()
            for record in reader.stream(run_stream(run), reverse=True):
                event = decode(record.type, record.schema_version, record.payload)
                if isinstance(event, e.WaitStarted) and event.name == name:
                    if event.since is not None:
                        self.look_back(run, name, topic, event.since)
                    break
