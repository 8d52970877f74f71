"""
What can't be recorded, and the place, reason and remedy that the message names.

A refused result is a final failure of a step whose effect has happened, so the message has to be enough.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any

import pytest
from polos.errors import PolosUsageError, ValueRefused
from polos.values import encode
from pydantic import AfterValidator, BaseModel, PlainSerializer

from tests import sample_types
from tests.sample_types import (
    MOMENT,
    NUMBER,
    Animal,
    Dog,
    Holder,
    Level,
    Movie,
    Opaque,
    Order,
    Page,
    Point,
    Size,
    User,
    refusal,
)


def _short(value: object) -> str | None:
    return value[:30] if isinstance(value, str) else type(value).__name__


def holding_itself() -> list[object]:
    """Give a list with a cycle below its top."""
    inner: list[object] = [1]
    inner.append({"back": inner})
    return [inner]


def nested(depth: int) -> object:
    """Give lists in lists."""
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        (math.nan, "$", "nan"),
        ({"a": [1.0, math.inf]}, "$.a[1]", "inf"),
        (2**64, "$", "64 bits"),
        ({"items": [{"n": -(2**63) - 1}]}, "$.items[0].n", "64 bits"),
        ("\ud800", "$", "surrogate"),
        ({"a": ["ok", "\udfff"]}, "$.a[1]", "surrogate"),
        ({"\ud800": 1}, '$["\\ud800"]', "surrogate"),
        ({1: "a"}, "$", "key 1"),
        ({"a": {None: 1}}, "$.a", "key None"),
        ({Level.LOW: 1}, "$", "key <Level.LOW"),
        (MOMENT, "$", "datetime"),
        ({"when": MOMENT}, "$.when", "datetime"),
        (Decimal(1), "$", "Decimal"),
        (NUMBER, "$", "UUID"),
        (b"x", "$", "bytes"),
        ({1}, "$", "set"),
        ({"level": Level.LOW, "n": 1}, "$.level", "Level.LOW"),
        ([Size.SMALL, 1], "$[0]", "Size.SMALL"),
        (Point(1, 2), "$", "Point"),
        ({"user": User(name="a"), "n": 1}, "$.user", "User"),
        ([User(name="a"), 1], "$[0]", "User"),
        ({1: User(name="a")}, "$", "keys of JSON are text"),
        (Opaque(), "$", "Opaque"),
        (Holder(Opaque()), "$", "Pydantic can't describe"),
        ([lambda: 1], "$[0]", "function"),
        (holding_itself(), "$[0][1].back", "holds itself"),
        (nested(129), "$" + "[0]" * 128, "deeper than 128"),
        (nested(100_000), "$" + "[0]" * 128, "return something flatter"),
        ({"a key": {"x" * 90: {1}}}, '$["a key"].' + "x" * 90, "set"),
        ({"a-" * 50: {1}}, '$["' + "a-" * 38 + "...]", "set"),
    ],
    ids=_short,
)
def test_what_json_does_not_bring_back_is_refused(value: object, path: str, why: str):
    """A value that JSON alone wouldn't bring back is refused, with place, reason and remedy."""
    caught = refusal(value)

    assert path == caught.path
    assert why in str(caught)
    assert str(caught).startswith("the result can't be recorded: $")
    assert isinstance(caught, PolosUsageError)


@pytest.mark.parametrize(
    ("value", "hint", "path"),
    [
        (Page[Any](items=[1, {"n": 2**70}]), Page[Any], "$.items[1].n"),
        (Page[Any](items=["\ud800"]), Page[Any], "$.items[0]"),
        (Page[Any](items=[holding_itself()]), Page[Any], "$.items[0][0][1].back"),
        (Page[Any](items=[1, Opaque()]), Page[Any], "$.items[1]"),
        ([MOMENT, Opaque()], list[Any], "$[0]"),
        ([MOMENT, "x"], list[dt.datetime], "$[1]"),
        ({"a": {1: Opaque()}}, dict[str, dict[int, Any]], "$.a[1]"),
        ([Animal(name="a"), Animal(name="b"), Dog(name="c")], list[Animal], "$[2]"),
        ({"title": "t", "seen": dt.date(2024, 1, 1), "stars": 5}, Movie, "$.stars"),
        (Order(1, Dog(name="x")), Order, "$.user"),  # type: ignore[arg-type]  # that it isn't a User is the case
        (Order(1, User.model_construct(name=Opaque())), Order, "$.user.name"),
        (math.nan, Decimal, "$"),
        ({Size.SMALL: MOMENT}, dict[int, dt.datetime], "$[<Size.SMALL: 1>]"),
        ({Size.SMALL, 2}, set[int], "$"),
        ((math.inf, 1), tuple[float, int], "$[0]"),
        (iter([MOMENT]), Iterable[dt.datetime], "$"),
        (Opaque, type[Opaque], "$"),
    ],
    ids=_short,
)
def test_what_a_type_does_not_bring_back_is_refused(value: object, hint: object, path: str):
    """A value that its type writes and doesn't read again, or can't write, is refused with the place."""
    assert path == refusal(value, hint).path


def test_deep_models_are_refused():
    """A tree of models deeper than JSON is read is refused, and no recursion ends the program."""
    tree = Tree(branches=[])
    for _ in range(400):
        tree = Tree(branches=[tree])

    refusal(tree)


class Tree(BaseModel):
    """A model that holds itself."""

    branches: list[Tree]


def test_model_that_holds_itself_is_refused():
    """A cycle of models is refused with the place where it closes."""
    tree = Tree(branches=[])
    tree.branches.append(tree)

    caught = refusal(tree)

    assert "$.branches[0]" == caught.path
    assert "holds itself" in str(caught)


def test_local_class_without_a_hint_is_refused():
    """A class inside a function can't be found again, and the message says what to do."""

    class Local(BaseModel):
        n: int

    assert "define the class at the top level" in str(refusal(Local(n=1)))
    assert "can't be found again" in str(refusal([Local(n=1)]))


def test_class_that_was_replaced_is_refused(monkeypatch: pytest.MonkeyPatch):
    """An instance of a class whose name now leads to another class is refused without a hint."""
    old = User(name="a")
    monkeypatch.setattr(sample_types, "User", Animal)

    assert "can't be found again" in str(refusal(old))


def test_limit():
    """A record of exactly the limit is taken, one byte more is refused with both numbers."""
    assert 7 == encode("12345", bytes_max=7)[0].size_bytes

    with pytest.raises(ValueRefused, match=r"the input has 1,002 bytes as JSON and the limit is 1,001") as caught:
        encode("x" * 1_000, bytes_max=1_001, what="input")

    assert "$" == caught.value.path


class Vector:
    """A value with an equality and a repr that can't be asked."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __eq__(self, other: object) -> bool:
        raise LookupError("which of them?")

    def __repr__(self) -> str:
        raise LookupError("where to begin?")

    __hash__ = None  # type: ignore[assignment]  # as any class with equality of its own


def test_equality_that_raises_is_a_difference():
    """A field whose type refuses to be compared is refused with its place, as nothing says that it came back."""

    class Space(BaseModel):
        vector: Annotated[Any, PlainSerializer(lambda vector: vector.numbers), AfterValidator(Vector)]

    caught = refusal(Space.model_construct(vector=Vector([1])), Space)

    assert "$.vector" == caught.path
    assert "is <Vector> and comes back as <Vector>" in str(caught)
