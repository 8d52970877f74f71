"""
Arguments of a step: what is recorded of them, and what the step is given.

Arguments aren't recorded. Replay runs the code again, which makes them again; the log keeps a digest, so that a
check can say "this step was called with something else" without the log holding every prompt twice. A digest must
come out the same in another process, so sets are sorted and nothing of it depends on an address or a hash seed.

A step gets copies. Live, it would otherwise change lists and models that the workflow goes on using, and in replay,
where the step doesn't run, they would stay unchanged. Copies keep every type (a tuple stays a tuple, a private
attribute stays), as nothing here is written down. Objects that aren't data (clients, connections, functions) are
passed as they are, also from within a list or a model: copying them would break them.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import hashlib
from array import array
from collections import OrderedDict, defaultdict, deque
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, cast
from uuid import UUID

import orjson
from pydantic import BaseModel

from polos.errors import ValueRefused
from polos.value_checks import DEPTH_MAX, is_plain
from polos.value_types import shape_of, type_path

__all__ = ["copy_arguments", "digest_arguments"]

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_CONTAINERS: Final = frozenset({list, dict, set, defaultdict, OrderedDict, deque})
_BUFFERS: Final = frozenset({bytearray, array})
# A level of the value is up to three levels of its stand-in, and orjson writes 254.
_DIGEST_DEPTH_MAX: Final = 64
_TEXTUAL: Final = (dt.date, dt.time, dt.timedelta, Decimal, UUID, PurePath)


def digest_arguments(args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """
    Give the SHA-256, in hex, of the arguments of a call.

    Args:
        args: the positional arguments.
        kwargs: the named ones; their order doesn't count.

    Returns:
        64 hexadecimal digits, the same in every process. What is neither JSON nor Pydantic nor one of the plain
        values of the standard library enters by the name of its type. Never raises.
    """
    if all(map(is_plain, args)) and all(map(is_plain, kwargs.values())):
        try:
            return _sha256([args, kwargs])
        except TypeError:  # a number or a text beyond JSON
            pass
    return _sha256([[_canonical(value, ()) for value in args], _canonical(kwargs, ())])


def _sha256(tree: object) -> str:
    return hashlib.sha256(orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _canonical(value: object, above: tuple[int, ...]) -> object:
    """Turn a value into JSON that is itself for JSON, and a tagged stand-in for anything else."""
    if value is None or type(value) in _SCALARS:
        return _canonical_scalar(value)
    if id(value) in above or len(above) >= _DIGEST_DEPTH_MAX:
        return _tagged("cut", type_path(type(value)))
    above = (*above, id(value))
    if isinstance(value, list | tuple):
        return [_canonical(member, above) for member in cast("list[object]", value)]
    if isinstance(value, dict):
        return _canonical_dict(cast("dict[object, object]", value), above)
    if isinstance(value, set | frozenset):
        members = [_canonical(member, above) for member in cast("set[object]", value)]
        return _tagged("set", sorted(members, key=_sort_key))
    if isinstance(value, Enum):
        return _tagged(type(value).__qualname__, value.name)
    if isinstance(value, _TEXTUAL):
        return _tagged(type(value).__qualname__, _canonical_scalar(str(value)))
    if isinstance(value, bytes | bytearray):
        return _tagged("bytes", value.hex())
    return _canonical_object(value, above)


def _canonical_scalar(value: object) -> object:
    try:
        orjson.dumps(value)
    except TypeError:
        return _tagged(type(value).__name__, ascii(value))
    return _tagged("float", repr(value)) if type(value) is float and not is_plain(value) else value


def _canonical_dict(value: dict[object, object], above: tuple[int, ...]) -> object:
    pairs = [[_canonical(key, above), _canonical(member, above)] for key, member in value.items()]
    if all(type(key) is str for key, _ in pairs):
        return dict(cast("list[tuple[str, object]]", pairs))
    return _tagged("dict", sorted(pairs, key=_sort_key))


def _canonical_object(value: object, above: tuple[int, ...]) -> object:
    """Enter a model or dataclass by its fields, and anything else by its type."""
    kind = type(value)
    # Not by what it would be written as: Pydantic writes sets in the order of their hashes.
    if isinstance(value, BaseModel):
        fields = {name: vars(value).get(name) for name in type(value).__pydantic_fields__}
        return _tagged(kind.__qualname__, _canonical({**fields, **(value.__pydantic_extra__ or {})}, above))
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return _tagged(kind.__qualname__, _canonical({name: getattr(value, name, None) for name in names}, above))
    return _tagged("object", type_path(kind))


def _tagged(kind: str, value: object) -> dict[str, object]:
    return {f"polos:{kind}": value}


def _sort_key(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


# ----------------------------------------------------------------------------------------------- copies


def copy_arguments(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
    """
    Give a step its own arguments.

    Args:
        args: the positional arguments.
        kwargs: the named ones.

    Returns:
        The same with every list, tuple, dict, set, deque, bytearray, array, Pydantic model and dataclass of data
        copied, however deep; what stood in two places still is one object in both. Other objects, those of subclasses
        among them, are the ones that were passed: they may be clients or connections.

    Raises:
        ValueRefused: the arguments are nested deeper than the limit.
    """
    kinds = set(map(type, args))
    if kwargs:
        kinds.update(map(type, kwargs.values()))
    if kinds <= _SCALARS:
        return args, dict(kwargs)
    made: dict[int, object] = {}
    return (
        tuple([_copied(value, made, 0) for value in args]),
        {name: _copied(value, made, 0) for name, value in kwargs.items()},
    )


def _copied(value: Any, made: dict[int, object], depth: int) -> Any:
    kind = cast("type[object]", type(value))
    if kind in _SCALARS:
        return value
    known = made.get(id(value))
    if known is not None:
        return known
    if depth > DEPTH_MAX:
        raise ValueRefused(f"an argument is nested deeper than {DEPTH_MAX} levels; pass something flatter")
    deeper = depth + 1
    if kind is tuple:
        members = tuple([_copied(member, made, deeper) for member in value])
        made[id(value)] = members
        return members
    if kind in _CONTAINERS:
        return _copied_container(value, made, deeper)
    if kind in _BUFFERS:
        buffer = made[id(value)] = copy.copy(value)
        return buffer
    if isinstance(value, BaseModel):
        return _copied_model(value, made, deeper)
    # A dataclass that Pydantic can't describe holds something that isn't data: a client, a connection.
    if dataclasses.is_dataclass(kind) and shape_of(kind) is not None:
        return _copied_dataclass(value, made, deeper)
    return value


def _copied_container(value: Any, made: dict[int, object], depth: int) -> object:
    kind = cast("type[object]", type(value))
    # Registered before it is filled, so that what holds itself does so in the copy.
    twin = made[id(value)] = copy.copy(value)
    if kind is list:
        twin[:] = [_copied(member, made, depth) for member in twin]
    elif kind is deque:
        members = [_copied(member, made, depth) for member in twin]
        twin.clear()
        twin.extend(members)
    elif kind is not set:
        for key in twin:
            twin[key] = _copied(twin[key], made, depth)
    return twin


def _copied_model(model: BaseModel, made: dict[int, object], depth: int) -> BaseModel:
    twin = model.model_copy()
    made[id(model)] = twin
    # Past `__setattr__`, which refuses for frozen models and validates for others.
    states: list[dict[str, Any] | None] = [vars(twin), twin.__pydantic_extra__, twin.__pydantic_private__]
    for state in states:
        if state is not None:
            for name, member in state.items():
                state[name] = _copied(member, made, depth)
    return twin


def _copied_dataclass(value: Any, made: dict[int, object], depth: int) -> object:
    twin: object = copy.copy(value)
    made[id(value)] = twin
    for field in dataclasses.fields(value):
        if hasattr(value, field.name):
            object.__setattr__(twin, field.name, _copied(getattr(value, field.name), made, depth))
    return twin
