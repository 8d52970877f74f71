"""
Digests and copies of the arguments of a step.

A digest must not depend on the process, so part of it is made in two processes with different hash seeds. Copies must
be independent where the step could change something, and the very object where a copy would be no use.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import hashlib
import itertools
import math
import os
import subprocess
import sys
import threading
import uuid
from array import array
from collections import OrderedDict, defaultdict, deque
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from polos.errors import ValueRefused
from polos.values import copy_arguments, digest_arguments
from pydantic import BaseModel, ConfigDict, PrivateAttr, field_serializer

from tests.ids import stable_id


class Color(enum.Enum):
    """An enum."""

    RED = "red"
    BLUE = "blue"


class Basket(BaseModel):
    """A model with everything that a copy has to reach."""

    model_config = ConfigDict(extra="allow", frozen=True, arbitrary_types_allowed=True)
    items: list[Any] = []
    lock: Any = None
    _seen: list[int] = PrivateAttr(default_factory=list)


class Plain(BaseModel):
    """A model with nothing but fields."""

    items: list[Any] = []


class Failing(BaseModel):
    """A model that can't be written."""

    n: int = 1

    @field_serializer("n")
    def fail(self, n: int) -> int:
        """Fail."""
        raise RuntimeError("no luck")


@dataclasses.dataclass(slots=True)
class Data:
    """A dataclass of data."""

    items: list[int]
    late: int = dataclasses.field(init=False)


@dataclasses.dataclass
class Service:
    """A dataclass of something that isn't data."""

    lock: threading.Lock
    calls: list[int]


class Opaque:
    """Something that isn't data."""


def digest(*args: object, **kwargs: object) -> str:
    """Give the digest of a call."""
    return digest_arguments(args, kwargs)


# --------------------------------------------------------------------------------------------- digests


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((1, "\u00fc", 1.5), '[[1,"\u00fc",1.5],{"flag":true}]'),
        (({"b": [1], "a": None},), '[[{"a":null,"b":[1]}],{"flag":true}]'),
        (({2, 10},), '[[{"polos:set":[10,2]}],{"flag":true}]'),
        (([len],), '[[[{"polos:object":"builtins.builtin_function_or_method"}]],{"flag":true}]'),
        (
            (Basket(items=[Color.RED]),),
            '[[{"polos:Basket":{"items":[{"polos:Color":"RED"}],"lock":null}}],{"flag":true}]',
        ),
    ],
    ids=["plain", "dict", "set", "object", "model"],
)
def test_digest_is_that_of_canonical_json(args: tuple[object, ...], text: str):
    """Digests stand in logs, so what they are taken of stays: JSON with sorted keys, and tagged stand-ins."""
    assert hashlib.sha256(text.encode()).hexdigest() == digest(*args, flag=True)


DISTINCT: list[object] = [
    None, True, False, 1, 1.5, "1", "", [], {}, [1], [1, 2], [2, 1], {"a": 1}, {"a": 2}, {1: "a"}, {"1": "a"},
    {1, 2}, {1, 3}, math.nan, math.inf, 2**70, 2**70 + 1, "\ud800", {"\ud800": 1}, b"a", b"b", Color.RED, Color.BLUE,
    dt.date(2024, 1, 1), dt.timedelta(1), Decimal("1.0"), Decimal("1.00"), uuid.UUID(int=1), PurePosixPath("/a"),
    os.fsdecode(b"\xff"), Path(os.fsdecode(b"\xff")), Basket(items=[1]), Basket(items=[2]),
    Basket.model_validate({"items": [1], "more": 1}),
    Failing(), Data([1]), Data([2]), Opaque(), len, [Opaque(), 1], [Opaque(), 2], {(1, 2): 3}, {(1, 3): 3},
]  # fmt: skip


def test_different_arguments_have_different_digests():
    """Each of many values, alone and beside an object, has a digest of its own."""
    alone = [digest(value) for value in DISTINCT]
    beside = [digest(value, Opaque()) for value in DISTINCT]

    assert len(DISTINCT) == len(set(alone))
    assert len(DISTINCT) == len(set(beside))


def test_digest_of_equal_arguments():
    """Order of names, members of sets and keys, identity of objects and list or tuple don't count."""
    words = [f"word{number}" for number in range(50)]

    assert digest(a=1, b=2) == digest(b=2, a=1)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1, "b": Opaque()}) == digest({"b": Opaque(), "a": 1})
    assert digest(set(words)) == digest({*words[25:], *words[:25]})
    assert digest({1: 2, "3": 4}) == digest({"3": 4, 1: 2})
    assert digest((1, [2])) == digest([1, (2,)])
    assert digest((1, [2]), Opaque()) == digest([1, (2,)], Opaque())


def test_position_and_name_count():
    """The same values, otherwise placed, have another digest."""
    calls = [digest(1, 2), digest(2, 1), digest([1, 2]), digest(1, b=2), digest(a=1, b=2), digest(1), digest()]

    assert len(calls) == len(set(calls))


def test_digest_in_other_processes(root: Path):
    """Two processes with different hash seeds agree on sets, keys of any type, models and objects."""
    script = (
        "from tests.test_arguments import *\n"
        "names = {f'n{i}' for i in range(99)}\n"
        "print(digest(names, {frozenset(names): 1}, {Color.RED: names}, Basket(items=[names]), Opaque(), len, x=names))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert 1 == len(outputs)
    assert 65 == len(outputs.pop())


def test_digest_of_endless_arguments():
    """Arguments that hold themselves, or are nested without end, have a digest as well."""
    ring: list[object] = [Opaque()]
    ring.append({"back": ring})
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    wide: object = {1: {2}}
    for number in range(100):
        wide = {number: [wide, {number}]}

    assert digest(ring) == digest(ring)
    assert digest(deep) != digest(wide)


# ----------------------------------------------------------------------------------------------- copies


def copied(value: object) -> Any:
    """Give the copy of one argument, checking that a named one is copied alike."""
    (positional,), named = copy_arguments((value,), {"it": value})
    assert positional is named["it"]
    return positional


def test_copy_of_scalars():
    """Scalars are passed as they are, in fresh containers."""
    kwargs: dict[str, object] = {"b": None, "c": 1.5}
    args, named = copy_arguments((1, "a"), kwargs)

    assert ((1, "a"), kwargs) == (args, named)
    assert kwargs is not named


@pytest.mark.parametrize(
    "value",
    [
        [1, [2, {"a": (3, [4])}]],
        {"a": {"b": [1]}, 2: {3}},
        ([1], [2]),
        {1, 2},
        OrderedDict(a=[1]),
        defaultdict(list, a=[1]),
        deque([[1], {"a": [2]}], maxlen=3),
        bytearray(b"12"),
        array("i", [1, 2]),
        Basket.model_validate({"items": [[1]], "more": {"a": [1]}}),
        Plain(items=[[1]]),
        [Basket(items=[{"a": Basket(items=[1])}])],
    ],
    ids=stable_id,
)
def test_copy_is_equal_and_independent(value: object):
    """A copy is equal, of the same types, and shares nothing that can be changed, however deep."""
    twin = copied(value)

    assert value == twin
    assert repr(value) == repr(twin)
    assert set() == {id(part) for part in changeable(value)} & {id(part) for part in changeable(twin)}


def changeable(value: object) -> list[object]:
    """Give every part of a value that can be changed in place."""
    if isinstance(value, list | tuple | deque):
        parts: list[object] = list(value)
    elif isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, BaseModel):
        parts = [*vars(value).values(), value.__pydantic_extra__]
    else:
        parts = []
    found = list(itertools.chain.from_iterable(changeable(part) for part in parts))
    return found if isinstance(value, tuple | int | str | None) else [value, *found]


def test_copy_of_a_model_keeps_what_a_record_loses():
    """A model's private attributes are copied, and which fields were set stays known."""
    basket = Basket(items=[1])
    basket._seen.append(7)
    twin = copied(basket)
    twin._seen.append(8)

    assert ([7], [7, 8]) == (basket._seen, twin._seen)
    assert {"items"} == twin.model_fields_set


def test_copy_of_a_dataclass():
    """A dataclass of data is copied, fields without a value included; one of other things is passed as it is."""
    data = Data([1])
    twin = copied(data)
    service = Service(threading.Lock(), [])

    assert data is not twin
    assert [1] == twin.items
    assert data.items is not twin.items
    assert not hasattr(twin, "late")
    assert service is copied(service)


def test_copy_leaves_objects_alone():
    """Objects that aren't data are passed as they are, also from within containers and models."""
    thing, lock = Opaque(), threading.Lock()

    assert thing is copied(thing)
    assert [thing, lock] == copied([thing, lock])
    assert lock is copied(Basket(lock=lock)).lock


def test_copy_keeps_what_is_one_object():
    """What stands in two places, or holds itself, does so in the copy."""
    shared: list[object] = []
    ring: dict[str, object] = {"shared": shared}
    ring["ring"] = ring
    (first, second, around), _ = copy_arguments((shared, [shared], ring), {})

    assert isinstance(second, list)
    assert isinstance(around, dict)
    assert first is second[0]
    assert first is around["shared"]
    assert around is around["ring"]
    assert first is not shared


def test_copy_of_endless_arguments_is_refused():
    """Arguments nested deeper than the limit are refused before the step runs."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(ValueRefused, match="deeper than 128 levels"):
        copy_arguments((deep,), {})
