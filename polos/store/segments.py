"""
Archived records as files: segments.

A segment is a blob: named by its digest, written beside, synced and renamed before anything names it, needed by the
record that seals what is in it, copied by a backup, checked by `verify`, and garbage if whoever wrote it died before
that record was there. So nothing here knows files.

What it holds of a record is its header, byte for byte, and its payload, whole: one that had been moved to a blob comes
back, so that the blob isn't needed any more. From a header follows its leaf; the leaves stay in the log. So a segment
is proved twice: by its digest, which the chain has by way of the record that seals, and leaf by leaf.

Of some records the payload may be pruned: what was sent while a step ran needn't be kept for ever. Another one stands
in its place then, which says what is missing, and is marked so. The header, and with it the leaf, is the old one; what
stands in the place of the payload is proved by the segment's digest alone.

`docs/format.md` describes the bytes; change neither without the other.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from polos.errors import PolosInternalError, StoreDamaged
from polos.store.chain import EMPTY_CHAIN, blob_reference, decode_entry, encode_header, next_head, read_header
from polos.store.log import NewRecord, PayloadEncoding, Record

__all__ = ["PRUNABLE", "SEALS", "decode_segment", "encode_segment", "record_leaf"]

# The types of record that the store knows of: the blobs that this one names are segments,
SEALS: Final = "RangeSealed"
# and of no other than this one is a payload believed that isn't what was written.
PRUNABLE: Final = "StreamChunk"
MAGIC: Final = b"polos segment 1\n"
_LENGTHS: Final = struct.Struct(">II")
_PRUNED: Final = 1 << 31  # in the length of a payload; none is so long


def encode_segment(records: Iterable[Record], pruned: Mapping[int, bytes] | None = None) -> bytes:
    """
    Put records into a segment, in the order in which they come.

    Args:
        records: what was read from the log.
        pruned: by position, what stands in the place of a payload that isn't kept.
    """
    packer = zlib.compressobj()
    parts = [MAGIC]
    for record in records:
        header = _header(record)
        instead = None if pruned is None else pruned.get(record.position)
        payload, mark = (record.payload, 0) if instead is None else (instead, _PRUNED)
        parts.append(packer.compress(_LENGTHS.pack(len(header), len(payload) | mark) + header))
        parts.append(packer.compress(payload))
    parts.append(packer.flush())
    return b"".join(parts)


def decode_segment(data: bytes) -> Iterator[Record]:
    """
    Give the records of a segment.

    Raises:
        StoreDamaged: it is none, or a payload isn't that of its header and may not be another one.
    """
    try:
        if not data.startswith(MAGIC):
            raise StoreDamaged("this is no segment of a polos archive")
        body = zlib.decompress(data[len(MAGIC) :])
        at = 0
        while at < len(body):
            header_bytes, payload_bytes = _LENGTHS.unpack_from(body, at)
            middle = at + _LENGTHS.size + header_bytes
            read = _pruned if payload_bytes & _PRUNED else _record
            payload_bytes &= ~_PRUNED
            yield read(body[at + _LENGTHS.size : middle], body[middle : middle + payload_bytes])
            at = middle + payload_bytes
    # A header that doesn't prove itself: whoever changed it has made its hash, too, so odd fields are no bug of ours.
    except (zlib.error, struct.error, ValueError, LookupError, PolosInternalError) as error:
        raise StoreDamaged(f"a segment of the archive isn't what was written: {error}") from error


def record_leaf(record: Record) -> bytes:
    """Give the leaf of a record: what the log has kept of it."""
    return record.leaf or hashlib.sha256(b"\x00" + _header(record)).digest()


def _header(record: Record) -> bytes:
    payload = record.payload
    if record.encoding is PayloadEncoding.BLOB:
        payload = blob_reference(hashlib.sha256(payload).hexdigest(), len(payload))
    new = NewRecord(
        stream=record.stream,
        type=record.type,
        schema_version=record.schema_version,
        time_us=record.time_us,
        payload=payload,
        blobs=record.blobs,
        key_id=record.key_id,
        encoding=record.encoding,
    )
    return encode_header(new, record.position, record.version)


def _record(header: bytes, payload: bytes) -> Record:
    stored = payload
    if header[1] == PayloadEncoding.BLOB:
        stored = blob_reference(hashlib.sha256(payload).hexdigest(), len(payload))
    # As an entry that follows the empty chain: so a record that comes from here is proved like one from the log.
    entry = next_head(EMPTY_CHAIN, header) + header + stored
    record = decode_entry(entry, int.from_bytes(header[8:16], "big"), EMPTY_CHAIN)
    return record if stored is payload else replace(record, payload=payload)


def _pruned(header: bytes, instead: bytes) -> Record:
    record = read_header(header)
    if record.type != PRUNABLE:
        raise StoreDamaged(f"the payload of record {record.position}, a {record.type}, isn't what was written",
                           position=record.position)  # fmt: skip
    return replace(record, payload=instead, leaf=hashlib.sha256(b"\x00" + header).digest())
