"""
What a value becomes in the log, and what the program gets back: plain values, and types by path and hint.

What models do to themselves is in test_values_models.py, what is refused in test_values_refused.py.
"""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from polos import values
from polos.engine.json import Json
from polos.errors import ValueRefused
from polos.values import PLAIN, Encoded, decode, encode
from pydantic import AfterValidator, BaseModel

from tests.ids import stable_id
from tests.sample_types import (
    HERE,
    MOMENT,
    NUMBER,
    Animal,
    Cat,
    Color,
    Dog,
    Level,
    Movie,
    Opaque,
    Order,
    Outer,
    Page,
    PlainMovie,
    Point,
    Size,
    T,
    User,
    UserId,
    both,
    comes_back,
)

# ----------------------------------------------------------------------------------------------- plain


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -1, 2**64 - 1, -(2**63), 0.0, -0.0, 1.5, 1e308, 5e-324, "", "ü\U0001f600\x00", [], {}, [[]]],
    ids=stable_id,
)
def test_plain_values_are_themselves(value: object):
    """A plain value is recorded as it is, without a type, and comes back with its own type and sign."""
    encoded = both(value)

    assert (value, None) == (encoded.value, encoded.type)
    assert repr(value) == repr(comes_back(value))


@pytest.mark.parametrize("value", [0, "", False, [], {}, None], ids=stable_id)
@pytest.mark.parametrize("hint", [User, User | None, Color, list[User], tuple[User, int]], ids=stable_id)
def test_falsy_values_stay_what_they_are(value: object, hint: object):
    """A falsy result is never turned into another falsy value, whatever its annotation says."""
    decoded = comes_back(value, hint)

    assert value == decoded
    assert type(value) is type(decoded)


@pytest.mark.parametrize(("value", "size"), [(None, 4), (12, 2), ("ü", 4), ({"a": [1, 2]}, 11)], ids=stable_id)
def test_size_is_that_of_the_text(value: object, size: int):
    """The size of a record is its length as UTF-8 text."""
    assert size == both(value).size_bytes


def test_nothing_is_shared():
    """Record, decoded value and original share no container, at any depth."""
    value: dict[str, Any] = {"a": [{"b": [1]}]}

    encoded, decoded = encode(value)
    again = decode(encoded.value)
    value["a"][0]["b"].append(2)

    for copy in (encoded.value, decoded, again):
        assert {"a": [{"b": [1]}]} == copy
    assert encoded.value is not decoded
    assert encoded.value is not again
    assert isinstance(encoded.value, dict)
    assert isinstance(again, dict)
    assert encoded.value["a"] is not again["a"]


def test_order_of_keys_stays():
    """Keys come back in their order."""
    assert ["z", "a", "m"] == list(both({"z": 1, "a": 2, "m": 3}).value)  # type: ignore[arg-type]  # it is a dict


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        ({"a": (1,)}, {"a": [1]}),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        (type("Text", (str,), {})("x"), "x"),
        (type("Number", (int,), {})(7), 7),
        (type("Real", (float,), {})(0.5), 0.5),
    ],
    ids=stable_id,
)
def test_subclasses_become_what_they_extend(value: object, plain: object):
    """Without a hint tuples become lists, and subclasses of plain types the plain types, live already."""
    decoded = comes_back(value)

    assert plain == decoded
    assert type(plain) is type(decoded)


def test_shared_parts_are_no_cycle():
    """One list in two places is no cycle."""
    shared = (1, 2)

    assert {"a": [1, 2], "b": [1, 2]} == comes_back({"a": shared, "b": shared})


@pytest.mark.parametrize(
    "hint",
    [
        None, Any, object, str, dict, list, dict[str, Any], list[int], Sequence[str], Iterable[int], int | None,
        Json, T, UserId, PlainMovie, Literal["a", 1], "Unresolved", BaseModel,
    ],
    ids=stable_id,
)  # fmt: skip
def test_hints_that_say_nothing(hint: object):
    """Under a hint that says no more than JSON every plain value stays as it is, fitting or not."""
    for value in (3, "x", None, {"a": [1]}, [1, "x"]):
        encoded = both(value, hint)

        assert (value, None) == (encoded.value, encoded.type)


# ----------------------------------------------------------------------------------- types by path and hint


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (User(name="a", age=4, joined=MOMENT), f"{HERE}.User"),
        (Order(1, User(name="a"), dt.date(2024, 1, 1)), f"{HERE}.Order"),
        (Outer.Inner(n=1), f"{HERE}.Outer.Inner"),
        (Color.RED, f"{HERE}.Color"),
        (Level.LOW, f"{HERE}.Level"),
        (Size.SMALL, f"{HERE}.Size"),
        ([User(name="a"), User(name="b")], f"list[{HERE}.User]"),
        ({"x": User(name="a")}, f"dict[str, {HERE}.User]"),
        (Page[User](items=[User(name="a")]), f"{HERE}.Page[{HERE}.User]"),
        (Page[int](items=[1]), f"{HERE}.Page[int]"),
        ([Color.RED, Color.BLUE], f"list[{HERE}.Color]"),
    ],
    ids=stable_id,
)
def test_types_are_found_by_path(value: object, path: str):
    """Models, dataclasses, enums and homogeneous containers of them come back without a hint, by their path."""
    encoded = both(value)

    assert path == encoded.type
    assert value == comes_back(value)


def test_tuple_of_models_becomes_a_list():
    """A tuple of models is a list of models when no hint says otherwise."""
    user = User(name="a")

    assert [user] == comes_back((user,))


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (MOMENT, dt.datetime),
        (dt.date(2024, 1, 2), dt.date),
        (dt.time(1, 2, 3), dt.time),
        (dt.timedelta(days=1, microseconds=3), dt.timedelta),
        (Decimal("1.10"), Decimal),
        (NUMBER, uuid.UUID),
        (b"\xff\x00\xfe", bytes),
        ({1, 2, 3}, set[int]),
        (frozenset({"a"}), frozenset[str]),
        ((1, "a"), tuple[int, str]),
        ((1, 2, 3), tuple[int, ...]),
        (((1, 2), 3), tuple[tuple[int, int], int]),
        ({1: "a", 2: "b"}, dict[int, str]),
        ({NUMBER: MOMENT}, dict[uuid.UUID, dt.datetime]),
        ({Color.RED: 1}, dict[Color, int]),
        ({"a": MOMENT}, dict[str, dt.datetime]),
        ([MOMENT], list[dt.datetime]),
        (deque([1, 2]), deque[int]),
        (Point(1, 2), Point),
        ({"title": "t", "seen": dt.date(2024, 1, 1)}, Movie),
        ([User(name="a")], list[User]),
        ((User(name="a"), 1), tuple[User, int]),
        ({"a": [User(name="a")], "b": []}, dict[str, list[User]]),
        (User(name="a"), User | None),
        (None, User | None),
        (None, dt.datetime | None),
        ([User(name="a"), None], list[User | None]),
        (MOMENT, dt.datetime | None),
        (Color.BLUE, Color),
        (Color.BLUE, Literal[Color.BLUE]),
        (Order(1, User(name="a")), Order),
        ([Order(1, User(name="a"))], Sequence[Order]),
        (Page[User](items=[User(name="a")]), Page[User]),
        ({"a": b"\xff"}, dict[str, bytes]),
        (3, Annotated[int, AfterValidator(lambda n: n)]),
        (3, Annotated[int, {"unhashable": []}]),
    ],
    ids=stable_id,
)
def test_types_are_found_by_hint(value: object, hint: object):
    """With a hint every value that Pydantic can write and read comes back equal and of its own type."""
    decoded = comes_back(value, hint)

    assert value == decoded
    assert type(value) is type(decoded)


@pytest.mark.parametrize("hint", [Animal, Animal | None, Cat | Dog, Animal | str, Any, BaseModel], ids=stable_id)
def test_narrower_type_than_the_hint(hint: object):
    """A subclass, or the second member of a union that the first would also fit, comes back as itself."""
    for value in (Dog(name="a", tricks=["sit"]), Dog(name="b")):
        assert f"{HERE}.Dog" == both(value, hint).type
        assert value == comes_back(value, hint)
        assert isinstance(comes_back(value, hint), Dog)


@pytest.mark.parametrize(
    "hint", [list[Animal], Sequence[Animal], Iterable[Animal], list, list[Cat | Dog]], ids=stable_id
)
def test_narrower_members_than_the_hint(hint: object):
    """Members of one narrower class come back as themselves."""
    value = [Dog(name="a", tricks=["sit"]), Dog(name="b")]

    assert value == comes_back(value, hint)


def test_hint_comes_before_the_path():
    """A hint that the recorded type doesn't narrow is believed rather than the path."""
    record: Json = {"name": "a", "age": 1}

    assert Animal(name="a") == decode(record, hint=Animal, type=f"{HERE}.User")


def test_path_helps_where_the_hint_fails():
    """A record that doesn't fit the hint is read by its path."""
    assert User(name="a") == decode({"name": "a"}, hint=dt.datetime, type=f"{HERE}.User")
    assert User(name="a") == comes_back(User(name="a"), dt.datetime)


def test_plain_value_is_read_through_the_hint():
    """JSON under a declared schema becomes what the schema says, and the record holds its defaults."""
    encoded = both({"name": "a", "unknown": 1}, User)

    assert Encoded({"name": "a", "age": 3, "joined": None}, f"{HERE}.User", encoded.size_bytes) == encoded
    assert User(name="a") == comes_back({"name": "a", "unknown": 1}, User)
    assert [User(name="a")] == comes_back([{"name": "a"}], list[User])
    assert Color.RED is comes_back("red", Color)
    assert {1: {2}} == comes_back({"1": [2]}, dict[int, set[int]])


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, User),
        ("no moment", dt.datetime),
        ({"error": "not found"}, User),
        ([1], dict[str, dt.date]),
        ({"title": "t", "seen": "2024-01-01", "stars": 5}, Movie),
        ([{"title": "t", "seen": "2024-01-01", "stars": 5}], list[Movie]),
        ({"a": {"title": "t", "seen": "2024-01-01", "stars": 5}}, dict[str, Movie]),
    ],
    ids=stable_id,
)
def test_plain_value_that_does_not_fit_stays_plain(value: object, hint: object):
    """A result isn't lost because its annotation lies: it stays plain, is marked so, and nothing is dropped."""
    encoded = both(value, hint)

    assert (value, PLAIN) == (encoded.value, encoded.type)
    assert value == decode(encoded.value, hint=hint, type=PLAIN)


def test_tuple_under_a_hint_fares_like_a_list():
    """A tuple under a hint that means something else is read as the list that it would become."""
    assert Encoded([1, 2], PLAIN, 5) == both((1, 2), User)
    assert {1, 2} == comes_back((1, 2), set[int]) == comes_back([1, 2], set[int])


def test_unusable_hint_says_nothing():
    """A class that Pydantic doesn't know, as annotation, keeps nothing from being recorded."""
    assert [1] == comes_back([1], Opaque)
    assert User(name="a") == comes_back(User(name="a"), Opaque)


def test_order_of_a_union_counts():
    """Two unions that are equal and differ in order are kept apart: the first member that fits is taken."""
    up, down = Annotated[int, AfterValidator(lambda n: n + 1)], Annotated[int, AfterValidator(lambda n: n - 1)]

    assert up | down == down | up
    assert 11 == decode(10, hint=up | down)
    assert 9 == decode(10, hint=down | up)
    assert {"a": 9} == decode({"a": 10}, hint=dict[str, down | up])  # type: ignore[valid-type]  # two values, made into types


@pytest.mark.parametrize(
    "path", ["nowhere.at.All", "json.JSONDecoder", "os.system", "os.path", "User", "a.b.", "<x>.Y"]
)
def test_path_that_leads_nowhere_gives_plain_json(path: str, caplog: pytest.LogCaptureFixture):
    """A path to nothing, or to something that isn't data, gives plain JSON and one line in the log."""
    values._notice.cache_clear()
    record: Json = {"a": [1]}

    with caplog.at_level(logging.WARNING, logger="polos.values"):
        decoded = [decode(record, type=path) for _ in range(3)]

    assert [record] * 3 == decoded
    assert decoded[0] is not record
    assert [f"the recorded type {path} can't be found; its values are given as plain JSON"] == caplog.messages


def test_hint_replaces_a_path_that_leads_nowhere():
    """A class that has moved is found by the hint."""
    assert User(name="a") == decode({"name": "a"}, hint=User, type="old.place.User")


def test_record_that_does_not_fit_is_refused():
    """A record that fits neither hint nor path is an error that names the place, not a plain dict."""
    for hint, path in ((User, None), (None, f"{HERE}.User"), (User, "old.place.User")):
        with pytest.raises(ValueRefused, match=r"\$\.age doesn't fit User") as caught:
            decode({"name": "a", "age": "old"}, hint=hint, type=path)

        assert "$.age" == caught.value.path


def test_local_class_with_a_hint():
    """A class inside a function, which no path finds, comes back by its hint."""

    class Local(BaseModel):
        n: int

    assert Local(n=1) == comes_back(Local(n=1), Local)
    assert [Local(n=1)] == comes_back([Local(n=1)], list[Local])
