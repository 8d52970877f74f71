"""
What a value becomes in the log, and what the program gets back.

The table of plain values comes first, then types found by hint and by path, then everything that must be refused,
each with the place that the message has to name.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import logging
import math
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypeVar
from zoneinfo import ZoneInfo

import pytest
from polos import values
from polos.engine.json import Json
from polos.errors import PolosUsageError, ValueRefused
from polos.values import PLAIN, Encoded, decode, encode
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    SerializeAsAny,
    computed_field,
    field_serializer,
    field_validator,
)
from typing_extensions import TypedDict

HERE = __name__
T = TypeVar("T")


class Color(enum.Enum):
    """An enum."""

    RED = "red"
    BLUE = "blue"


class Level(enum.StrEnum):
    """An enum whose members are equal to text."""

    LOW = "low"


class Size(enum.IntEnum):
    """An enum whose members are equal to numbers."""

    SMALL = 1


class User(BaseModel):
    """A model of the usual kind."""

    name: str
    age: int = 3
    joined: dt.datetime | None = None


class Animal(BaseModel):
    """The wider of two models."""

    name: str


class Dog(Animal):
    """The narrower of two models."""

    tricks: list[str] = []


class Cat(Animal):
    """A model with the fields of Animal."""


class Page(BaseModel, Generic[T]):
    """A generic model."""

    items: list[T]


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: int


class Movie(TypedDict):
    """A TypedDict that JSON doesn't bring back."""

    title: str
    seen: dt.date


class PlainMovie(TypedDict):
    """A TypedDict that JSON brings back."""

    title: str


@dataclasses.dataclass
class Order:
    """A dataclass with a model in it."""

    number: int
    user: User
    due: dt.date | None = None


class Outer:
    """A class with a class in it."""

    class Inner(BaseModel):
        """A nested model."""

        n: int


class Opaque:
    """Something that isn't data."""


@dataclasses.dataclass
class Holder:
    """A dataclass of something that isn't data."""

    thing: Opaque


UserId = NewType("UserId", str)
MOMENT = dt.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=dt.UTC)
NUMBER = uuid.UUID("12345678-1234-5678-1234-567812345678")


def both(value: object, hint: object = None) -> Encoded:
    """Encode, check that decoding the record gives what encoding said, and give the record."""
    encoded, decoded = encode(value, hint=hint)
    again = decode(encoded.value, hint=hint, type=encoded.type)

    assert decoded == again
    assert type(decoded) is type(again)
    return encoded


def comes_back(value: object, hint: object = None) -> object:
    """Encode and give what the program gets to see."""
    both(value, hint)
    return encode(value, hint=hint)[1]


def refusal(value: object, hint: object = None) -> ValueRefused:
    """Encode what can't be encoded."""
    with pytest.raises(ValueRefused) as caught:
        encode(value, hint=hint)
    return caught.value


# ----------------------------------------------------------------------------------------------- plain


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -1, 2**64 - 1, -(2**63), 0.0, -0.0, 1.5, 1e308, 5e-324, "", "ü\U0001f600\x00", [], {}, [[]]],
    ids=repr,
)
def test_plain_values_are_themselves(value: object):
    """A plain value is recorded as it is, without a type, and comes back with its own type and sign."""
    encoded = both(value)

    assert (value, None) == (encoded.value, encoded.type)
    assert repr(value) == repr(comes_back(value))


@pytest.mark.parametrize("value", [0, "", False, [], {}, None], ids=repr)
@pytest.mark.parametrize("hint", [User, User | None, Color, list[User], tuple[User, int]], ids=str)
def test_falsy_values_stay_what_they_are(value: object, hint: object):
    """A falsy result is never turned into another falsy value, whatever its annotation says."""
    decoded = comes_back(value, hint)

    assert value == decoded
    assert type(value) is type(decoded)


@pytest.mark.parametrize(("value", "size"), [(None, 4), (12, 2), ("ü", 4), ({"a": [1, 2]}, 11)], ids=repr)
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
    ids=repr,
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
        Json, T, UserId, PlainMovie, "Unresolved", BaseModel,
    ],
    ids=str,
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
    ids=str,
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
        (Order(1, User(name="a")), Order),
        ([Order(1, User(name="a"))], Sequence[Order]),
        (Page[User](items=[User(name="a")]), Page[User]),
        ({"a": b"\xff"}, dict[str, bytes]),
        (3, Annotated[int, AfterValidator(lambda n: n)]),
        (3, Annotated[int, {"unhashable": []}]),
    ],
    ids=str,
)
def test_types_are_found_by_hint(value: object, hint: object):
    """With a hint every value that Pydantic can write and read comes back equal and of its own type."""
    decoded = comes_back(value, hint)

    assert value == decoded
    assert type(value) is type(decoded)


@pytest.mark.parametrize("hint", [Animal, Animal | None, Cat | Dog, Animal | str, Any, BaseModel], ids=str)
def test_narrower_type_than_the_hint(hint: object):
    """A subclass, or the second member of a union that the first would also fit, comes back as itself."""
    for value in (Dog(name="a", tricks=["sit"]), Dog(name="b")):
        assert f"{HERE}.Dog" == both(value, hint).type
        assert value == comes_back(value, hint)
        assert isinstance(comes_back(value, hint), Dog)


@pytest.mark.parametrize("hint", [list[Animal], Sequence[Animal], Iterable[Animal], list, list[Cat | Dog]], ids=str)
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


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, User),
        ("no moment", dt.datetime),
        ({"error": "not found"}, User),
        ([1], dict[str, dt.date]),
        ({"title": "t", "seen": "2024-01-01", "stars": 5}, Movie),
        ([{"title": "t", "seen": "2024-01-01", "stars": 5}], list[Movie]),
    ],
    ids=str,
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


# ------------------------------------------------------------------------------------------------ models


def test_aliases_that_both_sides_know():
    """A model that is written and read by one alias comes back."""

    class Aliased(BaseModel):
        n: int = Field(alias="number")

    encoded = both(Aliased(number=1), Aliased)

    assert {"number": 1} == encoded.value


def test_alias_that_one_side_knows_is_refused():
    """A model written under a name that it doesn't read is refused, with the field."""

    class Aliased(BaseModel):
        n: int = Field(serialization_alias="number")

    class Defaulted(BaseModel):
        n: int = Field(default=0, serialization_alias="number", validation_alias=AliasChoices("n", "m"))

    assert "$.n" == refusal(Aliased(n=1), Aliased).path
    assert "$.n" == refusal(Defaulted(n=1), Defaulted).path


def test_excluded_field_is_refused_if_it_holds_something():
    """An excluded field is refused when its value would be lost, and only then."""

    class Secretive(BaseModel):
        n: int
        secret: str = Field(default="", exclude=True)

    assert Secretive(n=1) == comes_back(Secretive(n=1), Secretive)
    assert "$.secret" == refusal(Secretive(n=1, secret="x"), Secretive).path
    assert "$[1].secret" == refusal([Secretive(n=1), Secretive(n=1, secret="x")], list[Secretive]).path


def test_lossy_serializer_is_refused():
    """A serializer that rounds, hides or empties is refused, with the field."""

    class Rounded(BaseModel):
        price: float

        @field_serializer("price")
        def round(self, price: float) -> float:
            return round(price, 1)

    class Order2(BaseModel):
        items: list[Rounded]

    class Hidden(BaseModel):
        key: SecretStr

    assert Rounded(price=1.5) == comes_back(Rounded(price=1.5), Rounded)
    assert "$.items[1].price" == refusal(Order2(items=[Rounded(price=1), Rounded(price=1.25)]), Order2).path
    assert "$.key" == refusal(Hidden(key=SecretStr("x")), Hidden).path


def test_failing_serializer_is_refused_with_its_place():
    """A serializer that raises is refused with the innermost field, and what it raised."""

    class Inner(BaseModel):
        n: int

        @field_serializer("n")
        def fail(self, n: int) -> int:
            raise RuntimeError("no luck")

    class Middle(BaseModel):
        inner: dict[str, Inner]

    caught = refusal(Middle(inner={"a b": Inner(n=1)}), Middle)

    assert '$.inner["a b"].n' == caught.path
    assert "no luck" in str(caught)


def test_failing_validator_is_refused():
    """A validator that raises what Pydantic doesn't expect is a refusal like any other, written or read."""

    class Fussy(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def fail(cls, n: int) -> int:
            if n > 1:
                raise LookupError("too much")
            return n

    value = Fussy(n=1)
    value.n = 2

    assert "LookupError: too much" in str(refusal(value, Fussy))
    assert Encoded({"n": 2}, PLAIN, 7) == encode({"n": 2}, hint=Fussy)[0]
    with pytest.raises(ValueRefused, match="too much"):
        decode({"n": 2}, hint=Fussy)


def test_field_of_a_subclass_is_refused_unless_the_model_says_so():
    """A field that holds a narrower model than it declares would come back wider: refused with the field."""

    class Home(BaseModel):
        pet: Animal

    class Stated(BaseModel):
        pet: SerializeAsAny[Animal]

    class United(BaseModel):
        pet: Dog | Cat

    dog = Dog(name="a", tricks=["sit"])

    assert "$.pet" == refusal(Home(pet=dog), Home).path
    assert "$.pet" == refusal(Stated(pet=dog), Stated).path
    assert United(pet=dog) == comes_back(United(pet=dog), United)


@pytest.mark.parametrize("value", [math.nan, math.inf, MOMENT, Level.LOW, Size.SMALL, NUMBER, {1, 2}], ids=repr)
def test_untyped_field_is_held_to_json(value: object):
    """A field of type Any takes JSON; anything else would come back as something else."""

    class Free(BaseModel):
        any: Any

    assert "$.any" == refusal(Free(any=value), Free).path


@pytest.mark.parametrize("value", [1, "x", None, [1, (2, 3)], {"a": 1.5}], ids=repr)
def test_untyped_field_holds_json(value: object):
    """A field of type Any brings JSON back, tuples as lists."""

    class Free(BaseModel):
        any: Any

    both(Free(any=value), Free)


def test_float_field_refuses_nan():
    """NaN in a model is refused with its place, whether or not the field could be empty instead."""

    class Numeric(BaseModel):
        x: float
        y: float | None = None

    assert "which JSON can't say" in str(refusal(Numeric(x=1, y=math.nan), Numeric))
    assert "$.x" == refusal(Numeric(x=math.nan), Numeric).path


def test_number_set_past_validation_comes_back_as_declared():
    """An int in a float field comes back as the float that was declared."""

    class Numeric(BaseModel):
        x: float

    value = Numeric.model_construct(x=3)

    assert isinstance(encode(value, hint=Numeric)[1].x, float)  # type: ignore[attr-defined]  # it is a Numeric


def test_what_is_no_data_is_not_compared():
    """Private attributes and computed fields aren't data: they come back as the class makes them."""

    class Caching(BaseModel):
        model_config = ConfigDict(extra="forbid")
        n: int
        _seen: list[int] = PrivateAttr(default_factory=list)

        @computed_field  # type: ignore[prop-decorator]  # the way that Pydantic documents
        @property
        def twice(self) -> int:
            return 2 * self.n

    value = Caching(n=1)
    value._seen.append(1)
    encoded, decoded = encode(value, hint=Caching)

    assert {"n": 1} == encoded.value
    assert isinstance(decoded, Caching)
    assert (1, 2, []) == (decoded.n, decoded.twice, decoded._seen)


def test_extra_fields_come_back():
    """A model that allows extra fields gets them back, and one whose extra isn't JSON is refused with its name."""

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        n: int

    value = Open.model_validate({"n": 1, "more": [1]})

    assert value == comes_back(value, Open)
    assert "$.when" == refusal(Open.model_validate({"n": 1, "when": MOMENT}), Open).path


def test_root_model():
    """A root model is its root, also in the place that an error names."""

    class Names(RootModel[list[Any]]):
        pass

    assert ["a"] == both(Names(["a"]), Names).value
    assert "$[1]" == refusal(Names(["a", MOMENT]), Names).path


def test_own_equality_of_a_model_is_not_asked():
    """A model that calls everything equal loses nothing unseen."""

    class Same(BaseModel):
        n: int = 0
        hidden: int = Field(default=0, exclude=True)

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]  # as any class with equality of its own

    assert "$.hidden" == refusal(Same(hidden=1), Same).path


def test_zones_become_offsets():
    """A moment in a named zone comes back with the same instant and offset; the name of the zone is not kept."""
    moment = dt.datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    decoded = comes_back(moment, dt.datetime)

    assert isinstance(decoded, dt.datetime)
    assert (moment, dt.timedelta(hours=2)) == (decoded, decoded.utcoffset())


def test_dataclass_that_changes_itself_is_refused():
    """A dataclass whose construction adds up would come back different."""

    @dataclasses.dataclass
    class Growing:
        n: int

        def __post_init__(self) -> None:
            self.n += 1

    assert "$.n" == refusal(Growing(1), Growing).path


# ---------------------------------------------------------------------------------------------- refused


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
    monkeypatch.setitem(globals(), "User", Animal)

    assert "can't be found again" in str(refusal(old))


def test_limit():
    """A record of exactly the limit is taken, one byte more is refused with both numbers."""
    assert 7 == encode("12345", bytes_max=7)[0].size_bytes

    with pytest.raises(ValueRefused, match=r"the input has 1,002 bytes as JSON and the limit is 1,001") as caught:
        encode("x" * 1_000, bytes_max=1_001, what="input")

    assert "$" == caught.value.path


class Vector:
    """A value with an equality that can't be asked."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __eq__(self, other: object) -> bool:
        raise LookupError("which of them?")

    __hash__ = None  # type: ignore[assignment]  # as any class with equality of its own


def test_equality_that_raises_is_a_difference():
    """A field whose type refuses to be compared is refused with its place, as nothing says that it came back."""

    class Space(BaseModel):
        vector: Annotated[Any, PlainSerializer(lambda vector: vector.numbers), AfterValidator(Vector)]

    assert "$.vector" == refusal(Space.model_construct(vector=Vector([1])), Space).path


def test_repr_that_raises_does_not_hide_the_refusal():
    """A value whose repr raises is refused with its place all the same."""

    class Silent(BaseModel):
        n: int = Field(default=0, exclude=True)

        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    class Wrapping(BaseModel):
        inner: Any = Field(default=None, exclude=True)

    assert "$.inner" == refusal(Wrapping(inner=Silent()), Wrapping).path
