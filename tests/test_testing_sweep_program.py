"""What a sweep calls of a program besides bodies and steps: what that raises, and what it is given."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from polos import WorkflowState, workflow
from polos.errors import PolosUsageError
from polos.testing import CrashOutcome, CrashSweepFailed, Outside, Waiting, crash_sweep
from polos.testing.failing import RaisedElsewhere
from polos.testing.sweep import sweep
from polos.testing.sweep_report import POINT_VARIABLE, CrashReport
from polos.testing.sweep_target import Targets
from polos.testing.sweep_wanted import Wanted

from tests import sweep_workflows as w

pytestmark = pytest.mark.sweep

tickets = Outside("tickets")


def swept(workflow: Any, **options: Any) -> CrashReport:
    """Sweep in this process alone."""
    return sweep(workflow, {}, **{"processes": 0, "pairs": 0, **options})


def failure(workflow: Any, **options: Any) -> CrashSweepFailed:
    """Give the failure of a sweep that must fail."""
    with pytest.raises(CrashSweepFailed) as failed:
        swept(workflow, **options)
    return failed.value


def refuse(_waiting: Waiting) -> Any:
    """Have no answer."""
    raise LookupError("nobody knows")


def _gives_no_json(_waiting: Waiting) -> object:
    return object()


# --------------------------------------------------------------------------------------- what it raises


def test_what_setup_raises_after_a_crash_is_a_page():
    """A file that a killed step left half written: who raised, at which line, the crash, and a command."""
    failed = failure(w.saves_a_book, setup=w.open_the_book)

    assert "inside_effect/await:1" == str(failed.points[0])
    assert "setup raises JSONDecodeError: Expecting value" in failed.differences[0]
    assert "in open_the_book" in failed.differences[0]
    assert ("StepScheduled", []) == (failed.before[-1].split()[3], failed.after)
    assert f"{POINT_VARIABLE}=" in failed.command
    assert isinstance(failed.__cause__, json.JSONDecodeError)


def test_what_setup_raises_in_a_child_process_is_the_same_page(monkeypatch: pytest.MonkeyPatch):
    """Who raised, the history and the crash come from there as well, with the traceback that it had."""
    here = failure(w.saves_a_book, setup=w.open_the_book)
    monkeypatch.setenv(POINT_VARIABLE, here.target.replace("/inside", "/real/inside"))
    there = failure(w.saves_a_book, setup=w.open_the_book)

    assert there.real
    assert (here.points, here.differences, here.before, here.after) == (
        there.points, there.differences, there.before, there.after,
    )  # fmt: skip
    assert isinstance(there.__cause__, RaisedElsewhere)
    assert "JSONDecodeError: Expecting value" in str(there.__cause__)
    assert "The same crash does harm in this process, too." in str(there)


def test_what_a_function_in_answers_raises_is_a_page():
    """It is asked what became of a step that was under way, and fails: that is told with the crash before it."""
    failed = failure(w.once, answers={"on*": refuse})

    assert "the function in answers for 'on*' raises LookupError: nobody knows, at" in failed.differences[0]
    assert "in refuse" in failed.differences[0]
    assert "StepOutcomeUnknown" in failed.after[0]
    assert failed.points
    assert isinstance(failed.__cause__, LookupError)


def _cannot_tell() -> object:
    raise ConnectionError("no bank")


@workflow(id="swept-cannot-tell")
async def cannot_tell(ctx) -> Any:
    """Nobody gets to know what became of its step."""
    return await ctx.step.run("once", w.once_more, effect="at_most_once", reconcile=_cannot_tell)


def test_what_reconcile_raises_is_told_if_the_outcome_stays_unknown():
    """A step of unknown outcome is no failure; a `reconcile` with a bug would make one of each, and pass."""
    failed = failure(cannot_tell)
    told = swept(cannot_tell, answers={"once": "kept"})

    assert "reconcile of step 'once' raises ConnectionError: no bank, at" in failed.differences[0]
    assert "in _cannot_tell" in failed.differences[0]
    assert failed.points
    assert told.singles == len(told.points)


def test_what_cannot_be_recorded_of_an_answer_names_the_function():
    """What a function in `answers` gives is its own, too."""
    failed = failure(w.once, answers={"once": _gives_no_json})

    assert "the function in answers for 'once' raises ValueRefused" in failed.differences[0]
    assert failed.points


def _fails_at_the(time: int) -> Callable[[Path], None]:
    calls: list[Path] = []

    def setup(directory: Path) -> None:
        calls.append(directory)
        if len(calls) == time:
            raise OSError("no room")

    return setup


@pytest.mark.parametrize(
    ("time", "says"),
    [
        (1, "swept-small: the undisturbed run is wrong by itself, no crash is needed"),
        (2, "swept-small: a second undisturbed run (does setup begin anew?) is wrong by itself, no crash is needed"),
        (3, "swept-small fails before a crash at owned_before_recovery:1 (seed 0, in this process)"),
    ],
)
def test_what_setup_raises_without_a_crash_is_told_so(time: int, says: str):
    """It is a page as well, which doesn't say that a process has died when none has."""
    failed = failure(w.small, setup=_fails_at_the(time))

    assert says == str(failed).splitlines()[0]
    assert "setup raises OSError: no room" in failed.differences[0]
    assert () == failed.points
    assert (time == 3) == bool(failed.command)
    assert "the process dies" not in str(failed)


def test_what_same_raises_is_told():
    """It is named, and its error is the cause."""

    def same(_found: Any, _expected: Any) -> bool:
        raise ZeroDivisionError("no share")

    failed = failure(w.small, same=same)

    assert "same raises ZeroDivisionError: no share" in failed.differences[0]
    assert isinstance(failed.__cause__, ZeroDivisionError)


def test_what_one_kind_of_child_raises_is_not_taken_for_chance():
    """Each kind of child process has an undisturbed run, and one that fails is told before anything is left out."""
    failed = failure(w.small, setup=w.refuse_one_child, real=True, points=1)

    assert "a second undisturbed run, in another child process, is wrong by itself" in str(failed)
    assert "setup raises OSError: not here" in failed.differences[0]


def test_setup_may_skip_the_test():
    """What pytest means by other outcomes isn't taken for a failure of the workflow."""

    def setup(_directory: Path) -> None:
        pytest.skip("not on this machine")

    with pytest.raises(pytest.skip.Exception):
        swept(w.small, setup=setup)


# -------------------------------------------------------------------------------- what is asked of it


@pytest.mark.parametrize("wanted", ["foo", "pay@1f0c2a", "pay@1f0c2a/", "pay/before_append:1"])
def test_what_can_name_no_crash_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str):
    """A slip in the variable doesn't make a sweep of nothing, which survives everything."""
    monkeypatch.setenv(POINT_VARIABLE, wanted)

    with pytest.raises(PolosUsageError, match=f"like pay@1f0c2a/before_append:3, and it is '{wanted}'; unset it"):
        swept(w.small)


BEGUN_INSIDE = "begun by code that another sweep calls: a step, a body, setup, check"


def _sweeps(_given: object) -> None:
    sweep(w.small, {}, processes=0)


@workflow(id="swept-sweeps-in-body")
async def sweeps_in_its_body(ctx) -> None:
    """Sweep where one is under way, on its loop."""
    await crash_sweep(w.small, {}, processes=0)


@pytest.mark.parametrize(
    ("which", "options"),
    [(w.small, {"setup": _sweeps}), (w.small, {"check": _sweeps}), (sweeps_in_its_body, {}), (w.sweeps_inside, {})],
    ids=["setup", "check", "body", "child"],
)
def test_a_sweep_within_a_sweep_is_refused_at_once(which: Any, options: dict[str, Any]):
    """It would wait for the one that it is part of; the failure says what to do."""
    failed = failure(which, real=which is w.sweeps_inside, points=1, **options)

    assert BEGUN_INSIDE in " ".join(failed.differences)


@pytest.mark.parametrize(
    ("points", "told"),
    [
        (
            "before_append:99",
            "a crash at before_append:99, and the run doesn't come there: it comes past before_append 3 times",
        ),
        (
            "before_lunch:1",
            "a crash at before_lunch:1, and the run doesn't come there: it never comes past before_lunch",
        ),
        (
            "before_append:3+before_append:2",
            "before_append:2 after a crash at before_append:3, and the run doesn't come",
        ),
    ],
)
def test_a_point_that_is_wanted_and_not_reached_is_told(monkeypatch: pytest.MonkeyPatch, points: str, told: str):
    """A command that is older than the code plays no crash any more, and that isn't survived."""
    sweep_of_small = Targets("swept-small", Wanted(workflow=w.small, input={}).task())
    monkeypatch.setenv(POINT_VARIABLE, f"{sweep_of_small.of(())}{points}")

    with pytest.raises(PolosUsageError, match=re.escape(told)):
        swept(w.small)


# ------------------------------------------------------------------------------------- what it is given


class Drawn(WorkflowState):
    """What a run keeps of its tickets."""

    numbers: list[int] = []  # noqa: RUF012  # pydantic copies it


async def draw() -> dict[str, Any]:
    """Give another ticket at each call, although the first one counts."""
    tickets.note("drawn")
    return {"names": ["b", "a"], "number": tickets.count("drawn")}


@workflow(id="swept-draws", state_schema=Drawn)
async def draws(ctx, payload: dict) -> Any:
    """Draw, keep the number, and ask whether it is right."""
    drawn = await ctx.step.run("draw", draw)
    ctx.state.numbers = [drawn["number"]]
    answer = await ctx.step.suspend("right", {"numbers": [0]})
    return {**drawn, "answer": answer.data}


def _looks(outcome: CrashOutcome) -> None:
    assert outcome.status == "completed"


def _ruins(outcome: CrashOutcome) -> None:
    assert outcome.state is not None
    outcome.result["names"].sort()
    outcome.result.clear()
    outcome.state["numbers"].clear()
    for execution in outcome.executions:
        assert execution.state is not None
        execution.status = "ruined"
        execution.result.clear()
        execution.state.clear()
    for found in (outcome.executions, outcome.calls, outcome.events, outcome.cuts, outcome.recovery, outcome.left):
        found.clear()
    outcome.problems.append("ruined")
    outcome.replayed.append("ruined")


def _same(found: Any, expected: Any) -> bool:
    return [found.pop("names"), found.pop("number")] == [expected.pop("names"), expected.pop("number")]


@pytest.mark.parametrize("options", [{}, {"same": _same}], ids=["compared", "same"])
def test_what_a_check_changes_is_changed_nowhere_else(options: dict[str, Any]):
    """One that takes its outcome apart finds what one finds that only looks, with the same page."""
    looked = failure(draws, check=_looks, answers={"right": True}, **options)
    ruined = failure(draws, check=_ruins, answers={"right": True}, **options)

    assert "after_effect_before_outcome:1" == str(looked.points[0])
    assert str(looked) == str(ruined)


def test_what_is_shown_to_a_function_in_answers_is_its_own():
    """What it changes of what a suspend shows isn't changed in the history, nor for the lives after it."""
    seen: list[list[int]] = []

    def counts(waiting: Waiting) -> int:
        waiting.data["numbers"].append(1)
        seen.append(waiting.data["numbers"])
        return len(waiting.data["numbers"])

    failure(draws, answers={"right": counts}, points=1)  # it draws anew after a crash

    assert [[0, 1]] * 3 == seen
