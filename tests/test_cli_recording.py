"""`polos test record`: a run of a data directory becomes a file that `assert_replays` takes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, workflow
from polos.cli import run
from polos.testing import RecordedRun, assert_replays, record_run


@workflow(id="a/b order")
async def order(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    return await ctx.step.run("double", lambda: payload["n"] * 2)


@pytest.fixture
def run_id(polos_lmdb: Polos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that has ended, in a directory that no engine owns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLOS_DATA_DIR", str(polos_lmdb.data_dir))

    async def main() -> str:
        async with polos_lmdb:
            handle = await order.invoke(polos_lmdb, {"n": 4})
            await polos_lmdb.engine.watchers.watch(handle.id, polos_lmdb.engine.loop)
            return handle.id

    return asyncio.run(main())


def test_a_run_becomes_a_test(run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Without a name the file is called by workflow and run; the code that was recorded fits it."""
    assert 0 == run(["test", "record", run_id[-8:]])

    path = tmp_path / f"a_b_order-{run_id[-8:]}.json"
    assert 0o600 == path.stat().st_mode & 0o777
    assert f"{path.name}: 5 records of 1 run" in capsys.readouterr().out
    assert_replays(path, order)


def test_a_recording_is_replaced(run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """To record again under the same name is the way to renew a test; what it prints can be read by programs."""
    path = tmp_path / "order.json"
    assert 0 == run(["test", "record", run_id, "--out", str(path), "--shared", "--tree"])
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"n":4', b'"n":5'))
    capsys.readouterr()
    assert 0 == run(["test", "record", run_id, "--out", str(path), "--json"])

    said = json.loads(capsys.readouterr().out)
    assert {
        "file": str(path),
        "run": run_id,
        "workflow": "a/b order",
        "records": 5,
        "not_replayed": [],
        "goes_on_as": [],
    } == said
    assert before == path.read_bytes()
    assert 0o644 == path.stat().st_mode & 0o777


def test_the_folder_of_a_recording_is_made(run_id: str, tmp_path: Path):
    """The first recording of a project finds no folder for recordings yet."""
    assert 0 == run(["test", "record", run_id, "--out", "tests/recorded/order.json"])

    assert_replays(tmp_path / "tests" / "recorded" / "order.json", order)


def test_a_recording_is_printed(run_id: str, capsys: pytest.CaptureFixture[str]):
    """`--out -` writes the file to standard output, and nothing else."""
    assert 0 == run(["test", "record", run_id, "--out", "-"])

    assert_replays(RecordedRun.from_bytes(capsys.readouterr().out.encode(), where="it"), order)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Have a command refused, and give what it says."""
    assert 1 == run(["test", "record", *arguments])
    return capsys.readouterr().err


def test_what_cannot_be_recorded_is_refused(run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Another file isn't replaced, a place that can't be written is named, a run has to exist."""
    (tmp_path / "notes.txt").write_text("precious", encoding="utf-8")

    assert "isn't a recorded run, so it isn't replaced" in refused(capsys, run_id, "--out", "notes.txt")
    assert "precious" == (tmp_path / "notes.txt").read_text(encoding="utf-8")
    assert "can't be read: Is a directory" in refused(capsys, run_id, "--out", str(tmp_path))
    assert "can't be written: " in refused(capsys, run_id, "--out", "notes.txt/order.json")
    assert "no run" in refused(capsys, "ffffffff")
    assert 2 == run(["test", "recrod", run_id])
    assert "next: polos test --help" in capsys.readouterr().err


@workflow(id="asks a tool")
async def asks_a_tool(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    return await ctx.step.invoke_and_wait("tool", acts_at_once, payload)


@workflow(id="acts at once", deterministic=False)
async def acts_at_once(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    return await ctx.step.invoke_and_wait("double", order, payload)


def test_what_no_test_could_replay_is_named(polos_lmdb: Polos, monkeypatch: Any, tmp_path: Path, capsys: Any):
    """A run that isn't replayed is refused, with one below it to record instead; in a tree it is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLOS_DATA_DIR", str(polos_lmdb.data_dir))

    async def main() -> dict[str, str]:
        async with polos_lmdb:
            assert 8 == await asks_a_tool.run(polos_lmdb, {"n": 4})
            return {row["workflow_id"]: row["id"] for row in await polos_lmdb.list_executions()}

    runs = asyncio.run(main())

    said = refused(capsys, runs["acts at once"], "--tree")
    assert "the body of 'acts at once' isn't deterministic" in said
    assert f"record a run below it, such as {runs['a/b order']}" in said
    assert 0 == run(["test", "record", runs["asks a tool"], "--tree", "--out", "tree.json"])
    assert f"{runs['acts at once']} of acts at once won't be replayed: its body isn't determ" in capsys.readouterr().out
    assert_replays("tree.json", asks_a_tool)
    assert [runs["asks a tool"], runs["a/b order"]] == RecordedRun.load("tree.json").runs()


@workflow(id="goes on as new")
async def goes_on(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    if payload["n"]:
        ctx.continue_as_new({"n": payload["n"] - 1})
    return payload["n"]


def test_what_a_run_goes_on_as_is_named(polos_lmdb: Polos, monkeypatch: Any, tmp_path: Path, capsys: Any):
    """A run that continues as new is recorded up to there, and it is said; a tree has those that follow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLOS_DATA_DIR", str(polos_lmdb.data_dir))

    async def main() -> str:
        async with polos_lmdb:
            assert 0 == await goes_on.run(polos_lmdb, {"n": 2})
            with polos_lmdb.engine.store.log.reader() as reader:
                (first,) = [
                    row["id"]
                    for row in await polos_lmdb.list_executions()
                    if "continues" not in record_run(reader, row["id"]).records[0].fields
                ]
            return str(first)

    first = asyncio.run(main())

    assert 0 == run(["test", "record", first, "--out", "all.json", "--tree"])
    assert "goes on as" not in capsys.readouterr().out
    runs = RecordedRun.load("all.json").runs()
    assert (first, 3) == (runs[0], len(runs))
    assert 0 == run(["test", "record", first, "--out", "alone.json"])
    assert f"it goes on as run {runs[1]}, which isn't in the file" in capsys.readouterr().out
    assert [first] == RecordedRun.load("alone.json").runs()
    assert_replays("all.json", goes_on)
