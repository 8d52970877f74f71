"""
Events of topics: publishing them, and streaming what was published and what happens to runs.

Streams are read off the log, so nothing is lost by looking late: with a sequence id a stream goes on
exactly behind it, with none `stream_workflow` first gives the suspends that still wait for an answer.
`client` is a `Polos` or a `PolosClient`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, cast, final

from polos.calls import optional_text, writable
from polos.checking import short
from polos.clock import uuid7
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.json import Json
from polos.engine.projections import topic_stream
from polos.errors import PolosUsageError
from polos.runtime.connection import StoreConnection
from polos.runtime.public_events import sequence_id
from polos.runtime.reads import microseconds
from polos.runtime.starting import recorded
from polos.runtime.streams import follow_topic, follow_workflow, start_behind
from polos.store.log import Log
from polos.types.events import BatchEventPayload, EventData, EventItem, EventPayload, StreamEvent

__all__ = [
    "BatchEventPayload",
    "EventData",
    "EventItem",
    "EventPayload",
    "StreamEvent",
    "batch_publish",
    "events",
    "publish",
    "stream_topic",
    "stream_workflow",
]


class EventsClient(Protocol):
    """What these functions need of a client."""

    api_url: str

    def _connection(self) -> StoreConnection:
        """Give the way to the engine."""
        ...

    def _log(self) -> Log:
        """Give the log, to read."""
        ...


async def publish(
    client: EventsClient,
    topic: str,
    event_data: EventData,
    execution_id: str | None = None,
    root_execution_id: str | None = None,
) -> int:
    """
    Publish an event on a topic; durable when it returns.

    ```python run
    import asyncio, tempfile
    from polos import Polos, events, workflow

    @workflow
    async def greeter(ctx):
        event = await ctx.step.wait_for_event("arrival", topic="guests", since=0)
        return f"Hello, {event.data['name']}!"

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                handle = await greeter.invoke(polos)
                await events.publish(polos, "guests", events.EventData(data={"name": "Ada"}))
                async for event in events.stream_workflow(polos, "greeter", handle.id):
                    print(event.data["result"])

    asyncio.run(main())
    ```

    Args:
        client: a `Polos` or a `PolosClient`.
        topic: the topic; whoever waits for its events by `ctx.step.wait_for_event` gets the first.
        event_data: the event.
        execution_id: the run that publishes it, if one does.
        root_execution_id: the root of that run's tree.

    Returns:
        The event's sequence id.

    Raises:
        EngineNotRunning: no engine is running; the event is kept for the next one.
    """
    return (await batch_publish(client, topic, [event_data], execution_id, root_execution_id))[0]


async def batch_publish(
    client: EventsClient,
    topic: str,
    events: Sequence[EventData],
    execution_id: str | None = None,
    root_execution_id: str | None = None,
) -> list[int]:
    """
    Publish events on a topic, all of them or none, one directly behind the other; arguments as for `publish`.

    Returns:
        Their sequence ids, in the same order.
    """
    if not topic:
        raise PolosUsageError("a topic is a text that isn't empty")
    short("topic", topic)
    writable("execution_id", execution_id)
    writable("root_execution_id", root_execution_id)
    for event in events:
        writable("event_type", event.event_type)
    if not events:
        return []
    connection = _connection(client)
    bodies: list[Json] = [
        {"event_type": event.event_type, "data": recorded(event.data, "event's data")} for event in events
    ]
    command_id = uuid7(connection.clock.now_us())
    answer = await connection.execute(
        {"kind": "publish", "topic": topic, "events": bodies, "run": execution_id, "root": root_execution_id},
        command_id=command_id,
    )
    detail = cast("dict[str, Any]", answer.get("detail") or {})
    numbers = cast("list[int]", detail.get("sequence_ids", []))
    if len(numbers) == len(events):
        return numbers
    # Through the inbox: the outcome was recorded with the events, before anybody knew where they would stand.
    return _sequence_ids(connection.store.log, topic, {f"{command_id}:{number}" for number in range(len(events))})


def stream_topic(
    client: EventsClient,
    topic: str | None = None,
    last_sequence_id: int | None = None,
    last_timestamp: datetime | str | None = None,
    *,
    from_sequence: int | None = None,
) -> AsyncIterator[StreamEvent]:
    """
    Stream the events of a topic, and go on as they come.

    ```python run
    import asyncio, tempfile
    from polos import Polos, events

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                await events.batch_publish(polos, "numbers", [events.EventData(data={"n": n}) for n in range(3)])
                async for event in events.stream_topic(polos, "numbers", last_sequence_id=0):
                    print(event.data["n"])
                    if event.data["n"] == 2:
                        break

    asyncio.run(main())
    ```

    Args:
        client: a `Polos` or a `PolosClient`.
        topic: the topic; None for every published event.
        last_sequence_id: go on behind this event; 0 gives everything.
        last_timestamp: go on behind this instant; counts if no sequence id is given.
        from_sequence: begin with this event; 0 gives everything.

    Returns:
        The events. It begins at the call, not at the first step of the iteration, and doesn't end.
    """
    optional_text("topic", topic)
    connection = _connection(client)
    after = _cursor(connection, last_sequence_id, last_timestamp, from_sequence)
    return follow_topic(connection, topic, after=after, api_url=client.api_url)


def stream_workflow(
    client: EventsClient,
    workflow_id: str,
    workflow_run_id: str,
    last_sequence_id: int | None = None,
    last_timestamp: datetime | str | None = None,
    *,
    from_sequence: int | None = None,
    previews: bool = False,
    last_event: StreamEvent | None = None,
) -> AsyncIterator[StreamEvent]:
    """
    Stream what happens to a run and the runs below it, until the run ends.

    ```python run
    import asyncio, tempfile
    from polos import Polos, events, workflow

    @workflow
    async def order(ctx):
        decision = await ctx.step.suspend("approval", {"amount": 12})
        return decision.data

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                handle = await order.invoke(polos)
                async for event in events.stream_workflow(polos, "order", handle.id):
                    print(event.event_type)
                    if event.event_type == "suspend_approval":
                        await polos.resume("order", handle.id, "approval", {"approved": event.data["amount"] < 20})

    asyncio.run(main())
    ```

    Args:
        client: a `Polos` or a `PolosClient`.
        workflow_id: the run's workflow.
        workflow_run_id: the run.
        last_sequence_id: go on behind this event; 0 gives everything.
        last_timestamp: go on behind this instant; counts if no sequence id is given.
        from_sequence: begin with this event; 0 gives everything.
        previews: also give deltas of steps before they are durable, where the engine is in this process.
        last_event: go on behind this event: instead of its number, for a reader of previews.

    Returns:
        The events; the last is `…_finish`, `…_failed` or `…_cancelled` of the run. Without a cursor first the
        suspends of the tree that nobody has answered, then what comes from now on; of a run that has ended, its end.

    Raises:
        UnknownRun: there is no such run.
    """
    connection = _connection(client)
    last = last_sequence_id if last_event is None else last_event.sequence_id
    after = _cursor(connection, last, last_timestamp, from_sequence)
    return follow_workflow(
        connection, workflow_run_id, workflow=workflow_id, after=after, api_url=client.api_url,
        previews=previews, seen=None if last_event is None else last_event.ahead,
    )  # fmt: skip


@final
class Events:
    """The functions of this module, for programs that import the object instead of the module."""

    publish: Final = staticmethod(publish)
    batch_publish: Final = staticmethod(batch_publish)
    stream_topic: Final = staticmethod(stream_topic)
    stream_workflow: Final = staticmethod(stream_workflow)


events: Final = Events()


def _connection(client: EventsClient) -> StoreConnection:
    return client._connection()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # ours, and offered for this


def _cursor(
    connection: StoreConnection, last: int | None, timestamp: datetime | str | None, first: int | None
) -> int | None:
    """Give the sequence id to go on behind; sequence before timestamp before nothing."""
    if last is not None:
        return last
    if first is not None:
        return first - 1
    time_us = microseconds(timestamp, "last_timestamp")
    if time_us is None:
        return None
    with connection.store.log.reader() as reader:
        return start_behind(reader, time_us)


def _sequence_ids(log: Log, topic: str, wanted: set[str]) -> list[int]:
    """Find published events from the end of their topic; they stand together, in order."""
    found: list[int] = []
    with log.reader() as reader:
        for record in reader.stream(topic_stream(topic), reverse=True):
            event: Any = decode(record.type, record.schema_version, record.payload)
            if isinstance(event, e.EventPublished) and event.event_id in wanted:
                found.append(sequence_id(record.position))
            if len(found) == len(wanted):
                break
    assert len(found) == len(wanted), "the engine said that it published them"
    return found[::-1]
