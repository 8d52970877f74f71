"""
A log in memory, for tests and simulation.

It keeps the very bytes a log on disk keeps, in dicts with a sorted list of keys, so that a test that
passes here has gone through encoding, chain and index. A reader sees the tables as they were when it
was opened: a commit that happens while readers are open copies a table before it changes it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, Self, final

from polos.errors import PolosInternalError, StoreClosed, StoreFenced
from polos.store.chain import EMPTY_CHAIN, decode_entry, head_of
from polos.store.layout import Plan, Table, read_position
from polos.store.log import AppendUnit, Epoch, Head, Key, Position, Receipt, Record, Version
from polos.store.reader import EPOCH_KEY, ROWS_KEY, BlobSource, EntryReader, rows_to_replace
from polos.store.sealing import Sealing

__all__ = ["MemoryLog"]

TABLES: tuple[Table, ...] = ("log", "streams", "rows", "blobs", "meta")


_SMALL_BYTES: Final = 1_000
_decode_small = lru_cache(2_000)(decode_entry)


def _decode(entry: bytes, position: int, previous: bytes) -> Record:
    """Decode an entry, a small one once: the same bytes are read again and again, and prove the same each time."""
    return (_decode_small if len(entry) <= _SMALL_BYTES else decode_entry)(entry, position, previous)


@final
class _Sorted:
    """A map with its keys in order."""

    __slots__ = ("keys", "values")

    def __init__(self, keys: Iterable[bytes] = (), values: Mapping[bytes, bytes] | None = None) -> None:
        self.keys = list(keys)
        self.values = dict(values or {})

    def copy(self) -> _Sorted:
        return _Sorted(self.keys, self.values)

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.values:
            if self.keys and key < self.keys[-1]:
                insort(self.keys, key)
            else:
                self.keys.append(key)
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        if self.values.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


@final
class _View:
    """The tables as they were at one moment."""

    __slots__ = ("_tables",)

    def __init__(self, tables: dict[Table, _Sorted]) -> None:
        self._tables = tables

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._tables[table].values.get(key)

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        kept = self._tables[table]
        if not kept.keys:
            return
        low = bisect_left(kept.keys, start)
        high = len(kept.keys) if stop is None else bisect_left(kept.keys, stop)
        for at in range(high - 1, low - 1, -1) if reverse else range(low, high):
            key = kept.keys[at]
            yield key, kept.values[key]


@final
class _Reading:
    """A consistent view for as long as its `with` lasts; a class of its own, since readers are opened all the time."""

    __slots__ = ("_log", "_reader")

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._reader: EntryReader | None = None

    def __enter__(self) -> EntryReader:
        self._reader = EntryReader(_View(self._log.begin_reading()), self._log.blobs, decode=_decode)
        return self._reader

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.close()
            self._log.end_reading()


@final
class MemoryLog:
    """
    A `Log` that is gone with its process.

    Attributes:
        changes: how often something in it was changed, or was about to be.
    """

    def __init__(self, *, blobs: BlobSource | None = None, tables: dict[Table, _Sorted] | None = None) -> None:
        """Make an empty log; `blobs` resolves payloads that were moved to blobs."""
        self._tables = tables or {table: _Sorted() for table in TABLES}
        self.blobs = blobs
        self._lock = threading.Lock()
        self._own: set[Table] = set()  # tables that no open reader sees
        self._shared: set[Table] = set(tables or ())  # tables that are another log's, too
        self._readers = 0
        self._subscribers: list[Callable[[Position], None]] = []
        self._closed = False
        self.changes = 0
        # Versions behind the head we wrote last; worth nothing where somebody else has written.
        self._known_versions: dict[str, Version] = {}
        self._known_head: tuple[int, bytes] | None = None

    def copy(self, *, blobs: BlobSource | None = None) -> Self:
        """
        Give another log with the same content, as a process would find it that opens it after a crash.

        Args:
            blobs: resolves its payloads, if it isn't what resolves those of this one.
        """
        with self._lock:
            self._shared.update(self._tables)  # whoever changes one first copies it
            return type(self)(blobs=blobs or self.blobs, tables=self._tables.copy())

    @property
    def entries(self) -> int:
        """Count what all tables hold together."""
        return sum(len(table.keys) for table in self._tables.values())

    def reader(self) -> _Reading:
        """Open a consistent view."""
        return _Reading(self)

    def begin_reading(self) -> dict[Table, _Sorted]:
        """Give the tables as they are now, to be left as they are; `_Reading` is what calls this."""
        with self._lock:
            self._check_open()
            self._readers += 1
            self._own.clear()
            return self._tables.copy()

    def end_reading(self) -> None:
        """End what `begin_reading` began."""
        with self._lock:
            self._readers -= 1

    def acquire(self) -> Epoch:
        """Take the next epoch."""
        with self._lock:
            self._check_open()
            self.changes += 1
            epoch = Epoch(self._head().epoch + 1)
            self._changed("meta").put(EPOCH_KEY, epoch.to_bytes(8, "big"))
            return epoch

    def append(self, units: Sequence[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
        """Write a group of units, all or nothing."""
        with self._lock:
            self._check_open()
            head = self._head()
            if epoch != head.epoch:
                raise StoreFenced(f"L7: epoch {epoch} may not append, {head.epoch} owns the log")
            if self._known_head != (head.position, head.chain):
                self._known_versions.clear()
            plan = Plan(units, head, self._version)
            self.changes += 1
            self._write(plan)
            self._known_head = (plan.head.position, plan.head.chain)
            self._known_versions.update(plan.versions)
            subscribers = list(self._subscribers)
        for callback in subscribers:
            callback(plan.head.position)
        return plan.receipts

    def replace_rows(self, rows: Mapping[Key, bytes], *, version: int, at: Position, epoch: Epoch) -> int:
        """Make these all the rows there are."""
        with self._lock:
            self._check_open()
            changes = rows_to_replace(_View(self._tables), rows, at=at, epoch=epoch)
            self.changes += 1
            self._write_rows(changes)
            self._changed("meta").put(ROWS_KEY, version.to_bytes(8, "big"))
            return len(changes)

    def seal(self, streams: Mapping[str, Version], *, epoch: Epoch) -> int:
        """Take the first records of streams out of the log."""
        with self._lock:
            self._check_open()
            sealing = Sealing(_View(self._tables), streams, epoch=epoch)
            self.changes += 1
            for name, keys in sealing.deleted.items():
                table = self._changed(name)
                for key in keys:
                    table.delete(key)
            for name, pairs in sealing.put.items():
                table = self._changed(name)
                for key, value in pairs.items():
                    table.put(key, value)
            return sealing.records

    def subscribe(self, callback: Callable[[Position], None]) -> Callable[[], None]:
        """Call back after each commit; gives the way to stop it."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def reopen(self) -> Head:
        """Give the head; there is nothing below that could have lost it."""
        with self._lock:
            self._check_open()
            return self._head()

    def close(self) -> None:
        """Close it."""
        self._closed = True

    # ------------------------------------------------------------------------------------ private

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("this log was closed")

    def _head(self) -> Head:
        log = self._tables["log"]
        epoch = Epoch(int.from_bytes(self._tables["meta"].values.get(EPOCH_KEY, b""), "big"))
        if not log.keys:
            return Head(position=Position(0), chain=EMPTY_CHAIN, epoch=epoch, time_us=0)
        last = log.keys[-1]
        return head_of(log.values[last], read_position(last), epoch)

    def _version(self, stream: str) -> Version:
        known = self._known_versions.get(stream)
        return EntryReader(_View(self._tables)).version(stream) if known is None else known

    def _changed(self, name: Table) -> _Sorted:
        """Give a table that may be changed: a copy, if an open reader or another log sees the present one."""
        table = self._tables[name]
        if name in self._shared or (self._readers and name not in self._own):
            table = self._tables[name] = table.copy()
            self._own.add(name)
            self._shared.discard(name)
        return table

    def _write(self, plan: Plan) -> None:
        for name, pairs in plan.appended():
            if not pairs:
                continue
            table = self._changed(name)
            for key, value in pairs:
                if key in table.values:
                    raise PolosInternalError(f"L1: {name} has {key.hex()} already")
                table.put(key, value)
        self._write_rows(plan.rows)

    def _write_rows(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        if not changes:
            return
        rows = self._changed("rows")
        for key, row in changes:
            if row is None:
                rows.delete(key)
            else:
                rows.put(key, row)
