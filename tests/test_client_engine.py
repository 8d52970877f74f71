"""Clients and real engines: in one process, on another thread's loop, and in two processes."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from polos.errors import CommandRefused, EngineNotRunning, StepExecutionError, UpdateRejected
from polos.features import events
from polos.features.events import EventData
from polos.runtime.app import Polos
from polos.runtime.client import PolosClient

from tests.engine_program import approval, counter, pair, relay
from tests.tidy import ROOT

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def engine_elsewhere(directory: Path, *, status: int = 0) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an engine in a process of its own, which ends with a status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.engine_program", str(directory),
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert b"ready\n" == await process.stdout.readline()
    try:
        yield process
    finally:
        process.stdin.close()
        assert status == await process.wait()


@asynccontextmanager
async def engine_here(directory: Path) -> AsyncIterator[None]:
    """Run an engine in this process."""
    async with Polos(data_dir=directory):
        yield


ENGINES: dict[str, Callable[[Path], AbstractAsyncContextManager[Any]]] = {
    "here": engine_here,
    "elsewhere": engine_elsewhere,
}


@pytest.fixture
def client(tmp_path: Path) -> Any:
    """A client that opens the directory by itself."""
    client = PolosClient(data_dir=tmp_path / "data")
    yield client
    client.close()


def kinds(found: list[events.StreamEvent]) -> list[str | None]:
    return [event.event_type for event in found]


async def whole_day(client: PolosClient) -> None:
    """Do with one client everything that a client can do."""
    # A run, its stream, and an answer to its suspend.
    run = await pair.invoke(client, {"n": 1})
    assert run.accepted
    stream = events.stream_workflow(client, "pair", run.id, last_sequence_id=0)
    seen: list[events.StreamEvent] = []
    async for event in stream:
        seen.append(event)
        if event.event_type == "suspend_ok":
            assert (2, f"http://localhost:8080/approve/{run.id}/ok") == (event.data["sum"], event.data["_approval_url"])
            await client.resume("pair", run.id, "ok", {"yes": True})
    assert [
        "workflow_start",
        "workflow_start",
        "step_start",
        "step_finish",
        "suspend_ok",
        "resume_ok",
        "workflow_finish",
        "workflow_finish",
    ] == kinds(seen)
    assert [2, {"yes": True}] == (await run.get())["result"]
    for place, event in enumerate(seen):
        rest = events.stream_workflow(client, "pair", run.id, last_sequence_id=event.sequence_id)
        assert seen[place + 1 :] == [later async for later in rest]

    # Events, updates, queries and signals.
    count = await counter.invoke(client, {"n": 1, "topic": "numbers"})
    topic = events.stream_topic(client, "numbers")
    await until(client, count.id, "waiting")
    numbers = await events.batch_publish(client, "numbers", [EventData(data={"n": n}) for n in (10, 20)])
    assert numbers == [(await anext(topic)).sequence_id for _ in range(2)]
    await until(client, count.id, "signal")
    assert 111 == await count.update("add", 100)
    assert 222 == await count.query("total", 2)
    with pytest.raises(UpdateRejected, match="-1 isn't positive"):
        await count.update("add", -1)
    with pytest.raises(StepExecutionError, match="13 brings bad luck"):
        await count.update("add", 13)
    with pytest.raises(CommandRefused, match="nobody"):
        await count.update("nobody", 1)
    await count.signal("enough", 1000)
    assert 1111 == (await client._wait_ended(count.id))["result"]
    with pytest.raises(CommandRefused, match="ended"):
        await count.signal("enough", 1)

    # Cancelling.
    asked = await approval.invoke(client, {"n": 1})
    await until(client, asked.id, "suspend")
    assert await asked.cancel()
    ended = await client._wait_ended(asked.id)
    assert ("cancelled", "client") == (ended["status"], ended["cancelled_by"])
    assert not await asked.cancel()
    end = [event async for event in events.stream_workflow(client, "approval", asked.id)]
    assert ["workflow_cancelled"] == kinds(end)

    # Lists.
    assert [asked.id] == [found["id"] for found in await client.list_executions(status="cancelled")]
    assert [run.id] == [found["id"] for found in await client.list_executions(workflow_id="pair")]


async def until(client: PolosClient, run: str, status: str) -> None:
    """Wait until a run has a status or a reason to wait."""
    moves = client._connection().moves()
    while True:
        head = moves.head()
        if any(found["id"] == run for found in await client.list_executions(status=status)):
            return
        await moves.behind(head)


@pytest.mark.parametrize("where", sorted(ENGINES))
async def test_a_whole_day(tmp_path: Path, client: PolosClient, where: str):
    """Everything a client can do works alike with the engine in its own process and in another."""
    async with ENGINES[where](tmp_path / "data"):
        await whole_day(client)


async def test_a_whole_day_on_another_threads_loop(tmp_path: Path, client: PolosClient):
    """A client on a loop of its own, in a thread of the engine's process, does everything as well."""
    async with engine_here(tmp_path / "data"):
        await asyncio.to_thread(lambda: asyncio.run(whole_day(client)))


# ---------------------------------------------------------------------------------- engines come and go


async def test_commands_before_the_first_engine(tmp_path: Path, client: PolosClient):
    """What was asked for before there was an engine happens when one comes, in the order in which it was asked."""
    run = await approval.invoke(client, {"n": 1})
    other = await approval.invoke(client, {"n": 1})
    await client.resume("approval", run.id, "ok", "early")
    assert await other.cancel()
    with pytest.raises(EngineNotRunning) as kept:
        await events.publish(client, "numbers", EventData(data={"n": 1}))
    with pytest.raises(EngineNotRunning) as regretted:
        await events.publish(client, "numbers", EventData(data={"n": 2}))
    assert regretted.value.command_id is not None
    assert await client.take_back(regretted.value.command_id)
    assert (False, "queued") == (run.accepted, (await run.get())["status"])
    stream = events.stream_workflow(client, "approval", run.id)
    waiting = asyncio.ensure_future(client._wait_ended(run.id))
    async with engine_elsewhere(tmp_path / "data"):
        assert [2, "early"] == (await waiting)["result"]
        assert "cancelled" == (await client._wait_ended(other.id))["status"]
        published = await anext(events.stream_topic(client, "numbers", last_sequence_id=0))
        await events.publish(client, "numbers", EventData(data={"n": 3}))

    assert (f"{kept.value.command_id}:0", {"n": 1}) == (published.id, published.data)
    numbers = events.stream_topic(client, "numbers", last_sequence_id=published.sequence_id)
    assert {"n": 3} == (await anext(numbers)).data
    assert ["workflow_start", "workflow_finish"] == [
        event.event_type async for event in stream if str(event.event_type).startswith("workflow")
    ]


async def test_an_engine_is_killed_while_a_client_waits(tmp_path: Path, client: PolosClient):
    """A command that no engine answered is decided by the next, once; who waits for the run gets its end."""
    run = await approval.invoke(client, {"n": 1})
    async with engine_elsewhere(tmp_path / "data", status=-signal.SIGKILL) as process:
        await until(client, run.id, "suspend")
        process.kill()
    await client.resume("approval", run.id, "ok", "kept")
    assert "waiting" == (await run.get())["status"]
    async with engine_elsewhere(tmp_path / "data"):
        assert [2, "kept"] == (await client._wait_ended(run.id))["result"]


@pytest.mark.parametrize("where", sorted(ENGINES))
async def test_successors_share_one_handle(tmp_path: Path, client: PolosClient, where: str):
    """A run that goes on as others is followed, answered and waited for by its first id."""
    async with ENGINES[where](tmp_path / "data"):
        run = await relay.invoke(client, {"n": 1})
        stream = events.stream_workflow(client, "relay", run.id, last_sequence_id=0)
        laps: list[Any] = []
        async for event in stream:
            laps.append(event.event_type)
            if event.event_type == "suspend_ok":
                assert run.id != event.data["_metadata"]["execution_id"]  # the run that really waits
                await client.resume("relay", run.id, "ok", "done")
            elif event.event_type != "resume_ok":
                assert run.id == event.data["_metadata"]["execution_id"]
        assert 3 == laps.count("step_finish")
        assert ["workflow_start", "workflow_finish"] == [laps[0], laps[-1]]
        ended = await run.get()

    assert ("completed", "lap 3: done") == (ended["status"], ended["result"])


async def test_an_engine_gives_way_to_another(tmp_path: Path, client: PolosClient):
    """Who waits or follows stays, whichever process the next engine is in."""
    async with engine_here(tmp_path / "data"):
        run = await approval.invoke(client, {"n": 1})
        await until(client, run.id, "suspend")
        waiting = asyncio.ensure_future(client._wait_ended(run.id))
        stream = events.stream_workflow(client, "approval", run.id)
        assert "suspend_ok" == (await anext(stream)).event_type
        following = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
    assert not waiting.done()
    assert not following.done()
    async with engine_elsewhere(tmp_path / "data"):
        await client.resume("approval", run.id, "ok", "late")

        assert [2, "late"] == (await waiting)["result"]
        assert "resume_ok" == (await following).event_type
        assert ["workflow_finish"] == [event.event_type async for event in stream]
