"""
Types whose values the tests record, and what the tests ask about a value.

They stand in a module of their own, as a recorded path leads to the top level of a module.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from typing import Generic, NamedTuple, NewType, TypeVar

import pytest
from polos.errors import ValueRefused
from polos.values import Encoded, decode, encode
from pydantic import BaseModel
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
