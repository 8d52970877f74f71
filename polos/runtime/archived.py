"""
Archived runs, read as if they were still in the log.

The archive holds records, so whatever can be told of a run's records can be told of an archived run's: `ArchivedReader`
shows a tree that was archived together with what is in the log, and all that reads (executions, views, streams, the
command line) works on it unchanged. Its rows are folded from its records, as those in the log once were.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Protocol, cast, final

import orjson

from polos.engine.codec import decode
from polos.engine.projections import RUN_PREFIX, Rows, fold_rows
from polos.errors import PolosUsageError, RunArchived, StoreDamaged, UnknownRun
from polos.runtime import reads
from polos.runtime.foreign import RUN_ID_BYTES_MAX
from polos.store.keys import encode_key
from polos.store.log import LOG_START, STREAM_START, Head, Key, Log, Position, Reader, Record, Version
from polos.store.segments import decode_segment

__all__ = [
    "ArchivedReader",
    "ArchivedTree",
    "Segments",
    "archived_execution",
    "archived_row",
    "archived_tree",
    "list_archived",
    "open_archived",
    "reader_of",
    "refuse_archived",
    "row_or_archived",
]

_BEHIND: Final = b"\x03"  # all keys below a prefix are smaller than this behind it


class HasArchive(Protocol):
    """A store in which runs may have been archived."""

    @property
    def log(self) -> Log:
        """The log."""
        ...

    @property
    def blobs(self) -> Segments:
        """Where its segments are."""
        ...


class Segments(Protocol):
    """Where segments are."""

    def get(self, digest: str) -> bytes:
        """Give a blob, verified."""
        ...


def archived_row(reader: Reader, run: str) -> dict[str, Any] | None:
    """Give what stayed of an archived run, None if it isn't one."""
    row = reader.row(("archived", run)) if run else None
    return None if row is None else cast("dict[str, Any]", orjson.loads(row))


def row_or_archived(reader: Reader, run: str) -> reads.RunRow | None:
    """Give the row of a run, of one that was archived what stayed of it; it has ended then."""
    row = reads.run_row(reader, run)
    if row is not None:
        return row
    found = archived_row(reader, run)
    if found is None:
        return None
    return replace(reads.row_from_json(found.pop("run"), found), end_version=found["version"])


def refuse_archived(reader: Reader, run: str) -> None:
    """
    Refuse what can't be done with a run any more.

    Raises:
        RunArchived: it was archived.
    """
    row = archived_row(reader, run)
    if row is not None:
        raise RunArchived(f"run {run} has ended ({row['status']}) and was archived; read it with "
                          f"`archive.read(client, {run!r})` or `polos show {run}`")  # fmt: skip


def open_archived(reader: Reader, segments: Segments, run: str) -> ArchivedReader:
    """
    Give a reader of the tree that an archived run belongs to. What it was made of need not stay open for the tree.

    Raises:
        BlobMissing: a segment isn't there.
        StoreDamaged: a segment isn't what was written.
    """
    row = archived_row(reader, run)
    assert row is not None, "whoever opens it has looked"
    root = row["root"]
    top = archived_row(reader, root)
    if top is None:
        raise StoreDamaged(f"L6: run {run} was archived, and the root {root} of its tree wasn't")
    records: list[Record] = []
    streams: set[str] = set()
    for digest in top["segments"]:
        # A segment holds neighbouring trees, too; a run's first record says to which tree it belongs.
        for record in decode_segment(segments.get(digest)):
            if record.version == 1 and getattr(decode_record(record), "root", None) == root:
                streams.add(record.stream)
            if record.stream in streams:
                records.append(record)
    return ArchivedReader(reader, records)


def decode_record(record: Record) -> Any:
    """Give the event of a record."""
    return decode(record.type, record.schema_version, record.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedTree:
    """
    A tree of runs as the archive has it.

    Attributes:
        root: its root run.
        executions: its runs, in the shape of `get_execution`, in the order in which they were created.
        events: all that was recorded of them, in order: each has `position`, `run`, `version`, `type`, `at`, `data`.
    """

    root: str
    executions: list[dict[str, Any]]
    events: list[dict[str, Any]]


@contextmanager
def reader_of(store: HasArchive, run: str) -> Generator[Reader]:
    """Open a view in which a run can be read, whether or not it was archived."""
    with store.log.reader() as reader:
        is_archived = reader.row(("run", run)) is None and archived_row(reader, run) is not None
        yield open_archived(reader, store.blobs, run) if is_archived else reader


def archived_execution(store: HasArchive, run: str) -> dict[str, Any]:
    """Give all that is known of an archived run; blocks."""
    with reader_of(store, run) as reader:
        return reads.execution(reader, run)


def archived_tree(store: HasArchive, run: str) -> ArchivedTree:
    """
    Give the whole tree that an archived run belongs to; blocks.

    Raises:
        UnknownRun: there is no such archived run.
    """
    with store.log.reader() as live:
        if archived_row(live, run) is None:
            raise UnknownRun(f"there is no archived run {run!r} in this data directory")
        reader = open_archived(live, store.blobs, run)
        return ArchivedTree(
            root=reader.runs[0],
            executions=[reads.execution(reader, member) for member in reader.runs],
            events=[
                {
                    "position": record.position,
                    "run": record.stream.removeprefix(RUN_PREFIX),
                    "version": record.version,
                    "type": record.type,
                    "at": reads.rfc3339(record.time_us),
                    "data": orjson.loads(record.payload),
                }
                for record in reader.archived
            ],
        )


def list_archived(reader: Reader, workflow: str | None, *, limit: int, cursor: str | None) -> reads.RunPage:
    """
    Give what stayed of archived runs, the newest ids first.

    Raises:
        PolosUsageError: the limit is out of range, or the cursor is none of ours.
    """
    if not isinstance(cast("object", limit), int) or not 1 <= limit <= reads.LIMIT_MAX:
        raise PolosUsageError(f"limit is 1 to {reads.LIMIT_MAX}, not {limit!r}")
    if cursor is not None and not 0 < len(cursor.encode("utf-8", "surrogatepass")) <= RUN_ID_BYTES_MAX:
        raise PolosUsageError(f"a cursor is what an earlier page gave, not {cursor[:200]!r}")
    rows: list[reads.RunRow] = []
    after = None if cursor is None else ("archived", cursor)
    for _, value in reader.rows(("archived",), after=after, reverse=True):
        found = orjson.loads(value)
        if workflow is not None and found["workflow"] != workflow:
            continue
        if len(rows) == limit:
            return reads.RunPage(rows, rows[-1].run)
        rows.append(reads.row_from_json(found.pop("run"), found))
    return reads.RunPage(rows, None)


@final
class ArchivedReader:
    """A `Reader` that shows an archived tree beside what is in the log."""

    def __init__(self, live: Reader, records: list[Record]) -> None:
        """Take a view of the log, and the records of the tree."""
        self._live = live
        self.archived: list[Record] = sorted(records, key=lambda record: record.position)
        self._streams: dict[str, list[Record]] = {}
        for record in self.archived:
            self._streams.setdefault(record.stream, []).append(record)
        self._rows: Rows = fold_rows((found.stream, decode_record(found), found.time_us) for found in self.archived)
        self._keys: list[tuple[bytes, Key]] = sorted((encode_key(key), key) for key in self._rows)

    @property
    def runs(self) -> list[str]:
        """The runs of the tree, in the order in which they were created."""
        return [stream.partition("/")[2] for stream in self._streams]

    def over(self, live: Reader) -> ArchivedReader:
        """Give the same beside another view of the log."""
        other = ArchivedReader(live, [])
        other.archived, other._streams, other._rows, other._keys = (
            self.archived, self._streams, self._rows, self._keys,
        )  # fmt: skip
        return other

    def head(self) -> Head:
        """Give the end of the log."""
        return self._live.head()

    def version(self, stream: str) -> Version:
        """Give the version of a stream's last record."""
        return self._live.version(stream)

    def records(self, *, after: Position = LOG_START, limit: int | None = None) -> Iterator[Record]:
        """Give records behind a position, those of the tree in their place."""
        archived = (record for record in self.archived if record.position > after)
        held = {record.position for record in self.archived}
        live = (record for record in self._live.records(after=after) if record.position not in held)
        return islice(heapq.merge(archived, live, key=lambda record: record.position), limit)

    def stream(
        self, stream: str, *, after: Version = STREAM_START, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Record]:
        """Give a stream's records behind a version."""
        held = self._streams.get(stream)
        if held is None:
            return self._live.stream(stream, after=after, limit=limit, reverse=reverse)
        found = [record for record in held if record.version > after]
        return islice(reversed(found) if reverse else found, limit)

    def row(self, key: Key) -> bytes | None:
        """Give a row's value."""
        found = self._rows.get(key)
        return self._live.row(key) if found is None else found

    def rows_version(self) -> int:
        """Tell which projections the rows come from."""
        return self._live.rows_version()

    def rows(
        self, prefix: Key = (), *, after: Key | None = None, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[Key, bytes]]:
        """Give the rows whose key starts with `prefix`, the tree's among them."""
        low, edge = encode_key(prefix), None if after is None else encode_key(after)
        own = [
            (encoded, key, self._rows[key])
            for encoded, key in self._keys
            if low <= encoded < low + _BEHIND and (edge is None or (encoded < edge if reverse else encoded > edge))
        ]
        live = (
            (encode_key(key), key, value)
            for key, value in self._live.rows(prefix, after=after, reverse=reverse)
            if key not in self._rows
        )
        merged = heapq.merge(reversed(own) if reverse else own, live, key=lambda row: row[0], reverse=reverse)
        return islice(((key, value) for _, key, value in merged), limit)

    def blobs(self) -> Iterator[tuple[Position, tuple[str, ...]]]:
        """Give the digests of the blobs that records in the log need."""
        return self._live.blobs()
