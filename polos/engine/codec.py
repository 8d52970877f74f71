"""
Events as bytes, and back: a type name, a schema version and a JSON object of the fields.

Fields that have their default value are left out. Each event type has a schema version; an
*upcaster* turns the JSON of version *n* into that of *n + 1*, for every version ever written, so
that `decode` gives today's class for yesterday's bytes (E7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from operator import attrgetter
from typing import Any, cast

import orjson

from polos.engine.events import EVENTS, Event, Failure
from polos.errors import StoreDamaged

__all__ = ["SCHEMA_VERSIONS", "UPCASTERS", "decode", "encode"]

Fields = dict[str, Any]

# Event type → schema version written today; 1 where nothing is said.
SCHEMA_VERSIONS: dict[str, int] = dict.fromkeys(EVENTS, 1)

# (event type, version) → what makes the JSON of the next version of it.
UPCASTERS: dict[tuple[str, int], Callable[[Fields], Fields]] = {}


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """Tell the default of each field that has one."""
    found: dict[str, Any] = {}
    for spec in fields(cls):
        if spec.default is not MISSING:
            found[spec.name] = spec.default
        elif spec.default_factory is not MISSING:
            found[spec.name] = spec.default_factory()
    return found


def _reader(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Give what reads these attributes, all at once: that is done for every event."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda event: tuple(getattr(event, name) for name in names)


# Names of the fields, what reads them, and their defaults (`MISSING` where there is none).
_Plan = tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]], tuple[Any, ...]]


def _plan(cls: type[Any]) -> _Plan:
    names, known = tuple(spec.name for spec in fields(cls)), _defaults(cls)
    return names, _reader(names), tuple(known.get(name, MISSING) for name in names)


_PLANS: dict[type[Any], _Plan] = {cls: _plan(cls) for cls in [*EVENTS.values(), Failure]}
_TUPLES: dict[type[Any], tuple[str, ...]] = {
    cls: tuple(spec.name for spec in fields(cls) if str(spec.type).startswith("tuple[")) for cls in EVENTS.values()
}
_FAILURES: dict[type[Any], bool] = {
    cls: any(spec.name == "error" and "Failure" in str(spec.type) for spec in fields(cls)) for cls in EVENTS.values()
}


def _as_fields(event: Any) -> Fields:
    """Give the fields whose value isn't the default."""
    names, read, defaults = _PLANS[type(event)]
    found: Fields = {}
    for name, value, default in zip(names, read(event), defaults, strict=True):
        # `False == 0 == 0.0`: without the type a default would swallow another value that equals it.
        if value is default or (type(value) is type(default) and value == default):
            continue
        found[name] = _as_fields(value) if type(value) is Failure else value
    return found


def encode(event: Event) -> tuple[str, int, bytes]:
    """
    Give an event's type name, schema version and JSON bytes.

    Raises:
        TypeError: a field holds what isn't JSON; values are made JSON before they enter an event.
    """
    name = type(event).__name__
    try:
        return name, SCHEMA_VERSIONS[name], orjson.dumps(_as_fields(event))
    except orjson.JSONEncodeError as error:
        message = f"{name} holds a value that isn't JSON: {error}"
        raise TypeError(message) from error


def decode(name: str, schema_version: int, payload: bytes) -> Event:
    """
    Give the event that `encode` was given.

    Raises:
        StoreDamaged: an unknown type, a version newer than this code, or bytes that are no such event.
    """
    cls = EVENTS.get(name)
    if cls is None:
        message = f"unknown event type {name!r}; it was written by a newer polos, or the record is damaged"
        raise StoreDamaged(message)
    if not 1 <= schema_version <= SCHEMA_VERSIONS[name]:
        message = f"{name} has schema version {schema_version}; this polos knows up to {SCHEMA_VERSIONS[name]}"
        raise StoreDamaged(message)
    try:
        parsed: object = orjson.loads(payload)
        if not isinstance(parsed, dict):
            raise TypeError(f"it is a {type(parsed).__name__}")
        found = cast("Fields", parsed)  # JSON has no keys but strings
        while schema_version < SCHEMA_VERSIONS[name]:
            found = UPCASTERS[name, schema_version](found)
            schema_version += 1
        return _build(cls, found)
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # JSON's, the class's, or an upcaster's
        message = f"the payload of a {name} isn't one: {error}"
        raise StoreDamaged(message) from error


def _build(cls: type[Any], found: Mapping[str, Any]) -> Event:
    values = dict(found)
    for name in _TUPLES[cls]:
        if name in values:
            values[name] = tuple(values[name])
    if _FAILURES[cls] and values.get("error") is not None:
        values["error"] = Failure(**values["error"])
    return cast("Event", cls(**values))  # the registry maps a name to the class of that union member
