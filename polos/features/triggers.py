"""
Triggers while the engine runs: looking at them, holding them up, sending them back.

A trigger is a workflow with `trigger_on_event`, and has the workflow's id. What is changed here is an event of the log
like everything else, and holds until it is changed again. `client` is a `Polos` or a `PolosClient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from polos.calls import text
from polos.checking import count
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.json import Json
from polos.engine.projections import TRIGGER_PREFIX
from polos.errors import PolosUsageError
from polos.runtime.connection import StoreConnection
from polos.runtime.triggers import stored_trigger
from polos.store.log import Log, Reader

__all__ = ["FilterFailure", "TriggerInfo", "failures", "get", "list", "pause", "reset", "resume"]


class TriggersClient(Protocol):
    """What these functions need of a client."""

    def _connection(self) -> StoreConnection:
        """Give the way to the engine."""
        ...

    def _log(self) -> Log:
        """Give the log, to read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerInfo:
    """
    A trigger as the log has it.

    Attributes:
        workflow_id: whose runs it makes.
        topic: a topic or a pattern.
        sequence_id: the last event that it has seen; the next one behind it counts.
        batch_size: how many events one run gets at most.
        batch_timeout_seconds: how long the oldest event of a batch waits for others.
        filtered: whether a filter decides which events count.
        paused: whether it makes no runs for now.
    """

    workflow_id: str
    topic: str
    sequence_id: int
    batch_size: int = 1
    batch_timeout_seconds: float | None = None
    filtered: bool = False
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterFailure:
    """
    An event that made no run: a filter raised on it, or the run was refused for good.

    Attributes:
        event_id: the event.
        sequence_id: its place.
        topic: where it was published.
        error: what the filter raised, or why the run was refused: type and message.
    """

    event_id: str
    sequence_id: int
    topic: str
    error: str


def get(client: TriggersClient, workflow_id: str) -> TriggerInfo:
    """
    Give a trigger as the log has it.

    ```python run
    import asyncio, tempfile
    from polos import EventPayload, Polos, events, triggers, workflow

    @workflow(trigger_on_event="orders/*")
    async def bill(ctx, payload: EventPayload):
        print(payload.topic, payload.data["amount"])

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                await triggers.pause(polos, "bill")
                seen = await events.publish(polos, "orders/eu", events.EventData(data={"amount": 12}))
                print(triggers.get(polos, "bill").sequence_id < seen)
                await triggers.resume(polos, "bill")
                async for event in events.stream_topic(polos, "orders/eu", last_sequence_id=0):
                    break
                while not (runs := await polos.list_executions(workflow_id="bill")):
                    await asyncio.sleep(0.01)
                await polos._wait_ended(runs[0]["id"])
                print(triggers.get(polos, "bill").sequence_id == seen)

    asyncio.run(main())
    ```

    Raises:
        PolosUsageError: the log knows no trigger of that id.
    """
    text("workflow_id", workflow_id)
    with client._log().reader() as reader:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # ours, and offered for this
        found = stored_trigger(reader, workflow_id)
    if found is None or found.topic is None:
        raise PolosUsageError(f"there is no trigger {workflow_id!r}: no engine has met a workflow of that id with one")
    return _info(found)


def list(client: TriggersClient) -> Sequence[TriggerInfo]:  # noqa: A001  # `triggers.list` is what one looks for
    """
    Give every trigger that the log knows, by id; one whose workflow has none any more isn't among them.

    An example stands at `get`.
    """
    with client._log().reader() as reader:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        names = [str(key[1]) for key, _ in reader.rows(("trigger",))]
        found = [stored_trigger(reader, name) for name in sorted(names)]
    return [_info(one) for one in found if one is not None and one.topic is not None]


def failures(client: TriggersClient, workflow_id: str, *, limit: int = 100) -> Sequence[FilterFailure]:
    """
    Give the events that made no run because a trigger's filter raised or the run was refused, the newest first.

    An example stands at `get`.

    Args:
        client: a `Polos` or a `PolosClient`.
        workflow_id: the trigger.
        limit: how many at most.
    """
    text("workflow_id", workflow_id)
    count("limit", limit)
    with client._log().reader() as reader:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return _failures(reader, workflow_id, limit)


async def pause(client: TriggersClient, workflow_id: str) -> None:
    """
    Let a trigger make no runs; events wait for it in their topic. Durable when it returns.

    An example stands at `get`.

    Raises:
        CommandRefused: there is no such trigger.
    """
    await _change(client, workflow_id, {"paused": True})


async def resume(client: TriggersClient, workflow_id: str) -> None:
    """
    Let a trigger that was paused go on, with the first event that it hasn't seen. Durable when it returns.

    An example stands at `get`.
    """
    await _change(client, workflow_id, {"paused": False})


async def reset(client: TriggersClient, workflow_id: str, sequence_id: int | None) -> None:
    """
    Send a trigger to another place. Durable when it returns.

    An example stands at `get`.

    Going back makes runs of events once more that runs were made of already; going forward leaves events out.

    Args:
        client: a `Polos` or a `PolosClient`.
        workflow_id: the trigger.
        sequence_id: it goes on behind this event: 0 for the beginning, None for what is published from now on.

    Raises:
        CommandRefused: there is no such trigger.
        ValueError: the sequence id is negative.
    """
    if sequence_id is None:
        await _change(client, workflow_id, {"to": "now"})
        return
    if isinstance(sequence_id, bool) or not isinstance(cast("object", sequence_id), int) or sequence_id < 0:
        raise ValueError(f"sequence_id must be a number from 0, or None, it is {sequence_id!r}")
    await _change(client, workflow_id, {"to": sequence_id // 4096})


def _info(found: e.TriggerRegistered) -> TriggerInfo:
    timeout_us = found.batch_timeout_us
    return TriggerInfo(
        workflow_id=found.trigger,
        topic=str(found.topic),
        sequence_id=found.cursor * 4096,
        batch_size=found.batch_size,
        batch_timeout_seconds=None if timeout_us is None else timeout_us / 1e6,
        filtered=found.filtered,
        paused=found.paused,
    )


def _failures(reader: Reader, trigger: str, limit: int) -> Sequence[FilterFailure]:
    found: dict[int, FilterFailure] = {}
    for record in reader.stream(TRIGGER_PREFIX + trigger, reverse=True):
        if len(found) >= limit:
            break
        event = decode(record.type, record.schema_version, record.payload)
        if isinstance(event, e.TriggerFailed):
            error = f"{event.error_type}: {event.message}"
            place = event.position * 4096
            found[event.position] = FilterFailure(
                event_id=event.event_id, sequence_id=place, topic=event.topic, error=error
            )
    return tuple(found.values())


async def _change(client: TriggersClient, workflow_id: str, change: dict[str, Json]) -> None:
    text("workflow_id", workflow_id)
    command = {"kind": "trigger", "trigger": workflow_id, **change}
    await client._connection().execute(command)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
