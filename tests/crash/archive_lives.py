"""
Lives in which records are archived, as the engine does it, and what must be left of them.

Segment first, durable; then the record that names it; then the records leave the log. Whatever ends a life, each
record is in the log or in a segment that can be read, and the walk that `verify` does finds nothing wrong.
"""

from __future__ import annotations

from pathlib import Path

from polos.store.directory import Store, open_store
from polos.store.log import AppendUnit, NewRecord, Record, Version
from polos.store.segments import SEALS, decode_segment, encode_segment

from tests.contract.logs import record, unit
from tests.crash.events import mark
from tests.crash.lives import MAP_BYTES, body, opened
from tests.crash.power_server import Promises, walk

__all__ = ["STREAMS", "archive_streams", "check_archive", "fill_streams", "whole"]

STREAMS = ("a", "b", "c")
RECORDS = 8


def fill_streams(directory: Path) -> None:
    """Leave a store behind whose streams are interleaved."""
    with opened(directory) as store:
        epoch = store.acquire_ownership()
        for number in range(1, RECORDS + 1):
            store.log.append([unit(*(record(stream, payload(stream, number)) for stream in STREAMS))], epoch=epoch)
        store.log.append([unit(record("end"))], epoch=epoch)


def payload(stream: str, number: int) -> bytes:
    """Give what a record holds."""
    return stream.encode() + body(number)


def archive_streams(directory: Path) -> None:
    """Archive one stream after another, going on with what somebody left who was killed at the same work."""
    with opened(directory) as store:
        epoch = store.acquire_ownership()
        mark("begin")
        for number, stream in enumerate(STREAMS, 1):
            with store.log.reader() as reader:
                there = sealed_by(store, stream)
                records = [] if there else list(reader.stream(stream))
            if not there:
                digest = store.blobs.put(encode_segment(records))
                seal = NewRecord(
                    stream="archive", type=SEALS, schema_version=1, time_us=1, payload=stream.encode(), blobs=(digest,)
                )
                store.log.append([AppendUnit(records=(seal,))], epoch=epoch)
            mark("sealed", number)
            for upto in (RECORDS // 2, RECORDS):
                store.log.seal({stream: Version(upto)}, epoch=epoch)
            mark("taken", number)


def sealed_by(store: Store, stream: str) -> Record | None:
    """Give the record that seals a stream, if it is there."""
    with store.log.reader() as reader:
        found = list(reader.stream("archive"))
    return next((seal for seal in found if seal.payload == stream.encode()), None)


def whole(store: Store, stream: str) -> list[Record]:
    """Give the records of a stream, from wherever they are."""
    seal = sealed_by(store, stream)
    if seal is None:
        with store.log.reader() as reader:
            return list(reader.stream(stream))
    return [found for digest in seal.blobs for found in decode_segment(store.blobs.get(digest))]


def check_archive(top: Path, last: Promises, first: Promises) -> None:  # a check of images gets both
    """Check that nothing is lost, nothing is there that isn't covered, and that the work can be taken up."""
    data = top / "data"
    with open_store(data, map_bytes=MAP_BYTES, sync="off", check=False) as store:
        for number, stream in enumerate(STREAMS, 1):
            assert number not in last.get("sealed", []) or sealed_by(store, stream), f"{stream} was sealed, and isn't"
            found = whole(store, stream)
            assert [payload(stream, at) for at in range(1, RECORDS + 1)] == [each.payload for each in found]
            with store.log.reader() as reader:
                assert reader.version(stream) == RECORDS
    report = walk(data)
    assert report.damage is None, str(report.damage)
    archive_streams(top)
    report = walk(data)
    assert report.damage is None, str(report.damage)
    assert report.sealed == report.archived == RECORDS * len(STREAMS), str(report)
