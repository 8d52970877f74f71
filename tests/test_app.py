"""`Polos` from outside: what an engine does when it comes and goes, whatever it is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from polos import Polos, WorkflowContext, registry, workflow
from polos.engine import events as e
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


@pytest.mark.parametrize(("own", "grace_seconds"), [(None, 7), (3, 3), (0, 0)])
def test_the_grace_of_a_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: float | None, grace_seconds: int
):
    """A workflow without a grace of its own has that of the engine."""
    monkeypatch.setattr(registry, "_workflows", {})

    @workflow(cancel_grace_seconds=own)
    async def stays(ctx: WorkflowContext) -> None:
        await ctx.step.wait_for_signal("never")

    async def main() -> list[tuple[e.Event, int, int]]:
        async with Polos(data_dir=tmp_path / "data", cancel_grace_seconds=7) as polos:
            handle = await stays.invoke(polos)
            await handle.cancel()
            return polos.engine.loader.events(handle.id)

    (asked,) = [(event, time_us) for event, time_us, _ in asyncio.run(main()) if isinstance(event, e.CancelRequested)]

    assert asked[0].grace_due_us - asked[1] == grace_seconds * 1_000_000
