"""What the kit says where something went wrong: about the program, by its own names, and nothing that isn't so."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from polos import Agent, WorkflowContext, WorkflowState, workflow
from polos.llm.providers.recorded import Recording
from polos.points import POINTS
from polos.testing import CrashOutcome, CrashPoint, CrashSweepFailed, ExploredWorld, explore, loop, stuck
from polos.testing.remains import Collector
from polos.testing.sweep import sweep
from polos.testing.sweep_outcome import Execution, differences
from polos.testing.sweep_points import AWAIT
from polos.testing.sweep_report import POINT_VARIABLE
from polos.testing.sweep_scenario import Stage

from tests import sweep_workflows as w
from tests import test_testing_patience as kit
from tests.test_testing_patience import Hangs, failure

hangs = kit.hangs  # a fixture

HERE = str(Path(__file__))


class Sum(WorkflowState):
    """What the workflow below adds up."""

    total: int = 0


@workflow(id="words-sum", state_schema=Sum)
async def adds_in_a_step(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Change the state where a crash takes it away."""

    async def add() -> None:
        ctx.state.total += 1

    await ctx.step.run("add", add)
    await ctx.step.wait_for("pause", days=1)


@workflow(id="words-event")
async def waits_for_an_event(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Wait in a step for what nobody does."""
    await ctx.step.run("wait", waits_for_nobody)


async def waits_for_nobody() -> None:
    """Wait."""
    kit.NOW["it"].there.set()
    await asyncio.Event().wait()


def outcome(*paths: str, result: Any = None) -> CrashOutcome:
    """Give the outcome of runs at these places."""
    runs = [Execution(path=path, id=path, workflow=f"of {path}", status="completed", result=result) for path in paths]
    return CrashOutcome(status="completed", executions=runs)


def said(expected: CrashOutcome, found: CrashOutcome) -> list[str]:
    """Give what is said to differ."""
    return differences(expected, found, leave_out=set(), same=None)


# ------------------------------------------------------------------------------------------------ outcomes


def test_a_child_that_is_not_there_is_told_as_that():
    """Neither as something that it is, nor with all that the other one has."""
    assert ["child 'ship' isn't there; undisturbed there is one, of workflow 'of ship'"] == said(
        outcome("", "ship"), outcome("")
    )
    assert ["child 'ship', of workflow 'of ship', is there; undisturbed there is none"] == said(
        outcome(""), outcome("", "ship")
    )


def test_a_part_that_is_not_there_is_no_word():
    """A part of a result that is missing can be told from one that is the word for it."""
    both = [outcome("", result={"paid": "absent"}), outcome("", result={})]

    assert ["the result['paid'] of the run is absent, undisturbed it is 'absent'"] == said(*both)
    assert ["the result['paid'] of the run is 'absent', undisturbed it is absent"] == said(*reversed(both))


def test_state_that_is_changed_in_a_step_is_explained():
    """The page says why the change is gone, and where it belongs."""
    with pytest.raises(CrashSweepFailed) as failed:
        sweep(adds_in_a_step, {}, processes=0, pairs=0)

    assert "the log has StateChanged of ctx.state.total, the code asks for nothing; a completed step isn't" in str(
        failed.value
    )


_numbers = itertools.count()


@workflow(id="words-child")
async def child(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Do nothing."""
    return 1


@workflow(id="words-parent")
async def draws_for_a_child(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """What its child is given is another number each time that its code is run."""
    return await ctx.step.invoke_and_wait("ship", child, {"order": "9", "number": next(_numbers)})


@workflow(id="words-turned")
async def turns_for_a_child(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """What its child is given is in another order each time that its code is run."""
    order = [1, 2] if next(_numbers) % 2 else [2, 1]
    return await ctx.step.invoke_and_wait("ship", child, {"order": order})


@workflow(id="words-drawn")
async def draws_for_a_step(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """What its step is given is another number each time that its code is run."""
    return await ctx.step.run("weigh", lambda number: 1, next(_numbers))


def test_what_a_child_is_given_otherwise_is_shown():
    """A sweep shows what its run was created with and what it would be now, as the log has both."""
    with pytest.raises(CrashSweepFailed) as failed:
        sweep(draws_for_a_child, {}, processes=0, pairs=0)

    (told,) = failed.value.differences
    assert "ArgumentsChanged: child run 'ship': is given other arguments" in told
    assert re.search(r'\n +"order": "9",\n +-  "number": \d+\n +\+  "number": \d+\n', told)


def test_another_order_of_what_a_child_is_given_is_shown():
    """The child sees it, unlike that of what a suspend shows."""
    with pytest.raises(CrashSweepFailed, match="ArgumentsChanged: child run 'ship': is given other arguments"):
        sweep(turns_for_a_child, {}, processes=0, pairs=0)


def test_what_a_step_is_given_otherwise_is_shown():
    """Of what it was given the log has a digest alone."""
    with pytest.raises(CrashSweepFailed) as failed:
        sweep(draws_for_a_step, {}, processes=0, pairs=0)

    (told,) = failed.value.differences
    assert "ArgumentsChanged: step 'weigh': is given other arguments" in told
    assert re.search(r"\n +arguments now: \d+$", told)


def test_a_function_that_does_not_say_what_it_takes_is_taken_as_it_is():
    """Of some of C's nobody knows how they are called."""
    with pytest.raises(ValueError, match="no signature found"):
        inspect.signature(max)

    assert sweep(w.small, {}, same=max, processes=0, pairs=0).singles > 10


# ------------------------------------------------------------------------------------------------ what hangs


def test_a_step_that_waits_for_nobody_is_got_back(hangs: Hangs):
    """It doesn't block: its thread isn't given up, and the page shows the line at which it waits."""
    failed = failure(waits_for_an_event, "")

    assert "await asyncio.Event().wait()" in failed.differences[0]
    assert f'File "{HERE}"' in failed.differences[0]
    assert "interrupted" not in str(failed)
    assert [] == [thread for thread in threading.enumerate() if thread.name == "polos-sweep"]


def test_a_step_that_never_comes_back_is_told_with_its_line(hangs: Hangs, monkeypatch: pytest.MonkeyPatch):
    """Also by a sweep that has patience enough to see that nothing more happens."""
    monkeypatch.setattr(loop, "PATIENCE_SECONDS", 0.001)
    failed = failure(waits_for_an_event, "", patience_seconds=1e9)

    told = failed.differences[0]
    assert told.startswith(f"the run doesn't end: step 'wait' never comes back; it waits at\n  File \"{HERE}\"")
    assert "await asyncio.Event().wait()" in told


def test_a_step_of_which_nobody_knows_what_became_is_told_so():
    """Its run doesn't end, and the page says who could help."""

    @workflow(id="words-unknown")
    async def unknown(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        await ctx.step.run("wait", waits_for_nobody, effect="at_most_once", timeout_seconds=5)

    failed = failure(unknown, "")

    assert "the undisturbed run is wrong by itself, no crash is needed" in str(failed)
    assert re.search(r"the run doesn't end: it is step_outcome_unknown; .*`reconcile`.*`answers`", str(failed))


def test_a_thread_that_was_given_up_keeps_nobody_waiting(hangs: Hangs, monkeypatch: pytest.MonkeyPatch):
    """What it does counts for nothing, so a test that awaits what never comes is told as if it weren't there."""
    failure(kit.step, "block")
    (lost,) = [thread for thread in threading.enumerate() if thread.name == "polos-sweep"]
    threads: list[threading.Thread] = [threading.current_thread(), lost]
    monkeypatch.setattr(stuck, "_threads", lambda: threads)

    assert not stuck._threads_at_work()

    other = threading.Thread(target=hangs.free.wait)
    other.start()
    threads.append(other)
    assert stuck._threads_at_work()


def test_what_hangs_here_too_is_told_where_it_was_found(hangs: Hangs, monkeypatch: pytest.MonkeyPatch):
    """A failure in child processes stays one, with their command, if the same crash makes this process hang."""

    def in_children(stage: Stage, points: tuple[CrashPoint, ...], directory: Path, turn: int) -> CrashOutcome:
        if points:
            return CrashOutcome(status="absent", in_process=False, problems=["life 2 took longer than 9 s"])
        return replace(stage._in_process((), directory, Collector(())), in_process=False)

    monkeypatch.setattr(Stage, "_in_children", in_children)
    failed = failure(kit.recovery, "", real=True, points=1)

    (point,) = failed.points
    assert f"hanging-recovery doesn't survive a crash at {point} (seed 0, in child processes)" == failed.args[0]
    assert ["life 2 took longer than 9 s"] == failed.differences
    assert failed.target.endswith(f"/real/{point}")
    assert (
        "The same crash does harm in this process, too: the body of workflow 'hanging-recovery' hasn't come back"
        in str(failed)
    )


# ------------------------------------------------------------------------------------------------ arguments


def nothing() -> None:
    """Take no argument."""


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"points": 0}, ValueError, "points is a whole number from 1, or None for all, it is 0"),
        ({"setup": nothing}, TypeError, "setup is called with the scenario's directory; it is <function nothing"),
        ({"check": nothing}, TypeError, "check is called with the outcome; it is <function nothing"),
        ({"same": nothing}, TypeError, "same is called with the result found and the undisturbed one; it is"),
        ({"answers": {"ask": nothing}}, TypeError, "the function in answers for 'ask' is called with a Waiting; it is"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], text: str):
    """A sweep of nothing, and functions that can't be called, are told before anything is begun."""
    with pytest.raises(error) as refused:
        sweep(w.small, {}, **{"processes": 0, **options})

    assert str(refused.value).startswith(text)
    if error is TypeError:
        line = nothing.__code__.co_firstlineno
        assert f"defined at {__file__}:{line}, which takes () -> 'None'" in str(refused.value)


@pytest.mark.parametrize("options", [{"pairs": 0}, {"processes": 0}])
def test_less_of_something_is_no_mistake(options: dict[str, Any]):
    """No pairs, or no child processes, is what many a test wants."""
    assert sweep(w.small, {}, **{"pairs": 0, "processes": 0, "points": 1, **options}).singles


def test_what_raises_outside_of_the_program_has_no_lines_of_the_kit():
    """Python's own function that a program gives as `setup` is told without where the kit calls it."""
    failed = failure(w.small, "", setup=len, patience_seconds=60)

    assert ["setup raises TypeError: object of type 'PosixPath' has no len()"] == failed.differences


def test_a_sweep_that_is_not_meant_says_so(monkeypatch: pytest.MonkeyPatch):
    """Its line in the summary says that nothing was tried, and not that nothing survived."""
    monkeypatch.setenv(POINT_VARIABLE, "other@1f0c2a/before_append:1")

    report = str(sweep(w.small, {}))
    assert f"{w.small.id}: nothing was tried, {POINT_VARIABLE} names another sweep" == report


@pytest.mark.parametrize(
    ("tell", "text"),
    [
        (lambda world: world.signal("nope", "x"), "signal is sent to a run, which is what world.start(...) gave; this"),
        (lambda world: world.may_cancel("nope"), "cancel is sent to a run, which is what world.start(...) gave; this"),
        (lambda world: world.publish("topic", after="it"), "after is what was sent before, as world.signal(...)"),
    ],
)
def test_what_is_sent_to_no_run_is_refused(tell: Callable[[ExploredWorld], Any], text: str, tmp_path: Path):
    """A name, or an id, in the place of a run is told with what is wanted."""

    @explore(runs=0, folder=tmp_path)
    def told(world: ExploredWorld) -> None:
        tell(world)

    with pytest.raises(TypeError) as refused:
        told()

    assert str(refused.value).startswith(text)


def test_a_recording_is_no_model():
    """What plays recorded replies is a setting, and the error shows how it is given."""
    with pytest.raises(TypeError, match=r'provider_settings=\{"recording": model_of\(recording\)\}'):
        Agent(id="words-replayed", provider="recorded", model=Recording(()))  # type: ignore[arg-type]  # the mistake


def test_what_points_mean_is_said():
    """Whoever reads a page finds each name that can stand there in a table: those of a life in a sweep."""
    elsewhere = ("inbox_", "drained_")  # commands are handed over in a sweep, and nobody stops an engine
    names = {AWAIT, *(name for name in POINTS if not name.startswith(elsewhere))}
    page = (Path(__file__).parent.parent / "docs" / "testing.md").read_text("utf-8")
    table = page.partition("| the process dies | at |\n")[2].partition("\n\n")[0]
    report = sweep(w.small, {}, processes=0, pairs=0, points=1)

    assert names == set(re.findall(r"`([a-z_/]+)`", table))
    assert {point.name for point in report.points} <= names
