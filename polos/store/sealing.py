"""
What sealing changes: records leave the log, and their leaves stay.

Whoever seals has put the records somewhere else and has appended a record that says where. What is done here is only
the taking away, and it can be done piece by piece and again: a stream is sealed up to a version, and sealing what is
sealed changes nothing.

Of each record its leaf stays, 32 bytes, and neighbours lie together in one entry (`polos.store.chain`), so that the
chain verifies as before and an archived position costs little more than its leaf. Of each stream stays how far it was
sealed, as a run of the index at position 0: its versions go on where they would have, and nobody begins it anew.

A record goes only once it is proved that the chain goes through it: damage isn't to be sealed away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from polos.errors import PolosInternalError, StoreDamaged
from polos.store.chain import (
    EMPTY_CHAIN,
    HEAD_BYTES,
    RANGE_RECORDS_MAX,
    decode_range,
    encode_range,
    entry_head,
    entry_leaf,
    is_range,
)
from polos.store.layout import Table, decode_run, encode_run, position_key, read_position, stream_key
from polos.store.log import Epoch, Head, Version
from polos.store.reader import Tables, check_epoch

__all__ = ["Sealing"]


@final
class Sealing:
    """
    What one commit writes and deletes to seal streams.

    Attributes:
        records: how many records leave the log.
        put: what is written, by table.
        deleted: what goes, by table; a key that is written as well isn't in it.
    """

    __slots__ = ("_head", "_tables", "deleted", "put", "records")

    def __init__(self, tables: Tables, streams: Mapping[str, Version], *, epoch: Epoch) -> None:
        """
        Work it out.

        Args:
            tables: the log as it is.
            streams: up to which version each is sealed.
            epoch: of the owner.

        Raises:
            StoreFenced: `epoch` isn't the newest (L7).
            StoreDamaged: a record isn't what was written.
            PolosInternalError: a stream doesn't have so many versions, or the last record of the log is among them.
        """
        self._tables = tables
        self._head: Head = check_epoch(tables, epoch, "seal records")
        self.records = 0
        self.put: dict[Table, dict[bytes, bytes]] = {"log": {}, "streams": {}}
        self.deleted: dict[Table, list[bytes]] = {"log": [], "streams": [], "blobs": []}
        positions = sorted(found for stream, version in streams.items() for found in self._unlist(stream, version))
        for first, last in _joined(positions):
            self._seal(first, last)
        for table, pairs in self.put.items():
            self.deleted[table] = [key for key in self.deleted[table] if key not in pairs]

    def _unlist(self, stream: str, upto: int) -> Iterator[tuple[int, int]]:
        """Take the runs of a stream up to a version out of the index; gives first position and count of each."""
        sealed = reached = 0
        low, high = stream_key(stream, 0), stream_key(stream, upto + 1)
        for key, value in self._tables.scan("streams", low, high):
            first, position, count = decode_run(key, value)
            reached = first + count - 1
            if not position:
                sealed = reached
                continue
            part = min(reached, upto) - first + 1
            if part < count:
                rest = stream_key(stream, first + part)
                self.put["streams"][rest] = encode_run(position + part, count - part)
            self.deleted["streams"].append(key)
            yield position, part
        if reached < upto:
            raise PolosInternalError(f"stream {stream} has {reached} versions, and can't be sealed up to {upto}")
        if upto > sealed:
            self.put["streams"][stream_key(stream, 1)] = encode_run(0, upto)

    def _seal(self, first: int, last: int) -> None:
        """Put the leaves of neighbours in the place of their entries, joined with those around them."""
        if last >= self._head.position:
            raise PolosInternalError(f"record {last} is the last of the log; what seals it has to stand behind it")
        head, before = self._behind(first - 1)
        leaves: list[bytes] = []
        heads: list[bytes] = []
        for key, entry in self._tables.scan("log", position_key(first), position_key(last + 1)):
            position = first + len(leaves)
            leaves.append(entry_leaf(entry, position, head))
            head = entry[:HEAD_BYTES]
            heads.append(head)
            self.deleted["log"].append(key)
            if self._tables.get("blobs", key) is not None:
                self.deleted["blobs"].append(key)
        if len(leaves) != last + 1 - first:
            raise StoreDamaged(f"record {first + len(leaves)} is missing", position=first + len(leaves))
        self.records += len(leaves)
        if before is not None and len(before[1]) // 32 + len(leaves) <= RANGE_RECORDS_MAX:
            begin, old = before
            self.put["log"].pop(position_key(first - 1), None)
            self.deleted["log"].append(position_key(first - 1))
            self._join(begin, last, old + b"".join(leaves), head)
            return
        for at in range(0, len(leaves), RANGE_RECORDS_MAX):
            part = leaves[at : at + RANGE_RECORDS_MAX]
            end = at + len(part) - 1
            self._join(first + at, first + end, b"".join(part), heads[end])

    def _join(self, first: int, last: int, leaves: bytes, head: bytes) -> None:
        """Write a range, as one with the range behind it if there is one and it has room."""
        for key, entry in self._tables.scan("log", position_key(last + 1)):
            if is_range(entry):
                end = read_position(key)
                begin, others = decode_range(entry, end)
                if begin == last + 1 and (len(leaves) + len(others)) // 32 <= RANGE_RECORDS_MAX:
                    self.put["log"][key] = encode_range(first, entry[:HEAD_BYTES], leaves + others)
                    return
            break
        self.put["log"][position_key(last)] = encode_range(first, head, leaves)

    def _behind(self, position: int) -> tuple[bytes, tuple[int, bytes] | None]:
        """Give the head behind a position, and the range that ends there, if one does."""
        if not position:
            return EMPTY_CHAIN, None
        key = position_key(position)
        entry = self.put["log"].get(key) or self._tables.get("log", key)
        if entry is None:
            raise PolosInternalError(f"record {position} is in the middle of a sealed range, and the next one isn't")
        return entry_head(entry, position), decode_range(entry, position) if is_range(entry) else None


def _joined(runs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Give first and last position of neighbouring records, out of sorted runs of them."""
    first = last = 0
    for position, count in runs:
        if first and position == last + 1:
            last += count
            continue
        if first:
            yield first, last
        first, last = position, position + count - 1
    if first:
        yield first, last
