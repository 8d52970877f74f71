"""
Values written and read again, whatever they are.

The properties are those that the engine relies on: what encoding says the program will see is what every later
decoding gives, through the bytes on disk; a value is either given back as it was or refused, and nothing else ever
happens; what is read can be written again and gives the same record.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Annotated, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polos.errors import ValueRefused
from polos.value_checks import difference
from polos.values import Encoded, copy_arguments, decode, digest_arguments, encode
from pydantic import BaseModel, Field


class Color(enum.Enum):
    """An enum."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    """An enum of numbers."""

    LOW = 1
    HIGH = 2


class Inner(BaseModel):
    """A model."""

    n: int = Field(ge=-(2**63), lt=2**64)
    text: str = "?"


class Model(BaseModel):
    """A model of many kinds of fields."""

    inner: Inner
    more: list[Inner] = []
    named: dict[str, Inner | None] = {}
    numbers: dict[int, float] = {}
    when: dt.datetime | None = None
    color: Color = Color.RED
    price: Decimal = Decimal(0)
    key: uuid.UUID | None = None
    words: set[str] = set()
    pair: tuple[int, str] | None = None
    raw: Annotated[bytes, Field()] = b""
    anything: Any = None
    renamed: int = Field(default=0, alias="re-named")


@dataclasses.dataclass
class Record:
    """A dataclass."""

    inner: Inner
    numbers: list[int]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INTS = st.integers(-(2**63), 2**64 - 1)
SMALL = st.integers(-1_000, 1_000)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | INTS | FLOATS | TEXTS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
MOMENTS = st.datetimes(timezones=st.none() | st.just(dt.UTC))
INNERS = st.builds(Inner, n=INTS, text=TEXTS)
PRICES = st.decimals(allow_nan=False, allow_infinity=False)
MODELS = st.builds(
    Model,
    inner=INNERS,
    more=st.lists(INNERS, max_size=2),
    named=st.dictionaries(TEXTS, st.none() | INNERS, max_size=2),
    numbers=st.dictionaries(SMALL, FLOATS, max_size=2),
    when=st.none() | MOMENTS,
    color=st.sampled_from(Color),
    price=PRICES,
    key=st.none() | st.uuids(),
    words=st.sets(TEXTS, max_size=3),
    pair=st.none() | st.tuples(SMALL, TEXTS),
    raw=TEXTS.map(str.encode),
    anything=JSON,
    **{"re-named": SMALL},
)
RECORDS = st.builds(Record, inner=INNERS, numbers=st.lists(SMALL, max_size=3))

# What comes back without a hint, and what comes back with the hint beside it.
FOUND_BY_PATH = st.one_of(
    MODELS,
    RECORDS,
    st.sampled_from(Color),
    st.lists(INNERS, min_size=1, max_size=3),
    st.dictionaries(TEXTS, RECORDS, min_size=1, max_size=3),
)
HINTED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Model, MODELS),
    (Model | None, st.none() | MODELS),
    (Inner | Record, INNERS | RECORDS),
    (list[Inner | None], st.lists(st.none() | INNERS, max_size=3)),
    (dict[str, Record], st.dictionaries(TEXTS, RECORDS, max_size=3)),
    (dict[uuid.UUID, Color], st.dictionaries(st.uuids(), st.sampled_from(Color), max_size=3)),
    (dict[int, list[float]], st.dictionaries(SMALL, st.lists(FLOATS, max_size=3), max_size=3)),
    (tuple[int, ...], st.lists(SMALL, max_size=3).map(tuple)),
    (tuple[Inner, Decimal], st.tuples(INNERS, PRICES)),
    (set[str], st.sets(TEXTS, max_size=4)),
    (frozenset[dt.date], st.frozensets(st.dates(), max_size=3)),
    (dt.datetime, MOMENTS),
    (dt.timedelta, st.timedeltas()),
    (dt.time, st.times()),
    (Decimal, PRICES),
    (bytes, st.binary(max_size=8)),
    (list[bytes | None], st.lists(st.none() | st.binary(max_size=8), max_size=3)),
    (Level, st.sampled_from(Level)),
]
SOUP = st.recursive(
    st.one_of(
        SCALARS,
        st.floats(),
        st.integers(),
        st.text(max_size=4),
        MOMENTS,
        PRICES,
        st.uuids(),
        st.binary(max_size=4),
        st.sampled_from([*Color, *Level]),
        INNERS,
        MODELS,
        RECORDS,
        st.builds(object),
        st.just(len),
        st.just(Inner),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(collections.deque),
        st.dictionaries(TEXTS | SMALL | st.sampled_from(Color), inner, max_size=3),
        inner.map(lambda value: Model(inner=Inner(n=1), anything=value)),
        inner.map(lambda value: Record(inner=value, numbers=[])),
    ),
    max_leaves=6,
)
ANY_HINT = st.sampled_from([None, Any, str, list[int], Inner | str, *(hint for hint, _ in HINTED)])


def through_disk(record: object) -> Any:
    """Give a record as it comes from the log."""
    return orjson.loads(orjson.dumps(record))


def taken_or_refused(value: object, hint: object) -> tuple[Encoded, Any] | None:
    """Encode, or give None for a refusal that says where."""
    try:
        return encode(value, hint=hint)
    except ValueRefused as refused:
        return None if refused.path.startswith("$") and refused.path in str(refused) else pytest.fail(str(refused))


@given(JSON)
def test_json_is_itself(value: Any):
    """JSON is recorded as it is, and comes back with every type and sign."""
    encoded, decoded = encode(value)

    assert repr(value) == repr(decoded)
    assert repr(value) == repr(through_disk(encoded.value))
    assert (None, len(orjson.dumps(value))) == (encoded.type, encoded.size_bytes)


@given(FOUND_BY_PATH)
def test_types_come_back_by_path(value: Any):
    """A model, dataclass, enum or container of one of them comes back equal, of its type, without a hint."""
    encoded, decoded = encode(value)

    assert value == decoded
    assert difference(value, decoded) is None
    assert decoded == decode(through_disk(encoded.value), type=encoded.type)


@given(st.sampled_from(HINTED).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1])))
def test_types_come_back_by_hint(pair: tuple[Any, Any]):
    """A value of its annotation comes back equal, of its type, part by part."""
    hint, value = pair
    encoded, decoded = encode(value, hint=hint)
    again = decode(through_disk(encoded.value), hint=hint, type=encoded.type)

    assert value == decoded
    assert type(value) is type(decoded)
    assert difference(value, decoded) is None
    assert difference(decoded, again) is None


@given(SOUP, ANY_HINT)
def test_anything_is_given_back_or_refused(value: Any, hint: Any):
    """Whatever a step returns under whatever annotation: it is refused, or every reading gives what the first gave."""
    taken = taken_or_refused(value, hint)
    if taken is None:
        return
    encoded, decoded = taken
    again = decode(through_disk(encoded.value), hint=hint, type=encoded.type)

    assert repr(again) == repr(decoded) or difference(decoded, again) is None
    assert encoded.value == through_disk(encoded.value)
    assert encoded.size_bytes == len(orjson.dumps(encoded.value))


@given(SOUP)
def test_nothing_is_lost_without_a_hint(value: Any):
    """What is taken without a hint differs from what was returned in nothing that the documentation doesn't name."""
    taken = taken_or_refused(value, None)

    assert taken is None or difference(value, taken[1]) is None


@given(st.one_of(JSON, FOUND_BY_PATH, *(values for _, values in HINTED)), ANY_HINT)
def test_what_was_read_can_be_written(value: Any, hint: Any):
    """A decoded value, returned again under the same annotation, gives the same decoded value."""
    first = taken_or_refused(value, hint)
    if first is None:
        return
    second = encode(first[1], hint=hint)

    assert difference(first[1], second[1]) is None
    assert first[0].type == second[0].type


@given(st.lists(SOUP, max_size=3), st.dictionaries(TEXTS, SOUP, max_size=3))
def test_digests_and_copies_of_anything(args: list[Any], kwargs: dict[str, Any]):
    """Any arguments have one digest, which doesn't depend on order of names, and copies have the same."""
    digest = digest_arguments(tuple(args), kwargs)
    copied, named = copy_arguments(tuple(args), kwargs)

    assert digest == digest_arguments(tuple(args), dict(reversed(kwargs.items())))
    assert digest == digest_arguments(copied, named)
    assert repr((args, kwargs)) == repr((list(copied), named))
