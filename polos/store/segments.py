"""
Archived records as files: segments.

A segment is a blob: named by its digest, written beside, synced and renamed before anything names it, needed by the
record that seals what is in it, copied by a backup, checked by `verify`, and garbage if whoever wrote it died before
that record was there. So nothing here knows files.

What it holds of a record is its header, byte for byte, and its payload, whole: one that had been moved to a blob comes
back, so that the blob isn't needed any more. From a header follows its leaf; the leaves stay in the log. So a segment
is proved twice: by its digest, which the chain has by way of the record that seals, and leaf by leaf.

`docs/format.md` describes the bytes; change neither without the other.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from polos.errors import StoreDamaged
from polos.store.chain import EMPTY_CHAIN, blob_reference, decode_entry, encode_header, next_head
from polos.store.log import NewRecord, PayloadEncoding, Record

__all__ = ["SEALS", "decode_segment", "encode_segment", "record_leaf"]

# The one type of record that the store knows of: the blobs that it names are segments.
SEALS: Final = "RangeSealed"
MAGIC: Final = b"polos segment 1\n"
_LENGTHS: Final = struct.Struct(">II")


def encode_segment(records: Iterable[Record]) -> bytes:
    """Put records into a segment, in the order in which they come."""
    packer = zlib.compressobj()
    parts = [MAGIC]
    for record in records:
        header = _header(record)
        parts.append(packer.compress(_LENGTHS.pack(len(header), len(record.payload)) + header))
        parts.append(packer.compress(record.payload))
    parts.append(packer.flush())
    return b"".join(parts)


def decode_segment(data: bytes) -> Iterator[Record]:
    """
    Give the records of a segment.

    Raises:
        StoreDamaged: it is none, or a payload isn't that of its header.
    """
    try:
        if not data.startswith(MAGIC):
            raise StoreDamaged("this is no segment of a polos archive")
        body = zlib.decompress(data[len(MAGIC) :])
        at = 0
        while at < len(body):
            header_bytes, payload_bytes = _LENGTHS.unpack_from(body, at)
            middle = at + _LENGTHS.size + header_bytes
            yield _record(body[at + _LENGTHS.size : middle], body[middle : middle + payload_bytes])
            at = middle + payload_bytes
    except (zlib.error, struct.error, ValueError, IndexError) as error:
        raise StoreDamaged(f"a segment of the archive isn't what was written: {error}") from error


def record_leaf(record: Record) -> bytes:
    """Give the leaf of a record: what the log has kept of it."""
    return hashlib.sha256(b"\x00" + _header(record)).digest()


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
