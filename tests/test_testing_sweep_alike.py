"""Points of a crash sweep that can't be told apart: which they are, and that one of them speaks for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from polos import Completed, NotDone, WorkflowContext, workflow
from polos.points import reach
from polos.runtime.debts import Debts
from polos.runtime.unit import Resident
from polos.testing import CrashOutcome, CrashReport, CrashSweepFailed, Outside, sweep_course, sweep_outcome
from polos.testing.leaving import Leaving
from polos.testing.program_code import ProgramCode
from polos.testing.remains import Remains
from polos.testing.sweep import sweep
from polos.testing.sweep_judging import Judge
from polos.testing.sweep_points import Alike, Left

from tests import sweep_workflows as w

world = Outside("alike")
UNDISTURBED = 2  # runs of a sweep
NOWHERE = ""  # is where they die


@pytest.fixture(autouse=True)
def every_history_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a body notes in a replay is among what is compared, so none is left out because it went well before."""
    monkeypatch.setattr(sweep_outcome, "_TIMES", 10**9)


async def waits() -> int:
    """Act while it waits, without a task, and leave a callback and a task behind that act later still."""
    loop = asyncio.get_running_loop()
    loop.call_soon(ticks, "early", 20)
    await asyncio.sleep(1)
    world.note("slept")
    loop.call_soon(ticks, "late", 3)
    _behind.append(asyncio.create_task(lags()))
    return 1


_behind: list[asyncio.Task[None]] = []


def ticks(when: str, left: int) -> None:
    world.note("tick", when=when, left=left)
    if left:
        asyncio.get_running_loop().call_soon(ticks, when, left - 1)


async def lags() -> None:
    for left in range(20):
        world.note("turn", left=left)
        await asyncio.sleep(0)


def plain(number: int) -> int:
    world.note("plain", number=number)
    return number


@workflow(id="alike_outgoing")
async def outgoing(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    """Act in the body, too, which no workflow should: what a crash does to that is seen as well."""
    world.note("body", where="first")
    first, second = await asyncio.gather(ctx.step.run("waits", waits), ctx.step.run("beside", plain, 2))
    third = await ctx.step.run("after", plain, 3)
    world.note("body", where="second")
    approved = await ctx.step.suspend("approve", {"what": "this"})
    world.note("body", where="last")
    total: int = first + second + third + approved.data
    return total


def passes(number: int) -> int:
    """Act between two points, as code of the engine's would that calls code of the program's."""
    reach("inside_effect")
    world.note("between", number=number)
    reach("inside_effect")
    return number


async def busy() -> None:
    for left in range(40):
        world.note("busy", left=left)
        await asyncio.sleep(0)


@workflow(id="alike_direct", deterministic=False)
async def direct(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    """Act beside its step and after it."""
    beside = asyncio.create_task(busy())
    number = await ctx.step.run("passes", passes, 1)
    world.note("body", where="second")
    await beside
    await asyncio.sleep(0)
    world.note("body", where="last")
    return number


def approve(_waiting: object) -> int:
    world.note("asked")
    return 3


def scenarios(which: Any, answers: dict[str, Any], **options: Any) -> tuple[CrashReport, dict[str, object]]:
    """Sweep; gives how each scenario ended, as whoever looks from outside sees it, by the point that it died at."""
    _behind.clear()
    found: dict[str, object] = {}

    def check(outcome: CrashOutcome) -> None:
        assert outcome.status == "completed", outcome.error
        point = outcome.crashes[0] if outcome.crashes else NOWHERE
        found[point] = (outcome.events, outcome.calls, outcome.result, outcome.state, world.notes())

    report = sweep(which, {"number": 1}, answers=answers, check=check, processes=0, pairs=0, **options)
    return report, found


def differing(which: Any, answers: dict[str, Any], **options: Any) -> tuple[list[str], int]:
    """Give the points that end otherwise than the one that was tried for them, and how many were tried for others."""
    few, tried = scenarios(which, answers, **options)
    every, found = scenarios(which, answers, every_point=True)
    assert few.points == every.points
    assert len(found) - 1 == len(every.points) == every.singles == few.singles
    assert (0, few.alike) == (every.alike, len(few.points) - (few.scenarios - UNDISTURBED))
    wrong: list[str] = []
    speaks = NOWHERE  # if there is nothing to begin with
    for point in map(str, every.points):
        speaks = point if point in tried else speaks  # seed 0 tries the first of those alike with as many calls
        if found[point] != found[speaks]:
            wrong.append(point)
    return wrong, few.alike


MIXED = (w.mixed, w.ANSWERS)
OUTGOING = (outgoing, {"approve": approve})
DIRECT: tuple[Any, dict[str, Any]] = (direct, {})


@pytest.mark.sweep
@pytest.mark.parametrize("case", [MIXED, OUTGOING, DIRECT], ids=["mixed", "outgoing", "direct"])
def test_one_of_those_alike_speaks_for_all(case: tuple[Any, dict[str, Any]]):
    """Lived by itself, each point ends as the one that was tried for it: history, calls, result, and what was done."""
    wrong, alike = differing(*case)

    assert [] == wrong
    assert alike > 5


def _plain_body(number: int) -> int:
    return number


@workflow(id="alike_silent")
async def silent(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    """Call functions that do nothing outside: only the count of calls tells that they were."""
    first = await ctx.step.run("first", _plain_body, 1)
    return first + await ctx.step.run("second", _plain_body, 2)


SILENT: tuple[Any, dict[str, Any]] = (silent, {})


@pytest.mark.sweep
@pytest.mark.parametrize("case", [MIXED, OUTGOING, DIRECT, SILENT], ids=["mixed", "outgoing", "direct", "silent"])
def test_one_speaks_for_more_where_scenarios_begin_with_remains(case: tuple[Any, dict[str, Any]]):
    """Code of the program may have run between them, as long as it has left nothing that is kept."""
    _, fewer = differing(*case, from_remains=False)
    wrong, alike = differing(*case, from_remains=True)

    assert [] == wrong
    assert alike > fewer


def test_who_speaks_for_points_with_fewer_calls_has_these_taken_off(monkeypatch: pytest.MonkeyPatch):
    """Whoever checks only what was lived never sees an end with fewer calls, and the comparison says so."""
    monkeypatch.setattr(Judge, "judge_others", lambda *_given: None)

    wrong, _ = differing(*SILENT, from_remains=True)

    assert "after_append_before_handback:2" in wrong


def test_a_check_that_objects_to_fewer_calls_has_its_crash_lived():
    """What is said of an end that nobody has lived is told when somebody has."""

    def check(outcome: CrashOutcome) -> None:
        assert outcome.crashes != ("after_append_before_handback:2",)

    with pytest.raises(CrashSweepFailed) as failed:
        sweep(silent, {}, check=check, from_remains=True, processes=0)

    assert ["after_append_before_handback:2"] == [str(point) for point in failed.value.points]


@workflow(id="alike_blind")
async def blind(ctx: WorkflowContext, payload: dict[str, int]) -> None:
    for number in range(6):
        await ctx.step.run(f"ship-{number}", _plain_body, number, effect="at_most_once")


def ships_all(outcome: CrashOutcome) -> None:
    assert all(outcome.calls[f"ship-{number}"] == 1 for number in range(6))


@pytest.mark.parametrize("seed", range(6))
def test_of_a_sample_the_points_with_fewer_calls_are_looked_at_as_well(seed: int):
    """Of a few points that are drawn, too; and what is in doubt then is lived, whichever lives are drawn after it."""
    answers = {"ship-*": Completed(1)}  # of steps that were cut off, without looking whether they had begun
    with pytest.raises(CrashSweepFailed):
        sweep(blind, {}, answers=answers, check=ships_all, seed=seed, points=4, pairs=0, processes=0)


@workflow(id="alike_refunds")
async def refunds(ctx: WorkflowContext, payload: dict[str, int]) -> None:
    """Call a second function after a first crash alone."""
    charged: Any = await ctx.step.run("charge", _plain_body, 1, effect="at_most_once")
    if charged == "unsure":
        await ctx.step.run("refund", _plain_body, 1, effect="at_most_once")


def test_a_second_crash_with_fewer_calls_behind_it_is_looked_at_as_well():
    """It is no point that is lived, and its end has one call less than the one that is."""

    def check(outcome: CrashOutcome) -> None:
        assert "unsure" not in str(outcome.events) or outcome.calls["refund"]

    answers = {"charge": Completed("unsure"), "refund": Completed("refunded")}  # it says so without looking
    with pytest.raises(CrashSweepFailed) as failed:
        sweep(refunds, {}, check=check, answers=answers, pairs=1_000, processes=0)

    assert "after_append_before_handback:2" == str(failed.value.points[1])


@pytest.mark.parametrize("point", ["after_append_before_handback:2", "after_effect_before_outcome:2"])
def test_a_scenario_that_is_played_once_more_speaks_for_itself_alone(monkeypatch: pytest.MonkeyPatch, point: str):
    """Others that would be looked at in a sweep are nobody's concern."""

    def check(outcome: CrashOutcome) -> None:
        assert outcome.crashes != ("after_append_before_handback:2",)

    with pytest.raises(CrashSweepFailed) as failed:
        sweep(silent, {}, check=check, from_remains=True, processes=0)
    name = failed.value.target.rpartition("/")[0]
    monkeypatch.setenv("POLOS_CRASH_POINT", f"{name}/{point}")

    if point in failed.value.target:
        with pytest.raises(CrashSweepFailed, match=point):
            sweep(silent, {}, check=check, from_remains=True, processes=0)
    else:
        assert f"only POLOS_CRASH_POINT={point} was tried" in str(
            sweep(silent, {}, check=check, from_remains=True, processes=0)
        )


def _firsts(groups: list[Any], *_given: object, **_more: object) -> dict[Any, Alike]:
    return {group[0]: Alike(group, {}) for group in groups}


@pytest.mark.parametrize(("most", "caught"), [(True, True), (False, False)])
def test_the_one_that_is_tried_has_the_most_calls_behind_it(monkeypatch: pytest.MonkeyPatch, most: bool, caught: bool):
    """An engine that calls once more what may be called once is seen where a call has been made, and nowhere else."""
    whole = Debts._execute

    def execute(self: Debts, resident: Resident, debt: Any) -> None:
        self.begun.add((resident.run, debt.name, debt.attempt))
        whole(self, resident, debt)

    monkeypatch.setattr(Debts, "_execute", execute)
    if not most:
        monkeypatch.setattr(sweep_course, "spoken_for", _firsts)

    @workflow(id="alike_once")
    async def once(ctx: WorkflowContext, payload: dict[str, int]) -> int:
        return await ctx.step.run("once", _plain_body, 1, effect="at_most_once")

    told = ""
    try:
        sweep(once, {}, from_remains=True, processes=0, pairs=0)
    except CrashSweepFailed as failed:
        told = str(failed)

    assert caught == ("only 1 attempts are recorded" in told)


@pytest.mark.sweep
@pytest.mark.parametrize("part", ["durable", "files"])
def test_whoever_overlooks_a_part_of_what_is_kept_is_caught(monkeypatch: pytest.MonkeyPatch, part: str):
    """As below, where scenarios begin with remains."""
    whole = Leaving.__call__

    def left(self: Leaving) -> Left:
        told = whole(self)
        if not isinstance(told.kept, tuple):
            return told  # each point is lived by itself
        parts = dict(zip(("durable", "files"), told.kept, strict=True))
        del parts[part]
        return Left(told.lived, parts, told.calls)

    monkeypatch.setattr(Leaving, "__call__", left)

    wrong, _ = differing(*OUTGOING, from_remains=True)

    assert wrong


@pytest.mark.parametrize(
    ("options", "lived"),
    [({}, False), ({"downtime_seconds": 1}, True), ({"points": 5}, True), ({"points": 6}, False)],
)
def test_what_begins_with_nothing_is_an_undisturbed_run(options: dict[str, Any], lived: bool):
    """A second one is lived anyway. Where time has passed it is another, and of a sample each one is lived."""
    crashes: set[tuple[str, ...]] = set()

    @workflow(id="alike_three")
    async def three(ctx: WorkflowContext, payload: dict[str, int]) -> None:
        for number in range(3):
            await ctx.step.run(f"step-{number}", _plain_body, number)

    for seed in range(10):
        sweep(
            three, {}, check=lambda outcome: crashes.add(outcome.crashes), from_remains=True, processes=0, pairs=0,
            seed=seed, **options,
        )  # fmt: skip

    assert lived == (("owned_before_recovery:1",) in crashes)
    assert ("recovered:1",) in crashes
    assert () in crashes


@pytest.mark.sweep
def test_whoever_takes_what_is_left_for_nothing_is_caught(monkeypatch: pytest.MonkeyPatch):
    """All scenarios that no time passes in would be undisturbed runs."""
    monkeypatch.setattr(Remains, "are_nothing", True)

    wrong, _ = differing(*OUTGOING, from_remains=True)

    assert wrong


def _without(at: tuple[int, int]) -> Callable[[Leaving], Left]:
    """Tell what a crash leaves, but for one part of it: what is durable, or the time; visits of bodies, or calls."""
    whole = Leaving.__call__

    def left(self: Leaving) -> Left:
        told: Any = whole(self).lived
        if not isinstance(told[1], tuple):
            return Left(told)
        return Left(
            [[one for which, one in enumerate(side) if (number, which) != at] for number, side in enumerate(told)]
        )

    return left


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("overlooked", "case"),
    [((0, 0), OUTGOING), ((1, 0), OUTGOING), ((1, 1), OUTGOING), ("callbacks", OUTGOING), ("turns", DIRECT)],
    ids=["what is durable", "bodies", "functions", "callbacks", "code that comes past points itself"],
)
def test_whoever_overlooks_a_part_of_what_is_left_is_caught(
    monkeypatch: pytest.MonkeyPatch, overlooked: tuple[int, int] | str, case: tuple[Any, dict[str, Any]]
):
    """Taking points for alike that aren't makes the comparison above fail, for each thing that may differ."""
    if isinstance(overlooked, tuple):
        monkeypatch.setattr(Leaving, "__call__", _without(overlooked))
    elif overlooked == "callbacks":
        monkeypatch.setattr(ProgramCode, "seen", lambda _code, callback: callback)
    else:
        monkeypatch.setattr(
            ProgramCode, "running", property(lambda _code: 0, lambda _code, _number: None), raising=False
        )

    wrong, _ = differing(*case)

    assert wrong


_turns: list[int] = []


async def wanders() -> None:
    _turns.append(len(_turns))
    for _ in range(len(_turns) % 3):
        await asyncio.sleep(0)


@workflow(id="alike_wandering")
async def wandering(ctx: WorkflowContext, payload: dict[str, int]) -> None:
    await ctx.step.run("wanders", wanders)


def test_nothing_is_alike_in_what_takes_another_course_each_time():
    """If two undisturbed runs don't come by the same points in the same way, each point is lived by itself."""
    report, tried = scenarios(wandering, {})

    assert 0 == report.alike
    assert len(tried.keys() - {NOWHERE}) == len(report.points) > 10


def test_a_failure_names_the_points_that_it_stands_for():
    """Who reads the page learns at which other points the process may die with the same end."""

    def check(outcome: CrashOutcome) -> None:
        assert outcome.crashes != ("recovered:1",)

    with pytest.raises(CrashSweepFailed, match="A crash at code_on_loop:1 leaves the same behind, so it wasn't tried"):
        sweep(w.small, {}, check=check, processes=0)


def test_another_seed_tries_another_of_those_alike():
    """The seed turns the choice, so that all of them are lived in time, if their first lives are lived."""
    seen: set[str] = set()
    every: set[str] = set()
    for seed in range(4):
        report, tried = scenarios(w.small, {}, seed=seed, from_remains=False)
        seen |= set(tried) - {NOWHERE}
        every |= set(map(str, report.points))

    assert every == seen


async def looks(_number: int) -> object:
    await asyncio.get_running_loop().create_task(lags())
    return looks_at_once(_number)


def looks_at_once(_number: int) -> object:
    world.note("looked")
    return Completed(1) if world.count("plain") else NotDone()


def looks_later(number: int) -> object:
    return looks(number)


@pytest.mark.parametrize("reconcile", [looks, looks_at_once, looks_later])
def test_what_reconcile_does_tells_points_apart(monkeypatch: pytest.MonkeyPatch, reconcile: Callable[[int], object]):
    """It is the program's code, too: points before it and behind it leave different things, in a recovery."""

    @workflow(id=f"alike_{reconcile.__name__}")
    async def asks(ctx: WorkflowContext, payload: dict[str, int]) -> int:
        return await ctx.step.run("waits", plain, 1, effect="at_most_once", reconcile=reconcile)

    seen: list[tuple[object, int]] = []
    left = Leaving.__call__

    def noting(self: Leaving) -> Left:
        found = left(self)
        seen.append((found.lived, world.count("looked")))
        return found

    monkeypatch.setattr(Leaving, "__call__", noting)

    sweep(asks, {"number": 1}, processes=0, pairs=1)

    assert any(count for _, count in seen)
    assert [] == [before for (before, old), (after, new) in pairwise(seen) if before == after and new > old]
