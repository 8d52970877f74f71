"""More programs that may keep something in memory, by ways that are easily overlooked."""

from __future__ import annotations

import asyncio
import functools
import operator
import string
from dataclasses import dataclass
from enum import Enum
from types import FunctionType
from typing import Any, Generic, Protocol, Self, TypeVar, get_type_hints

from polos import (
    WorkflowContext,
)
from pydantic import BaseModel

from tests.memory_programs import Rates, bank, fake, in_a_list, keeps_none, sent, twice


class Pays(Protocol):
    """Says what a fake does."""

    def charge(self) -> None:
        sent.append(1)


class FakePays(Pays):
    """Does it."""


class Anything(Any):  # type: ignore[misc]  # mypy knows no such class
    """Has what typing puts into it."""

    def charge(self) -> None:
        sent.append(1)


T = TypeVar("T")


class Box(Generic[T]):
    """A generic one."""

    def charge(self) -> None:
        sent.append(1)


IntBox = Box[int]


class Kinds(Enum):
    """Has fakes for members."""

    FAKE = fake


class Kinder(Enum):
    """Has members with something of their own."""

    ONE = 1

    def __init__(self, number: int) -> None:
        self.charges: list[int] = []


class Kindest(Enum):
    """Has code for what is missing."""

    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Kindest:
        sent.append(1)
        return cls.ONE


class LooseRates(Rates):
    """Isn't frozen, though its base is."""

    def add(self) -> None:
        sent.append(1)


@dataclass(frozen=True)
class FrozenList(list[int]):
    """Isn't frozen either."""


loose_rates, frozen_list = LooseRates(), FrozenList()


class OneOnly:
    """Gives the same one each time."""

    def __new__(cls) -> Self:
        sent.append(1)
        return super().__new__(cls)


class Tells:
    """Is told of those below it."""

    def __init_subclass__(cls) -> None:
        sent.append(1)


class Indexed:
    """Counts who asks."""

    def __class_getitem__(cls, _item: object) -> type:
        sent.append(1)
        return cls


class Calls(BaseModel):
    """Has code in its defaults."""

    handlers: dict[str, Any] = {"charge": in_a_list}


class Charges(BaseModel):
    """Reached by the type of a result."""

    cents: int = 0

    def charge(self) -> None:
        sent.append(1)


class Inside:
    """Counts up and down."""

    count = 0

    @classmethod
    def enter(cls) -> None:
        cls.count += 1


def by_a_protocol() -> None:
    FakePays().charge()


def by_any() -> None:
    Anything().charge()


def by_a_generic() -> None:
    IntBox().charge()


def by_a_member() -> object:
    return Kinds.FAKE


def by_a_member_with_more() -> object:
    return Kinder.ONE


def by_what_is_missing() -> object:
    return Kindest(3)


def by_an_unfrozen_one() -> object:
    return loose_rates


def by_a_frozen_list() -> object:
    return frozen_list


def by_making_one() -> object:
    return OneOnly()


def by_being_below() -> object:
    return Tells()


def by_indexing() -> object:
    return Indexed[int]  # type: ignore[misc]  # it is none of typing


def by_a_default() -> object:
    return Calls()


def by_a_quoted_type() -> "list[Charges | None]":  # noqa: UP037  # that is what is tried
    return []


def by_a_type_in_it() -> object:
    def give() -> Charges:
        return Charges()

    return give


def by_an_alias() -> None:
    other = Inside
    other.count += 1


def by_an_alias_of_a_function() -> None:
    other = twice
    other.count = 1  # type: ignore[attr-defined]


def by_counting_in_a_class() -> None:
    Inside.enter()


async def by_the_logger(ctx: WorkflowContext) -> None:
    ctx.logger.info("charged")


async def by_the_engine(ctx: WorkflowContext) -> None:
    ctx.port.emit("charged")  # type: ignore[union-attr]


async def by_the_loop(ctx: WorkflowContext) -> None:
    loop = asyncio.create_task(asyncio.sleep(0)).get_loop()
    loop.slow_callback_duration = 1


async def by_the_state_of_another(ctx: WorkflowContext) -> None:
    other = Inside
    ctx.state.count += 1
    other.count += 1


def by_a_getter() -> object:
    return operator.attrgetter("__globals__")(twice)


def by_a_text() -> object:
    return string.Formatter().get_field("0.__globals__", (twice,), {})


def by_hints() -> object:
    return get_type_hints(twice)


def by_a_whole_module() -> object:
    import statistics

    return statistics


def by_matching() -> None:
    match twice:
        case FunctionType(__globals__=found):
            found["calls"] = 1


def by_a_definition() -> None:
    keeps_none.on_start.append(in_a_list)


def by_a_private_attribute() -> None:
    bank._memory.append("{}")


class Lock:
    """Is a state, and has one."""

    class state:  # noqa: N801  # that is what is tried
        """Says whether it is held."""

        held = False

    @classmethod
    def acquire(cls) -> None:
        cls.state.held = True


def by_a_state_of_its_own() -> None:
    Lock.acquire()


async def by_a_state_or_another(ctx: WorkflowContext) -> None:
    (Lock if ctx.state is None else ctx).state.held = True


async def by_adding_to_a_state_or_another(ctx: WorkflowContext) -> None:
    (Lock if ctx.state is None else ctx).state.held |= True


async def by_setting_the_context_anew(ctx: Any) -> None:
    ctx = Lock
    ctx.state.held = True


def by_an_attribute_of_a_definition() -> object:
    return keeps_none.tags


def by_words_of_a_partial() -> object:
    return functools.partial(twice, number=1).keywords


async def by_a_span(ctx: WorkflowContext) -> None:
    with ctx.step.trace("charged"):
        pass


class Watched(property):
    """Remembers what it gave."""


class Watching:
    """Has one of these."""

    @Watched
    def charged(self) -> int:
        return 1


def by_a_property() -> object:
    return Watching()


def by_a_relative_import() -> object:
    from .sweep_workflows import memory

    return memory


def by_an_absolute_import() -> object:
    from tests.memory_programs import sent as memory

    return memory


MORE: list[tuple[object, str]] = [
    (by_a_protocol, "FakePays has a metaclass _ProtocolMeta"),
    (by_any, "Anything has a metaclass _AnyMeta"),
    (by_a_generic, "Box has __orig_bases__"),
    (by_a_member, "Kinds.FAKE, a Bank"),
    (by_a_member_with_more, "Kinder has __init__"),
    (by_what_is_missing, "Kindest has _missing_"),
    (by_an_unfrozen_one, "loose_rates, a LooseRates"),
    (by_a_frozen_list, "frozen_list, a FrozenList"),
    (by_making_one, "OneOnly has __new__"),
    (by_being_below, "Tells has __init_subclass__"),
    (by_indexing, "Indexed has __class_getitem__"),
    (by_a_default, "in_a_list uses sent, a list"),
    (by_a_quoted_type, "Charges.charge uses sent, a list"),
    (by_a_type_in_it, "Charges.charge uses sent, a list"),
    (by_an_alias, "by_an_alias assigns to an attribute count"),
    (by_an_alias_of_a_function, "by_an_alias_of_a_function assigns to an attribute count"),
    (by_counting_in_a_class, "Inside.enter assigns to an attribute count"),
    (by_the_logger, "by_the_logger uses an attribute logger"),
    (by_the_engine, "by_the_engine uses an attribute port"),
    (by_the_loop, "by_the_loop assigns to an attribute slow_callback_duration"),
    (by_the_state_of_another, "by_the_state_of_another assigns to an attribute count"),
    (by_a_getter, "by_a_getter uses operator.attrgetter, a class attrgetter"),
    (by_a_text, "by_a_text uses string.Formatter, a class Formatter"),
    (by_hints, "by_hints uses get_type_hints, a function of a library"),
    (by_a_whole_module, "by_a_whole_module imports statistics"),
    (by_matching, "by_matching matches attributes of classes"),
    (by_a_state_of_its_own, "Lock.acquire assigns to an attribute held"),
    (by_a_state_or_another, "by_a_state_or_another assigns to an attribute held"),
    (by_adding_to_a_state_or_another, "by_adding_to_a_state_or_another assigns to an attribute held"),
    (by_setting_the_context_anew, "by_setting_the_context_anew assigns to an attribute held"),
    (by_an_attribute_of_a_definition, "by_an_attribute_of_a_definition uses keeps_none.tags"),
    (by_words_of_a_partial, "by_words_of_a_partial uses an attribute keywords"),
    (by_a_span, "by_a_span uses an attribute trace"),
    (by_a_property, "Watching.charged, a Watched"),
    (by_a_relative_import, "by_a_relative_import imports sweep_workflows"),
    (by_an_absolute_import, "by_an_absolute_import imports tests.memory_programs.sent, a list"),
    (by_a_definition, "by_a_definition uses keeps_none.on_start"),
    (by_a_private_attribute, "by_a_private_attribute uses an attribute _memory"),
]
