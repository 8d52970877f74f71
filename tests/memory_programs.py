"""Programs that keep nothing in memory, and programs that may, each by another way, with what is said of them."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import json
import logging
import math
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

from polos import (
    Completed,
    NotDone,
    RetryPolicy,
    StepExecutionError,
    WorkflowContext,
    WorkflowState,
    workflow,
)
from polos.middleware.hook import hook
from polos.testing import Outside
from pydantic import BaseModel, Field, PrivateAttr, field_validator

bank = Outside("memory")

# ------------------------------------------------------------------------------- programs that keep none

LIMITS = (10, ("a", 2.5), frozenset({"x"}))
PAUSE = timedelta(seconds=3)


class Color(Enum):
    """Two of them."""

    RED = "red"
    BLUE = "blue"

    def other(self) -> Color:
        return Color.BLUE if self is Color.RED else Color.RED


@dataclass(frozen=True)
class Rates:
    """What never changes."""

    percent: int = 19
    color: Color = Color.RED

    def of(self, cents: int) -> int:
        return cents * self.percent // 100


RATES = Rates()
RETRY = RetryPolicy(max_retries=1)


class Order(BaseModel):
    """A payload."""

    cents: int
    lines: list[str] = []
    tags: dict[str, str] = Field(default_factory=dict)
    color: Color | None = None
    kind: Literal["a list", "b"] = "b"

    def total(self) -> int:
        return self.cents + len(self.lines)


class Progress(WorkflowState):
    """What is recorded."""

    done: int = 0


class Declined(Exception):
    """A refusal."""


@dataclass
class Basket:
    """Made anew at each call."""

    cents: list[int] = field(default_factory=list)

    def add(self, cents: int) -> None:
        self.cents.append(cents)

    @property
    def total(self) -> int:
        return sum(self.cents)

    @staticmethod
    def empty() -> Basket:
        return Basket()

    @classmethod
    def of(cls, cents: int) -> Basket:
        found = cls()
        found.add(cents)
        return found


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any) -> Any:
        bank.note("called", name=function.__name__)
        return await function(*args)

    return call


@logged
async def charge(cents: int, currency: str = "EUR", *, color: Color = Color.RED) -> str:
    from math import floor

    if cents > 10 ** LIMITS[0]:
        raise Declined(cents)
    basket = Basket.of(floor(cents))
    basket.add(RATES.of(cents))
    basket.cents[0] += 1
    await asyncio.sleep(0)
    bank.note("charged", pause=PAUSE.total_seconds(), total=basket.total, currency=currency, color=color.other().value)
    return json.dumps({"paid": basket.total})


def twice(number: int) -> int:
    assert isinstance(number, int), f"{number!r} is no number"
    return math.prod([number, 2]) if number else twice(0)


@workflow(id="memory_none", state_schema=Progress)
async def keeps_none(ctx: WorkflowContext, payload: Order) -> list[Any]:
    seen: list[int] = []
    total = 0

    def count(number: int) -> int:
        nonlocal total
        seen.append(number)
        total += number
        return total

    charged = [await ctx.step.run(f"charge-{index}", charge, payload.total() + index) for index in range(2)]
    numbers = await asyncio.gather(*(ctx.step.run(f"twice-{index}", twice, index, retry=RETRY) for index in (1, 2)))
    ctx.state.done += 1
    ctx.state.done = count(ctx.state.done)
    for number in sorted(numbers, key=lambda number: -number):
        count(number)
    try:
        await ctx.step.run("partial", functools.partial(twice, 3))
    except StepExecutionError:
        return seen
    return [*charged, *numbers]


def settles(_waiting: object) -> object:
    return Completed("paid") if bank.count("charged") else NotDone()


# ---------------------------------------------------------------------------------- programs that may

sent: list[int] = []
counts: dict[str, int] = {}
holder = (1, [2])
numbers = itertools.count()
lock = threading.Lock()
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
logger = logging.getLogger("memory")
calls = 0


class Bank:
    """A fake."""

    def __init__(self) -> None:
        self.charged = 0

    def charge(self) -> None:
        self.charged += 1


fake = Bank()


class Ledger:
    """Keeps it in the class."""

    notes: ClassVar[list[int]] = []
    count = 0

    def note(self) -> None:
        self.notes.append(1)

    @classmethod
    def add(cls) -> None:
        cls.count += 1


class Note(BaseModel):
    """Acts when it is made."""

    text: str

    @field_validator("text")
    @classmethod
    def seen(cls, text: str) -> str:
        sent.append(1)
        return text


class Kept(BaseModel):
    """Keeps something of its own."""

    _kept: list[int] = PrivateAttr(default_factory=list)


class Made(BaseModel):
    """Has a default that counts."""

    number: int = Field(default_factory=lambda: next(numbers))


class Holds(BaseModel):
    """Has one of those in it."""

    notes: list[dict[str, Note | None]] = []


@dataclass
class Loose:
    """Can be changed."""

    number: int = 0


loose = Loose()


def in_a_list() -> None:
    sent.append(1)


def in_a_dict() -> None:
    counts["a"] = 1


def in_a_tuple() -> object:
    return holder


def in_a_fake() -> None:
    fake.charge()


def in_an_object() -> None:
    loose.number += 1


def in_a_class() -> None:
    Ledger().note()


def in_a_global() -> None:
    global calls  # noqa: PLW0603  # that is what is tried
    calls += 1


def in_a_default(seen: list[int] = []) -> None:  # noqa: B006  # that is what is tried
    seen.append(1)


def in_a_default_by_name(*, seen: Any = {}) -> None:  # noqa: B006  # as above
    seen["a"] = 1


def in_itself() -> None:
    in_itself.count = 1  # type: ignore[attr-defined]


def in_another() -> None:
    twice.count += 1  # type: ignore[attr-defined]


def has_an_attribute() -> None:
    pass


has_an_attribute.count = []  # type: ignore[attr-defined]


def in_a_closure() -> Callable[[], None]:
    seen: list[int] = []
    return lambda: seen.append(1)


def in_a_variable_around_it() -> Callable[[], int]:
    number = 0

    def add() -> int:
        nonlocal number
        number += 1
        return number

    return add


def in_a_function_in_it() -> None:
    def inner() -> None:
        sent.append(1)

    inner()


@functools.cache
def cached(number: int) -> int:
    return number


def by_a_cache() -> int:
    return cached(1)


def by_counting() -> int:
    return next(numbers)


def by_a_lock() -> None:
    with lock:
        pass


def by_a_context() -> None:
    variable.set(1)


def by_a_log() -> None:
    logger.info("charged")


def by_printing() -> None:
    print("charged")


def by_chance() -> float:
    return random.random()  # noqa: TID251  # that is what is tried


def in_the_environment() -> None:
    os.environ["CHARGED"] = "1"


def in_a_file() -> None:
    open("charged", "w").close()


def in_a_path() -> None:
    Path("charged").touch()


def by_name() -> None:
    globals()["calls"] = 1


def by_an_attributes_name() -> None:
    setattr(twice, "count", 1)  # noqa: B010  # that is what is tried


def by_type() -> None:
    type(Rates()).percent = 3


def by_its_class() -> None:
    Rates().__class__.percent = 3


def by_its_frame() -> None:
    (waits := asyncio.sleep(0)).cr_frame.f_globals["calls"] = 1  # type: ignore[attr-defined]
    waits.close()


def by_an_import() -> None:
    from tests import sweep_workflows

    sweep_workflows.memory.append("called")


def of_a_library() -> object:
    return shutil.which("python")


def of_a_module() -> object:
    return json


def of_nobody() -> object:
    return nowhere  # type: ignore[name-defined]  # noqa: F821  # that is what is tried


def annotated(note: Note) -> str:
    return note.text


def annotated_with_nothing(note: Nothing) -> None:  # type: ignore[name-defined]  # noqa: F821  # as above
    pass


def annotated_deep(note: Callable[[Holds], int] | None) -> None:
    pass


@workflow(id="memory_by_id")
async def started_by_id(ctx: WorkflowContext) -> None:
    in_a_list()


async def starts_by_id(ctx: WorkflowContext) -> None:
    await ctx.step.invoke_and_wait("child", "memory_by_id")


@hook
def hooked(ctx: Any, _about: Any) -> Any:
    return None


@workflow(id="memory_hooked", on_start=hooked)
async def with_hooks(ctx: WorkflowContext) -> None:
    pass


@workflow(id="memory_payload")
async def with_payload(ctx: WorkflowContext, payload: Holds) -> None:
    pass


MAY: list[tuple[object, str]] = [
    (in_a_list, "in_a_list uses sent, a list"),
    (in_a_dict, "in_a_dict uses counts, a dict"),
    (in_a_tuple, "in_a_tuple uses holder, a list"),
    (in_a_fake, "in_a_fake uses fake, a Bank"),
    (in_an_object, "in_an_object assigns to an attribute number"),
    (in_a_class, "Ledger.notes, a list"),
    (in_a_global, "in_a_global assigns to a global"),
    (in_a_default, "a default of in_a_default, a list"),
    (in_a_default_by_name, "a default of in_a_default_by_name, a dict"),
    (in_itself, "in_itself assigns to an attribute count"),
    (in_another, "in_another assigns to an attribute count"),
    (has_an_attribute, "has_an_attribute has an attribute count"),
    (in_a_closure(), "uses seen, a list"),
    (in_a_variable_around_it(), "assigns to number"),
    (in_a_function_in_it, "in_a_function_in_it uses sent, a list"),
    (functools.partial(sorted, sent), "it, a list"),
    (fake.charge, "it, a method"),
    (by_a_cache, "by_a_cache uses cached, a _lru_cache_wrapper"),
    (by_counting, "by_counting uses numbers, a count"),
    (by_a_lock, "by_a_lock uses lock, a lock"),
    (by_a_context, "by_a_context uses variable, a ContextVar"),
    (by_a_log, "by_a_log uses logger, a Logger"),
    (by_printing, "by_printing uses print, a builtin_function_or_method"),
    (by_chance, "by_chance uses random.random, a builtin_function_or_method"),
    (in_the_environment, "in_the_environment uses os.environ, a _Environ"),
    (in_a_file, "in_a_file uses open, a builtin_function_or_method"),
    (in_a_path, "in_a_path uses Path, a class Path"),
    (by_name, "by_name uses globals, a builtin_function_or_method"),
    (by_an_attributes_name, "by_an_attributes_name uses setattr, a builtin_function_or_method"),
    (by_type, "by_type assigns to an attribute percent"),
    (by_its_class, "by_its_class assigns to an attribute percent"),
    (by_its_frame, "by_its_frame uses an attribute cr_frame"),
    (by_an_import, "by_an_import imports tests.sweep_workflows"),
    (of_a_library, "of_a_library uses shutil.which, a function of a library"),
    (of_a_module, "of_a_module uses json, a module"),
    (of_nobody, "of_nobody uses nowhere, which isn't there yet"),
    (annotated, "Note has validators, serializers or computed fields"),
    (annotated_with_nothing, "annotated_with_nothing is annotated with Nothing, which can't be found"),
    (annotated_deep, "Note has validators, serializers or computed fields"),
    (Kept, "Kept has private attributes"),
    (Made, "uses numbers, a count"),
    (starts_by_id, "in_a_list uses sent, a list"),
    (with_hooks, "workflow 'memory_hooked' has hooks"),
    (with_payload, "Note has validators, serializers or computed fields"),
]
