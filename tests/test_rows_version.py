"""Directories whose rows another polos has computed: brought up to date when an engine opens them, or left alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, PolosClient, WorkflowContext, registry, workflow
from polos.engine import projections
from polos.errors import StoreFormatTooNew
from polos.runtime import folding
from polos.runtime.folding import FOLD, ROWS_VERSION
from polos.store.check import verify
from polos.store.directory import open_store
from polos.store.log import Key, Position


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a run that has ended and one that waits."""
    define()

    async def main() -> None:
        async with Polos(data_dir=tmp_path / "data") as polos:
            await registry.get_all_workflows()["done"].run(polos, None)
            handle = await registry.get_all_workflows()["asks"].invoke(polos, None, tags=["vip"])
            while (await polos.get_execution(handle.id))["status"] != "waiting":
                await asyncio.sleep(0)

    asyncio.run(main())
    return tmp_path / "data"


def define() -> None:
    """Define two workflows."""

    @workflow(id="done")
    async def done(ctx: WorkflowContext) -> str:
        return "done"

    @workflow(id="asks")
    async def asks(ctx: WorkflowContext) -> Any:
        return (await ctx.step.suspend("ask", {})).data


def rows_of(data: Path) -> tuple[int, dict[Key, bytes]]:
    """Give the rows of a directory, and their version."""
    with open_store(data, read_only=True) as store, store.log.reader() as reader:
        return reader.rows_version(), dict(reader.rows())


def rewrite(data: Path, rows: dict[Key, bytes], version: int) -> None:
    """Have another polos have been there."""
    with open_store(data) as store:
        epoch = store.acquire_ownership()
        with store.log.reader() as reader:
            position = reader.head().position
        store.log.replace_rows(rows, version=version, at=Position(position), epoch=epoch)


def older(data: Path) -> dict[Key, bytes]:
    """Have its rows be those of an older polos, which lack some and have one too many; gives the right ones."""
    _, rows = rows_of(data)
    wanted = {key: value for key, value in rows.items() if key[0] not in ("tag", "suspend", "time")}
    rewrite(data, {**wanted, ("forgotten", 1): b"x"}, version=0)
    return rows


def test_a_new_directory_says_whose_rows_it_has(data: Path):
    """An engine that makes a directory notes which rows it writes, and `verify` compares them."""
    report = verify(data, fold=FOLD)

    assert ROWS_VERSION == rows_of(data)[0]
    assert (True, True, ROWS_VERSION) == (report.ok, report.rows_compared, report.rows_version)


def test_old_rows_are_computed_anew(data: Path, caplog: pytest.LogCaptureFixture):
    """Who opens an old directory has all rows right before anything is done: what waits there is found, and goes on."""
    right = older(data)

    async def main() -> Any:
        async with Polos(data_dir=data) as polos:
            (run,) = await polos.list_executions(tag="vip")
            await polos.resume("asks", run["id"], "ask", "fine")
            return (await polos._wait_ended(run["id"]))["result"]

    with caplog.at_level(logging.INFO, "polos"):
        found = asyncio.run(main())
    version, rows = rows_of(data)

    assert "fine" == found
    assert ROWS_VERSION == version
    assert [key for key in right if key[0] == "time"] == [key for key in rows if key[0] == "time"]
    assert ("forgotten", 1) not in rows
    assert verify(data, fold=FOLD).ok
    assert "rows of version 0 are computed anew" in caplog.text


def test_rows_that_are_up_to_date_are_left_alone(data: Path, monkeypatch: pytest.MonkeyPatch):
    """An ordinary start folds nothing: it would cost the more the longer the log is."""
    folds: list[object] = []
    whole = projections.fold_rows

    def fold(records: Iterator[Any]) -> Any:
        folds.append(records)
        return whole(records)

    monkeypatch.setattr(folding, "fold_rows", fold)

    async def main() -> None:
        async with Polos(data_dir=data):
            pass

    asyncio.run(main())

    assert [] == folds


def test_old_rows_are_no_damage(data: Path):
    """`verify` doesn't compare rows with what another polos computes, and says so; what is damaged is still found."""
    older(data)
    report = verify(data, fold=FOLD)

    assert (True, False, 0) == (report.ok, report.rows_compared, report.rows_version)


def test_readers_go_on_while_rows_are_computed_anew(data: Path, monkeypatch: pytest.MonkeyPatch):
    """A client that has the directory open sees what it saw, until the rows are there; then it sees the new ones."""
    right = older(data)
    seen: list[list[str]] = []
    whole = projections.fold_rows

    def fold(records: Iterator[Any]) -> Any:
        rows = whole(records)
        seen.append(asyncio.run(tagged()))
        return rows

    async def tagged() -> list[str]:
        return [run["workflow_id"] for run in await client.list_executions(tag="vip")]

    monkeypatch.setattr(folding, "fold_rows", fold)

    async def main() -> None:
        async with Polos(data_dir=data):
            seen.append(await tagged())

    client = PolosClient(data_dir=data)
    asyncio.run(main())
    client.close()

    assert [[], ["asks"]] == seen
    assert [key for key in right if key[0] == "tag"] == [key for key in rows_of(data)[1] if key[0] == "tag"]


def test_an_engine_that_dies_before_the_rows_are_there_changes_nothing(data: Path, monkeypatch: pytest.MonkeyPatch):
    """What ends the fold leaves the old rows and their number, and the directory free for the next engine."""
    right = older(data)
    old = rows_of(data)

    def dies(_records: object) -> Any:
        raise MemoryError

    async def main() -> None:
        async with Polos(data_dir=data):
            pass

    with monkeypatch.context() as broken:
        broken.setattr(folding, "fold_rows", dies)
        with pytest.raises(MemoryError):
            asyncio.run(main())
    left = rows_of(data)
    asyncio.run(main())

    assert old == left
    assert right.keys() == rows_of(data)[1].keys()


def test_rows_of_a_newer_polos_are_not_touched(data: Path):
    """An engine that computes older rows than those that are there refuses before it changes anything; reading goes."""
    _, rows = rows_of(data)
    rewrite(data, rows, version=ROWS_VERSION + 1)
    with open_store(data, read_only=True) as store, store.log.reader() as reader:
        epoch = reader.head().epoch

    async def main() -> None:
        async with Polos(data_dir=data):
            pass

    async def look() -> int:
        client = PolosClient(data_dir=data)
        found = await client.list_executions()
        client.close()
        return len(found)

    with pytest.raises(StoreFormatTooNew, match=f"version {ROWS_VERSION + 1}, and this polos computes version"):
        asyncio.run(main())
    with open_store(data, read_only=True) as store, store.log.reader() as reader:
        assert (epoch, ROWS_VERSION + 1) == (reader.head().epoch, reader.rows_version())
    assert 2 == asyncio.run(look())
