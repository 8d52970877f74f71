"""
What a group of units becomes: the entries of a log, its stream index, its rows.

Every log that keeps bytes keeps the same ones, so they are made here, once, and the logs only put
them somewhere. It is also the one place where versions are compared (L2, L3) and positions handed
out (L1).

The stream index has one entry for each run of neighbouring records of one stream in a unit, not
one for each record: ``(stream, first version) → (first position, count)``. A step's result and the
next step's intent are one run, so a sequential step pays for one index entry; and since such keys
of one stream are neighbours, the pages they dirty are few. A stream whose first records were sealed begins with a run
at position 0, which is no place in the log.

A row carries a CRC of key and value. The fold of the log is what proves rows right (L6); the CRC is
what keeps a flipped bit from being acted upon before anyone has folded anything.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, final

from polos.errors import PolosInternalError, PolosUsageError, StoreDamaged
from polos.store.chain import blob_digests, encode_entry
from polos.store.keys import INT_MAX, decode_key, encode_key, is_lossy, pack_key
from polos.store.log import AppendUnit, Head, Key, NewRecord, Position, Receipt, Version

__all__ = [
    "Plan",
    "Table",
    "decode_row",
    "decode_run",
    "encode_row",
    "encode_run",
    "position_key",
    "read_position",
    "row_changes",
    "stream_key",
]

_POSITION = struct.Struct(">Q")
_RUN = struct.Struct(">QI")
_CRC = struct.Struct(">I")
_KEY_LENGTH = struct.Struct(">I")

position_key = _POSITION.pack
Pair = tuple[bytes, bytes]
Table = Literal["log", "streams", "rows", "blobs", "meta"]  # what a log keeps, all sorted by key


@final
class Plan:
    """
    A group laid out behind a head: everything one commit writes, in the order in which it is written.

    Attributes:
        head: the end of the log behind the group.
        entries: of the log, by position.
        runs: of the stream index.
        blobs: digests of the blobs that a record needs, by position.
        rows: by encoded key; None deletes.
        receipts: one for each unit.
        versions: of every stream the group touches, behind it.
    """

    __slots__ = ("_version_of", "blobs", "entries", "head", "receipts", "rows", "runs", "versions")

    def __init__(self, units: Sequence[AppendUnit], head: Head, version_of: Callable[[str], Version]) -> None:
        """
        Lay it out.

        Args:
            units: the group.
            head: the end of the log now.
            version_of: gives a stream's version now.

        Raises:
            PolosInternalError: an expected version or position doesn't match (L3).
            PolosUsageError: a key or a record is over its limits.
        """
        self.head = head
        self.entries: list[Pair] = []
        self.runs: list[Pair] = []
        self.blobs: list[Pair] = []
        self.rows: list[tuple[bytes, bytes | None]] = []
        self.receipts: list[Receipt] = []
        self.versions: dict[str, Version] = {}
        self._version_of = version_of
        for unit in units:
            self._add(unit)
        assert self.head.position - head.position == len(self.entries), "L1: positions are contiguous"

    def appended(self) -> tuple[tuple[Table, list[Pair]], ...]:
        """Give what is new in each table besides the rows; no key of it is there yet."""
        return (("log", self.entries), ("streams", self.runs), ("blobs", self.blobs))

    def _add(self, unit: AppendUnit) -> None:
        for stream, expected in unit.expected.items():
            if self._version(stream) != expected:
                raise PolosInternalError(
                    f"L3: stream {stream} is at version {self._version(stream)}, the unit expects {expected}"
                )
        first = Position(self.head.position + 1)
        if unit.first is not None and unit.first != first:
            raise PolosInternalError(f"L3: the next record is {first}, the unit expects to begin with {unit.first}")
        self._add_records(unit.records)
        self.receipts.append(Receipt(first=first, count=len(unit.records)))
        for key, value in unit.rows:
            encoded = encode_key(key)
            if not encoded:
                raise PolosUsageError("a row needs a key of at least one part")
            self.rows.append((encoded, None if value is None else encode_row(key, encoded, value)))

    def _add_records(self, records: Sequence[NewRecord]) -> None:
        position, chain, time_us = self.head.position, self.head.chain, self.head.time_us
        run_stream: str | None = None
        run_version = run_position = 0
        for record in records:
            stream = record.stream
            position = Position(position + 1)
            version = self.versions[stream] = Version(self._version(stream) + 1)
            chain, entry = encode_entry(record, position, version, chain)
            time_us = record.time_us
            self.entries.append((position_key(position), entry))
            if record.blobs or record.encoding:
                digests = "".join(blob_digests(record))
                self.blobs.append((position_key(position), bytes.fromhex(digests)))
            if stream != run_stream:
                if run_stream is not None:
                    self.runs.append(_run(run_stream, run_version, run_position, position))
                run_stream, run_version, run_position = stream, version, position
        if run_stream is not None:
            self.runs.append(_run(run_stream, run_version, run_position, position + 1))
            self.head = Head(position=position, chain=chain, epoch=self.head.epoch, time_us=time_us)

    def _version(self, stream: str) -> Version:
        version = self.versions.get(stream)
        if version is None:
            version = self.versions[stream] = self._version_of(stream)
        return version


def _run(stream: str, version: int, position: int, end: int) -> Pair:
    return stream_key(stream, version), encode_run(position, end - position)


def encode_run(position: int, count: int) -> bytes:
    """Give the value of a run in the stream index; position 0 says that its records were sealed."""
    return _RUN.pack(position, count)


def stream_key(stream: str, version: int = INT_MAX) -> bytes:
    """Give the key of the stream index under which a run that starts with `version` stands."""
    return encode_key((stream, version))


def decode_run(key: bytes, value: bytes) -> tuple[int, int, int]:
    """Give first version, first position and count of a run."""
    if len(value) != _RUN.size or len(key) < 9:
        raise StoreDamaged("the stream index is damaged")
    position, count = _RUN.unpack(value)
    return int.from_bytes(key[-8:], "big"), position, count


def read_position(key: bytes) -> int:
    """Give the position that a key of the log or of the blob index stands for."""
    if len(key) != _POSITION.size:
        raise StoreDamaged("the log has a key that is no position")
    return int.from_bytes(key, "big")


def encode_row(key: Key, encoded: bytes, value: bytes) -> bytes:
    """Make the stored value of a row; a key that was cut is kept in front of it."""
    if is_lossy(encoded):
        whole = pack_key(key)
        value = _KEY_LENGTH.pack(len(whole)) + whole + value
    return _CRC.pack(zlib.crc32(value, zlib.crc32(encoded))) + value


def row_changes(rows: Mapping[Key, bytes], kept: Iterable[Pair]) -> list[tuple[bytes, bytes | None]]:
    """
    Give what has to be written and deleted to make `rows` all the rows there are.

    Args:
        rows: what there is to be.
        kept: the stored rows, whatever is in them: what is damaged is replaced like anything else.
    """
    missing = {
        encoded: encode_row(key, encoded, value) for key, value in rows.items() for encoded in (encode_key(key),)
    }
    changes: list[tuple[bytes, bytes | None]] = []
    for encoded, stored in kept:
        wanted = missing.pop(encoded, None)
        if wanted != stored:
            changes.append((encoded, wanted))
    return changes + sorted(missing.items())


def decode_row(encoded: bytes, stored: bytes) -> tuple[Key, bytes]:
    """
    Give key and value of a stored row.

    Raises:
        StoreDamaged: this isn't what was written.
    """
    value = stored[_CRC.size :]
    if len(stored) < _CRC.size or _CRC.unpack_from(stored)[0] != zlib.crc32(value, zlib.crc32(encoded)):
        raise StoreDamaged(f"a row isn't what was written: {encoded!r}")
    try:
        if not is_lossy(encoded):
            return decode_key(encoded), value
        start = _KEY_LENGTH.size
        end = start + _KEY_LENGTH.unpack_from(value)[0]
        return decode_key(value[start:end]), value[end:]
    except (ValueError, struct.error) as error:
        raise StoreDamaged(f"a row has a key that is none: {error}") from error
