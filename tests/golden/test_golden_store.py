"""
A data directory of each format, opened by today's polos: checked, read, and gone on with.

The directories were left behind by a process that was killed, in the middle of runs and with a command in the inbox;
see `tests/golden/store.py`.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, PolosClient, events, registry
from polos import archive as archived
from polos.definition import Workflow
from polos.engine.codec import decode
from polos.runtime.folding import FOLD
from polos.store.check import verify
from polos.store.directory import open_store
from polos.store.format import FORMAT_VERSION
from polos.types.events import StreamEvent

from tests.golden.form import load_program
from tests.golden.store import ARCHIVES, SEGMENTS, extract, told


def _name(path: Path) -> str:
    return path.parent.parent.name


@pytest.fixture(params=ARCHIVES, ids=_name)
def archive(request: pytest.FixtureRequest) -> Path:
    """Give each archive."""
    found: Path = request.param
    return found


@pytest.fixture
def expected(archive: Path) -> dict[str, Any]:
    """Give what was found in it when it was made."""
    found: dict[str, Any] = json.loads((archive.parent / "expected.json").read_bytes())
    return found


@pytest.fixture
def directory(archive: Path, tmp_path: Path) -> Path:
    """Give a copy of the data directory."""
    return extract(archive, tmp_path)


def test_each_format_has_a_directory():
    """For each format there ever was a data directory is kept, and one with archived runs."""
    formats = [f"format-{number}" for number in range(1, FORMAT_VERSION + 1)]

    assert formats == [path.parent.parent.name for path in ARCHIVES]
    assert formats == [path.parent.parent.name for path in SEGMENTS]


def test_verifies(directory: Path, expected: dict[str, Any]):
    """Every record, blob and row is as it was written, the chain ends where it ended, rows are the fold (L6, L8)."""
    report = verify(directory, fold=FOLD)

    assert report.damage is None
    assert [expected[what] for what in ("records", "blobs", "rows", "chain")] == [
        report.records, report.blobs, report.rows, report.chain
    ]  # fmt: skip


def test_reads(directory: Path, expected: dict[str, Any]):
    """Without an engine, everything in it can be read: records, runs, streams, and nothing is changed by it."""
    before = (directory / "log" / "data.mdb").read_bytes()
    with open_store(directory, read_only=True) as store, store.log.reader() as reader:
        read = [decode(record.type, record.schema_version, record.payload) for record in reader.records()]

    async def look() -> list[Any]:
        async with PolosClient(data_dir=directory) as client:
            return await client.list_executions(limit=100)

    found = asyncio.run(look())

    assert expected["records"] == len(read)
    assert expected["runs"] == {one["id"]: [one["workflow_id"], one["status"], one["waiting_reason"]] for one in found}
    assert before == (directory / "log" / "data.mdb").read_bytes()


def test_goes_on(archive: Path, directory: Path):
    """An engine takes the command that lay in the inbox, and the run that waited is finished as if nothing had been."""
    program = load_program(archive.parent)

    async def finish() -> dict[str, Any]:
        for found in vars(program).values():
            if isinstance(found, Workflow):
                registry.register(found)
        async with Polos(data_dir=directory) as polos:
            (run,) = await polos.list_executions(workflow_id="golden_order")
            seen: list[str | None] = []
            async for event in events.stream_workflow(polos, "golden_order", run["id"], from_sequence=0):
                seen.append(event.event_type)
                if event.event_type == "resume_approve":
                    while (await polos.get_execution(run["id"]))["waiting_reason"] != "topic":
                        await asyncio.sleep(0)
                    await events.publish(polos, "payments", events.EventData(data={"cents": 2}))
                    await polos.signal(run["id"], "sent", "by post")
                if event.event_type == "workflow_finish" and event.data["_metadata"]["execution_id"] == run["id"]:
                    return {"seen": seen, **event.data["result"]}
        raise AssertionError("the stream ended before the run")

    result = asyncio.run(finish())
    seen, ticket = result.pop("seen"), result.pop("ticket")

    assert {
        "answer": {"by": "another process"},
        "paid": {"cents": 2},
        "sent": "by post",
        "last": "line 0, 1000 lines",
        "done": ["invoices", "approved", "paid"],
    } == result
    assert 36 == len(ticket)
    assert 3 == seen.count("step_finish"), "both children's steps are shown as they ended then, and the last one"
    assert [] == list((directory / "inbox").iterdir())
    assert verify(directory, fold=FOLD).ok


@pytest.mark.parametrize("path", SEGMENTS, ids=_name)
def test_archived_runs_are_read_and_work_goes_on(path: Path, tmp_path: Path):
    """Without an engine what was archived is there as it was, deltas or not; with one, what is left goes on."""
    directory, program = extract(path, tmp_path), load_program(path.parent)
    expected: dict[str, Any] = json.loads((path.parent / "expected.json").read_bytes())
    report = verify(directory, fold=FOLD)

    async def look() -> tuple[dict[str, Any], list[StreamEvent]]:
        async with PolosClient(data_dir=directory) as client:
            pruned = [run for run, tree in expected["archived"].items() if tree["pruned"]]
            events_of = events.stream_workflow(client, "golden_sealed_talk", pruned[0], from_sequence=0)
            seen = [event async for event in events_of]
            return {run: told(await archived.read(client, run)) for run in expected["archived"]}, seen

    async def finish() -> dict[str, Any]:
        for found in vars(program).values():
            if isinstance(found, Workflow):
                registry.register(found)
        async with Polos(data_dir=directory) as polos:
            (run,) = await polos.list_executions()
            await polos.signal(run["id"], "go", "on")
            return await polos._wait_ended(run["id"])

    trees, seen = asyncio.run(look())

    assert report.damage is None
    assert [expected[what] for what in ("records", "blobs", "rows", "chain")] == [
        report.records, report.blobs, report.rows, report.chain
    ]  # fmt: skip
    assert expected["archived"] == json.loads(json.dumps(trees))
    assert sum(tree["pruned"] for tree in trees.values()) == sum(
        event.data["count"] for event in seen if event.event_type == "deltas_pruned"
    )
    assert "on" == asyncio.run(finish())["result"]
    assert verify(directory, fold=FOLD).ok


def test_archive_that_climbs_out_is_refused(tmp_path: Path):
    """An archive can't write outside of the place it is unpacked to."""
    path = tmp_path / "evil.tar.xz"
    with tarfile.open(path, "w:xz") as packed:
        packed.addfile(tarfile.TarInfo("../outside"), io.BytesIO())

    with pytest.raises(tarfile.OutsideDestinationError):
        extract(path, tmp_path / "place")
    assert not (tmp_path / "outside").exists()
