"""`Polos` from outside: what an engine does when it comes and goes, whatever it is asked for."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, Workflow, WorkflowContext, registry, workflow
from polos.clock import SystemClock
from polos.engine import events as e
from polos.engine.decide import created_to_json
from polos.engine.json import Json
from polos.errors import StoreFailed, StoreInUse
from polos.runtime.connection import InboxConnection
from polos.runtime.starting import root_run
from polos.store.directory import open_store
from polos.store.inbox_dir import DirectoryInbox
from polos.store.ownership import owner_info


def test_an_idle_engine_records_that_it_was_there(tmp_path: Path):
    """An engine that finds nothing to do is recorded as an owner all the same, and ends at once."""

    async def main() -> None:
        async with Polos(data_dir=tmp_path / "data", stop_grace_seconds=0.001):
            pass

    asyncio.run(main())
    asyncio.run(main())
    store = open_store(tmp_path / "data", check=False)
    with store.log.reader() as reader:
        types = [record.type for record in reader.records() if record.stream == "engine"]
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


async def ask_through_the_inbox(polos: Polos, workflow_id: str) -> str:
    """Start a run as another process would, and give its id."""
    created = root_run(workflow_id, None, clock=SystemClock(), deployment="default")
    runs: Json = [{"run": created.root, "created": created_to_json(created)}]
    answer = await InboxConnection(polos._connection().store).execute({"kind": "create", "runs": runs})
    assert "accepted" == answer["outcome"]
    return created.root


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Workflow[Any]:
    """A workflow that does nothing."""
    monkeypatch.setattr(registry, "_workflows", {})

    @workflow
    async def idle(ctx: WorkflowContext) -> str:
        return "done"

    return idle


def test_an_inbox_that_can_not_be_read_for_a_while(
    tmp_path: Path, idle: Workflow[Any], caplog: pytest.LogCaptureFixture
):
    """The engine says so once, looks again and again, and takes what is there when it can."""
    inbox, away = tmp_path / "data" / "inbox", tmp_path / "away"

    async def main() -> str:
        async with Polos(data_dir=tmp_path / "data", inbox_poll_seconds=0.001) as polos:
            inbox.rename(away)
            while not caplog.records:
                await asyncio.sleep(0)
            away.rename(inbox)
            run = await ask_through_the_inbox(polos, idle.id)
            return str((await asyncio.wait_for(polos._wait_ended(run), 20))["status"])

    assert "completed" == asyncio.run(main())
    assert ["the inbox can't be read"] == [record.message[:23] for record in caplog.records]


def test_a_command_whose_file_can_not_be_removed(
    tmp_path: Path, idle: Workflow[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It is decided once, its run goes on and so does everything else; the next engine removes the file."""
    data = tmp_path / "data"

    def refuse(_self: DirectoryInbox, command_id: str) -> bool:
        raise StoreFailed(f"{command_id}: no")

    async def main() -> list[str]:
        async with Polos(data_dir=data, inbox_poll_seconds=0.001) as polos:
            runs = [await ask_through_the_inbox(polos, idle.id) for _ in range(2)]
            return [(await asyncio.wait_for(polos._wait_ended(run), 20))["status"] for run in runs]

    async def after() -> int:
        async with Polos(data_dir=data, inbox_poll_seconds=0.001) as polos:
            while any((data / "inbox").iterdir()):
                await asyncio.sleep(0)
            return len(await polos.list_executions())

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryInbox, "remove", refuse)

        assert ["completed", "completed"] == asyncio.run(main())
    assert 2 == sum("its file can't be removed" in record.message for record in caplog.records)
    assert 2 == asyncio.run(after())


@pytest.mark.parametrize(
    ("settings", "refusal", "text"),
    [
        ({"max_concurrent_workflows": 0}, ValueError, "max_concurrent_workflows must be at least 1, it is 0"),
        ({"drain_work_max": 0}, ValueError, "drain_work_max must be at least 1, it is 0"),
        ({"resident_runs_max": -1}, ValueError, "resident_runs_max must be at least 0, it is -1"),
        ({"step_threads_max": 1.5}, TypeError, "step_threads_max must be an int, it is 1.5"),
        ({"stop_grace_seconds": math.inf}, ValueError, "stop_grace_seconds must not be negative, .* it is inf"),
        ({"inbox_poll_seconds": math.nan}, ValueError, "inbox_poll_seconds must not be negative, .* it is nan"),
        ({"cancel_grace_seconds": -1}, ValueError, "cancel_grace_seconds must not be negative, .* it is -1"),
        ({"wait_threshold_seconds": "10"}, TypeError, "wait_threshold_seconds must be a number, it is '10'"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, settings: dict[str, Any], refusal: type[Exception], text: str):
    """A number that no engine could work with is refused where it is given, by its name, and nothing is made."""
    with pytest.raises(refusal, match=text):
        Polos(data_dir=tmp_path / "data", **settings)

    assert not (tmp_path / "data").exists()


def test_a_bad_number_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the environment says is looked at like what the program says."""
    monkeypatch.setenv("POLOS_MAX_CONCURRENT_WORKFLOWS", "0")

    with pytest.raises(ValueError, match="max_concurrent_workflows must be at least 1, it is 0"):
        Polos(data_dir=tmp_path)


def test_who_stops_second_waits_for_the_first(tmp_path: Path, idle: Workflow[Any]):
    """However many tasks stop an engine, or start it again meanwhile: each returns when that has happened."""

    async def main() -> str:
        polos = Polos(data_dir=tmp_path / "data")
        await polos.start()
        stopping = [asyncio.create_task(polos.stop()) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.create_task(polos.stop())
        assert owner_info(tmp_path / "data") is None
        stopping.append(asyncio.create_task(polos.start()))
        again = asyncio.create_task(polos.stop())
        await asyncio.gather(*stopping, again)
        begun = [
            asyncio.create_task(polos.start()),
            asyncio.create_task(polos.stop()),
            asyncio.create_task(polos.start()),
        ]
        await asyncio.gather(*begun)
        result: str = await idle.run(polos)
        await polos.stop()
        return result

    assert "done" == asyncio.run(main())
