"""
Events as programs see them: what is published, what a triggered workflow gets, what a stream yields.

Field names are those that programs already use.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field, PrivateAttr

__all__ = ["Ahead", "BatchEventPayload", "EventData", "EventItem", "EventPayload", "StreamEvent"]


Ahead = dict[tuple[str, str], tuple[int, int]]


class EventData(BaseModel):
    """
    An event to be published.

    Attributes:
        event_type: what kind of event it is, in the program's own words.
        data: what it says.
    """

    event_type: str | None = None
    data: dict[str, Any] = Field(default_factory=dict[str, Any])


class EventPayload(BaseModel):
    """
    A published event, as a workflow gets it.

    ```python run
    import asyncio, tempfile
    from polos import EventPayload, Polos, events, workflow

    @workflow
    async def watch(ctx):
        event: EventPayload = await ctx.step.wait_for_event("first", topic="prices", since=0)
        return [event.topic, event.event_type, event.data["cents"]]

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                await events.publish(polos, "prices", events.EventData(event_type="fell", data={"cents": 99}))
                print(await watch.run(polos))

    asyncio.run(main())
    ```

    Attributes:
        id: the event's id.
        sequence_id: its place; a stream can begin behind it.
        topic: where it was published.
        event_type: what kind of event it is.
        data: what it says.
        created_at: when it was published.
    """

    id: str
    sequence_id: int
    topic: str
    event_type: str | None = None
    data: Any = Field(default_factory=dict[str, Any])
    created_at: datetime


class EventItem(EventPayload):
    """One event of a batch."""


class BatchEventPayload(BaseModel):
    """
    Events that one run is triggered by.

    ```python run
    import datetime as dt
    from polos import BatchEventPayload

    one = {"id": "1", "sequence_id": 4096, "topic": "prices", "data": {"cents": 99}, "created_at": dt.datetime.min}
    print([event.data["cents"] for event in BatchEventPayload(events=[one]).events])
    ```

    Attributes:
        events: the events, in the order in which they were published.
    """

    events: list[EventItem]


class StreamEvent(BaseModel):
    """
    An event of a stream: published by a program, or what happened to a run.

    Attributes:
        id: the event's id.
        sequence_id: its place; a stream can go on behind it.
        topic: the topic, `workflow/{workflow}/{run}` for what happened to a tree of runs.
        event_type: what kind of event it is.
        data: what it says.
        created_at: when it was recorded, RFC 3339.
        preview: whether it isn't durable yet: a delta of a step, shown as soon as it was sent. Its `sequence_id` is
            then the place before the chunk that it will be recorded in.
        delta: what tells a delta of a step from all others: the run, the step, the number within the step.
    """

    id: str
    sequence_id: int
    topic: str
    event_type: str | None = None
    data: Any = Field(default_factory=dict[str, Any])
    created_at: str | None = None
    preview: bool = Field(default=False, exclude_if=lambda value: not value)
    _delta: tuple[str, str, int] | None = PrivateAttr(default=None)
    _ahead: Ahead = PrivateAttr(default_factory=dict[tuple[str, str], tuple[int, int]])

    @property
    def delta(self) -> tuple[str, str, int] | None:
        """The run, the step and the number within the step; None for what is no delta."""
        return self._delta

    @property
    def ahead(self) -> Ahead:
        """
        What the reader has seen of deltas that weren't durable yet.

        By run and step: the number of the next delta, and how many engines had taken the log over by then. An engine
        that comes later gives such numbers again.
        """
        return self._ahead

    def of_delta(self, run: str, step: str, index: int) -> StreamEvent:
        """Note which delta this is; gives the event."""
        self._delta = run, step, index
        return self

    def with_ahead(self, ahead: Ahead) -> StreamEvent:
        """Note what else its reader has seen; gives the event."""
        self._ahead = dict(ahead)
        return self
