"""`Polos` from outside: what an engine does when it comes and goes, whatever it is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from polos import Polos
from polos.errors import StoreInUse
from polos.store.directory import open_store


def test_an_idle_engine_records_that_it_was_there(tmp_path: Path):
    """An engine that finds nothing to do is recorded as an owner all the same, and ends at once."""

    async def main() -> None:
        async with Polos(data_dir=tmp_path / "data", stop_grace_seconds=0.001):
            pass

    asyncio.run(main())
    asyncio.run(main())
    store = open_store(tmp_path / "data", check=False)
    with store.log.reader() as reader:
        types = [record.type for record in reader.records()]
    store.close()

    assert ["EngineStarted", "EngineStarted"] == types


def test_a_refused_engine_leaves_the_marks_of_the_owner(tmp_path: Path):
    """Which code is on the owner's loop stays known when another engine tries for the directory."""

    async def main() -> tuple[int, int]:
        async with Polos(data_dir=tmp_path / "data"):
            before = (tmp_path / "data" / "on_loop").stat().st_ino
            with pytest.raises(StoreInUse, match="is owned by another engine"):
                await Polos(data_dir=tmp_path / "data").start()
            return before, (tmp_path / "data" / "on_loop").stat().st_ino

    before, after = asyncio.run(main())

    assert before == after
