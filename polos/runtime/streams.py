"""
Streams: the public events of a tree of runs, or of a topic, from any place on, and then as they come.

The streams of a tree lie apart in the log. Two ways give their records in order of position, and each
is right for the other's weak case: *merging* the streams costs something for each run of the tree, and
*scanning* the log costs something for each record of anybody, whose payload may be large and in a blob.
So a reader scans only where there are few new records for the runs it has. Both give exactly the same.

A stream holds no reader while its consumer works: it reads a batch, closes the view, hands the batch
out, and then reads on behind it. So a slow consumer holds nobody up, and a stream can be given up at
any point without being closed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import field
from itertools import islice
from typing import Final, Protocol, final

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.json import Json
from polos.engine.projections import ENGINE_STREAM, RUN_PREFIX, TOPIC_PREFIX, run_stream, topic_stream
from polos.errors import RecordsSealed, UnknownRun
from polos.runtime import reads
from polos.runtime.archived import ArchivedReader, Segments, archived_row, open_archived, reader_of
from polos.runtime.connection import LocalEngine, StoreConnection
from polos.runtime.deltas import Preview
from polos.runtime.following import Sooner
from polos.runtime.public_events import (
    RunInfo,
    archived_event,
    position_of,
    preview_event,
    public_events,
    sequence_id,
    workflow_topic,
)
from polos.store.log import Position, Reader, Record, Version
from polos.types.events import Ahead, StreamEvent

__all__ = ["BATCH_RECORDS", "Versions", "follow_all", "follow_topic", "follow_workflow", "start_behind"]

BATCH_RECORDS: Final = 512
SCANS_FOR_EACH_STREAM: Final = 4  # looking for new records of a stream costs about as much as reading so many

_CREATING: Final = frozenset({"RunCreated", "RunForked"})
_ENDING: Final = (e.RunCompleted, e.RunFailed, e.RunCancelled)


@dataclass(slots=True)
class Batch:
    """Public events, how far the log was read for them, and whether nothing more will come."""

    position: Position
    events: list[StreamEvent] = field(default_factory=list[StreamEvent])
    ended: bool = False


class Source(Protocol):
    """Where a stream reads."""

    def read(self, reader: Reader, after: Position) -> Batch:
        """Give the public events of some records behind a position."""
        ...


# -------------------------------------------------------------------------------------- following


def follow_workflow(
    connection: StoreConnection,
    run: str,
    *,
    workflow: str,
    after: int | None,
    api_url: str = "",
    previews: bool = False,
    seen: Ahead | None = None,
) -> AsyncIterator[StreamEvent]:
    """
    Follow the tree of a run until that run ends.

    Args:
        connection: the way to the store.
        run: the run.
        workflow: its workflow; only needed while no engine has seen the run.
        after: a sequence id to go on behind. None: suspends of the tree that nobody has answered yet, then
            everything from now on; of a run that has ended, its end.
        api_url: where approval pages are.
        previews: whether deltas are shown before they are durable, where the engine lives in this process.
        seen: what the reader has of deltas that weren't durable, as `StreamEvent.ahead` says.

    Raises:
        UnknownRun: there is no such run.
    """
    store = connection.store
    with reader_of(store, run) as reader:
        head = reader.head().position
        row = reads.run_row(reader, run)
        last = reads.last_row(reader, run)
        if row is None and all(pending.row.run != run for pending in reads.pending_runs(store.inbox)):
            raise UnknownRun(f"there is no run {run!r} in {store.path}")
        root, root_workflow = (run, workflow) if row is None else (row.root, row.root_workflow)
        tree = Tree(root, workflow_topic(root_workflow, root), archive=store.blobs, target=run, api_url=api_url)
        first: list[StreamEvent] = []
        if last is not None and last.ended:
            end = sequence_id(_end_position(reader, last))
            if after is not None and after >= end:
                return _follow(connection, Over(), after, [])
            after = end - 1 if after is None else after
        elif after is None:
            after = sequence_id(head + 1) - 1
            for suspend in reads.open_suspends(reader, root):
                first += tree.shown(reader, suspend.record, suspend.event)
    return _follow(connection, tree, after, first, Deltas(connection, tree if previews else None, seen))


def follow_topic(
    connection: StoreConnection, topic: str | None, *, after: int | None, api_url: str = ""
) -> AsyncIterator[StreamEvent]:
    """
    Follow a topic for ever.

    Args:
        connection: the way to the store.
        topic: the topic; that of a tree of runs shows the tree's events as well. None for all published events.
        after: a sequence id to go on behind; None for from now on.
        api_url: where approval pages are.
    """
    if after is None:
        with connection.store.log.reader() as reader:
            after = sequence_id(reader.head().position + 1) - 1
    source: Source
    parts = (topic or "").split("/")
    if topic is not None and parts[0] == "workflow" and len(parts) > 2:
        source = Tree(parts[-1], topic, archive=connection.store.blobs, api_url=api_url)
    else:
        source = Topic(topic)
    return _follow(connection, source, after, [])


def follow_all(connection: StoreConnection, *, after: int | None, api_url: str = "") -> AsyncIterator[StreamEvent]:
    """
    Follow all runs and all topics, for ever.

    Args:
        connection: the way to the store.
        after: a sequence id to go on behind; None for from now on.
        api_url: where approval pages are.
    """
    if after is None:
        with connection.store.log.reader() as reader:
            after = sequence_id(reader.head().position + 1) - 1
    return _follow(connection, Everything(api_url), after, [])


def start_behind(reader: Reader, time_us: int) -> int:
    """Give the sequence id behind which everything recorded later than an instant lies."""
    # Recorded time never goes back, so the place is found by halving.
    low: int = 0
    high: int = reader.head().position
    while low < high:
        middle = (low + high) // 2
        record = next(reader.records(after=Position(middle), limit=1))
        if record.time_us <= time_us:
            low = record.position
        else:
            high = middle
    return sequence_id(low + 1) - 1


async def _follow(
    connection: StoreConnection, source: Source, after: int, first: list[StreamEvent], deltas: Deltas | None = None
) -> AsyncIterator[StreamEvent]:
    for event in first:
        yield event
    deltas = deltas or Deltas(connection, None, None)
    # The record that `after` points into is read again: its events behind that place were not seen.
    position = Position(max(position_of(after + 1) - 1, 0))
    try:
        while True:
            deltas.listen()
            with connection.store.log.reader() as reader:
                head = reader.head().position
                batch = source.read(reader, position)
            for event in batch.events:
                if event.sequence_id > after:
                    after = event.sequence_id
                    if not deltas.was_shown(event):
                        yield event.with_ahead(deltas.ahead) if deltas.ahead else event
            if batch.ended:
                return
            position = batch.position
            if position >= head:
                for event in deltas.waiting(after):
                    yield event
                await connection.moves().behind(head, deltas.sooner)
    finally:
        deltas.close()


def _end_position(reader: Reader, row: reads.RunRow) -> Position:
    assert row.end_version is not None, "the run has ended"
    record, _ = next(reads.events_of(reader, row.run, after=row.end_version - 1, limit=1))
    return record.position


@final
class Deltas:
    """
    The deltas that a reader has seen, and those that it may see before they are durable.

    What was shown is told by its number, which grows within a step: each is shown once, whichever way it came first.
    What was shown before it was durable may never become so, if the process dies: the numbers of such deltas say
    something only about chunks of the same engine.
    """

    def __init__(self, connection: StoreConnection, tree: Tree | None, seen: Ahead | None) -> None:
        """
        Begin to read.

        Args:
            connection: the way to the store, and to the engine if it is here.
            tree: the runs whose deltas are shown before they are durable; None for none.
            seen: as `StreamEvent.ahead` says.
        """
        self._connection = connection
        self._tree = tree
        self.ahead: Ahead = dict(seen or {})
        self._durable: dict[tuple[str, str], int] = {}  # chunks were shown up to here
        self._waiting: deque[Preview] = deque()
        self._engine: LocalEngine | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self.sooner: Sooner = Sooner()

    def listen(self) -> None:
        """Hear of what the engine of this process shows, if it is here; engines come and go."""
        engine = self._connection.engine
        if self._tree is None or engine is self._engine:
            return
        self.close()
        self._engine = engine
        if engine is not None and engine.loop is asyncio.get_running_loop():
            self._unsubscribe = engine.previews.subscribe(self._tree.root, self._heard)

    def close(self) -> None:
        """Hear no more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def was_shown(self, event: StreamEvent) -> bool:
        """Tell whether a durable event is a delta that was shown as a preview."""
        if event.delta is None:
            return False
        run, step, index = event.delta
        self._durable[run, step] = index + 1
        shown, life = self.ahead.get((run, step), (0, 0))
        if shown and self._life(position_of(event.sequence_id)) != life:
            del self.ahead[run, step]
            return False
        if 0 < shown <= index + 1:
            del self.ahead[run, step]
        return index < shown

    def waiting(self, after: int) -> Iterator[StreamEvent]:
        """Give what was heard and not shown; `after` is the number of the event that was shown last."""
        self.sooner.wanted = False
        while self._waiting and self._tree is not None:
            preview = self._waiting.popleft()
            known = preview.run, preview.step
            life = self._life(None)
            shown, of = self.ahead.get(known, (0, life))
            if preview.index < max(shown if of == life else 0, self._durable.get(known, 0)):
                continue  # its chunk was faster
            with self._connection.store.log.reader() as reader:
                event = self._tree.previewed(reader, preview, after=after)
            if event is not None:
                self.ahead[known] = preview.index + 1, life
                yield event.with_ahead(self.ahead)

    def _life(self, before: Position | None) -> int:
        """
        Tell how many engines had taken the log over when a record was written; None: now.

        Numbers of deltas that were shown and not recorded are given again by the engine that comes next.
        """
        with self._connection.store.log.reader() as reader:
            if before is None:
                return reader.version(ENGINE_STREAM)
            return sum(1 for record in reader.stream(ENGINE_STREAM) if record.position < before)

    def _heard(self, preview: Preview) -> None:
        self._waiting.append(preview)
        self.sooner.want()


# ---------------------------------------------------------------------------------------- reading


@final
class Versions:
    """How far streams were read, so that the next record behind a position is found without searching all of it."""

    def __init__(self) -> None:
        """Start at the beginning of every stream."""
        self._read: dict[str, Version] = {}

    def note(self, record: Record) -> None:
        """Remember that a record was read."""
        self._read[record.stream] = record.version

    def behind(self, reader: Reader, stream: str, after: Position) -> Iterator[Record]:
        """Give a stream's records behind a position."""
        low = self._read.get(stream, Version(0))
        found = next(reader.stream(stream, after=low, limit=1), None)
        if found is None:
            return iter(())
        if found.position <= after:
            low = self._halve(reader, stream, found.version, after)
            self._read[stream] = low
        return reader.stream(stream, after=low)

    @staticmethod
    def _halve(reader: Reader, stream: str, low: Version, after: Position) -> Version:
        """Give the last version at or before a position, knowing that `low` is."""
        high = reader.version(stream)
        while low < high:
            middle = Version((low + high + 1) // 2)
            record = next(reader.stream(stream, after=Version(middle - 1), limit=1))
            if record.position <= after:
                low = middle
            else:
                high = Version(middle - 1)
        return low


@final
class Over:
    """What lies behind the end of a run: nothing."""

    def read(self, reader: Reader, after: Position) -> Batch:  # noqa: ARG002  # nothing is read
        """Give nothing, for the last time."""
        return Batch(after, ended=True)


@final
class Topic:
    """The events published on one topic, or on all."""

    def __init__(self, topic: str | None) -> None:
        """Take the topic; None for all."""
        self._stream = None if topic is None else topic_stream(topic)
        self._versions = Versions()

    def read(self, reader: Reader, after: Position) -> Batch:
        """Give the events of some records behind a position."""
        head = reader.head().position
        if self._stream is None:
            records = list(reader.records(after=after, limit=BATCH_RECORDS))
        else:
            records = list(islice(self._versions.behind(reader, self._stream, after), BATCH_RECORDS))
        batch = Batch(records[-1].position if len(records) == BATCH_RECORDS else head)
        for record in records:
            if record.stream.startswith(TOPIC_PREFIX):
                self._versions.note(record)
                batch.events += public_events(record, _event(record), None)
        return batch


@final
class Everything:
    """What happens to all runs and in all topics."""

    def __init__(self, api_url: str = "") -> None:
        """Start without knowing any run; the address is where approval pages are."""
        self._runs: dict[str, RunInfo] = {}
        self._api_url = api_url

    def read(self, reader: Reader, after: Position) -> Batch:
        """Give the public events of some records behind a position."""
        batch = Batch(after)
        for record in reader.records(after=after, limit=BATCH_RECORDS):
            if record.position != batch.position + 1:
                batch.events.append(archived_event(Position(batch.position + 1), record))
            event = _event(record)
            info = self._runs.get(record.stream) or _run_info(reader, record.stream)
            if info is not None:
                self._runs[record.stream] = info
                if isinstance(event, (*_ENDING, e.RunContinued)):
                    del self._runs[record.stream]  # who follows for months keeps what lives, not what has lived
            payload = _input(reader, event, info)
            batch.events += public_events(record, event, info, api_url=self._api_url, payload=payload)
            batch.position = record.position
        return batch


@final
class Tree:
    """The runs below a root and the topic of their tree, wherever they are: they may be archived at any time."""

    def __init__(
        self, root: str, topic: str, *, archive: Segments, target: str | None = None, api_url: str = ""
    ) -> None:
        """
        Take the tree.

        Args:
            root: the run at its root.
            topic: on which programs publish into it.
            archive: where it is once it was archived.
            target: the run whose end is the stream's; None for a stream that doesn't end.
            api_url: where approval pages are.
        """
        self._root = root
        self._topic = topic_stream(topic)
        self._archive = archive
        self._archived: ArchivedReader | None = None
        self._target = target
        self._api_url = api_url
        self._runs: dict[str, RunInfo] = {}
        self._versions = Versions()
        self._known = False

    def read(self, reader: Reader, after: Position) -> Batch:
        """Give the public events of some records behind a position."""
        if self._archived is None and archived_row(reader, self._root) is not None:
            self._archived = open_archived(reader, self._archive, self._root)
        if self._archived is not None:
            reader = self._archived.over(reader)
        head = reader.head().position
        if not self._known:
            self._learn(reader)
        if head - after <= SCANS_FOR_EACH_STREAM * (1 + len(self._runs)):
            records, position = self._scan(reader, after)
        else:
            records, position = self._merge(reader, after, head)
        batch = Batch(position)
        for record in records:
            self._versions.note(record)
            event = _event(record)
            batch.events += self.shown(reader, record, event)
            if self._is_end(reader, record, event):
                batch.ended = True
                return batch
        return batch

    def shown(self, reader: Reader, record: Record, event: e.Event) -> list[StreamEvent]:
        """Give the public events of a record of the tree."""
        info = self._info(reader, record.stream)
        return public_events(record, event, info, api_url=self._api_url, payload=_input(reader, event, info))

    @property
    def root(self) -> str:
        """The run at its root."""
        return self._root

    def previewed(self, reader: Reader, preview: Preview, *, after: int) -> StreamEvent | None:
        """Give the public event of a delta that isn't durable yet; None if its run isn't in the log yet."""
        info = self._info(reader, run_stream(preview.run))
        return None if info is None else preview_event(preview, info, after=after)

    def _is_end(self, reader: Reader, record: Record, event: e.Event) -> bool:
        if self._target is None or not isinstance(event, _ENDING):
            return False
        # Successors share the handle of the run that they continue, so the last one's end is the handle's.
        info, target = self._info(reader, record.stream), self._info(reader, run_stream(self._target))
        if info is None or target is None or info.handle != target.handle:
            return False
        row = reads.run_row(reader, info.run)
        return row is not None and row.end_version == record.version  # else it was retried since, and goes on

    def _learn(self, reader: Reader) -> None:
        """Find the runs of the tree."""
        for run in reads.tree_runs(reader, self._root):
            self._info(reader, run_stream(run))
        self._known = True

    def _info(self, reader: Reader, stream: str) -> RunInfo | None:
        """Give what there is to know about the run of a stream."""
        run = stream.removeprefix(RUN_PREFIX)
        found = self._runs.get(run) or _run_info(reader, stream)
        if found is not None:
            self._runs[run] = found
        return found

    def _scan(self, reader: Reader, after: Position) -> tuple[list[Record], Position]:
        """Pick the tree's records out of everybody's."""
        found: list[Record] = []
        position = after
        for record in reader.records(after=after, limit=BATCH_RECORDS):
            position = record.position
            known = record.stream == self._topic or record.stream.removeprefix(RUN_PREFIX) in self._runs
            if known or (record.type in _CREATING and self._joins(reader, record)):
                found.append(record)
        return found, position

    def _joins(self, reader: Reader, record: Record) -> bool:
        """Tell whether a record makes a new run of this tree."""
        run = record.stream.removeprefix(RUN_PREFIX)
        row = reads.run_row(reader, run)
        if row is None or row.root != self._root:
            return False
        return self._info(reader, record.stream) is not None

    def _merge(self, reader: Reader, after: Position, head: Position) -> tuple[list[Record], Position]:
        """Put the tree's streams together."""
        self._learn(reader)
        streams = [self._topic, *(run_stream(run) for run in self._runs)]
        apart = [self._versions.behind(reader, stream, after) for stream in streams]
        found = list(islice(heapq.merge(*apart, key=_position), BATCH_RECORDS))
        return found, found[-1].position if len(found) == BATCH_RECORDS else head


def _run_info(reader: Reader, stream: str) -> RunInfo | None:
    """Give what the view needs of the run of a stream; None for another stream, or a run not created yet."""
    if not stream.startswith(RUN_PREFIX):
        return None
    run = stream.removeprefix(RUN_PREFIX)
    try:
        created = reads.run_created(reader, run)
    except RecordsSealed:
        return None  # it was archived, and the last of its records are just about to leave the log
    if created is None:
        return None
    return RunInfo(
        run=run,
        handle=created.chain or run,
        workflow=created.workflow,
        kind=created.kind,
        root=created.root,
        root_workflow=created.root_workflow,
    )


def _input(reader: Reader, event: e.Event, info: RunInfo | None) -> Json:
    """Give the input of the run that an event starts."""
    if not isinstance(event, e.RunStarted) or info is None:
        return None
    return reads.run_input(reader, info.run)


def _position(record: Record) -> int:
    return record.position


def _event(record: Record) -> e.Event:
    return decode(record.type, record.schema_version, record.payload)
