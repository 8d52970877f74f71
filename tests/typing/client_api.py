"""
What type checkers must say about clients, handles and events.

Checked by mypy and pyright, never run; see `public_api`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, assert_type

from polos import BatchWorkflowInput, ExecutionHandle, Polos, PolosClient, batch_invoke, events
from polos.features.events import EventData, StreamEvent
from polos.runtime.client import ExecutionPage
from polos.types import BulkResult

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def reading(client: PolosClient) -> None:
    """Use every method that reads."""
    assert_type(await client.get_execution("id"), dict[str, Any])
    page = await client.list_executions(
        status="waiting", workflow_id="w", parent="p", tag="t", since=NOON, until="2026-01-01", limit=3, cursor=None
    )
    assert_type(page, ExecutionPage)
    assert_type(page[0], dict[str, Any])
    assert_type(page.cursor, str | None)
    assert_type(await client.count_executions(queue="q", session_id="s", user_id="u"), dict[str, int])
    await client.list_executions("waiting")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]  # by keyword only


async def asking(client: PolosClient) -> None:
    """Use every method that asks the engine."""
    handle = await client.invoke("w", {"n": 1}, "queue", 1, "key", "session", "user", {}, 1.5, tags=["t"])
    assert_type(handle, ExecutionHandle)
    assert_type(await client.batch_invoke([BatchWorkflowInput(id="w")], "s", "u"), list[ExecutionHandle])
    assert_type(await client.cancel_many(by="ann", reason="why", limit=3, workflow_id="w"), BulkResult)
    assert_type(await client.retry_many(children=True, everything=True), BulkResult)
    assert_type(await client.resume_many("key", {"n": 1}, tag="t"), BulkResult)
    await client.retry("id", by="ann", reason="why")
    assert_type(await client.cancel_execution("id", by="ann", reason="why"), bool)
    assert_type(await client.query("id"), Any)
    assert_type(await client.query("id", "total", 1, 2), Any)
    assert_type(await client.update("id", "set", {"n": 1}, timeout=1.5), Any)
    assert_type(await client.take_back("c"), bool)
    await client.resume("w", "id", "key", {"n": 1}, all=True)
    await client.signal("id", "go", 1)
    await client.resolve("id", "step", "completed", 1, message=None, by="ann")
    await client.readmit("id", by="ann")
    await client.resolve("id", "step")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no outcome


async def holding(handle: ExecutionHandle, client: Polos) -> None:
    """Use a handle, with a client and without."""
    assert_type(await handle.get(), dict[str, Any])
    assert_type(await handle.get(client), dict[str, Any])
    assert_type(await handle.cancel(client), bool)
    assert_type(handle.to_dict(), dict[str, Any])
    assert_type(handle.accepted, bool)
    await handle.signal(client, "go", 1)
    await handle.signal("go")
    assert_type(await handle.query(client, "total", 1), Any)
    assert_type(await handle.query(), Any)
    assert_type(await handle.update("set", 1, timeout=1.5), Any)
    assert_type(await handle.update(client, "set"), Any)
    await handle.signal(1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def streaming(client: PolosClient) -> None:
    """Publish and stream."""
    assert_type(await events.publish(client, "t", EventData(event_type="new", data={"n": 1}), "run", "root"), int)
    assert_type(await events.batch_publish(client, "t", [EventData()]), list[int])
    assert_type(events.stream_topic(client, "t", 1, NOON), AsyncIterator[StreamEvent])
    assert_type(events.stream_workflow(client, "w", "id", last_timestamp=NOON), AsyncIterator[StreamEvent])
    assert_type(events.events.stream_topic(client, from_sequence=0), AsyncIterator[StreamEvent])
    async for event in events.stream_workflow(client, "w", "id"):
        assert_type(event.sequence_id, int)
        assert_type(event.event_type, str | None)
    assert_type(await batch_invoke(client, []), list[ExecutionHandle])
