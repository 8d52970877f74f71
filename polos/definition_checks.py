"""What a definition is made of, checked where it is written: each refusal names its argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from pydantic import BaseModel

__all__ = ["Hook", "check_events", "check_state_schema", "read_hooks"]

Hook = Callable[..., Any]


def read_hooks(name: str, value: Hook | Sequence[Hook] | None) -> list[Hook]:
    """
    Give hooks as a list.

    Args:
        name: of the argument, for the error.
        value: a hook, a list of hooks, or None.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return []
    found = list(cast("Sequence[Hook]", value)) if isinstance(value, list | tuple) else [cast("Hook", value)]
    for hook in found:
        if not callable(cast("object", hook)):
            raise TypeError(f"{name} must be a hook or a list of hooks, it holds {hook!r}")
    return found


def check_state_schema(schema: object) -> None:
    """Refuse a state schema that is no model."""
    if schema is not None and not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        raise TypeError(f"state_schema must be a Pydantic model, it is {schema!r}")


def check_events(workflow: str, payload: object, *, batched: bool) -> None:
    """
    Refuse a payload that no topic would start a run with.

    Args:
        workflow: id of a workflow that a topic triggers.
        payload: what somebody gives it by hand: events in a list, or the event itself where there are no batches.
        batched: whether there are.
    """
    fields: Iterable[object] = cast("dict[object, object]", payload) if isinstance(payload, dict) else ()
    if isinstance(payload, BaseModel):
        fields = type(payload).model_fields
    if "events" in fields or (not batched and set(fields) >= _EVENT):
        return
    one = "" if batched else ", or be an event with its id, sequence_id, topic, event_type, data and created_at"
    raise ValueError(f"workflow {workflow!r} is triggered by events: its payload must have 'events'{one}")


_EVENT = {"id", "sequence_id", "topic", "event_type", "data", "created_at"}
