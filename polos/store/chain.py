"""
Records as bytes, and the hash chain through them.

A record is a header and a payload. The header holds the payload's length and digest, and only the
header enters the chain::

    leaf   = SHA-256(0x00 ‖ header)
    head_n = SHA-256(0x02 ‖ head_{n-1} ‖ leaf_n)        head_0 = 32 zero bytes

So a payload can later be pruned, moved away or made unreadable, and the chain still verifies. The
leaves are those of an RFC 6962 tree, hence the 0x00; 0x01 is left for the inner nodes of that tree.

Records that were archived leave their leaves behind, neighbours together: a *range* is
``head of its last record ‖ 0x02 ‖ first position ‖ leaves``. It stands at the position of its last record, so
whoever needs the head behind it finds it where the head of a record would be.

What is stored for position n, an *entry*, is ``head_n ‖ header ‖ payload``. Keeping every head beside
its record costs 32 bytes and buys two things: damage is located (the first entry that doesn't
follow from its predecessor), and any single record can be checked with nothing but the entry before
it. Every read does so. LMDB has no checksums, so what an entry says counts only once its digest and
its place in the chain agree.

`docs/format.md` describes the bytes; change neither without the other.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from polos.errors import PolosInternalError, PolosUsageError, StoreDamaged
from polos.store.log import Epoch, Head, NewRecord, PayloadEncoding, Position, Record, Version

__all__ = [
    "EMPTY_CHAIN",
    "HEAD_BYTES",
    "RANGE_RECORDS_MAX",
    "blob_digests",
    "blob_reference",
    "check_range",
    "decode_entry",
    "decode_range",
    "encode_entry",
    "encode_header",
    "encode_range",
    "entry_head",
    "entry_leaf",
    "head_of",
    "header_bytes",
    "is_range",
    "next_head",
    "parse_blob_reference",
    "read_header",
]

HEAD_BYTES: Final = 32
EMPTY_CHAIN: Final = bytes(HEAD_BYTES)
HEADER_FORMAT: Final = 1
RANGE_FORMAT: Final = 2  # where a record's entry has HEADER_FORMAT
RANGE_RECORDS_MAX: Final = 500  # leaves of 32 bytes: a few pages, which are written anew when a neighbour joins
NAME_BYTES_MAX: Final = 2**16 - 1
PAYLOAD_BYTES_MAX: Final = 2**31
BLOBS_MAX: Final = 2**16 - 1

# format, encoding, schema version, key id, position, version, time, payload length, payload digest,
# number of blobs, bytes of the type, bytes of the stream; then type, stream and blob digests.
_FIXED = struct.Struct(">BBHIQQqI32sHHH")
_FIXED_BYTES = _FIXED.size
SHORTEST_BYTES: Final = HEAD_BYTES + _FIXED_BYTES
_COUNTS = struct.Struct(">HHH")
_RANGE = struct.Struct(">BQ")
RANGE_LEAVES: Final = HEAD_BYTES + _RANGE.size
_REFERENCE = struct.Struct(">32sQ")
_ENCODINGS = {int(encoding): encoding for encoding in PayloadEncoding}
_sha256 = hashlib.sha256


def next_head(previous: bytes, header: bytes) -> bytes:
    """Give head_n from head_{n-1} and the header of record n."""
    return _sha256(b"\x02" + previous + _sha256(b"\x00" + header).digest()).digest()


def encode_entry(record: NewRecord, position: Position, version: Version, previous: bytes) -> tuple[bytes, bytes]:
    """
    Give the head behind a record, and its entry.

    Raises:
        PolosUsageError: a name, the payload or the list of blobs is over what the header can hold.
    """
    header = encode_header(record, position, version)
    head = next_head(previous, header)
    return head, head + header + record.payload


def encode_header(record: NewRecord, position: Position, version: Version) -> bytes:
    """
    Give the header of a record; its payload is taken as stored.

    Raises:
        PolosUsageError: a name, the payload or the list of blobs is over what the header can hold.
    """
    kind = record.type.encode()
    stream = record.stream.encode("utf-8", "surrogatepass")
    payload = record.payload
    if len(kind) > NAME_BYTES_MAX or len(stream) > NAME_BYTES_MAX or not stream:
        raise PolosUsageError(f"the names of a record take 1 to {NAME_BYTES_MAX} bytes: {record.stream[:80]!r}")
    if len(payload) > PAYLOAD_BYTES_MAX or len(record.blobs) > BLOBS_MAX:
        raise PolosUsageError(f"a record of {len(payload)} bytes and {len(record.blobs)} blobs is too large")
    header = _FIXED.pack(
        HEADER_FORMAT,
        record.encoding,
        record.schema_version,
        record.key_id,
        position,
        version,
        record.time_us,
        len(payload),
        _sha256(payload).digest(),
        len(record.blobs),
        len(kind),
        len(stream),
    )
    header += kind + stream
    if record.blobs:
        header += b"".join(map(bytes.fromhex, record.blobs))
    return header


def header_bytes(entry: bytes, position: int) -> bytes:
    """Give the header of a record's entry; nothing in it is checked but its length."""
    if len(entry) < SHORTEST_BYTES:
        raise StoreDamaged(f"record {position} is cut short", position=position)
    blobs, kind_bytes, stream_bytes = _COUNTS.unpack_from(entry, SHORTEST_BYTES - _COUNTS.size)
    return entry[HEAD_BYTES : SHORTEST_BYTES + kind_bytes + stream_bytes + 32 * blobs]


def entry_leaf(entry: bytes, position: int, previous: bytes) -> bytes:
    """
    Give the leaf of a record's entry, once it is proved that the chain goes through it.

    Raises:
        StoreDamaged: the entry doesn't follow from `previous`.
    """
    leaf = _sha256(b"\x00" + header_bytes(entry, position)).digest()
    if entry[:HEAD_BYTES] != _sha256(b"\x02" + previous + leaf).digest():
        raise StoreDamaged(f"record {position} doesn't follow from the one before it", position=position)
    return leaf


def is_range(entry: bytes) -> bool:
    """Tell whether an entry stands for archived records."""
    return len(entry) > HEAD_BYTES and entry[HEAD_BYTES] == RANGE_FORMAT


def encode_range(first: int, head: bytes, leaves: bytes) -> bytes:
    """Give the entry that stands for archived records."""
    return head + _RANGE.pack(RANGE_FORMAT, first) + leaves


def decode_range(entry: bytes, last: int) -> tuple[int, bytes]:
    """
    Give the first position of a range, and its leaves one after another.

    Raises:
        StoreDamaged: it doesn't have the leaves of the positions that it says it stands for.
    """
    if len(entry) < RANGE_LEAVES:
        raise StoreDamaged(f"the sealed range up to record {last} is cut short", position=last)
    _, first = _RANGE.unpack_from(entry, HEAD_BYTES)
    leaves = entry[RANGE_LEAVES:]
    if not 1 <= first <= last or len(leaves) != 32 * (last + 1 - first):
        raise StoreDamaged(
            f"L1: the sealed range up to record {last} doesn't have a leaf for each record", position=last
        )
    return first, leaves


def check_range(entry: bytes, last: int, previous: bytes) -> None:
    """
    See that the chain goes through a range (L8).

    Raises:
        StoreDamaged: it doesn't.
    """
    first, leaves = decode_range(entry, last)
    head = previous
    for at in range(0, len(leaves), 32):
        head = _sha256(b"\x02" + head + leaves[at : at + 32]).digest()
    if head != entry[:HEAD_BYTES]:
        raise StoreDamaged(f"the sealed range of records {first} to {last} doesn't follow from what is before it",
                           position=first)  # fmt: skip


def entry_head(entry: bytes, position: int) -> bytes:
    """Give the head that an entry claims, which may be a range's; it isn't checked."""
    if len(entry) < SHORTEST_BYTES and not is_range(entry):
        raise StoreDamaged(f"record {position} is cut short", position=position)
    return entry[:HEAD_BYTES]


def decode_entry(entry: bytes, position: int, previous: bytes) -> Record:
    """
    Give the record of an entry, once it is proved that this is what was written.

    Args:
        entry: the bytes found for `position`.
        position: where they were found.
        previous: the head of the entry before.

    Raises:
        StoreDamaged: the entry doesn't follow from `previous`, or the payload isn't the digest's.
    """
    if len(entry) < SHORTEST_BYTES:
        raise StoreDamaged(f"record {position} is cut short", position=position)
    (
        form, encoding, schema_version, key_id, own_position, version, time_us, length, digest,
        blobs, kind_bytes, stream_bytes,
    ) = _FIXED.unpack_from(entry, HEAD_BYTES)  # fmt: skip
    names = HEAD_BYTES + _FIXED_BYTES
    stream_at = names + kind_bytes
    blobs_at = stream_at + stream_bytes
    body = blobs_at + 32 * blobs
    leaf = _sha256(b"\x00" + entry[HEAD_BYTES:body]).digest()
    if entry[:HEAD_BYTES] != _sha256(b"\x02" + previous + leaf).digest():
        raise StoreDamaged(f"record {position} doesn't follow from the one before it", position=position)
    payload = entry[body:]
    if length != len(payload) or digest != _sha256(payload).digest():
        raise StoreDamaged(f"the payload of record {position} isn't what was written", position=position)
    # From here on the bytes are what a polos wrote; anything odd is ours, not the disk's.
    if form != HEADER_FORMAT or own_position != position or encoding not in _ENCODINGS:
        raise PolosInternalError(f"record {position} was written with header {entry[HEAD_BYTES:body].hex()}")
    return Record(
        position=own_position,
        stream=entry[stream_at:blobs_at].decode("utf-8", "surrogatepass"),
        version=version,
        type=entry[names:stream_at].decode(),
        schema_version=schema_version,
        time_us=time_us,
        payload=payload,
        key_id=key_id,
        encoding=_ENCODINGS[encoding],
        blobs=tuple(entry[at : at + 32].hex() for at in range(blobs_at, body, 32)) if blobs else (),
    )


def read_header(header: bytes) -> Record:
    """Give the record of a header, without a payload; what the header is part of is to be proved by who asks."""
    _, encoding, schema_version, key_id, position, version, time_us, _, _, blobs, kind_bytes, stream_bytes = (
        _FIXED.unpack_from(header)
    )  # fmt: skip
    stream_at = _FIXED_BYTES + kind_bytes
    blobs_at = stream_at + stream_bytes
    return Record(
        position=position,
        stream=header[stream_at:blobs_at].decode("utf-8", "surrogatepass"),
        version=version,
        type=header[_FIXED_BYTES:stream_at].decode(),
        schema_version=schema_version,
        time_us=time_us,
        payload=b"",
        key_id=key_id,
        encoding=_ENCODINGS[encoding],
        blobs=tuple(header[at : at + 32].hex() for at in range(blobs_at, blobs_at + 32 * blobs, 32)),
    )


def head_of(entry: bytes, position: int, epoch: Epoch) -> Head:
    """Give the head of a log whose last entry this is."""
    chain = entry_head(entry, position)
    if is_range(entry):
        raise StoreDamaged(f"the log ends with a sealed range at {position}, and what seals it is missing")
    fields = _FIXED.unpack_from(entry, HEAD_BYTES)
    if fields[4] != position:
        raise StoreDamaged(f"record {position} says that it is record {fields[4]}", position=position)
    return Head(position=Position(position), chain=chain, epoch=epoch, time_us=fields[6])


def blob_reference(digest: str, length: int) -> bytes:
    """Make the stored payload that stands for a blob."""
    return _REFERENCE.pack(bytes.fromhex(digest), length)


def parse_blob_reference(payload: bytes) -> tuple[str, int]:
    """Give digest and length out of a stored payload that stands for a blob."""
    if len(payload) != _REFERENCE.size:
        raise PolosInternalError(f"a blob reference has {_REFERENCE.size} bytes, not {len(payload)}")
    digest, length = _REFERENCE.unpack(payload)
    return digest.hex(), length


def blob_digests(record: NewRecord) -> tuple[str, ...]:
    """Give every blob that a record needs: those its payload names, and the one it was moved to."""
    if record.encoding is PayloadEncoding.BLOB:
        return (*record.blobs, parse_blob_reference(record.payload)[0])
    return record.blobs
