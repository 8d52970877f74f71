"""`Worker`: start and stop, in whatever order they are said, failures, two of them, workflows it doesn't know."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from polos import PolosClient, Worker, WorkflowContext, registry, workflow
from polos.errors import EngineNotRunning, StoreInUse


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})


@pytest.fixture
def client(tmp_path: Path) -> Iterator[PolosClient]:
    """A client on a directory of its own."""
    made = PolosClient(data_dir=tmp_path / "data")
    yield made
    made.close()


def make(client: PolosClient, *workflows: Any) -> Worker:
    """Make a worker."""
    return Worker(client, deployment_id="test", workflows=workflows)


def run(program: Any) -> Any:
    """Run a program; one that hangs is an error."""
    return asyncio.run(asyncio.wait_for(program(), 20))


def test_it_runs_workflows_until_it_is_told_to_stop(client: PolosClient):
    """After `started` runs are run; after `shutdown` the directory is free, for the same worker too."""

    @workflow
    async def double(ctx: WorkflowContext, payload: dict[str, int]) -> int:
        return payload["n"] * 2

    async def main() -> list[Any]:
        worker = make(client, double)
        found: list[Any] = []
        for n in (1, 2):
            running = asyncio.create_task(worker.run())
            await worker.started()
            found.append(await double.run(client, {"n": n}))
            await worker.shutdown()
            await running
        await worker.shutdown()  # after the end it means nothing
        return found

    assert [2, 4] == run(main)


def test_a_worker_that_fails_to_start_says_so_to_all_who_wait(client: PolosClient):
    """A second worker on the directory is refused, and so is who waits for its start, or asks afterwards."""

    async def main() -> list[str]:
        first, second = make(client), make(client)
        running = asyncio.create_task(first.run())
        await first.started()
        waiting = asyncio.create_task(second.started())
        await asyncio.sleep(0)
        found = await asyncio.gather(second.run(), waiting, return_exceptions=True)
        with pytest.raises(StoreInUse):
            await second.started()
        await first.shutdown()
        await running
        again = asyncio.create_task(second.run())
        while second._engine is None:
            await asyncio.sleep(0)
        await second.started()
        await second.shutdown()
        await again
        return [type(one).__name__ for one in found]

    assert ["StoreInUse", "StoreInUse"] == run(main)


def test_a_shutdown_before_the_run_counts(client: PolosClient):
    """`run` returns at once and owns nothing; who waits for the start is told, and the next run runs."""

    async def main() -> None:
        worker = make(client)
        await worker.shutdown()
        await worker.run()
        with pytest.raises(EngineNotRunning, match="told to stop before it ran"):
            await worker.started()
        running = asyncio.create_task(worker.run())
        while worker._engine is None:
            await asyncio.sleep(0)
        await worker.shutdown()
        await running

    run(main)


def test_a_worker_that_is_cancelled_while_it_starts(client: PolosClient):
    """Who waits for the start isn't cancelled with it, but told."""

    async def main() -> None:
        worker = make(client)
        waiting = asyncio.create_task(worker.started())
        running = asyncio.create_task(worker.run())

        async def cancelled(*_: Any, **__: Any) -> Any:
            raise asyncio.CancelledError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("polos.runtime.worker.start_engine", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await running
        with pytest.raises(EngineNotRunning, match="cancelled before it ran"):
            await waiting

    run(main)


def test_a_run_of_a_workflow_that_it_does_not_know_waits(client: PolosClient):
    """It shows why, and a worker that knows the workflow takes it up."""

    @workflow(id="known_later")
    async def known_later(ctx: WorkflowContext) -> str:
        return "run"

    async def main() -> tuple[str, Any]:
        registry._workflows.clear()
        worker = make(client)
        running = asyncio.create_task(worker.run())
        await worker.started()
        handle = await client.invoke("known_later", None)
        while (await client.get_execution(handle.id)).get("waiting_reason") != "no_code":
            await asyncio.sleep(0)
        await worker.shutdown()
        await running
        other = make(client, known_later)
        running = asyncio.create_task(other.run())
        await other.started()
        ended = await client._wait_ended(handle.id)
        await other.shutdown()
        await running
        return ended["status"], ended["result"]

    assert ("completed", "run") == run(main)
