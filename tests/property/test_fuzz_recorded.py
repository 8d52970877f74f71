"""
Files of the test kit and segments of an archive, given bytes that nobody wrote: a clear error of polos, never another.

People edit recordings and have them sealed again, so these are also changed in their structure with a digest that fits.
Segments are changed below their compression, where a changed byte isn't found by zlib already.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polos import WorkflowContext, workflow
from polos.engine.codec import decode
from polos.errors import PolosUsageError, StoreDamaged
from polos.store import segments
from polos.store.log import PayloadEncoding
from polos.store.segments import MAGIC, decode_segment, encode_segment
from polos.testing import RunDiffers
from polos.testing.recorded import BadRecording, RecordedRun, record_run
from polos.testing.recorded_replay import assert_replays
from polos.testing.recorded_shapes import misfit
from polos.testing.saved import SavedSchedule, load_all, save
from polos.testing.simulation import Simulation

from tests.campaign import scaled
from tests.golden.form import cases
from tests.property.test_codec import JSON
from tests.property.test_fuzz_files import IN_A_FOLDER, NESTED, changed, tried

SLOW = settings(max_examples=scaled(150, 10_000), suppress_health_check=[HealthCheck.too_slow])


@workflow(id="fuzzed below")
async def below(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    return int(payload["n"])


@workflow(id="fuzzed")
async def fuzzed(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    await ctx.step.run("first", lambda: payload["n"] + 1)
    await ctx.step.wait_for("pause", hours=1)
    await ctx.step.uuid("id")
    return await ctx.step.invoke_and_wait("below", below, {"n": 4})


def recorded() -> tuple[RecordedRun, bytes]:
    """Give a recording, and what a segment of its log has in it."""
    with Simulation([fuzzed, below]) as sim:
        run = sim.create(fuzzed, {"n": 1}).run
        sim.settle()
        with sim.store.log.reader() as reader:
            assert "RunCompleted" in [record.type for record in reader.records()], "there is everything to be changed"
            segment = encode_segment(list(reader.records()))
            return record_run(reader, run, tree=True), zlib.decompress(segment[len(MAGIC) :])


RECORDING, SEGMENT = recorded()


@SLOW
@given(changed(RECORDING.to_bytes()))
@example(NESTED)
@example(b"null")
def test_recording_of_any_bytes(data: bytes) -> None:
    """A file that was changed is no recording, or one that isn't sealed any more, or the same one."""
    found = tried(lambda: RecordedRun.from_bytes(data, where="the file"))

    if isinstance(found, RecordedRun):
        assert not found.sealed or found.records == RECORDING.records
    else:
        assert isinstance(found, BadRecording)
        assert "the file" in str(found)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Give all places in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, one in inside for place in places(one, (*path, name)))]


@SLOW
@given(st.data())
def test_recording_that_was_edited_and_sealed(data: st.DataObject) -> None:
    """A field of another type or value, sealed: the run differs, or the file is refused."""
    index = data.draw(st.integers(0, len(RECORDING.records) - 1))
    line = orjson.loads(RECORDING.records[index].line())
    place = data.draw(st.sampled_from([place for place in places(line) if place]))
    inner = line
    for name in place[:-1]:
        inner = inner[name]
    if data.draw(st.booleans()):
        inner[place[-1]] = data.draw(st.one_of(st.sampled_from([None, 0, -1, 2**63, "x", [], {}, True, 1.5]), JSON))
    else:
        del inner[place[-1]]
    lines = [json.loads(one.line()) for one in RECORDING.records]
    lines[index] = line
    head = {"kind": "polos recorded run", "format": 1, "records": len(lines), "run": RECORDING.run}
    raw = orjson.dumps({**head, "workflow": "fuzzed", "digest": "", "history": lines})

    def replayed() -> None:
        sealed = RecordedRun.from_bytes(raw, where="the file").to_bytes()
        with contextlib.suppress(RunDiffers):
            assert_replays(RecordedRun.from_bytes(sealed, where="the file"), fuzzed)

    assert isinstance(tried(replayed), PolosUsageError | None)


def test_what_an_engine_writes_is_no_slip() -> None:
    """Every event of the golden histories has fields of the types that its class says."""
    whole = [line.record for case in cases() for line in case.lines]
    records = [record for record in whole if record.encoding is PayloadEncoding.PLAIN]
    events = [decode(record.type, record.schema_version, record.payload) for record in records]
    wrong = {f"{type(event).__name__}: {misfit(event)}" for event in events if misfit(event) is not None}

    assert set() == wrong
    assert len(events) > 500


SCHEDULE = SavedSchedule(test="t", decisions=[0, 2, 1], departures={1: "a", 2: "b"}, failure="f", seed="1")


@IN_A_FOLDER
@given(data=st.data())
@example(data=None)
def test_saved_schedule_of_any_bytes(tmp_path: Path, data: st.DataObject | None) -> None:
    """A saved schedule that was changed is refused by the name of its file, or is one whose choices can be made."""
    path = save(tmp_path, SCHEDULE)
    written = path.read_bytes()
    if data is None:
        path.write_bytes(NESTED)
    elif data.draw(st.booleans()):
        path.write_bytes(data.draw(changed(written)))
    else:
        found = json.loads(written)
        found[data.draw(st.sampled_from(sorted(found)))] = data.draw(JSON)
        path.write_bytes(orjson.dumps(found))
    loaded = tried(load_all, tmp_path, "t")

    if isinstance(loaded, PolosUsageError):
        assert str(path) in str(loaded)
    else:
        assert all(index >= 0 for _, one in loaded for index in (*one.decisions, *one.departures))


def first_header(**fields: int) -> bytes:
    """Give the segment with another header of its first record, which has the hash of what it says."""
    header_bytes, payload_bytes = segments._LENGTHS.unpack_from(SEGMENT)
    header = bytearray(SEGMENT[segments._LENGTHS.size :][:header_bytes])
    header[0] = fields.get("form", header[0])
    header[1] = fields.get("encoding", header[1])
    lengths = segments._LENGTHS.pack(header_bytes, payload_bytes | fields.get("pruned", 0))
    return lengths + bytes(header) + SEGMENT[segments._LENGTHS.size + header_bytes :]


@given(changed(SEGMENT))
@example(SEGMENT)
@example(first_header(form=9))
@example(first_header(encoding=184))
@example(first_header(encoding=184, pruned=segments._PRUNED))
def test_segment_of_any_bytes(body: bytes) -> None:
    """A segment whose contents were changed is damage, or other records; never an error of anything else."""
    found = tried(lambda: list(decode_segment(MAGIC + zlib.compress(body))))

    assert isinstance(found, list | StoreDamaged)
    if body == SEGMENT:
        assert isinstance(found, list)


@given(changed(MAGIC + zlib.compress(SEGMENT)))
@example(MAGIC)
def test_segment_file_of_any_bytes(data: bytes) -> None:
    """The file itself likewise, cut short and empty ones among them."""
    assert isinstance(tried(lambda: list(decode_segment(data))), list | StoreDamaged)
