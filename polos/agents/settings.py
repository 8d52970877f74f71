"""
Checks of what programs say of an agent.

A mistake in a definition is told where it is made, with the name of the argument: an agent may be asked for the first
time hours later, in another process, and what failed there would be a run.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from pydantic import BaseModel

from polos.checking import count

__all__ = ["a_dict", "members", "not_less", "number", "part"]

_T = TypeVar("_T")


def part(name: str, value: object, kind: type[_T]) -> _T | None:
    """
    Read a setting that is an object of a class of ours, or a dict of its fields if it is a model.

    Raises:
        TypeError: it is something else.
        ValueError: a field has a value that makes no sense.
    """
    if value is None or isinstance(value, kind):
        return value
    if isinstance(value, dict) and issubclass(kind, BaseModel):
        return kind.model_validate(value)
    raise TypeError(f"{name} must be a {kind.__name__}, it is {value!r}")


def a_dict(name: str, value: object) -> dict[str, Any]:
    """Give a copy of a dict; refuse anything else but None."""
    if not isinstance(value, dict | None):
        raise TypeError(f"{name} must be a dict, it is {value!r}")
    return dict(cast("dict[str, Any]", value or {}))


def members(name: str, value: Any) -> list[Any]:
    """Give the members of a list, or of anything else that has an order; refuse what has none, and a text."""
    if value is None:
        return []
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} must be a list, it is {value!r}")
    return list(value)


def not_less(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number from 0 or from 1 on; None is no number and passes."""
    if value is None:
        return
    if least == 0 and isinstance(value, int) and value < 0:
        raise ValueError(f"{name} must not be negative, it is {value!r}")
    if least == 0 and value == 0 and value is not False:
        return
    count(name, value)


def number(name: str, value: float | None) -> None:
    """Refuse what is neither None nor a number."""
    if value is not None and (isinstance(value, bool) or not isinstance(cast("object", value), int | float)):
        raise TypeError(f"{name} must be a number, it is {value!r}")
