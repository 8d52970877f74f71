"""
Values of the program as JSON, and back.

The rule that everything here serves: **the program gets the decoded record, always.** What a step returned is
written, read again from what was written, and only then handed to the workflow, so a run that is replayed years
later sees what the run saw when it was live, down to tuples that are lists. `encode` therefore gives two things, the
record and what was read from it, and reads with the very code that `decode` uses.

From this follows what is refused. A value that comes back different would make the workflow see something that the
step didn't return, so `encode` compares the two part by part and names the first place that differs, rather than
trusting that a model which can be written can be read.

What a value was is found by the hint (declared schema or return annotation) first and by the recorded path second,
because a hint is the program of today and a path that of another day. One exception: a path to a narrower type than
the hint (the ``Dog`` of ``-> Animal``, the one member of ``-> Cat | Dog``) says more than the hint, and is followed.
A plain value under a hint that means more is read through the hint (a dict becomes the model), as a schema
would. If it doesn't fit it stays what it is, since an annotation that lies is no reason to lose a result, and
`PLAIN` is recorded as its type so that it stays so in every later reading.

Most values are scalars and small dicts, and the time of a step is theirs: they are checked, written and read without
meeting a validator.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import GenericAlias
from typing import Final, cast

import orjson
from pydantic import ValidationError

from polos.arguments import copy_arguments, digest_arguments
from polos.data_class import dataclass
from polos.engine.json import Json
from polos.errors import ValueRefused
from polos.value_checks import Refusal, culprit, difference, dropped, is_plain, location, plainly
from polos.value_types import Shape, admits, is_data_class, resolve_path, return_hint, shape_of, type_path

__all__ = [
    "PLAIN",
    "Encoded",
    "ValueRefused",
    "copy_arguments",
    "decode",
    "digest_arguments",
    "encode",
    "return_hint",
    "type_path",
]

logger: Final = logging.getLogger("polos.values")

# The recorded type of plain JSON that didn't fit its hint. No path looks like it: paths have a dot.
PLAIN: Final = "json"

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Encoded:
    """
    A value as it goes into the log.

    Attributes:
        value: the JSON; no part of it is shared with the program's value.
        type: path of its type, ``module.Class``, ``list[module.Class]`` or ``dict[str, module.Class]``; None for
            plain JSON and for what only the hint can bring back; `PLAIN` for plain JSON that didn't fit the hint.
        size_bytes: length as UTF-8 text.
    """

    value: Json
    type: str | None
    size_bytes: int


def encode(
    value: object, *, hint: object = None, bytes_max: int | None = None, what: str = "result"
) -> tuple[Encoded, object]:
    """
    Make a record of a value, and read it back.

    Args:
        value: JSON, Pydantic models, dataclasses, enums; with a hint whatever Pydantic can write and read again.
        hint: declared schema or return annotation; None if there is none.
        bytes_max: the longest record that is taken, as UTF-8 text.
        what: how the message of an error calls the value.

    Returns:
        The record, and the value that the program is to see: what `decode` gives for this record, type and hint.

    Raises:
        ValueRefused: the value can't be written, would come back different, or is over the limit.
    """
    shape = None if hint is None else shape_of(hint)
    decoded: object
    try:
        if shape is None and is_plain(value):
            data, path = _written(value), None
            record, decoded = _fresh(value, data), _fresh(value, data)
        else:
            data, path, decoded = _draft(value, hint, shape)
            record = orjson.loads(data)
    except Refusal as refusal:
        raise ValueRefused(f"the {what} can't be recorded: {refusal}", path=refusal.path) from refusal
    if bytes_max is not None and len(data) > bytes_max:
        size = f"has {len(data):,} bytes as JSON and the limit is {bytes_max:,}"
        raise ValueRefused(f"the {what} {size}; keep it in a file or store of your own and return where it is")
    return Encoded(record, path, len(data)), decoded


def decode(value: Json, *, hint: object = None, type: str | None = None) -> object:
    """
    Read a value from its record.

    Args:
        value: the JSON. What is given back shares no part of it.
        hint: declared schema or return annotation; comes first.
        type: the recorded path; comes second, or first if it names a narrower type.

    Returns:
        The value. Plain JSON if nothing says more, or if there is no hint and the path leads nowhere any more
        (which is logged, once for each path).

    Raises:
        ValueRefused: the record doesn't fit the hint or, without one, the type that it names.
    """
    shape = None if hint is None or type == PLAIN else shape_of(hint)
    try:
        if shape is None and (type is None or type == PLAIN):
            return value if value.__class__ in _SCALARS else orjson.loads(orjson.dumps(value))
        found = None if type is None else resolve_path(type)
        return _read(orjson.dumps(value), hint, shape, type, found)
    except Refusal as refusal:
        raise ValueRefused(f"the recorded value can't be read: {refusal}", path=refusal.path) from refusal


# ---------------------------------------------------------------------------------------------- writing

_Draft = tuple[bytes, str | None, object]


def _draft(value: object, hint: object, shape: Shape | None) -> _Draft:
    """
    Write a value in the first way in which it comes back unchanged.

    The order of the ways is that of `_read`: what is tried first here wins there.
    """
    own_hint = _own_hint(value)
    own = None if own_hint is None else shape_of(own_hint)
    if own_hint is not None and own is None and shape is None:
        name = getattr(own_hint, "__qualname__", str(own_hint))
        raise Refusal("$", f"is a {name}, which Pydantic can't describe", "give its fields types that Pydantic knows")
    ways: list[Callable[..., _Draft]] = [] if own is None else [_through]
    if shape is not None:
        # Its own type comes last if it isn't one that the hint allows.
        ways.insert(0 if own is None or not admits(hint, own_hint) else 1, _through_hint)
    first_refusal: Refusal | None = None
    for way in (*ways, _plain_draft):
        try:
            return way(value, own, hint, shape)
        except Refusal as refusal:
            first_refusal = first_refusal or refusal
    assert first_refusal is not None
    raise first_refusal


def _own_hint(value: object) -> object:
    """Give the type that a value has by itself: its class, or the one class of its members."""
    kind = type(value)
    if is_data_class(kind):
        return kind
    if kind in (list, tuple, dict) and value:
        items = cast("dict[object, object]", value)
        members: list[object] = list(items.values()) if kind is dict else list(cast("list[object]", value))
        member = type(members[0])
        if is_data_class(member) and all(type(one) is member for one in members):
            if kind is not dict:
                return GenericAlias(list, (member,))
            if all(type(key) is str for key in items):
                return GenericAlias(dict, (str, member))
    return None


def _through(value: object, way: Shape, hint: object, shape: Shape | None) -> _Draft:
    """Write a value as one of a type, and see what comes back."""
    data = _dumped(way, value)
    found = None if way.path is None else resolve_path(way.path)
    if shape is None and found != way.hint:
        raise Refusal(
            "$",
            f"is a {getattr(way.hint, '__qualname__', way.hint)}, which can't be found again as {way.path}",
            "define the class at the top level of a module, or name it in the return annotation",
        )
    decoded = _read(data, hint, shape, way.path, found)
    refusal = difference(value, decoded)
    if refusal is not None:
        raise refusal
    return data, way.path, decoded


def _through_hint(value: object, _own: Shape | None, hint: object, shape: Shape) -> _Draft:
    """Write a value as what the hint says that it is, after reading plain JSON through the hint."""
    if not is_plain(value):
        return _through(value, shape, hint, shape)
    try:
        converted = shape.convert(value)
    except Exception as error:  # validators are the program's own, and raise whatever they like
        raise _misfit(error) from error
    refusal = dropped(value, converted)
    if refusal is not None:
        raise refusal
    own_hint = _own_hint(converted)
    own = None if own_hint is None or not admits(hint, own_hint) else shape_of(own_hint)
    return _through(converted, own or shape, hint, shape)


def _plain_draft(value: object, _own: Shape | None, hint: object, shape: Shape | None) -> _Draft:
    plain = plainly(value)
    if shape is not None and not is_plain(value):
        # A tuple under a hint fares like the list that it becomes.
        try:
            return _through_hint(plain, None, hint, shape)
        except Refusal:
            pass
    data = orjson.dumps(plain)
    return data, None if shape is None else PLAIN, orjson.loads(data)


def _written(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a number or a text beyond JSON: the second look finds the place
        return orjson.dumps(plainly(value))


def _fresh(value: object, data: bytes) -> Json:
    """Give plain JSON anew, unless it is a scalar, which nobody can change."""
    return cast("Json", value) if type(value) in _SCALARS else orjson.loads(data)


def _dumped(shape: Shape, value: object) -> bytes:
    try:
        jsonable = shape.dump(value)
    except Exception as error:  # serializers are the program's own, and raise whatever they like
        why = "holds itself" if "Circular reference" in str(error) else f"can't be written as JSON ({error})"
        raise Refusal(culprit(value), why, "give the field a serializer, or leave it out of the result") from error
    return _written(jsonable)


# ---------------------------------------------------------------------------------------------- reading


def _read(data: bytes, hint: object, shape: Shape | None, path: str | None, found: object) -> object:
    """Read by the narrower of hint and path, else by the hint, else by the path, else plainly."""
    recorded = None if found is None else shape_of(found)
    if recorded is not None and (shape is None or admits(hint, found)):
        return _validated(recorded, data)
    if shape is None:
        _notice(str(path))
        return orjson.loads(data)
    try:
        return _validated(shape, data)
    except Refusal:
        if recorded is None:
            raise
        return _validated(recorded, data)


def _validated(shape: Shape, data: bytes) -> object:
    try:
        return shape.read(data)
    except Exception as error:  # validators are the program's own, and raise whatever they like
        raise _misfit(error) from error


def _misfit(error: Exception) -> Refusal:
    remedy = "a type must read what it wrote: look at aliases, excluded fields, serializers and validators"
    if not isinstance(error, ValidationError):
        return Refusal("$", f"can't be read ({type(error).__name__}: {error})", remedy)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return Refusal(location(first["loc"]), f"doesn't fit {error.title}: {first['msg']}", remedy)


@functools.lru_cache(maxsize=1_024)
def _notice(path: str) -> None:
    """Say once for each path that it leads nowhere; a long history would say it for every record."""
    logger.warning("the recorded type %s can't be found; its values are given as plain JSON", path)
