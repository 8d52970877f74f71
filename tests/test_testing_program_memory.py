"""What a program keeps in memory, seen from its code: that nothing is overlooked, and that plain programs keep none."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from polos import (
    Workflow,
    WorkflowContext,
    workflow,
)
from polos.testing import CrashOutcome, CrashSweepFailed, program_memory
from polos.testing.program_memory import Memory
from polos.testing.sweep import sweep

from tests.memory_programs import (
    LIMITS,
    MAY,
    Ledger,
    counts,
    fake,
    in_a_dict,
    in_a_list,
    keeps_none,
    sent,
    settles,
    twice,
)


def look(what: object, **options: Any) -> Memory:
    """Look through a function, or a workflow."""
    return Memory([("it", what)], options)


def test_a_program_of_functions_classes_and_constants_keeps_none():
    """Nor does what is made anew at each call, a ledger outside, or the state that is recorded."""
    found = Memory([("it", keeps_none), ("answers", settles)], {})

    assert "" == found.kept
    assert {"memory_none"} == found.workflows
    assert found.is_as(Memory([("it", keeps_none), ("answers", settles)], {}))


@pytest.mark.parametrize(("what", "said"), MAY, ids=[f"{at} {said}" for at, (_, said) in enumerate(MAY)])
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
    before = look(Ledger.add.__func__)  # type: ignore[attr-defined]
    other = look(twice)

    assert "" == before.kept == other.kept
    assert not before.is_as(other)


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
    assert "uses counts, a dict" in swept(answers={"approve": 1}, setup=set_up).memory
