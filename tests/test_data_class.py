"""The data classes of polos are those of the standard library, but for what they cost."""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import field
from pathlib import Path
from typing import Any

import polos
import pytest
from polos.data_class import dataclass

VALUES: tuple[dict[str, Any], ...] = ({"a": 1}, {"a": 1, "b": "x"}, {"a": 2}, {"a": 1, "c": [3]}, {"a": 1, "d": 9})


def both(**options: Any) -> tuple[Any, Any]:
    """Give a class with many kinds of fields, made here and made by the standard library."""
    made: list[Any] = []
    for decorate in (dataclass, dataclasses.dataclass):

        @decorate(**options)
        class Sample:
            """A sample."""

            a: int
            b: str = "b"
            c: list[int] = field(default_factory=list[int])
            d: int = field(default=4, compare=False, repr=False)

        made.append(Sample)
    return made[0], made[1]


@pytest.mark.parametrize("options", [{}, {"slots": True, "kw_only": True}, {"slots": True, "eq": False}], ids=str)
def test_as_in_the_standard_library(options: dict[str, Any]) -> None:
    """Instances compare, show, copy, replace and come apart alike."""
    ours, theirs = ([kind(**given) for given in VALUES] for kind in both(**options))

    assert [[one == other for other in theirs] for one in theirs] == [[one == other for other in ours] for one in ours]
    assert [repr(one) for one in theirs] == [repr(one) for one in ours]
    assert [dataclasses.asdict(one) for one in theirs] == [dataclasses.asdict(one) for one in ours]
    assert [dataclasses.astuple(one) for one in theirs] == [dataclasses.astuple(copy.deepcopy(one)) for one in ours]
    assert dataclasses.astuple(dataclasses.replace(theirs[0], b="z")) == dataclasses.astuple(
        dataclasses.replace(ours[0], b="z")
    )
    assert ours[0] != theirs[0]
    assert theirs[0].__match_args__ == ours[0].__match_args__
    assert hasattr(theirs[0], "__dict__") == hasattr(ours[0], "__dict__")


def test_hashes_of_frozen_classes() -> None:
    """A frozen class is hashed by what it compares, any other that compares isn't hashed at all."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Frozen:
        a: int
        b: str = "b"

    assert {Frozen(a=1), Frozen(a=2)} == {Frozen(a=2), Frozen(a=1), Frozen(a=1, b="b")}
    with pytest.raises(TypeError, match="unhashable"):
        hash(both()[0](1))


def test_what_a_class_says_itself_stands() -> None:
    """A class that compares, hashes and shows itself does so."""

    @dataclass(frozen=True)
    class Own:
        a: int

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "own"

    assert Own(1) == Own(2)
    assert (7, "own") == (hash(Own(1)), repr(Own(1)))


def test_what_is_the_same_is_equal() -> None:
    """As in the standard library, a value is equal to itself, be it no number; of one field as of many."""
    nan = float("nan")

    @dataclass(slots=True)
    class One:
        a: float

    @dataclass(slots=True)
    class Two:
        a: float
        b: float

    assert One(nan) == One(nan)
    assert Two(nan, nan) == Two(nan, nan)
    assert Two(nan, 1) != Two(nan, 2)


GIVEN = {"retry.py", "archived.py"}  # whose classes programs are given


@pytest.mark.parametrize("folder", ["engine", "replay", "runtime", "store"])
def test_where_they_are_used(folder: str) -> None:
    """Where classes are made for each step, none is made by the standard library, but for those that programs get."""
    files = list(Path(polos.__file__).parent.joinpath(folder).glob("*.py"))
    found = [file.name for file in files if re.search(r"from dataclasses import .*\bdataclass\b", file.read_text())]

    assert len(files) > 5
    assert set() == set(found) - GIVEN


def test_a_class_without_fields() -> None:
    """All instances of a class without fields are equal."""

    @dataclass(frozen=True, slots=True)
    class Nothing:
        """Nothing."""

    assert Nothing() == Nothing()
    assert 1 == len({Nothing(), Nothing()})


def test_what_programs_make_and_are_given_is_frozen_when_it_runs() -> None:
    """A program that changes a policy or a tree of the archive is told so: only polos is known to be careful."""
    policy = polos.RetryPolicy()
    for given, name in (
        (policy, "max_retries"),
        (polos.archive.ArchivedTree(root="r", executions=[], events=[]), "root"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(given, name, -3)

    assert 2 == policy.max_retries
