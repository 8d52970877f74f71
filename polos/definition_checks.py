"""What a definition is made of, checked where it is written: each refusal names its argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from pydantic import BaseModel

__all__ = ["Hook", "check_state_schema", "has_events", "read_hooks"]

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


def has_events(payload: object) -> bool:
    """Tell whether a payload holds events, as that of a run that a topic triggers does."""
    if isinstance(payload, dict):
        return "events" in payload
    return isinstance(payload, BaseModel) and "events" in type(payload).model_fields
