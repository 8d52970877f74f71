"""
`explore` finds what depends on the order of things, makes it short, keeps it and plays it again.

The planted races are small, and each is found by one kind of departure from the natural course: the tests say which.
What `explore` reports is looked at as a reader would see it, in the notes of the error.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from polos import StepExecutionError, workflow
from polos.errors import PolosUsageError
from polos.testing import exploration
from polos.testing.exploration import StaleSchedule, explore
from polos.testing.explorer import ExploredWorld

CHARGED: list[int] = []


async def charge(sum: int) -> int:
    """Have an effect."""
    CHARGED.append(sum)
    return sum


def pack(order: int) -> str:
    """Have another one, on a thread."""
    return f"packed {order}"


@workflow(id="explored-order")
async def order(ctx, payload: dict) -> str:
    """Charge and pack, when it is paid."""
    await ctx.step.run("charge", charge, 3)
    await ctx.step.wait_for_signal("paid")
    return str(await ctx.step.run("pack", pack, payload["id"]))


@workflow(id="explored-hurry")
async def hurry(ctx, payload: dict) -> str:
    """Give up on an answer that doesn't come in time."""
    try:
        answer = await ctx.step.suspend("ask", {}, timeout=60)
    except StepExecutionError:
        return "too late"
    return str(answer.data)


@workflow(id="explored-race")
async def race(ctx, payload: dict) -> list[str]:
    """Take down which of several steps ends first."""
    ended: list[str] = []

    async def one(name: str) -> None:
        await ctx.step.run(name, charge, 1)
        ended.append(name)

    await asyncio.gather(*(one(name) for name in payload["names"]))
    return ended


def failing(test: Any) -> AssertionError:
    """Give what an explored test fails with."""
    with pytest.raises(AssertionError) as caught:
        test()
    return caught.value


def story(error: BaseException) -> str:
    """Give what is told of the schedule."""
    return "\n".join(error.__notes__)


def test_what_holds_in_every_order_passes(tmp_path: Path) -> None:
    """A test that holds is played once for each schedule and once in the natural course, and leaves nothing behind."""
    seen: list[str] = []

    @explore(runs=60, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        run = world.start(order, {"id": 7})
        world.signal(run, "paid")
        world.may_cancel(run)
        outcome = world.finish()
        assert outcome.status in {"completed", "cancelled"}
        seen.append(outcome.status)

    test()

    assert 61 == len(seen)
    assert {"completed", "cancelled"} == set(seen)
    assert [] == list(tmp_path.iterdir())


def test_an_order_of_commands_is_found_and_kept(tmp_path: Path) -> None:
    """A command that comes at a bad moment is found, told in one line of the story, saved and played first."""
    bad = True
    played: list[int] = []

    @explore(runs=200, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        played.append(1)
        run = world.start(order, {"id": 7})
        world.signal(run, "paid")
        world.may_cancel(run)
        outcome = world.finish()
        assert not bad or outcome.status == "completed" or "charge" not in outcome.calls

    found = story(failing(test))
    departures = [line for line in found.splitlines() if line.startswith(">")]
    saved = next(tmp_path.iterdir())

    assert ["cancel explored-order#1"] == [line.partition("s  ")[2] for line in departures]
    assert str(saved) in found
    assert "cancel explored-order#1" in json.loads(saved.read_text())["departures"].values()

    played.clear()
    assert f"was saved in {saved}" in story(failing(test))
    assert 1 == len(played)

    bad = False
    test()  # mended: what was saved is played, and what is drawn
    assert saved.exists()


def test_a_test_that_changed_says_so(tmp_path: Path) -> None:
    """A saved schedule that comes to other options isn't taken for a proof: a warning names its file."""
    with_cancel = True

    @explore(runs=50, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        run = world.start(order, {"id": 7})
        world.signal(run, "paid")
        if with_cancel:
            world.may_cancel(run)
        outcome = world.finish()
        assert outcome.status == "completed"

    failing(test)
    with_cancel = False

    with pytest.warns(StaleSchedule, match=r"explored-.*cancel|cancel explored-order#1"):
        test()


def test_the_natural_course_needs_no_schedule(tmp_path: Path) -> None:
    """What fails by itself is told as that: a run that waits for a signal that nobody must send."""

    @explore(runs=5, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        run = world.start(order, {"id": 7})
        world.may_signal(run, "paid")

    error = failing(test)

    assert "nothing can happen any more, and explored-order#1 waits for the signal paid" in str(error)
    assert "it fails in the natural course of things" in story(error)


@workflow(id="explored-parent")
async def parent(ctx, payload: dict) -> str:
    """Have an order filled."""
    return str(await ctx.step.invoke_and_wait("order", order, {"id": 7}))


def test_a_child_that_was_left_out_is_told(tmp_path: Path) -> None:
    """It is registered, and not among the workflows that were named; the sentence is one."""

    @explore(runs=1, workflows=[parent], folder=tmp_path)
    def explored(world: ExploredWorld) -> None:
        world.start(parent, {})

    told = str(failing(explored)).partition("\n")[0]

    assert told.endswith(
        "explored-order#1 doesn't go on: workflow 'explored-order' isn't among the `workflows` of this exploration, so "
        "its engine doesn't know it"
    )
    assert "explored-parent#1 waits for its child " in told


def test_a_run_may_be_left_waiting_if_the_test_says_so(tmp_path: Path) -> None:
    """A run that waits is no failure where it is expected, and its outcome says what for."""
    waits: set[str | None] = set()

    @explore(runs=40, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        run = world.start(order, {"id": 7})
        world.may_signal(run, "paid")
        waits.add(world.finish(may_wait=True).waits_for)

    test()

    assert {None, "the signal paid"} == waits


def test_time_is_one_of_those_that_may_be_first(tmp_path: Path) -> None:
    """An answer that comes too late is found, and one that comes just when the time is up."""
    seen: dict[str, set[float]] = {}

    @explore(runs=150, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        run = world.start(hurry, {})
        world.resume(run, "ask", "yes")
        outcome = world.finish()
        answered = [one.seconds for one in world.happened if one.label.startswith("resume")]
        seen.setdefault(str(outcome.result), set()).add(answered[0])

    test()

    assert {"yes", "too late"} == set(seen)
    assert {0.0, 60.0} <= seen["yes"]
    assert {60.0} <= seen["too late"]


def test_functions_end_in_every_order(tmp_path: Path) -> None:
    """Three steps at once end in all six orders."""
    seen: set[str] = set()

    @explore(runs=200, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        world.start(race, {"names": ["a", "b", "c"]})
        seen.add("".join(world.finish().result))

    test()

    assert {"abc", "acb", "bac", "bca", "cab", "cba"} == seen


@pytest.mark.parametrize("kind", ["crashes", "failures"])
def test_a_call_that_is_made_again_is_found(tmp_path: Path, kind: str) -> None:
    """A step whose second call does harm is found by a crash, and by a call that fails after its effect."""
    crashes, failures = int(kind == "crashes"), int(kind == "failures")

    @explore(runs=100, folder=tmp_path, crashes=crashes, evictions=0, failures=failures, repeats=0)
    def test(world: ExploredWorld) -> None:
        CHARGED.clear()
        run = world.start(order, {"id": 7})
        world.signal(run, "paid")
        world.finish()
        assert CHARGED == [3]

    found = story(failing(test))

    assert {"crashes": "the process dies", "failures": "charge of explored-order#1 fails after"}[kind] in found


def test_commands_come_twice(tmp_path: Path) -> None:
    """A client may send any command a second time, before or after its answer; here that makes no difference."""
    twice: set[str] = set()

    @explore(runs=100, folder=tmp_path, repeats=2, inbox=0)
    def test(world: ExploredWorld) -> None:
        run = world.start(order, {"id": 7})
        world.signal(run, "paid")
        assert "packed 7" == world.finish().result
        assert [run.id] == list(world.sim.audit.states)
        twice.update(one.label for one in world.happened if "a second time" in one.label)

    test()

    assert {"start explored-order#1 a second time", "signal explored-order#1 'paid' a second time"} == twice


@workflow(id="explored-refused-once")
async def refused_once(ctx, payload: dict) -> int:
    return int(await ctx.step.run("charge", charge, 1))


def test_a_step_may_fail_as_the_test_says(tmp_path: Path) -> None:
    """An error that the test names is raised by a call, and ends the run if the step isn't tried again."""
    seen: set[str | None] = set()

    @workflow(id="explored-refused")
    async def refused(ctx, payload: dict) -> int:
        return int(await ctx.step.run("charge", charge, 1, max_retries=0))

    @explore(runs=60, folder=tmp_path, failures=0)
    def test(world: ExploredWorld) -> None:
        world.may_fail("charge", ValueError("no money"))
        world.start(refused, {})
        seen.add(world.finish().error)

    test()

    assert {None, "StepExecutionError: Step execution failed after 0 retries: no money"} == seen


def test_a_step_that_may_fail_and_is_never_called_is_a_mistake(tmp_path: Path) -> None:
    """A slip in the name of a step would leave a test that shows less than it says."""

    @explore(runs=3, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        world.may_fail("chrage", ValueError("no money"))
        world.may_fail("charge", ValueError("no money"))
        world.start(refused_once, {})

    with pytest.raises(PolosUsageError, match="in none of its 4 schedules: 'chrage'; called were 'charge'"):
        test()


def test_suspends_are_answered_whoever_asks(tmp_path: Path) -> None:
    """`answer` reaches whichever run asks, also through a crash."""

    @explore(runs=60, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        world.answer("ask", "yes")
        world.start(hurry, {})
        world.start(hurry, {})
        world.finish()
        assert {"yes", "too late"} >= {run.outcome.result for run in world.runs}

    test()


def test_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    """Which schedule fails, and what is left of it, follows from the seed."""

    def found(seed: int, folder: str) -> dict[str, Any]:
        @explore(runs=200, seed=seed, folder=tmp_path / folder, workflows=[race])
        def test(world: ExploredWorld) -> None:
            world.start(race, {"names": ["a", "b", "c"]})
            assert world.finish().result != ["c", "b", "a"]

        failing(test)
        (path,) = (tmp_path / folder).iterdir()
        saved: dict[str, Any] = json.loads(path.read_text())
        return saved

    first, again = found(1, "one"), found(1, "two")

    assert first == again
    assert 2 == len([index for index in first["decisions"] if index])


def test_what_can_t_be_repeated_is_said_to_be_so(tmp_path: Path) -> None:
    """A failure that doesn't come again has its reason outside of the world, and the error says so."""
    calls: list[int] = []

    @explore(runs=5, folder=tmp_path, workflows=[race])
    def test(world: ExploredWorld) -> None:
        calls.append(1)
        world.start(race, {"names": ["a"]})
        world.finish()
        assert len(calls) != 3

    assert "neither in the schedule nor in the world" in story(failing(test))
    assert [] == list(tmp_path.iterdir())


def test_a_folder_that_can_t_be_written_is_told(tmp_path: Path) -> None:
    """A schedule that can't be saved is told all the same, with how to repeat it."""
    (tmp_path / "file").write_text("")

    @explore(runs=30, seed=4, folder=tmp_path / "file" / "explored", workflows=[race])
    def test(world: ExploredWorld) -> None:
        world.start(race, {"names": ["a", "b"]})
        assert world.finish().result == ["a", "b"]

    assert "repeat it with POLOS_EXPLORE_SEED=4" in story(failing(test))


def test_a_saved_file_that_isn_t_one_is_refused(tmp_path: Path) -> None:
    """What lies in the folder under the test's name and can't be read is no silent pass."""

    @explore(runs=30, folder=tmp_path, workflows=[race])
    def test(world: ExploredWorld) -> None:
        world.start(race, {"names": ["a", "b"]})
        assert world.finish().result == ["a", "b"]

    failing(test)
    next(tmp_path.iterdir()).write_text("{}")

    with pytest.raises(PolosUsageError, match="is no saved schedule"):
        test()


def test_pytest_sees_everything_but_the_world(tmp_path: Path) -> None:
    """Fixtures and parameters of an explored test are pytest's, its first argument isn't."""

    @explore(runs=1, folder=tmp_path, workflows=[race])
    def test(world: ExploredWorld, number: int, *, name: str) -> None:
        world.start(race, {"names": ["a"]})
        assert (3, "x") == (number, name)

    assert ["number", "name"] == list(inspect.signature(test).parameters)
    test(3, name="x")
    test(number=3, name="x")


def test_a_coroutine_can_t_be_explored() -> None:
    """The world has a loop of its own, so a test can't be on another one; and it has to take the world."""
    with pytest.raises(TypeError, match="must be a plain function"):

        @explore  # type: ignore[arg-type]  # that is what is refused
        async def test(world: ExploredWorld) -> None:
            """Never run."""

    with pytest.raises(TypeError, match="must take the world"):

        @explore
        def nothing() -> None:
            """Never run."""


def test_what_never_ends_is_an_error(tmp_path: Path) -> None:
    """A workflow that goes on for ever is told, not waited for."""

    @workflow(id="explored-endless")
    async def endless(ctx, payload: dict) -> None:
        while True:
            await ctx.step.wait_for("pause", seconds=1)

    @explore(runs=1, points_max=50, folder=tmp_path)
    def test(world: ExploredWorld) -> None:
        world.start(endless, {})

    assert "it isn't over after 50 things have happened" in str(failing(test))


def test_what_pytest_raises_is_a_failure_like_any_other(tmp_path: Path) -> None:
    """`pytest.fail`, and `pytest.raises` when nothing comes, are told, made short and kept; both are no `Exception`."""

    @explore(runs=30, folder=tmp_path, workflows=[race])
    def fails(world: ExploredWorld) -> None:
        world.start(race, {"names": ["a", "b"]})
        if world.finish().result != ["a", "b"]:
            pytest.fail("b came first")

    @explore(runs=30, folder=tmp_path, workflows=[race])
    def raises(world: ExploredWorld) -> None:
        world.start(race, {"names": ["a", "b"]})
        with pytest.raises(KeyError):
            assert world.finish().result

    with pytest.raises(pytest.fail.Exception) as failed:
        fails()
    with pytest.raises(pytest.fail.Exception) as nothing_came:
        raises()

    assert "> " in story(failed.value)
    assert 1 == len(list(tmp_path.iterdir()))
    assert "it fails in the natural course of things" in story(nothing_came.value)


@pytest.mark.parametrize("outcome", [pytest.skip, pytest.xfail])
def test_other_outcomes_of_pytest_end_the_test_at_once(outcome: Any, tmp_path: Path) -> None:
    """A test that is skipped, or expected to fail, is so at the first schedule."""
    played: list[int] = []

    @explore(runs=5, folder=tmp_path, workflows=[])
    def explored(world: ExploredWorld) -> None:
        played.append(1)
        outcome("not here")

    with pytest.raises(outcome.Exception):
        explored()

    assert [1] == played


def test_numbers_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of which nothing would be played is no test, and a misspelt disturbance none that happens."""

    def explored(world: ExploredWorld) -> None: ...

    with pytest.raises(ValueError, match="runs must be 0 or more, it is -1"):
        explore(runs=-1)(explored)
    with pytest.raises(TypeError, match="runs must be a whole number, it is '3'"):
        explore(runs="3")(explored)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="knows no 'crashs'; a schedule may hold crashes, evictions"):
        explore(crashs=1)(explored)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="crashes must be a whole number, 0 or more, it is -1"):
        explore(crashes=-1)(explored)
    monkeypatch.setenv("POLOS_EXPLORE_RUNS", "many")
    with pytest.raises(ValueError, match="POLOS_EXPLORE_RUNS must be a whole number, it is 'many'"):
        explore(explored)


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"patience_seconds": 0}, ValueError, "patience_seconds is a time over 0, it is 0"),
        ({"patience_seconds": -3}, ValueError, "patience_seconds is a time over 0, it is -3"),
        ({"patience_seconds": float("nan")}, ValueError, "patience_seconds is a time over 0, it is nan"),
        ({"patience_seconds": "x"}, ValueError, "patience_seconds is a time over 0, it is 'x'"),
        ({"patience_seconds": True}, ValueError, "patience_seconds is a time over 0, it is True"),
        ({"workflows": ["order"]}, TypeError, "an exploration is of what @workflow gives, workflows has 'order' in it"),
        ({"workflows": "order"}, TypeError, "workflows is a list of workflows, it is 'order'"),
        ({"workflows": order}, TypeError, "workflows is a list of workflows, it is <Workflow 'explored-order'>"),
        ({"workflows": 3}, TypeError, "workflows is a list of workflows, it is 3"),
        ({"seed": "x"}, TypeError, "seed is a whole number, it is 'x'"),
        ({"points_max": 0}, ValueError, "points_max is a whole number from 1, it is 0"),
        ({"points_max": None}, ValueError, "points_max is a whole number from 1, it is None"),
        ({"settings": {}}, TypeError, "settings is a Settings of the engine, it is {}"),
        ({"way": "wild"}, ValueError, "way is one of "),
        ({"folder": 3}, TypeError, "folder is a Path, it is 3"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(given: dict[str, Any], error: type[Exception], told: str) -> None:
    """As the arguments of a sweep are: where it is given, and before anything is played."""
    with pytest.raises(error) as refused:
        explore(**given)

    assert str(refused.value).startswith(told)


def test_what_is_described_behind_a_finish_is_played(tmp_path: Path) -> None:
    """At the end of the test, if no other `finish` does it before: else it would be a test of nothing."""
    CHARGED.clear()

    @explore(runs=0, folder=tmp_path, workflows=[race])
    def explored(world: ExploredWorld) -> None:
        world.start(race, {"names": ["a"]})
        world.finish()
        world.start(race, {"names": ["b", "c"]})

    explored()

    assert [1, 1, 1] == CHARGED


def test_a_failure_in_the_natural_course_is_not_kept(tmp_path: Path) -> None:
    """It is played each time anyway; a file of no decisions would only be in the way."""

    @explore(runs=3, folder=tmp_path, workflows=[])
    def explored(world: ExploredWorld) -> None:
        raise KeyError("a slip of the test")

    with pytest.raises(KeyError) as failed:
        explored()

    assert "it fails in the natural course of things" in story(failed.value)
    assert [] == list(tmp_path.iterdir())


def test_parameters_tell_saved_schedules_apart_whatever_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A colon or a bracket in a parameter doesn't make one test of two."""

    def explored(world: ExploredWorld) -> None: ...

    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/a b.py::explored[x::y[z] /] (call)")

    assert exploration._test_id(explored).endswith("explored[x::y[z] /]")


def test_an_exploration_of_nothing_is_refused():
    """A body that starts no run would pass whatever the code does."""

    @explore(runs=2)
    def nothing(world: ExploredWorld) -> None:
        pass

    with pytest.raises(PolosUsageError, match="it starts no run"):
        nothing()
