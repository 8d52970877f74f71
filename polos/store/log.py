"""
The contract between the engine and whatever keeps its events: bytes and order, no meaning.

A log is a sequence of immutable records. Each record belongs to one stream (a run, a topic, ...),
has a position in the log and a version in its stream. Beside the records a log keeps *rows*:
a sorted map from keys to bytes, changed only together with records and in the same commit.
Rows are projections: they can be thrown away and folded again from the records. Which projections they come from is
told by a number, which the log keeps and gives no meaning to; when the program computes other rows, their owner
replaces all of them at once.

An `AppendUnit` is what is written all or nothing. A *group* is several units in one commit.
Records are written by one owner at a time; who owns is told by the epoch.

Invariants, each with an assertion in the implementations and a property test of the same number:

* L1  positions are contiguous from 1 and never reused; an archived range is covered by its seal.
* L2  a stream's versions are contiguous from 1 (a fork's go on from its origin's).
* L3  an append succeeds iff every expected version and position matches; it is all or nothing across streams and rows.
* L4  an acknowledged append survives a killed process, and a power cut when `sync` is full; blobs included.
* L5  readers see a prefix of positions.
* L6  rows equal the fold of the last verified snapshot and everything behind it.
* L7  an old epoch can't append.
* L8  the chain verifies from any trusted head back to the first record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field
from enum import IntEnum
from typing import NewType, Protocol

from polos.data_class import dataclass

__all__ = [
    "LOG_START",
    "STREAM_START",
    "AppendUnit",
    "Epoch",
    "Head",
    "Key",
    "Log",
    "NewRecord",
    "PayloadEncoding",
    "Position",
    "Reader",
    "Receipt",
    "Record",
    "RowChange",
    "Version",
]

Position = NewType("Position", int)  # place in the log, from 1; 0 is before the first record
Version = NewType("Version", int)  # place in a stream, from 1; 0 is before the first record
Epoch = NewType("Epoch", int)  # which ownership wrote it, from 1

LOG_START = Position(0)
STREAM_START = Version(0)

# A row's key: parts compared one after another, strings by code point, integers (0 <= n < 2**63)
# by value. Encoded by `polos.store.keys`; a long string enters as prefix and digest.
Key = tuple[str | int, ...]
RowChange = tuple[Key, bytes | None]  # None deletes the row


class PayloadEncoding(IntEnum):
    """How the stored payload of a record is to be read."""

    PLAIN = 0
    BLOB = 1  # the stored payload names a blob that holds the real one
    ENCRYPTED = 2  # reserved: encrypted with the key that `key_id` names
    SEALED_RANGE = 3  # reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecord:
    """A record that isn't written yet."""

    stream: str
    type: str
    schema_version: int
    time_us: int
    payload: bytes
    blobs: tuple[str, ...] = ()  # SHA-256, as hex, of blobs the payload names; they are pinned until it is durable
    key_id: int = 0
    encoding: PayloadEncoding = PayloadEncoding.PLAIN  # what `payload` is; the writer makes BLOB out of large ones


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendUnit:
    """
    Records and row changes that are written all or nothing.

    `expected` gives, for every stream in `records`, the version before its first record in this
    unit; a stream that is missing in it is appended to at whatever version it has. `first` is the
    position that its first record must get; None for any.
    """

    records: tuple[NewRecord, ...]
    expected: Mapping[str, Version] = field(default_factory=dict[str, Version])
    rows: tuple[RowChange, ...] = ()
    first: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record as it was read back; its payload matches its digest."""

    position: Position
    stream: str
    version: Version
    type: str
    schema_version: int
    time_us: int
    payload: bytes
    key_id: int = 0
    encoding: PayloadEncoding = PayloadEncoding.PLAIN  # as stored; `payload` is already resolved
    blobs: tuple[str, ...] = ()  # as written
    leaf: bytes = b""  # of an archived record whose payload was pruned, so that it doesn't follow from `payload`


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where a unit was written: its records stand at `first`, `first + 1`, ..."""

    first: Position
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the log."""

    position: Position
    chain: bytes  # head_n, 32 bytes; 32 zero bytes for an empty log
    epoch: Epoch
    time_us: int  # of the last record; 0 for an empty log


class Reader(Protocol):
    """One consistent view of a log. Not shared between threads; closed by the `with` that opened it."""

    def head(self) -> Head:
        """Give the end of the log in this view."""
        ...

    def version(self, stream: str) -> Version:
        """Give the version of a stream's last record, 0 if it has none."""
        ...

    def records(self, *, after: Position = LOG_START, limit: int | None = None) -> Iterator[Record]:
        """
        Give records behind a position, in order of position.

        Records that were sealed are passed over; nothing else can be missing between two positions (L1). The last
        record of a log is never sealed.
        """
        ...

    def stream(
        self, stream: str, *, after: Version = STREAM_START, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Record]:
        """
        Give a stream's records behind a version, in order of version (from the last one down if `reverse`).

        Raises:
            RecordsSealed: when it comes to versions that were sealed.
        """
        ...

    def row(self, key: Key) -> bytes | None:
        """Give a row's value."""
        ...

    def rows_version(self) -> int:
        """Tell which projections the rows come from; 0 if that was never said."""
        ...

    def rows(
        self, prefix: Key = (), *, after: Key | None = None, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[Key, bytes]]:
        """Give the rows whose key starts with `prefix`, in key order, strictly behind `after` (a whole key)."""
        ...

    def blobs(self) -> Iterator[tuple[Position, tuple[str, ...]]]:
        """Give the digests of the blobs that records need, for each record that needs any, in order of position."""
        ...


class Log(Protocol):
    """
    The log. Any thread may read; one thread appends.

    Raises (all methods): `StoreClosed` after `close`; `ForkedStore` in a forked child;
    `StoreDamaged` when what is read isn't what was written.
    """

    def reader(self) -> AbstractContextManager[Reader]:
        """Open a consistent view. Never hold one across an await: an old view keeps space from being reused."""
        ...

    def acquire(self) -> Epoch:
        """Take the next epoch, durably. Whoever appends with an older one is refused from now on."""
        ...

    def append(self, units: Sequence[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
        """
        Write a group of units in one commit; when it returns they are durable.

        All or nothing: any failure fails the whole group and leaves the log as it was.

        Raises:
            StoreFenced: `epoch` isn't the newest (L7).
            PolosInternalError: an expected version or position doesn't match (L3); with one owner that is our bug.
            StoreFull: no space; nothing was written.
            StoreFailed: the write failed; with `maybe_happened` the head on disk has to decide.
        """
        ...

    def replace_rows(self, rows: Mapping[Key, bytes], *, version: int, at: Position, epoch: Epoch) -> int:
        """
        Make these all the rows there are, in one commit; readers see the old ones or the new ones.

        Args:
            rows: all of them.
            version: which projections they come from.
            at: the end of the log that they were folded from.
            epoch: of the owner.

        Returns:
            How many rows were written or deleted; those that were right already aren't touched.

        Raises:
            StoreFenced: `epoch` isn't the newest (L7).
            PolosInternalError: the log goes on behind `at`; with one owner that is our bug.
            StoreFull: no space; nothing was written.
            StoreFailed: the write failed; the rows are the old ones or the new ones.
        """
        ...

    def seal(self, streams: Mapping[str, Version], *, epoch: Epoch) -> int:
        """
        Take the first records of streams out of the log in one commit; what stays are their leaves, for the chain.

        To be called once the records are durable elsewhere and a record behind them says where. Sealing what is
        sealed changes nothing. A sealed stream keeps its version; its rows are its owner's business.

        Args:
            streams: up to which version each is sealed.
            epoch: of the owner.

        Returns:
            How many records left the log.

        Raises:
            StoreFenced: `epoch` isn't the newest (L7).
            StoreDamaged: a record isn't what was written; nothing was changed.
            PolosInternalError: a stream doesn't have so many versions, or the last record of the log is among them.
            StoreFull: no space; nothing was changed.
            StoreFailed: the write failed; all of it was sealed or nothing.
        """
        ...

    def subscribe(self, callback: Callable[[Position], None]) -> Callable[[], None]:
        """Call back, on the appending thread, after each commit made through this object; gives the way to stop it."""
        ...

    def reopen(self) -> Head:
        """
        Find out what is on disk after a `StoreFailed` with `maybe_happened`, and give the head that counts.

        Closes and opens again what lies below, and makes that head durable. Readers must have ended.

        Raises:
            StoreFailed: that can't be found out now either; try again later.
        """
        ...

    def close(self) -> None:
        """Close it. Closing twice is fine."""
        ...
