"""
The public view of the log: which events a stream shows for a record, and under which number.

A stream isn't recorded, it is read off the log, so it can be read again from anywhere. A record gives
no, one or several public events; their `sequence_id` is the record's position times 4096 plus the place
within the record, which leaves room for a chunk of many deltas and keeps every number ever handed out
good for going on.

What happened inside an attempt that was retried is shown as it happened: the start of a run only once.
A handle stays the same through `continue_as_new`, so the successors' events name the run that began.
"""

from __future__ import annotations

from typing import Any, Final, cast

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.json import Json
from polos.runtime.deltas import Preview
from polos.runtime.reads import rfc3339
from polos.store.log import Position, Record
from polos.types.events import StreamEvent

__all__ = [
    "EVENTS_A_RECORD_MAX",
    "RunInfo",
    "archived_event",
    "position_of",
    "preview_event",
    "public_events",
    "sequence_id",
    "workflow_topic",
]

EVENTS_A_RECORD_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """
    What the view needs of the run that a record belongs to.

    Attributes:
        run: the run.
        handle: the run as callers know it: itself, or the first of those that it continues.
        workflow: its workflow.
        kind: "workflow", "agent" or "tool".
        root: the root of its tree.
        root_workflow: the root's workflow.
    """

    run: str
    handle: str
    workflow: str
    kind: str
    root: str
    root_workflow: str

    @property
    def topic(self) -> str:
        """The topic of its tree."""
        return workflow_topic(self.root_workflow, self.root)


def workflow_topic(workflow: str, root: str) -> str:
    """Give the topic of a tree of runs."""
    return f"workflow/{workflow}/{root}"


def sequence_id(position: int, index: int = 0) -> int:
    """Give the number of the public event at a place within a record."""
    assert 0 <= index < EVENTS_A_RECORD_MAX, "a record has at most 4096 public events"
    return position * EVENTS_A_RECORD_MAX + index


def position_of(sequence: int) -> Position:
    """Give the position of the record that a public event belongs to."""
    return Position(sequence // EVENTS_A_RECORD_MAX)


def public_events(
    record: Record, event: e.Event, info: RunInfo | None, *, api_url: str = "", payload: Json = None
) -> list[StreamEvent]:
    """
    Give the public events of a record.

    Args:
        record: the record.
        event: its event.
        info: the run it belongs to; None for a record of a topic.
        api_url: where the approval pages of `suspend_…` events are.
        payload: the input of the run, for its start.
    """
    if isinstance(event, e.EventPublished):
        return [_stream_event(record, 0, event.topic, event.event_type, event.data, id=event.event_id)]
    if info is None:
        return []
    metadata: dict[str, Json] = {"execution_id": info.handle, "workflow_id": info.workflow}
    found = [
        *_of_run(event, info, metadata, payload),
        *_of_step(event, metadata),
        *_of_wait(event, info, metadata, api_url),
        *_of_chunk(event, metadata),
    ]
    # What stands for pruned deltas has the number of the last of them, so that who resumes among them is told, too.
    begin = event.pruned - 1 if isinstance(event, e.StreamChunk) and event.pruned else 0
    shown = [_stream_event(record, index, info.topic, kind, data) for index, (kind, data) in enumerate(found, begin)]
    if isinstance(event, e.StreamChunk) and not event.pruned:
        for index, delta in enumerate(shown, start=event.first_index):
            delta.of_delta(info.run, event.name, index)
    return shown


def preview_event(preview: Preview, info: RunInfo, *, after: int) -> StreamEvent:
    """
    Give the public event of a delta that isn't durable yet.

    Args:
        preview: the delta.
        info: the run that sent it.
        after: the number of the event that the reader saw last.
    """
    chunk = e.StreamChunk(
        name=preview.step, attempt=preview.attempt, first_index=preview.index, deltas=(preview.delta,)
    )  # fmt: skip
    ((kind, data),) = _of_chunk(chunk, {"execution_id": info.handle, "workflow_id": info.workflow})
    event = StreamEvent(
        id=f"{preview.run}/{preview.step}/{preview.index}",
        sequence_id=after,
        topic=info.topic,
        event_type=kind,
        data=data,
        created_at=rfc3339(preview.time_us),
        preview=True,
    )
    return event.of_delta(preview.run, preview.step, preview.index)


def archived_event(first: Position, following: Record) -> StreamEvent:
    """
    Give what stands in the stream of everything for records that were archived.

    Args:
        first: position of the first of them.
        following: the record behind the last of them.
    """
    last = following.position - 1
    data = {"first_sequence_id": sequence_id(first), "last_sequence_id": sequence_id(following.position) - 1}
    return StreamEvent(
        id=f"{last}-archived",
        sequence_id=sequence_id(last, EVENTS_A_RECORD_MAX - 1),
        topic="archive",
        event_type="archived",
        data={**data, "records": following.position - first},
        created_at=rfc3339(following.time_us),
    )


_Shown = list[tuple[str, Any]]  # event type and data, which is JSON


def _of_run(event: e.Event, info: RunInfo, metadata: dict[str, Json], payload: Json) -> _Shown:
    match event:
        case e.RunStarted(attempt=1) if info.handle == info.run:
            return [(f"{info.kind}_start", {"payload": payload, "_metadata": metadata})]
        case e.RunCompleted():
            return [(f"{info.kind}_finish", {"result": event.result, "_metadata": metadata})]
        case e.RunFailed():
            error = event.error
            failed = {"error": error.message, "error_type": error.type, "_metadata": metadata}
            return [(f"{info.kind}_failed", failed)]
        case e.RunReopened():
            return [(f"{info.kind}_retried", {"retried_by": event.by, "_metadata": metadata})]
        case e.RunCancelled():
            return [(f"{info.kind}_cancelled", {"cancelled_by": event.by, "_metadata": metadata})]
        case _:
            return []


def _of_step(event: e.Event, metadata: dict[str, Json]) -> _Shown:
    data: Any
    match event:
        case e.StepScheduled():
            kind, data = "step_start", {"func": event.function}
        case e.StepCompleted():
            kind, data = "step_finish", {"result": event.value}
        case e.StepResolved(outcome="completed"):
            kind, data = "step_finish", {"result": event.value}
        case e.StepFailed():
            kind, data = "step_failed", {"error": event.error.message, "error_type": event.error.type}
        case _:
            return []
    return [(kind, {"step_key": event.name, "step_type": "run", "data": data, "_metadata": metadata})]


def _of_wait(event: e.Event, info: RunInfo, metadata: dict[str, Json], api_url: str) -> _Shown:
    match event:
        case e.WaitStarted(kind="suspend"):
            data: Any = event.data
            if isinstance(data, dict):
                # An answer given at this address reaches the oldest wait of the key in the tree (D30); who wants
                # to answer this very wait resumes the run that `_metadata` names with the step it names.
                data = {
                    **cast("dict[str, Json]", data),
                    "_approval_url": f"{api_url}/approve/{info.root}/{event.key}",
                    "_metadata": {**metadata, "execution_id": info.run, "step_key": event.name},
                }
            return [(f"suspend_{event.key}", data)]
        case e.WaitSatisfied(kind="suspend"):
            return [(f"resume_{event.key}", event.data)]
        case _:
            return []


def _of_chunk(event: e.Event, metadata: dict[str, Json]) -> _Shown:
    """Give the deltas of a chunk: objects with `event_type` and what else the reader is to see."""
    if not isinstance(event, e.StreamChunk):
        return []
    found: _Shown = []
    for index, delta in enumerate(event.deltas, start=event.first_index):
        assert isinstance(delta, dict), "a delta is a JSON object"
        data = {name: value for name, value in delta.items() if name != "event_type"}
        known_as: dict[str, Json] = {"step_key": event.name, "attempt": event.attempt, "chunk_index": index}
        shown = {"step": event.name, **data, **known_as, "_metadata": metadata}
        found.append((str(delta.get("event_type", "delta")), shown))
    if event.pruned:
        said = {"step": event.name, "step_key": event.name, "attempt": event.attempt, "count": event.pruned}
        found.append(("deltas_pruned", {**said, "chunk_index": event.first_index, "_metadata": metadata}))
    return found


def _stream_event(
    record: Record, index: int, topic: str, kind: str | None, data: Any, *, id: str | None = None
) -> StreamEvent:
    number = sequence_id(record.position, index)
    # Whoever reads on, reads the same: the id of an event that has none of its own follows from its place.
    return StreamEvent(
        id=id or f"{record.position}-{index}",
        sequence_id=number,
        topic=topic,
        event_type=kind,
        data={} if data is None else data,
        created_at=rfc3339(record.time_us),
    )
