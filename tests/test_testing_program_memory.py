"""What a program keeps in memory, seen from its code: that nothing is overlooked, and that plain programs keep none."""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import json
import os
import secrets
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Union
from unittest.mock import create_autospec

import pytest
from polos import (
    RetryPolicy,
    Workflow,
    WorkflowContext,
    workflow,
)
from polos.step import Step
from polos.testing import CrashOutcome, CrashSweepFailed, Outside, harmless, program_memory
from polos.testing.program_memory import Memory
from polos.testing.sweep import sweep
from pydantic import BaseModel

from tests.memory_programs import (
    LIMITS,
    MAY,
    Bank,
    bank,
    counts,
    fake,
    in_a_dict,
    in_a_list,
    keeps_none,
    sent,
    settles,
    twice,
)
from tests.more_memory_programs import MORE

ALL = [*MAY, *MORE]


def look(what: object, **options: Any) -> Memory:
    """Look through a function, or a workflow."""
    return Memory([("it", what)], options)


def test_a_program_of_functions_classes_and_constants_keeps_none():
    """Nor does what is made anew at each call, a ledger outside, or the state that is recorded."""
    found = Memory([("it", keeps_none), ("answers", settles)], {})

    assert "" == found.kept
    assert {"memory_none"} == found.workflows
    assert found.is_as(Memory([("it", keeps_none), ("answers", settles)], {}))


@pytest.mark.parametrize(("what", "said"), ALL, ids=[f"{at} {said}" for at, (_, said) in enumerate(ALL)])
def test_what_may_be_kept_is_told(what: object, said: str):
    """Wherever it is kept, and by whatever way the code gets there."""
    assert said in look(what).kept


def test_workflows_that_are_not_registered_are_found_by_their_ids():
    """Those that a sweep was given."""

    async def starts(ctx: WorkflowContext) -> None:
        await ctx.step.invoke_and_wait("child", "memory_given")

    async def other(ctx: WorkflowContext) -> None:
        in_a_dict()

    given: Workflow[Any] = Workflow("memory_given", other)

    assert "" == look(starts).kept
    assert "in_a_dict uses counts, a dict" == look(starts, memory_given=given).kept


def test_what_is_not_there_yet_is_told():
    """A variable of a function around it that has no value."""

    def around() -> Callable[[], object]:
        def uses() -> object:
            return later

        if not LIMITS:
            later: object = None
        return uses

    assert "uses later, which isn't there yet" in look(around()).kept


def test_a_program_that_is_too_large_is_not_looked_through(monkeypatch: pytest.MonkeyPatch):
    """A sweep has other things to do."""
    monkeypatch.setattr(program_memory, "OBJECTS_MAX", 5)

    assert "the program is too large to be looked through" == look(keeps_none).kept


def test_what_has_become_another_is_noticed():
    """A look tells whether it sees what an earlier one has seen."""
    before, other = look(twice), look(settles)

    assert "" == before.kept == other.kept
    assert before.is_as(look(twice))
    assert not before.is_as(other)
    twice.charged = 1  # type: ignore[attr-defined]
    try:
        assert not look(twice).is_as(before)
    finally:
        del twice.charged  # type: ignore[attr-defined]


Json = Union[int, str, list["Json"], dict[str, "Json"], None]  # noqa: UP007  # only this one holds itself


def test_a_type_that_holds_itself_is_looked_at_once():
    """As JSON does; and one that doubles at each level takes no longer."""

    def gives() -> Json:
        return 1

    deep: Any = int
    for _ in range(60):
        deep = tuple[deep, deep]

    def gives_deep() -> deep:
        return None

    gives.__annotations__ = {"return": Json}
    gives_deep.__annotations__ = {"return": deep}
    assert "" == look(gives).kept == look(gives_deep).kept


class Odd(type):
    """Makes classes that can't be asked."""

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(f"nobody asks for {name}")


@pytest.mark.parametrize(
    "made", [lambda: Odd("odd", (), {}), lambda: weakref.proxy(Odd("odd", (), {}))], ids=["odd", "gone"]
)
def test_what_raises_when_it_is_asked_may_be_memory(made: Callable[[], object]):
    """And the sweep goes on."""
    odd = made()

    def uses() -> object:
        return odd

    assert "something that can't be looked at" in look(uses).kept


def test_what_was_put_in_the_place_of_a_harmless_function_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    """A fake of a test's, whether it was there before the first look or not."""

    def draws() -> str:
        return secrets.token_hex(4)

    def waits() -> object:
        from asyncio import gather

        return gather()

    assert "" == look(draws).kept == look(waits).kept
    monkeypatch.setattr(secrets, "token_hex", lambda _count: sent.append(1))
    monkeypatch.setattr(asyncio, "gather", lambda: sent.append(1))
    assert "uses sent, a list" in look(draws).kept
    assert "uses sent, a list" in look(waits).kept
    monkeypatch.setattr(secrets, "token_hex", sent.append)
    assert "secrets.token_hex, a builtin_function_or_method" in look(draws).kept
    monkeypatch.setattr(secrets, "token_hex", create_autospec(secrets.token_hex))
    assert look(draws).kept
    monkeypatch.undo()
    assert "" == look(draws).kept == look(waits).kept


def test_what_was_there_before_anybody_looked_is_not_believed_either(monkeypatch: pytest.MonkeyPatch):
    """A test puts its fakes in their places first, and sweeps then."""
    for fake_one in (lambda _count: sent.append(1), sent.append, create_autospec(secrets.token_hex), Bank):
        with monkeypatch.context() as patched:
            patched.setattr(harmless, "_known", {})
            patched.setattr(harmless, "_unknown", [("secrets", "token_hex")])
            patched.setattr(secrets, "token_hex", fake_one)
            harmless.learn()
            assert {} == harmless._known
            assert [("secrets", "token_hex")] == harmless._unknown


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (WorkflowContext, "patched"), (os, "urandom"), (BaseModel, "model_dump"), (Outside, "note"),
        (json.JSONEncoder, "default"),
    ],
    ids=str,
)  # fmt: skip
def test_parts_of_what_is_harmless_that_were_changed_may_be_memory(monkeypatch: pytest.MonkeyPatch, of: Any, name: str):
    """A test may have put a fake in the place of a method, or of what a function draws from."""
    assert "" == look(keeps_none).kept
    monkeypatch.setattr(of, name, lambda *_: sent.append(1))

    assert look(keeps_none).kept


def test_the_workflow_that_is_found_by_an_id_is_looked_at():
    """A test may have defined it anew, and code holds the one before."""

    async def plain(ctx: WorkflowContext) -> None:
        pass

    async def fakes(ctx: WorkflowContext) -> None:
        in_a_list()

    first = workflow(id="memory_defined_twice")(plain)
    assert "" == look(first).kept
    workflow(id="memory_defined_twice")(fakes)
    assert "in_a_list uses sent, a list" == look(first).kept


def test_what_a_definition_was_given_may_be_memory():
    """An attribute, or a policy for retries with code of its own."""

    async def plain(ctx: WorkflowContext) -> None:
        pass

    class Policy(RetryPolicy):
        pass

    given: Workflow[Any] = Workflow("memory_with_more", plain)
    given.sent = sent  # type: ignore[attr-defined]
    assert "workflow 'memory_with_more' has attributes or retries of its own" == look(given).kept
    other: Workflow[Any] = Workflow("memory_with_policy", plain, retries=Policy())
    assert "workflow 'memory_with_policy' has attributes or retries of its own" == look(other).kept


class Severity(IntEnum):
    """A number with a name."""

    LOW = 1


class Status(StrEnum):
    """A text with a name."""

    PAID = "paid"


def test_enumerations_of_texts_and_numbers_keep_none():
    """Nor do words of a docstring or a message that are names of classes by chance."""

    def tells() -> object:
        """Give a Bank of the kind."""
        raise ValueError(f"no Bank here, {Status.PAID} {Severity.LOW}")

    assert "" == look(tells).kept


def test_a_ledger_that_was_changed_may_be_memory(monkeypatch: pytest.MonkeyPatch):
    """A test may have put a fake into it."""
    assert "" == look(settles).kept
    monkeypatch.setattr(bank, "count", lambda _kind: len(sent), raising=False)

    assert "settles uses bank, an Outside that was changed" == look(settles).kept


def test_code_with_many_names_is_read_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Python numbers names, and writes large numbers in two parts."""
    names = "".join(f"    n{number} = name{number}\n" for number in range(300))
    text = "".join(f"name{number} = {number}\n" for number in range(300))
    (tmp_path / "many_names.py").write_text(f"{text}class C:\n    pass\ndef many():\n{names}    C.n = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert "many assigns to an attribute n" == look(importlib.import_module("many_names").many).kept


# --------------------------------------------------------------------------------------------- sweeps


class Fakes:
    """Ways to keep what was charged; each adds one, and counts."""

    def __init__(self, add: Callable[[], object], count: Callable[[], int], forget: Callable[[], object]) -> None:
        self.add, self.count, self.forget = add, count, forget


class Till:
    """Counts in its class, by a way that can't be seen in the code."""

    count = 0

    @classmethod
    def add(cls) -> None:
        cls.count += 1

    @classmethod
    def forget(cls) -> None:
        cls.count = 0


FAKES: dict[str, Fakes] = {
    "a list": Fakes(lambda: sent.append(1), lambda: len(sent), sent.clear),
    "an object": Fakes(fake.charge, lambda: fake.charged, lambda: setattr(fake, "charged", 0)),
    "a class": Fakes(Till.add, lambda: Till.count, Till.forget),
    "a counter": Fakes(lambda: next(drawn[0]), lambda: next(drawn[0]), lambda: drawn.__setitem__(0, itertools.count())),
}
drawn: list[Iterator[int]] = [itertools.count()]


@pytest.mark.sweep
@pytest.mark.parametrize("case", list(FAKES))
def test_a_double_charge_of_a_fake_in_memory_is_found_by_default(case: str):
    """Half of it happened in the first life of the scenario, so that has to be lived, wherever it is kept."""
    kept = FAKES[case]
    add = kept.add
    kept.forget()

    async def charges() -> None:
        add()

    @workflow(id=f"memory-{case.replace(' ', '-')}")
    async def pays(ctx: WorkflowContext) -> None:
        await ctx.step.run("charge", charges)

    def check(_outcome: CrashOutcome) -> None:
        charged = kept.count()
        kept.forget()
        assert charged <= 1

    with pytest.raises(CrashSweepFailed, match="after_effect_before_outcome:1") as failed:
        sweep(pays, check=check, processes=0, pairs=0)
    assert "check: AssertionError" in failed.value.differences[0]


@workflow(id="memory-fake")
async def charges_in_memory(ctx: WorkflowContext) -> None:
    await ctx.step.run("charge", in_a_list)


@pytest.mark.sweep
@pytest.mark.parametrize("blind", [False, True])
def test_who_looks_at_nothing_misses_it(monkeypatch: pytest.MonkeyPatch, blind: bool):
    """What is found above is found by looking: half of the fake's charges are in a life that isn't lived else."""
    if blind:
        monkeypatch.setattr(Memory, "_code", lambda *_: None)
    sent.clear()

    def check(_outcome: CrashOutcome) -> None:
        charged = len(sent)
        sent.clear()
        assert charged <= 1

    with nullcontext() if blind else pytest.raises(CrashSweepFailed):
        sweep(charges_in_memory, check=check, processes=0, pairs=0)


@workflow(id="memory-child")
async def remembering_child(ctx: WorkflowContext) -> None:
    await ctx.step.run("in a list", in_a_list)


@workflow(id="memory-parent")
async def parent(ctx: WorkflowContext) -> None:
    await ctx.step.invoke_and_wait("child", "-".join(("memory", "child")))  # noqa: FLY002  # the id isn't to be in the code


@pytest.mark.sweep
def test_a_workflow_that_no_code_names_is_lived():
    """One whose id is put together while it runs is found when it was run."""
    report = sweep(parent, processes=0, pairs=0)

    assert "workflow 'memory-child' is named by no code" == report.memory


def test_what_python_writes_on_a_class_that_is_asked_is_no_change(monkeypatch: pytest.MonkeyPatch):
    """Whoever asks a class without annotations for them gives it some, and whoever copies an object its slots."""
    assert "" == look(keeps_none).kept
    monkeypatch.setattr(Step, "__annotations__", {}, raising=False)
    monkeypatch.setattr(WorkflowContext, "__slotnames__", [], raising=False)

    assert "" == look(keeps_none).kept


@dataclass
class Parcel:
    """What is copied writes something on its class."""

    order: str


async def labels(parcel: Parcel) -> str:
    return parcel.order


@workflow(id="memory-copied")
async def copied(ctx: WorkflowContext) -> str:
    return await ctx.step.run("label", labels, Parcel("one"))


@pytest.mark.sweep
def test_what_python_writes_on_a_class_when_it_copies_is_no_memory():
    """A step is given copies, so the class is another behind the first run of it."""
    assert "__slotnames__" not in vars(Parcel)
    assert "" == sweep(copied, processes=0, pairs=0).memory
    assert "__slotnames__" in vars(Parcel)
    assert "" == sweep(copied, processes=0, pairs=0).memory


@pytest.mark.sweep
def test_a_setup_and_functions_in_answers_are_looked_through_as_well():
    """They may keep things as steps do."""

    @workflow(id="memory-answered")
    async def asks(ctx: WorkflowContext) -> None:
        await ctx.step.suspend("approve", {})

    def answer(_waiting: object) -> int:
        sent.append(1)
        return 1

    def set_up(directory: Path) -> None:
        counts["a"] = len(str(directory))

    swept = functools.partial(sweep, asks, processes=0, pairs=0)
    assert "" == swept(answers={"approve": 1}).memory
    assert "uses sent, a list" in swept(answers={"approve": answer}).memory
    assert "setup may open files, and write anywhere" == swept(answers={"approve": 1}, setup=set_up).memory


@pytest.mark.sweep
def test_what_was_found_in_a_scenario_that_was_not_lived_is_no_failure_and_is_told(monkeypatch: pytest.MonkeyPatch):
    """All are lived then; the report says why."""
    monkeypatch.setattr(program_memory, "is_harmless", lambda _what: True)

    report = sweep(forgets_once, check=is_first, processes=0, pairs=0)

    assert "something that the program's code doesn't show" == report.memory


@workflow(id="memory-forgets")
async def forgets_once(ctx: WorkflowContext) -> None:
    await ctx.step.run("in a list", in_a_list)


def is_first(outcome: CrashOutcome) -> None:
    charged = len(sent)
    sent.clear()
    assert charged >= outcome.calls["in a list"]
