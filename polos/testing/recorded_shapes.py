"""
Whether a recorded event has fields of the types that its class says.

The engine doesn't ask this: it reads what it has written itself, and whose digest it has compared. A recording is a
file that people edit and have sealed again, so a value of another type is their slip, and has to be told as one,
instead of as an error somewhere in the replay.
"""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

__all__ = ["misfit"]


def misfit(event: Any) -> str | None:
    """Name the first field whose value isn't of its type; None if all are."""
    for name, hint in _hints(event.__class__).items():
        value = getattr(event, name)
        if not _fits(value, hint):
            return f"{name} can't be {value!r:.100}"
    return None


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    found = get_type_hints(cls)
    return {field.name: found[field.name] for field in fields(cls)}


def _fits(value: object, hint: Any) -> bool:
    """Tell whether a value is of a type; JSON may be anything, and so may what isn't understood here."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is tuple:
        of = get_args(hint)[0]
        return isinstance(value, tuple) and all(_fits(one, of) for one in cast("tuple[object, ...]", value))
    if hint in (None, types.NoneType):
        return value is None
    if hint in (int, str, bool):
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    if isinstance(hint, type) and is_dataclass(hint):
        return isinstance(value, hint) and misfit(value) is None
    return True
