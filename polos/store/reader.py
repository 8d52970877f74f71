"""
Reading a log, whatever keeps its bytes.

A backend shows its bytes as four sorted tables (`Tables`); what they mean, and whether they are to be
believed, is decided here, once. So the in-memory log and LMDB can't disagree on what damage is.

Nothing is given to a caller before it is proved. A record is checked against its own digest and
against the entry before it; the stream index is only a hint where to look, and what is found there
has to say itself that it is the record looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Protocol, final

from polos.errors import BlobMissing, PolosInternalError, RecordsSealed, StoreClosed, StoreDamaged, StoreFenced
from polos.store.chain import (
    EMPTY_CHAIN,
    HEAD_BYTES,
    decode_entry,
    decode_range,
    entry_head,
    head_of,
    is_range,
    parse_blob_reference,
)
from polos.store.keys import encode_key
from polos.store.layout import Table, decode_row, decode_run, position_key, read_position, row_changes, stream_key
from polos.store.log import LOG_START, STREAM_START, Epoch, Head, Key, PayloadEncoding, Position, Record, Version

__all__ = ["EPOCH_KEY", "ROWS_KEY", "BlobSource", "EntryReader", "Tables", "check_epoch", "rows_to_replace"]

EPOCH_KEY = b"epoch"
ROWS_KEY = b"rows"  # which projections they come from
# Every part of a key starts with 0x01 or 0x02, so all keys under a prefix are smaller than this behind it.
BEHIND_PREFIX = b"\x03"
NOTHING = (b"", b"")


class BlobSource(Protocol):
    """Where payloads are that were too large for the log."""

    def get(self, digest: str) -> bytes:
        """Give a blob, verified."""
        ...


class Tables(Protocol):
    """One consistent view of a backend's sorted tables."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Give the value of a key."""
        ...

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Give what lies in ``start <= key < stop``, in order of key or backwards."""
        ...


@lru_cache(256)  # an engine that starts asks for a dozen kinds of rows, of which there are none as a rule
def _bounds(prefix: Key) -> tuple[bytes, bytes]:
    start = encode_key(prefix)
    return start, start + BEHIND_PREFIX


@final
class EntryReader:
    """
    A `Reader` over `Tables`.

    Attributes:
        tables: what it reads, for those who check the bytes themselves.
    """

    def __init__(
        self,
        tables: Tables,
        blobs: BlobSource | None = None,
        *,
        decode: Callable[[bytes, int, bytes], Record] = decode_entry,
    ) -> None:
        """Take the view, the source of large payloads, and what gives the record of an entry."""
        self.tables = tables
        self._blobs = blobs
        self._decode = decode
        self._closed = False

    def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("this reader was closed; read inside its `with`")

    def head(self) -> Head:
        """Give the end of the log in this view."""
        self._check_open()
        epoch = Epoch(int.from_bytes(self.tables.get("meta", EPOCH_KEY) or b"", "big"))
        for key, entry in self.tables.scan("log", reverse=True):
            return head_of(entry, read_position(key), epoch)
        return Head(position=Position(0), chain=EMPTY_CHAIN, epoch=epoch, time_us=0)

    def version(self, stream: str) -> Version:
        """Give the version of a stream's last record, 0 if it has none."""
        self._check_open()
        for first, _, count in self._runs(stream, reverse=True):
            return Version(first + count - 1)
        return Version(0)

    def records(self, *, after: Position = LOG_START, limit: int | None = None) -> Iterator[Record]:
        """Give records behind a position, in order of position; those that were sealed are passed over."""
        return islice(self._records(after), limit)

    def _records(self, after: int) -> Iterator[Record]:
        self._check_open()
        found = self.end_of_range(after)
        if found is None:
            return
        after, previous = found
        expected = after + 1
        for key, entry in self.tables.scan("log", position_key(expected)):
            self._check_open()
            position = read_position(key)
            if is_range(entry) and decode_range(entry, position)[0] == expected:
                previous = entry[:HEAD_BYTES]
                expected = position + 1
                continue
            if position != expected:
                raise StoreDamaged(f"record {expected} is missing", position=expected)
            record = self._decode(entry, expected, previous)
            yield self._resolved(record) if record.encoding else record
            previous = entry[:HEAD_BYTES]
            expected += 1

    def stream(
        self, stream: str, *, after: Version = STREAM_START, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Record]:
        """Give a stream's records behind a version, in order of version (from the last one down if `reverse`)."""
        self._check_open()
        return islice(self._backward(stream, after) if reverse else self._forward(stream, after), limit)

    def row(self, key: Key) -> bytes | None:
        """Give a row's value."""
        self._check_open()
        encoded = encode_key(key)
        stored = self.tables.get("rows", encoded)
        return None if stored is None else decode_row(encoded, stored)[1]

    def rows_version(self) -> int:
        """Tell which projections the rows come from; 0 if that was never said."""
        self._check_open()
        return int.from_bytes(self.tables.get("meta", ROWS_KEY) or b"", "big")

    def rows(
        self, prefix: Key = (), *, after: Key | None = None, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[Key, bytes]]:
        """Give the rows whose key starts with `prefix`, in key order, strictly behind `after` (a whole key)."""
        self._check_open()
        start, stop = _bounds(prefix)
        if after is not None and reverse:
            stop = min(stop, encode_key(after))
        elif after is not None:
            start = max(start, encode_key(after) + b"\x00")
        for encoded, stored in islice(self.tables.scan("rows", start, stop, reverse=reverse), limit):
            self._check_open()
            yield decode_row(encoded, stored)

    def blobs(self) -> Iterator[tuple[Position, tuple[str, ...]]]:
        """Give the digests of the blobs that records need, in order of position."""
        self._check_open()
        for key, digests in self.tables.scan("blobs"):
            self._check_open()
            yield Position(read_position(key)), tuple(digests[at : at + 32].hex() for at in range(0, len(digests), 32))

    def sealed(self, stream: str) -> Version:
        """Tell up to which version a stream was sealed; 0 if it wasn't."""
        self._check_open()
        _, position, count = next(self._runs(stream, start=1, stop=2), (0, 1, 0))
        return Version(0 if position else count)

    def end_of_range(self, position: int) -> tuple[int, bytes] | None:
        """Give a position, or the last of the sealed range that it is in, and the head there; None behind the end."""
        entry = self.tables.get("log", position_key(position)) if position else None
        if entry is not None:
            return position, entry_head(entry, position)
        if position:
            for key, entry in islice(self.tables.scan("log", position_key(position)), 1):
                last = read_position(key)
                if is_range(entry) and decode_range(entry, last)[0] <= position:
                    return last, entry_head(entry, last)
        head = self._head_behind(position)
        return None if head is None else (position, head)

    # ------------------------------------------------------------------------------------ private

    def _head_behind(self, position: int) -> bytes | None:
        """Give head_n of a position; None if it is behind the end of the log."""
        if position == 0:
            return EMPTY_CHAIN
        entry = self.tables.get("log", position_key(position))
        if entry is not None:
            return entry_head(entry, position)
        if position > self.head().position:
            return None
        raise StoreDamaged(f"record {position} is missing", position=position)

    def _runs(
        self, stream: str, *, start: int = 0, stop: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[int, int, int]]:
        """
        Give (first version, first position, count) of the runs of a stream whose first version is in a range.

        The first of a stream has position 0 if it was sealed.
        """
        low = stream_key(stream, start)
        high = stream_key(stream) + b"\x00" if stop is None else stream_key(stream, stop)
        for key, value in self.tables.scan("streams", low, high, reverse=reverse):
            self._check_open()
            yield decode_run(key, value)

    def _forward(self, stream: str, after: int) -> Iterator[Record]:
        start = 0
        if after:
            # The wanted version may lie inside a run, which then starts before it.
            start = next((run[0] for run in self._runs(stream, stop=after + 2, reverse=True)), 0)
        # Runs that lie behind one another in the log, too, are read as one: a history without company is one scan.
        first = position = count = 0
        for run_first, run_position, run_count in self._runs(stream, start=start):
            if count and run_first != first + count:
                last = first + count - 1
                raise StoreDamaged(f"L2: the index of stream {stream} goes from version {last} to {run_first}")
            if position and run_position == position + count:
                count += run_count
                continue
            yield from self._behind(stream, after, first, position, count)
            first, position, count = run_first, run_position, run_count
        yield from self._behind(stream, after, first, position, count)

    def _behind(self, stream: str, after: int, first: int, position: int, count: int) -> Iterator[Record]:
        """Give what of a run lies behind a version."""
        skip = max(0, after + 1 - first)
        if skip < count and not position:
            raise RecordsSealed(f"versions 1 to {count} of stream {stream} were archived")
        if skip < count:
            yield from self._run(stream, first + skip, position + skip, count - skip)

    def _backward(self, stream: str, after: int) -> Iterator[Record]:
        expected: int | None = None
        for first, position, count in self._runs(stream, reverse=True):
            if expected is not None and first + count != expected:
                last = first + count - 1
                raise StoreDamaged(f"L2: the index of stream {stream} goes from version {last} to {expected}")
            expected = first
            yield from reversed(list(self._behind(stream, after, first, position, count)))
            if first <= after + 1:
                return

    def _run(self, stream: str, version: int, position: int, count: int) -> Iterator[Record]:
        """Give `count` neighbouring records, each proved to be the version of the stream that the index says."""
        previous = self._head_behind(position - 1)
        if previous is None:
            raise StoreDamaged(
                f"stream {stream} should go on at record {position}, which is missing", position=position
            )
        found = islice(self.tables.scan("log", position_key(position)), count)
        for wanted in range(position, position + count):
            self._check_open()
            key, entry = next(found, NOTHING)
            if key != position_key(wanted):
                raise StoreDamaged(f"record {wanted} is missing", position=wanted)
            record = self._decode(entry, wanted, previous)
            if record.stream != stream or record.version != version:
                raise StoreDamaged(
                    f"the index of stream {stream} names record {wanted} as version {version}, "
                    f"which is version {record.version} of {record.stream}",
                    position=wanted,
                )
            yield self._resolved(record) if record.encoding else record
            previous = entry[:HEAD_BYTES]
            version += 1

    def _resolved(self, record: Record) -> Record:
        if record.encoding is not PayloadEncoding.BLOB:
            return record
        digest, length = parse_blob_reference(record.payload)
        if self._blobs is None:
            raise BlobMissing(f"record {record.position} is in blob {digest}, and this log was opened without blobs")
        payload = self._blobs.get(digest)
        if len(payload) != length:
            raise StoreDamaged(f"blob {digest} has {len(payload)} bytes, not {length}", position=record.position)
        return replace(record, payload=payload)


def check_epoch(tables: Tables, epoch: Epoch, what: str) -> Head:
    """
    Give the head, provided that an epoch is the newest.

    Raises:
        StoreFenced: it isn't (L7).
    """
    head = EntryReader(tables).head()
    if epoch != head.epoch:
        raise StoreFenced(f"L7: epoch {epoch} may not {what}, {head.epoch} owns the log")
    return head


def rows_to_replace(
    tables: Tables, rows: Mapping[Key, bytes], *, at: Position, epoch: Epoch
) -> list[tuple[bytes, bytes | None]]:
    """
    Give what has to be written and deleted to replace all rows; as for `Log.replace_rows`.

    Raises:
        StoreFenced: `epoch` isn't the newest (L7).
        PolosInternalError: the log goes on behind `at`.
    """
    head = check_epoch(tables, epoch, "replace the rows")
    if at != head.position:
        raise PolosInternalError(f"L6: rows folded up to {at} can't be those of a log that ends at {head.position}")
    return row_changes(rows, tables.scan("rows"))
