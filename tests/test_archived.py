"""
The archive as programs see it: runs read back, streams followed across it, and what a lost segment leaves.

On a directory, with the engine's own threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, PolosClient, Retention, WorkflowContext, events, workflow
from polos.cli.app import app
from polos.engine.projections import run_stream
from polos.errors import BlobMissing, PolosUsageError, RecordsSealed, RunArchived, StoreDamaged, UnknownRun
from polos.features import archive
from polos.points import arm
from polos.runtime.folding import FOLD
from polos.runtime.streams import follow_all
from polos.store.backup import backup
from polos.store.check import verify
from polos.store.directory import open_store
from polos.store.log import Reader
from polos.store.segments import decode_segment, encode_segment
from polos.testing.clock import START_US

LARGE = "large " * 30_000


@workflow(id="archived_leaf")
async def leaf(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Give something that is no part of the log."""
    return await ctx.step.run("large", lambda: LARGE + str(payload["n"]))


@workflow(id="archived", retention=Retention(max_age_seconds=0))
async def archived(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    """Have a child, and tell the world."""
    await ctx.step.run("first", lambda: 1)
    await ctx.step.invoke_and_wait("leaf", leaf, payload)
    await ctx.step.publish_event("told", "archived/told", {"n": payload["n"]})
    return {"n": payload["n"]}


@workflow(id="archived_kept", retention=False)
async def kept(ctx: WorkflowContext) -> str:
    """Stay."""
    return await ctx.step.run("stay", lambda: "here")


def until(polos: PolosClient, count: int) -> Any:
    """Wait until so many runs are archived and their records have left the log, which comes after it."""

    async def wait() -> None:
        while True:
            runs = [run["id"] for run in archive.list(polos, limit=1_000)]
            with polos._connection().store.log.reader() as reader:
                if count <= len(runs) and all(_has_left(reader, run) for run in runs):
                    return
            await asyncio.sleep(0)

    return asyncio.wait_for(wait(), 30)


def _has_left(reader: Reader, run: str) -> bool:
    try:
        return not any(reader.stream(run_stream(run), limit=1))
    except RecordsSealed:
        return True


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, list[str]]:
    """A directory with three archived trees of two runs, and a run that stays."""
    handles: list[str] = []

    async def main() -> None:
        async with Polos(data_dir=tmp_path / "data") as polos:
            handles.extend([(await archived.invoke(polos, {"n": n}, tags=["t"], user_id="ada")).id for n in range(3)])
            await kept.run(polos)
            await until(polos, 6)

    asyncio.run(main())
    return tmp_path / "data", handles


def ask(directory: Path, question: Callable[[PolosClient], Any]) -> Any:
    """Ask a client, with no engine running."""

    async def main() -> Any:
        async with PolosClient(data_dir=directory) as client:
            return await question(client)

    return asyncio.run(main())


def test_an_execution_is_as_it_was(data: tuple[Path, list[str]]):
    """What is told of an archived run is what was told of it before, and when it was archived."""
    directory, (first, *_) = data
    found = ask(directory, lambda client: client.get_execution(first))

    assert ("completed", {"n": 0}, {"n": 0}, ["t"], "ada", first) == (
        found["status"], found["result"], found["payload"], found["tags"], found["user_id"], found["session_id"],
    )  # fmt: skip
    assert found["archived_at"] >= found["completed_at"]


def test_the_result_of_a_run_can_be_waited_for(tmp_path: Path):
    """Who waits for a run that is archived meanwhile gets its result all the same."""

    async def main() -> Any:
        async with Polos(data_dir=tmp_path) as polos:
            return await asyncio.gather(*(archived.run(polos, {"n": n}) for n in range(20)))

    assert [{"n": n} for n in range(20)] == asyncio.run(main())


def test_an_archived_run_has_ended_for_whoever_waits(data: tuple[Path, list[str]]):
    """Its end isn't waited for, with an engine nor without."""
    directory, (first, *_) = data

    async def main() -> list[Any]:
        async with Polos(data_dir=directory) as polos:
            return [await polos._wait_ended(first, 5.0), await asyncio.to_thread(asyncio.run, elsewhere())]

    async def elsewhere() -> Any:
        async with PolosClient(data_dir=directory) as client:
            return await client._wait_ended(first, 5.0)

    assert [{"n": 0}] * 3 == [
        found["result"] for found in (*asyncio.run(main()), ask(directory, lambda client: client._wait_ended(first, 5)))
    ]


def test_a_tree_is_read_whole(data: tuple[Path, list[str]]):
    """From the root or from a child: all its runs, all its events, in their places, payloads of blobs included."""
    directory, (first, *_) = data
    tree = ask(directory, lambda client: archive.read(client, first))
    child = next(run["id"] for run in tree.executions if run["parent_execution_id"])

    assert (first, ["archived", "archived_leaf"]) == (tree.root, [run["workflow_id"] for run in tree.executions])
    assert tree == ask(directory, lambda client: archive.read(client, child))
    positions = [event["position"] for event in tree.events]
    assert sorted(positions) == positions
    large = next(event for event in tree.events if event["type"] == "StepCompleted" and event["run"] == child)
    assert LARGE + "0" == large["data"]["value"]


def test_what_a_tree_used_is_read_from_the_archive(data: tuple[Path, list[str]]):
    """An archived tree is known to whoever asks what it cost; a run that nobody knows isn't."""
    directory, (first, *_) = data

    assert 0 == ask(directory, lambda client: client.usage(execution_id=first)).runs, "its steps called no model"
    with pytest.raises(UnknownRun):
        ask(directory, lambda client: client.usage(execution_id="nobody"))


def test_archived_runs_are_listed_in_pages(data: tuple[Path, list[str]]):
    """The newest first, by workflow if one is named; those in the log aren't among them, nor the other way round."""
    directory, handles = data

    async def look(client: PolosClient) -> Any:
        pages: list[list[str]] = []
        cursor: str | None = None
        while True:
            page = archive.list(client, workflow_id="archived", limit=2, cursor=cursor)
            pages.append([run["id"] for run in page])
            cursor = page.cursor
            if cursor is None:
                return pages, await client.list_executions(), len(archive.list(client))

    pages, listed, count = ask(directory, look)
    assert [sorted(handles, reverse=True)[:2], sorted(handles, reverse=True)[2:]] == pages
    assert (["archived_kept"], 6) == ([run["workflow_id"] for run in listed], count)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 10_001}, {"cursor": ""}, {"cursor": "x" * 5_000}])
def test_pages_that_cannot_be_are_refused(data: tuple[Path, list[str]], wrong: dict[str, Any]):
    """A limit out of range, a cursor that no page gave."""
    with PolosClient(data_dir=data[0])._log().reader(), pytest.raises(PolosUsageError):  # opens it
        archive.list(PolosClient(data_dir=data[0]), **wrong)


def test_what_is_not_archived_is_not_read(data: tuple[Path, list[str]]):
    """Neither a run that nobody knows nor one that is in the log."""
    directory, _ = data
    (here,) = ask(directory, lambda client: client.list_executions())
    with pytest.raises(UnknownRun):
        ask(directory, lambda client: archive.read(client, "nobody"))
    with pytest.raises(UnknownRun):
        ask(directory, lambda client: archive.read(client, here["id"]))


def test_commands_without_an_engine_are_refused(data: tuple[Path, list[str]]):
    """Nothing is kept for the next engine that it would have to refuse."""
    directory, (first, *_) = data
    questions: list[Callable[[PolosClient], Any]] = [
        lambda client: client.signal(first, "x"),
        lambda client: client.resume("archived", first, "x", None),
        lambda client: client.query(first),
    ]
    for question in questions:
        with pytest.raises(RunArchived, match=r"archive\.read"):
            ask(directory, question)
    assert False is ask(directory, lambda client: client.cancel_execution(first))


async def stream(polos: Any, run: str, **more: Any) -> list[tuple[int, str | None]]:
    """Give the events of a run up to its end."""
    found = events.stream_workflow(polos, "archived", run, **more)
    return [(event.sequence_id, event.event_type) async for event in found]


def test_a_stream_is_the_same_before_and_after(tmp_path: Path):
    """Every sequence id that was ever handed out resumes, and gives what it gave before the run was archived."""
    ready = asyncio.Event()

    async def main() -> None:
        async with Polos(data_dir=tmp_path, retention=None) as polos:
            archived.retention = False
            handle = await archived.invoke(polos, {"n": 1})
            before = await stream(polos, handle.id, last_sequence_id=0)
            archived.retention = Retention(max_age_seconds=0)
            polos.engine.archiving.look_again()
            await until(polos, 2)
            assert before == await stream(polos, handle.id, last_sequence_id=0)
            assert before[-1:] == await stream(polos, handle.id)
            for number, _ in before:
                wanted = [shown for shown in before if shown[0] > number]
                assert wanted == await stream(polos, handle.id, last_sequence_id=number)
            ready.set()

    asyncio.run(main())
    assert ready.is_set()


def test_a_reader_that_is_slow_loses_nothing(tmp_path: Path):
    """A run that is archived while somebody follows it is followed to its end."""

    async def main() -> tuple[list[str | None], list[str | None]]:
        async with Polos(data_dir=tmp_path) as polos:
            handle = await archived.invoke(polos, {"n": 1})
            slow: list[str | None] = []
            async for event in events.stream_workflow(polos, "archived", handle.id, last_sequence_id=0):
                slow.append(event.event_type)
                if len(slow) == 1:
                    await until(polos, 2)
            return slow, [kind for _, kind in await stream(polos, handle.id, last_sequence_id=0)]

    slow, fast = asyncio.run(main())
    assert fast == slow
    assert "workflow_finish" == slow[-1]


def test_who_follows_everything_is_told_of_what_is_gone(data: tuple[Path, list[str]]):
    """Where archived records stood there is an event that says so; nothing is skipped in silence."""
    directory, _ = data

    async def look(client: PolosClient) -> list[Any]:
        found: list[Any] = []
        async for event in follow_all(client._connection(), after=0):
            found.append(event)
            if event.event_type == "workflow_finish":
                return found
        raise AssertionError

    found = ask(directory, look)
    gaps = [event.data for event in found if event.event_type == "archived"]
    report = verify(directory)
    assert gaps
    assert sum(gap["records"] for gap in gaps) <= report.sealed
    numbers = [event.sequence_id for event in found]
    assert sorted(set(numbers)) == numbers


def test_verify_reads_the_archive(data: tuple[Path, list[str]]):
    """All is well: what is left, what was sealed, and every archived record behind its leaf."""
    directory, _ = data
    report = verify(directory, fold=FOLD)

    assert report.ok, report.damage
    assert report.sealed <= report.archived
    assert report.archived > 30
    assert report.rows_compared


def segments(directory: Path) -> list[Path]:
    """Give the files of the segments."""
    with open_store(directory, read_only=True) as store, store.log.reader() as reader:
        digests = {digest for record in reader.records() if record.type == "RangeSealed" for digest in record.blobs}
        return [store.blobs.file(digest) for digest in sorted(digests)]


def test_a_lost_segment_is_told(data: tuple[Path, list[str]]):
    """The log is proved without it; what is missing is named, by verify and to whoever wants to read it."""
    directory, handles = data
    with open_store(directory, read_only=True) as store, store.log.reader() as reader:
        chain = reader.head().chain.hex()
    lost = segments(directory)[0]
    lost.rename(directory / "elsewhere")
    report = verify(directory, fold=FOLD)

    assert report.damage is not None
    assert ("archive", chain, True) == (report.damage.place, report.chain, report.rows_compared)
    assert lost.parent.name + lost.name in report.damage.message
    asked = [_error(directory, handle) for handle in handles]
    assert BlobMissing in asked
    (directory / "elsewhere").rename(lost)
    assert verify(directory, fold=FOLD).ok


def _error(directory: Path, handle: str) -> type[BaseException] | None:
    try:
        ask(directory, lambda client: client.get_execution(handle))
    except (BlobMissing, StoreDamaged) as error:
        return type(error)
    return None


def test_a_damaged_segment_is_told(data: tuple[Path, list[str]]):
    """One whose bytes changed is as good as none."""
    directory, handles = data
    broken = segments(directory)[0]
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    report = verify(directory, fold=FOLD)

    assert report.damage is not None
    assert "archive" == report.damage.place
    assert StoreDamaged in [_error(directory, handle) for handle in handles]


def test_a_backup_has_the_archive(data: tuple[Path, list[str]], tmp_path: Path):
    """What was archived can be read from the copy, and the copy verifies."""
    directory, (first, *_) = data
    backup(directory, tmp_path / "copy")

    assert verify(tmp_path / "copy", fold=FOLD).ok
    assert {"n": 0} == ask(tmp_path / "copy", lambda client: client.get_execution(first))["result"]


def test_blobs_of_archived_runs_are_collected(data: tuple[Path, list[str]]):
    """What only they needed is garbage an hour later; their segments aren't."""
    directory, (first, *_) = data
    with open_store(directory) as store:
        before = set(store.blobs.digests())
        for digest in before:
            file = store.blobs.file(digest)
            _age(file)
        store.acquire_ownership()
        gone = set(store.collect_garbage().blobs)
        with store.log.reader() as reader:
            needed = {digest for _, digests in reader.blobs() for digest in digests}

    assert 3 <= len(gone), "a large result of each leaf"
    assert not gone & needed
    assert verify(directory, fold=FOLD).ok
    assert {"n": 0} == ask(directory, lambda client: client.get_execution(first))["result"]


def _age(file: Path) -> None:
    os.utime(file, (START_US / 1e6 - 10_000_000,) * 2)


def test_the_command_line_shows_archived_runs(data: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]):
    """By its id, or by the end of it, as before; `why` says that it is over, `tail` shows what happened."""
    directory, (first, *_) = data
    app(["show", first[-8:], "--data-dir", str(directory), "--json"], result_action="return_value")
    shown = json.loads(capsys.readouterr().out)
    assert ("completed", {"n": 0}, 2) == (
        shown["status"], shown["result"], len(shown["tree"]),
    )  # fmt: skip
    app(["why", first, "--data-dir", str(directory)], result_action="return_value")
    assert "completed" in capsys.readouterr().out
    app(["tail", first, "--from-start", "--json", "--data-dir", str(directory)], result_action="return_value")
    assert "workflow_finish" in capsys.readouterr().out


def test_what_is_no_segment_is_refused():
    """A blob that is something else, or half of one, is never taken for records."""
    for data in (b"", b"polos segment 2\n", b"polos segment 1\nxx", encode_segment([])[:-3]):
        with pytest.raises(StoreDamaged):
            list(decode_segment(data))
    assert [] == list(decode_segment(encode_segment([])))


def test_the_loop_is_free_while_runs_are_archived(tmp_path: Path):
    """Packing and taking out are done on a thread: the loop goes round meanwhile, and steps are called."""
    seen: set[int] = set()
    home = threading.get_ident()

    def look(point: str) -> None:
        if point == "archive_packed_before_seal":
            seen.add(threading.get_ident())

    async def main() -> None:
        async with Polos(data_dir=tmp_path) as polos:
            await archived.run(polos, {"n": 1})
            await until(polos, 2)

    arm(look)
    try:
        asyncio.run(main())
    finally:
        arm(None)
    assert seen
    assert home not in seen
