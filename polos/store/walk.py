"""
The child process of `polos.store.check`: one pass over a data directory.

It notes where it is in memory shared with its parent before it looks there, so that the parent can tell
the place even if looking is what this process dies of. It imports little: it is started each time a store
is opened that wasn't closed cleanly, and its start is most of what that costs.
"""

from __future__ import annotations

import importlib
import json
import mmap
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

from polos.data_class import dataclass
from polos.errors import BlobMissing, NotAPolosStore, PolosStoreError, StoreDamaged, StoreReadOnly
from polos.store.blobs import FileBlobs
from polos.store.chain import (
    EMPTY_CHAIN,
    check_range,
    decode_entry,
    decode_range,
    entry_head,
    entry_leaf,
    is_range,
    parse_blob_reference,
)
from polos.store.format import BLOBS_DIRECTORY, LOG_DIRECTORY
from polos.store.keys import pack_key
from polos.store.layout import decode_row, decode_run, position_key, read_position, stream_key
from polos.store.lmdb_log import LmdbLog
from polos.store.log import Key, PayloadEncoding, Position, Record
from polos.store.reader import EntryReader
from polos.store.segments import SEALS, decode_segment, record_leaf

__all__ = ["NOTE", "PLACES", "Damage", "Fold", "VerifyReport", "main"]

Place: TypeAlias = Literal["environment", "log", "streams", "blobs", "rows", "archive"]
Fold: TypeAlias = Callable[[Iterator[Record]], Iterable[tuple[Key, bytes]]]

PLACES: Final[tuple[Place, ...]] = ("environment", "log", "streams", "blobs", "rows", "archive")
TAIL_RECORDS: Final = 256
REHEARSAL_BYTES: Final = 1 << 20  # so many pages in a row that all that are free are looked at
NOTE: Final = struct.Struct("<QQ")  # index in PLACES, position


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """The first place that isn't what was written; `position` is the record it was found at, if any."""

    place: Place
    position: int | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """
    What was found.

    Attributes:
        records: how many are as they were written.
        blobs: how many blobs that records need are as they were written.
        rows: how many rows are as they were written, and, with a fold, as they should be.
        chain: the head that was reached, as hex, to be compared with one kept elsewhere.
        damage: the first damage; None if all is well.
        rows_version: which projections the rows come from.
        rows_compared: whether they were compared with a fold: one of the same projections was given.
        sealed: how many records were archived and have left the log; the chain goes through their leaves.
        archived: how many records the segments of the archive have as they were written.
    """

    records: int
    blobs: int
    rows: int
    chain: str
    damage: Damage | None
    rows_version: int = 0
    rows_compared: bool = False
    sealed: int = 0
    archived: int = 0

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return self.damage is None


def main() -> None:
    """Check as told by the arguments, and print the report; only a child started by `polos.store.check` gets here."""
    _, _, directory, extent, fold, shared = sys.argv
    walk = _Walk(Path(directory), int(shared))
    try:
        walk.run(extent, fold)
    except (PolosStoreError, NotAPolosStore) as error:
        position = error.position if isinstance(error, StoreDamaged) and error.position else walk.position
        walk.damage = Damage(place=walk.place, position=position or None, message=str(error))
    sys.stdout.write(json.dumps(asdict(walk.report())))


@final
class _Walk:
    """One pass over a data directory, which knows at each moment where it is."""

    def __init__(self, directory: Path, shared: int) -> None:
        self._directory = directory
        self._blobs = FileBlobs(directory / BLOBS_DIRECTORY)
        self._note = mmap.mmap(shared, NOTE.size)
        self._seen: set[str] = set()
        self._versions: dict[str, int] = {}
        self.place: Place = "environment"
        self.position = 0
        self.records = self.rows = 0
        self.chain = EMPTY_CHAIN
        self.damage: Damage | None = None
        self.rows_version = 0
        self.rows_compared = False
        self.sealed = self.archived = 0
        self._ranges: list[tuple[int, int]] = []  # first and last position
        self._seals: list[Record] = []

    def report(self) -> VerifyReport:
        return VerifyReport(
            records=self.records,
            blobs=len(self._seen),
            rows=self.rows,
            chain=self.chain.hex(),
            damage=self.damage,
            rows_version=self.rows_version,
            rows_compared=self.rows_compared,
            sealed=self.sealed,
            archived=self.archived,
        )

    def run(self, extent: str, fold: str) -> None:
        self._at("environment", 0)
        log = LmdbLog(self._directory / LOG_DIRECTORY, read_only=True)
        with log.reader() as reader:
            if extent != "all":
                last = reader.head().position
                for _ in self._walk(reader, max(last - TAIL_RECORDS, 0), tail=True):
                    pass
            else:
                self._everything(reader, fold)
        log.close()
        if extent == "open":
            self._rehearse()

    def _rehearse(self) -> None:
        """Do all of a commit but the commit: the list of free pages is read by nobody but who writes."""
        self._at("environment", 0)
        try:
            log = LmdbLog(self._directory / LOG_DIRECTORY)
        except StoreReadOnly:
            return  # no damage; who opens it next is told
        raw = log.environment.raw
        try:
            with raw.env.begin(write=True) as transaction:
                transaction.put(b"rehearsal", bytes(REHEARSAL_BYTES), db=raw.dbs["meta"])
                transaction.abort()
        except Exception as error:  # LMDB's own, which this module knows by name alone
            if type(error).__name__ == "MapFullError":
                return  # addresses are limited here, and a real commit makes room
            raise StoreDamaged(f"nothing can be written: {error}") from error
        finally:
            log.close()

    def _everything(self, reader: EntryReader, fold: str) -> None:
        walked = self._walk(reader, 0, tail=False)
        self.rows_version = reader.rows_version()
        function, version = _function(fold) if fold else (None, None)
        # Rows of other projections are no damage: who takes the log over computes them anew, or leaves it alone.
        self.rows_compared = function is not None and (
            version in (None, self.rows_version) or not reader.head().position
        )
        wanted = dict(function(walked)) if function is not None and self.rows_compared else None
        for _ in walked:  # also what a fold left
            pass
        self._whole_index(reader)
        self._at("rows", 0)
        for encoded, stored in reader.tables.scan("rows"):
            key, value = decode_row(encoded, stored)
            if wanted is not None and wanted.pop(key, None) != value:
                raise StoreDamaged(f"L6: row {key!r} isn't what the records fold to")
            self.rows += 1
        if wanted:
            raise StoreDamaged(f"L6: row {min(wanted, key=pack_key)!r}, which the records fold to, is missing")
        self._archive(reader)

    def _archive(self, reader: EntryReader) -> None:
        """See that each record that was sealed is in a segment, as the leaf in the log says it was."""
        missing: list[str] = []
        covered = bytearray(reader.head().position + 1)
        for seal in self._seals:
            self._at("archive", seal.position)
            for digest in seal.blobs:
                try:
                    segment = self._blobs.get(digest)
                except (BlobMissing, StoreDamaged) as error:
                    missing.append(f"segment {digest} of record {seal.position} can't be read: {error}")
                    continue
                self._seen.add(digest)
                for record in decode_segment(segment):
                    if not record.position < seal.position or covered[record.position]:
                        raise StoreDamaged(f"segment {digest} has record {record.position}, which isn't its to have")
                    if record_leaf(record) != self._leaf(reader, record.position):
                        raise StoreDamaged(f"record {record.position} of segment {digest} isn't what was sealed")
                    covered[record.position] = 1
                    self.archived += 1
        if missing:
            raise StoreDamaged(f"{missing[0]}; {len(missing)} segments in all. The log itself is as it was written")
        for first, last in self._ranges:
            lost = covered.find(0, first, last + 1)
            if lost >= 0:
                raise StoreDamaged(f"L1: record {lost} was sealed, and no segment has it", position=lost)

    def _leaf(self, reader: EntryReader, position: int) -> bytes:
        """Give the leaf that the log has at a position, of a record or in a range."""
        key, entry = next(reader.tables.scan("log", position_key(position)), (b"", b""))
        if is_range(entry):
            first, leaves = decode_range(entry, read_position(key))
            return leaves[32 * (position - first) : 32 * (position + 1 - first)]
        _, previous = reader.end_of_range(Position(position - 1)) or (0, EMPTY_CHAIN)
        return entry_leaf(entry, position, previous)

    def _walk(self, reader: EntryReader, after: int, *, tail: bool) -> Iterator[Record]:
        """Give the records behind a position, each checked against everything but the rows."""
        tables = reader.tables
        self._at("log", after + 1)
        if after:
            after, self.chain = reader.end_of_range(Position(after)) or (after, EMPTY_CHAIN)
        expected = after + 1
        for key, entry in tables.scan("log", position_key(expected)):
            self._at("log", expected)
            if is_range(entry) and decode_range(entry, read_position(key))[0] == expected:
                last = read_position(key)
                check_range(entry, last, self.chain)
                self._ranges.append((expected, last))
                self.chain = entry_head(entry, last)
                self.sealed += last + 1 - expected
                expected = last + 1
                continue
            if read_position(key) != expected:
                raise StoreDamaged(f"L1: record {expected} is missing", position=expected)
            record = decode_entry(entry, expected, self.chain)
            self._check_version(reader, record, tail=tail)
            self._at("streams", expected)
            self._check_index(reader, record)
            self._at("blobs", expected)
            if record.type == SEALS:
                self._seals.append(record)
            payload = self._check_blobs(reader, record)
            self.chain = entry_head(entry, expected)
            self.records += 1
            yield record if payload is None else replace(record, payload=payload)
            expected += 1

    def _check_version(self, reader: EntryReader, record: Record, *, tail: bool) -> None:
        known = self._versions.get(record.stream)
        if known is None:
            known = record.version - 1 if tail else reader.sealed(record.stream)
        if record.version != known + 1:
            raise StoreDamaged(
                f"L2: record {record.position} is version {record.version} of {record.stream}, behind version {known}",
                position=record.position,
            )
        self._versions[record.stream] = record.version

    @staticmethod
    def _check_index(reader: EntryReader, record: Record) -> None:
        low, high = stream_key(record.stream, 0), stream_key(record.stream, record.version + 1)
        key, value = next(reader.tables.scan("streams", low, high, reverse=True), (b"", b""))
        first, position, count = decode_run(key, value)
        offset = record.version - first
        if offset >= count or position + offset != record.position:
            raise StoreDamaged(
                f"the index doesn't lead to version {record.version} of {record.stream}", position=record.position
            )

    def _check_blobs(self, reader: EntryReader, record: Record) -> bytes | None:
        """Check the blobs that a record needs; gives its payload if that is one of them."""
        if not record.blobs and record.encoding is not PayloadEncoding.BLOB:
            return None
        needed, own = list(record.blobs), ""
        if record.encoding is PayloadEncoding.BLOB:
            own, _ = parse_blob_reference(record.payload)
            needed.append(own)
        listed = reader.tables.get("blobs", position_key(record.position))
        if listed != bytes.fromhex("".join(needed)):
            raise StoreDamaged(
                f"the list of blobs that record {record.position} needs isn't what was written",
                position=record.position,
            )
        for digest in needed:
            if record.type == SEALS and digest != own:
                continue  # segments come last: if one is lost, everything else is told all the same
            if digest not in self._seen:
                self._blobs.get(digest)
                self._seen.add(digest)
        return self._blobs.get(own) if own else None

    def _whole_index(self, reader: EntryReader) -> None:
        """See that the index and the list of blobs have nothing but what the records account for."""
        self._at("streams", 0)
        count = sum(decode_run(key, value)[2] for key, value in reader.tables.scan("streams"))
        if count != self.records + self.sealed:
            raise StoreDamaged(f"the index knows {count} records, and there are {self.records + self.sealed}")
        self._at("blobs", 0)
        for position, _ in reader.blobs():
            if position > self.records + self.sealed or is_range(
                next(reader.tables.scan("log", position_key(position)), (b"", b""))[1]
            ):
                raise StoreDamaged(f"blobs are listed for record {position}, which isn't there", position=position)

    def _at(self, place: Place, position: int) -> None:
        self.place, self.position = place, position
        NOTE.pack_into(self._note, 0, PLACES.index(place), position)


def _function(name: str) -> tuple[Fold, int | None]:
    """Give a fold, and which projections it is, if its module says so."""
    module_name, _, attribute = name.partition(":")
    module = importlib.import_module(module_name)
    found: Fold = getattr(module, attribute)
    return found, getattr(module, "ROWS_VERSION", None)
