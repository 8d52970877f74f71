"""
What can't become a record, or wouldn't come back as it was, and where in the value it stands.

A result that can't be recorded is a final failure of a step whose effect has happened, so the message has to be
enough to mend the program without running it again: the place (``$.items[3].price``), what stands there, what to do.

Two questions are asked. Before writing: is this JSON, exactly? `is_plain` says so quickly, and `plainly` goes over
the value again only when the answer was no, to convert what may be converted (tuples become lists, subclasses of
``str``, ``int``, ``float``, ``list`` and ``dict`` what they extend) or to find the place. After reading back:
`difference` compares part by part, because ``==`` can't be asked: it holds between ``1``, ``1.0`` and ``True``,
between an enum of strings and a string, and models and dataclasses define it as they like.

Some losses are accepted, since every program would meet them: private attributes of models and cached properties
(they aren't data), which fields of a model were set explicitly, names of time zones (the offset stays), and the
difference between tuple and list where no annotation tells.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, cast

import pydantic_core
from pydantic import BaseModel, RootModel

from polos.engine.json import Json

__all__ = ["DEPTH_MAX", "Refusal", "culprit", "difference", "dropped", "is_plain", "location", "plainly"]

# Pydantic reads JSON nested up to 200 deep, and events wrap what they carry; orjson writes 254.
DEPTH_MAX: Final = 128

_EXACT: Final = frozenset({str, int, bool, type(None)})
_ANNOTATE: Final = "say what it is in the return annotation or declared schema, or return plain JSON"
_MISSING: Final = object()


class Refusal(Exception):  # never leaves polos.values, which tells the caller whose value it was
    """A value can't be recorded: where, why, and what to do."""

    def __init__(self, path: str, why: str, remedy: str) -> None:
        """Take the place, what is wrong there, and what to do about it."""
        super().__init__(f"{path} {why}; {remedy}")
        self.path = path
        self.why = why
        self.remedy = remedy


def _under(path: str, key: object) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}"
    text = json.dumps(key) if isinstance(key, str) else repr(key)
    return f"{path}[{text if len(text) <= 80 else text[:77] + '...'}]"


def location(steps: tuple[int | str, ...]) -> str:
    """Write the place that a validator names."""
    path = "$"
    for step in steps:
        path = _under(path, step)
    return path


def is_plain(value: object, depth: int = 0) -> bool:
    """
    Tell whether a value is JSON as it stands: exact types, text keys, finite numbers, no cycle.

    Integers beyond 64 bits and text that isn't Unicode pass; the writer of JSON notices those for nothing.
    """
    kind = type(value)
    if kind in _EXACT:
        return True
    if kind is float:
        return math.isfinite(cast("float", value))
    if depth >= DEPTH_MAX:
        return False
    if kind is dict:
        for key, member in cast("dict[object, object]", value).items():
            if type(key) is not str or (type(member) not in _EXACT and not is_plain(member, depth + 1)):
                return False
        return True
    if kind is list:
        for member in cast("list[object]", value):
            if type(member) not in _EXACT and not is_plain(member, depth + 1):
                return False
        return True
    return False


# ------------------------------------------------------------------------------------- before writing


def plainly(value: object, path: str = "$", above: tuple[int, ...] = ()) -> Json:
    """
    Give the JSON of a value that needs no type to come back.

    Raises:
        Refusal: some part of it isn't JSON.
    """
    if isinstance(value, Enum):
        raise Refusal(path, f"is {value!r}, which would come back as {value.value!r}", _ANNOTATE)
    if value is None or isinstance(value, bool | str | int | float):
        return _scalar(value, path)
    if id(value) in above:
        raise Refusal(path, "holds itself", "return a tree, JSON has no cycles")
    inside, name = (*above, id(value)), _name(value)
    if len(above) >= DEPTH_MAX:
        raise Refusal(path, f"is nested deeper than {DEPTH_MAX} levels", "return something flatter")
    if isinstance(value, dict):
        return _mapping(cast("dict[object, object]", value), path, inside)
    if not _is_named_tuple(value) and isinstance(value, list | tuple):
        members = enumerate(cast("list[object]", value))
        return [plainly(member, f"{path}[{index}]", inside) for index, member in members]
    raise Refusal(path, f"is a {name}, which JSON alone doesn't bring back", _ANNOTATE)


def _scalar(value: object, path: str) -> Json:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refusal(
                path, "holds a lone surrogate, which is no Unicode text", "decode it with errors='replace'"
            ) from None
        return str.__str__(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise Refusal(path, "is an integer of more than 64 bits", "return it as text")
        return int.__int__(value)
    assert isinstance(value, float)
    if not math.isfinite(value):
        raise Refusal(path, f"is {float.__repr__(value)}, which JSON can't say", "return None or text in its place")
    return float.__float__(value)


def _mapping(value: dict[object, object], path: str, above: tuple[int, ...]) -> Json:
    plain: dict[str, Json] = {}
    for key, member in value.items():
        if not isinstance(key, str) or isinstance(key, Enum):
            raise Refusal(
                path, f"has the key {_short(key)}, and keys of JSON are text", "annotate it as dict[<type of key>, …]"
            )
        plain[cast("str", _scalar(key, _under(path, key)))] = plainly(member, _under(path, key), above)
    return plain


def _is_named_tuple(value: object) -> bool:
    return isinstance(value, tuple) and hasattr(cast("object", value), "_fields")


def culprit(value: object, path: str = "$", above: tuple[int, ...] = ()) -> str:
    """Find the innermost part of a value that Pydantic couldn't write; its own message doesn't say where."""
    parts: list[tuple[str, object, bool]] = []
    inside = (*above, id(value))
    if isinstance(value, BaseModel):
        parts = [(_field(value, path, name), part, _fails(value, name)) for name, part in _fields_of(value).items()]
    elif dataclasses.is_dataclass(value):
        parts = [(_under(path, name), part, _fails(part)) for name, part in _fields_of(value).items()]
    elif isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        parts = [(_under(path, key), part, _fails(part)) for key, part in items]
    elif isinstance(value, list | tuple):
        members = enumerate(cast("list[object]", value))
        parts = [(f"{path}[{index}]", part, _fails(part)) for index, part in members]
    guilty = next(((place, part) for place, part, fails in parts if fails), None)
    if guilty is None or len(above) >= DEPTH_MAX:
        return path
    place, part = guilty
    return place if id(part) in inside else culprit(part, place, inside)


def _fails(value: object, field: str | None = None) -> bool:
    try:
        if field is None:
            pydantic_core.to_jsonable_python(value, by_alias=True)
        else:
            cast("BaseModel", value).model_dump(mode="json", include={field}, warnings=False)
    except Exception:  # noqa: BLE001  # serializers are the program's own; that one raised is what is asked
        return True
    return False


# --------------------------------------------------------------------------------- after reading back


def difference(before: object, after: object, path: str = "$") -> Refusal | None:
    """Give the first place where what was read back isn't what was written, or None."""
    kind, known = type(before), type(after)
    if before is after or (kind is known and kind in _EXACT):
        return None if before == after else _changed(before, after, path)
    if kind is not known and not _stands_for(before, after):
        return _changed(before, after, path)
    if isinstance(before, BaseModel):
        # One dict of declared and extra fields would read better, and take longer than the comparison.
        left, right = before.__dict__, cast("BaseModel", after).__dict__
        found = _first(type(before).__pydantic_fields__, left, right, before, path)
        extra = before.__pydantic_extra__
        again = cast("BaseModel", after).__pydantic_extra__ or {}
        return found or (_first(extra, extra, again, before, path) if extra else None)
    if dataclasses.is_dataclass(before) and not isinstance(before, type):
        left, right = _fields_of(before), _fields_of(after)
        return _first(left, left, right, before, path)
    if isinstance(before, dict):
        return _mappings(cast("dict[object, object]", before), cast("dict[object, object]", after), path)
    if isinstance(before, list | tuple | deque):
        return _members(cast("list[object]", before), cast("list[object]", after), path)
    return None if _same(before, after) else _changed(before, after, path)


def _mappings(left: dict[object, object], right: dict[object, object], path: str) -> Refusal | None:
    if len(left) < len(right):
        return Refusal(path, "comes back with more keys", "correct its serializer")
    special = [key for key in left if type(key) is not str and key in right]
    if special:
        # A dict finds what is equal, and an enum of numbers is equal to numbers.
        keys = {key: key for key in right}
        for key in special:
            refusal = difference(key, keys[key], _under(path, key))
            if refusal is not None:
                return refusal
    return _first(left, left, right, None, path)


def _first(
    names: Iterable[Any], left: Mapping[Any, object], right: Mapping[Any, object], owner: object, path: str
) -> Refusal | None:
    """Compare what has names; a place is written only for what needs a closer look, as nearly nothing does."""
    for name in names:
        before, after = left.get(name), right.get(name, _MISSING)
        if before is after or (type(before) in _EXACT and type(before) is type(after) and before == after):
            continue
        place = _field(owner, path, name)
        found = _lost(before, place) if after is _MISSING else difference(before, after, place)
        if found is not None:
            return found
    return None


def _members(left: Sequence[object], right: Sequence[object], path: str) -> Refusal | None:
    if len(left) != len(right):
        return Refusal(path, f"has {len(left)} members and comes back with {len(right)}", "correct its annotation")
    for index, (before, after) in enumerate(zip(left, right, strict=True)):
        if before is after or (type(before) in _EXACT and type(before) is type(after) and before == after):
            continue
        found = difference(before, after, f"{path}[{index}]")
        if found is not None:
            return found
    return None


def _lost(before: object, path: str) -> Refusal:
    return Refusal(path, f"is {_short(before)} and doesn't come back", "declare it in the type, not excluded")


def _changed(before: object, after: object, path: str) -> Refusal:
    if isinstance(before, float) and not math.isfinite(before):
        why = f"is {before}, which JSON can't say"
    elif type(before) is type(after):
        why = f"is {_short(before)} and comes back as {_short(after)}"
    else:
        why = f"is a {_name(before)} and comes back as a {_name(after)}"
    remedy = "correct its annotation or serializer (a field that is excluded, an alias that only one side knows)"
    return Refusal(path, why, remedy)


def _stands_for(before: object, after: object) -> bool:
    """Tell whether a change of type is one that `plainly` makes too, or that a declared float makes of an int."""
    known = type(after)
    if isinstance(before, Enum | bool):
        return False
    if known is list:
        return not _is_named_tuple(before) and isinstance(before, list | tuple)
    if known is float and isinstance(before, int):
        return True
    return known in (str, int, float, dict, set, frozenset) and isinstance(before, known)


def _same(before: object, after: object) -> bool:
    if isinstance(before, float) and before != before:  # noqa: PLR0124  # NaN alone isn't equal to itself
        return after != after  # noqa: PLR0124
    if isinstance(before, dt.datetime | dt.time):
        return before == after and before.utcoffset() == cast("dt.datetime", after).utcoffset()
    if isinstance(before, set | frozenset):
        # As with keys: members are found by what is equal to them.
        left, right = cast("set[object]", before), cast("set[object]", after)
        if sum(isinstance(one, Enum | bool) for one in left) != sum(isinstance(one, Enum | bool) for one in right):
            return False
    try:
        return bool(before == after)
    except Exception:  # noqa: BLE001  # equality is the program's own: arrays have no truth
        return False


def _fields_of(value: object) -> dict[str, object]:
    if isinstance(value, BaseModel):
        state = value.__dict__
        fields: dict[str, object] = {name: state.get(name) for name in type(value).__pydantic_fields__}
        fields.update(value.__pydantic_extra__ or {})
        return fields
    return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(cast("Any", value))}


def _field(value: object, path: str, name: str) -> str:
    return path if isinstance(value, RootModel) else _under(path, name)


def dropped(before: object, after: object, path: str = "$") -> Refusal | None:
    """
    Give the first key that a reading left out of a dict that stayed a dict, or None.

    A model is asked for by name and decides itself what of the JSON it takes. A TypedDict is a dict like any other,
    may hold more keys than it declares, and must not lose them.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        left, right = cast("dict[object, object]", before), cast("dict[object, object]", after)
        if len(right) < len(left):
            return Refusal(path, "has keys that its annotation doesn't", "declare them")
        # Keys may have become numbers or dates; those dicts are read in order.
        keyed = right.keys() == left.keys()
        pairs = [(_under(path, key), left[key], right[key]) for key in left] if keyed else []
    elif isinstance(before, list) and isinstance(after, list):
        members = zip(cast("list[object]", before), cast("list[object]", after), strict=False)
        pairs = [(f"{path}[{index}]", *both) for index, both in enumerate(members)]
    else:
        return None
    return next((found for place, one, other in pairs if (found := dropped(one, other, place))), None)


def _name(value: object) -> str:
    return type(value).__qualname__


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # a repr is the program's own, and this is a message about another error
        text = f"<{_name(value)}>"
    return text if len(text) <= 80 else text[:77] + "..."
