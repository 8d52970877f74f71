"""
Models with aliases, serializers, validators and excluded fields: what they lose must be noticed, and only that.

The models stand inside the tests and are named by a hint, so that each shows the one thing that it is about.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import pytest
from polos.errors import ValueRefused
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

from tests.sample_types import MOMENT, NUMBER, Animal, Cat, Dog, Level, Size, both, comes_back, refusal


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


def test_nan_that_a_model_writes_as_text():
    """NaN comes back from a model whose serializer has a text for it."""

    class Texted(BaseModel):
        x: Annotated[float, PlainSerializer(str)]

    decoded = encode(Texted(x=math.nan), hint=Texted)[1]

    assert isinstance(decoded, Texted)
    assert math.isnan(decoded.x)


def test_record_is_what_the_serializer_wrote():
    """A number that its type writes as text is text in the record and a number for the program."""
    encoded, decoded = encode(3, hint=Annotated[int, PlainSerializer(str)])

    assert (Encoded("3", None, 3), 3) == (encoded, decoded)


def test_container_that_grows_is_refused():
    """A field that has more or fewer members when it is read again is refused with its place."""

    class Growing(BaseModel):
        words: Annotated[list[str], AfterValidator(lambda words: [*words, "more"] if words else [])] = []
        names: Annotated[dict[str, int], AfterValidator(lambda names: {**names, "more": 1})] = {}

    assert "$.words" == refusal(Growing.model_construct(words=["a"]), Growing).path
    assert "$.names" == refusal(Growing.model_construct(words=[], names={"a": 1}), Growing).path


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
