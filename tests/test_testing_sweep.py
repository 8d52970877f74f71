"""The crash sweep, in this process: what it finds, what it says, and what it asks of a test."""

from __future__ import annotations

import asyncio
import re
import shlex
import threading
from collections.abc import Callable
from typing import Any

import pytest
from polos import NotDone, WorkflowState, workflow
from polos.errors import PolosUsageError
from polos.testing import CrashOutcome, CrashPoint, CrashSweepFailed, crash_sweep, lives
from polos.testing import loop as loops
from polos.testing.audit import Audit
from polos.testing.store import MemoryStore
from polos.testing.sweep import sweep
from polos.testing.sweep_calls import CallLedger
from polos.testing.sweep_report import POINT_VARIABLE, CrashReport

from tests import sweep_workflows as w
from tests.controls import broken
from tests.crash.children import in_child
from tests.sweep_workflows import bank

EFFECTS = {"inside_effect", "inside_effect/await", "after_effect_before_outcome"}
COMMITS = {"before_append", "after_append_before_handback", "committed_before_answer", "committed_before_effect"}


def swept(workflow: Any, input: Any = None, **options: Any) -> CrashReport:
    """Sweep in this process alone."""
    return sweep(workflow, input or {}, **{"processes": 0, "pairs": 5, **options})


def failure(workflow: Any, input: Any = None, **options: Any) -> CrashSweepFailed:
    """Give the failure of a sweep that must fail."""
    with pytest.raises(CrashSweepFailed) as failed:
        swept(workflow, input, **options)
    return failed.value


# ------------------------------------------------------------------------------------------ what it tries


@pytest.mark.sweep
def test_every_point_of_a_sound_workflow_is_survived():
    """Steps of all classes, children, waits, state and 30 days of sleep: every point is tried, and nobody can tell."""

    def check(outcome: CrashOutcome) -> None:
        assert outcome.status == "completed"
        assert outcome.result["answer"] == {"approved": 3}
        assert {"first", "second", "done"} >= set(outcome.state or ())
        assert bank.count("flaky") >= 2
        assert outcome.calls["once"] == len([n for n in bank.notes("begun") if n["name"] == "once"]) <= 1
        assert {"", "child", "direct"} == {run.path for run in outcome.executions}

    report = swept(w.mixed, {"number": 1}, answers=w.ANSWERS, check=check, pairs=20)

    assert report.singles == len(report.points) > 100
    assert (20, 0) == (report.pairs, report.processes)
    assert EFFECTS | COMMITS <= {point.name for point in report.points}


def test_a_sample_is_drawn_by_the_seed():
    """With `points` so many are tried; another seed draws others, the same seed the same."""
    tried: list[list[tuple[str, ...]]] = []
    for seed in (1, 1, 2):
        found: list[tuple[str, ...]] = []
        report = swept(w.small, points=3, pairs=0, seed=seed, check=lambda outcome, f=found: f.append(outcome.crashes))
        assert 3 == report.singles
        tried.append(found)

    assert tried[0] == tried[1]
    assert tried[0] != tried[2]


def test_pairs_die_twice():
    """A pair dies at a point, and once more at a point of the recovery; both are in the outcome."""
    lives: list[int] = []
    crashes: set[int] = set()

    def setup(_directory: object) -> None:
        lives.append(1)

    def check(outcome: CrashOutcome) -> None:
        crashes.add(len(outcome.crashes))
        assert len(outcome.crashes) + 1 == len(lives)
        lives.clear()

    report = swept(w.small, setup=setup, check=check, points=4, pairs=6)

    assert {0, 1, 2} == crashes
    assert 6 == report.pairs


def test_no_thread_is_started_for_a_step(monkeypatch: pytest.MonkeyPatch):
    """Plain functions run on the sweep's own thread, where no loop is running."""
    seen: set[tuple[str, bool]] = set()

    def where() -> None:
        # asyncio's own question: what it would say of a running loop is an error.
        seen.add((threading.current_thread().name, asyncio._get_running_loop() is not None))

    @workflow
    async def threads(ctx) -> None:
        await ctx.step.run("where", where)
        await ctx.step.run("awaited", in_thread)

    async def in_thread() -> None:
        await asyncio.to_thread(where)

    swept(threads, points=4, pairs=0)

    assert {("polos-sweep", False)} == seen


async def _awaits() -> CrashReport:
    return await crash_sweep(w.small, {}, processes=0, points=3, pairs=0)


def test_a_sweep_runs_beside_the_programs_loop():
    """`crash_sweep` is awaited on a running loop, which goes on meanwhile."""

    async def main() -> tuple[CrashReport, int]:
        turns = 0
        sweeping = asyncio.ensure_future(_awaits())
        while not sweeping.done():
            turns += 1
            await asyncio.sleep(0)
        return await sweeping, turns

    report, turns = asyncio.run(main())

    assert 3 == report.singles
    assert turns > 1


def test_a_sweep_that_nobody_awaits_ends():
    """Cancelled, a sweep stops after the scenario that is under way."""
    scenarios: list[int] = []
    began = threading.Event()

    def check(_outcome: CrashOutcome) -> None:
        scenarios.append(1)
        began.set()

    async def main() -> None:
        sweeping = asyncio.ensure_future(crash_sweep(w.small, {}, processes=0, check=check, pairs=100_000))
        await asyncio.to_thread(began.wait)
        sweeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sweeping

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "polos-sweep":
            thread.join()

    assert len(scenarios) < 100


# ------------------------------------------------------------------------------------------ what it finds


async def charge() -> str:
    """Charge, and let the bank know nothing of keys."""
    bank.note("charged")
    return "paid"


@workflow(id="swept-charge")
async def charges(ctx) -> Any:
    return await ctx.step.run("charge", charge)


def charged_once(_outcome: CrashOutcome) -> None:
    """The bank was asked once."""
    assert bank.count("charged") == 1


def test_a_double_charge_is_found_and_told():
    """A failure has the point, what differs, the history on both sides of the crash, and a command."""
    failed = failure(charges, check=charged_once)

    assert (CrashPoint("after_effect_before_outcome", 1),) == failed.points
    assert "check: AssertionError" in failed.differences[0]
    assert "StepScheduled name='charge'" in failed.before[-1]
    assert "StepCompleted name='charge'" in failed.after[0]
    assert f"{POINT_VARIABLE}=" in failed.command
    for part in [*failed.before, *failed.after, failed.command, "the process dies at after_effect_before_outcome:1"]:
        assert part in str(failed)


class Cart(WorkflowState):
    reserved: int = 0


async def reserve(ctx: Any) -> None:
    """Change the state where it must not be."""
    ctx.state.reserved += 1


@workflow(id="swept-cart", state_schema=Cart)
async def carts(ctx) -> None:
    await ctx.step.run("reserve", reserve, ctx)


@workflow(id="swept-cart-ships", state_schema=Cart)
async def carts_ship(ctx) -> None:
    await ctx.step.run("reserve", reserve, ctx)
    await ctx.step.run("ship", w.plain, 1)


def test_state_changed_in_a_step_is_found():
    """What a step changed in `ctx.state` is gone after a crash, and the body is run again without it."""
    failed = failure(carts_ship)

    assert failed.points
    assert "the log has StateChanged of ctx.state.reserved, the code asks for nothing" in failed.differences[0]


def test_a_history_that_cannot_be_replayed_is_found():
    """A change that no crash can take back, because it is recorded with the end, is found by replaying the history."""
    failed = failure(carts)

    assert () == failed.points
    assert "no crash is needed" in str(failed)
    assert "replayed, it diverges from its history" in failed.differences[0]


@workflow(id="swept-depends")
async def depends_on_calls(ctx) -> Any:
    async def count() -> int:
        bank.note("counted")
        return bank.count("counted")

    return await ctx.step.run("count", count)


def test_another_result_is_found():
    """A result that a crash changes is told with both values."""
    failed = failure(depends_on_calls)

    assert ["the result of the run is 2, undisturbed it is 1"] == failed.differences


def test_results_are_compared_as_the_test_says():
    """With `same`, the test decides which results are the same."""
    report = swept(depends_on_calls, same=lambda found, undisturbed: found >= undisturbed)

    assert report.singles == len(report.points)
    assert ["the result is 2, undisturbed it is 1"] == failure(depends_on_calls, same=lambda a, b: a == b).differences


@workflow(id="swept-fails")
async def fails(ctx) -> None:
    async def fail() -> None:
        bank.note("failed")
        raise ValueError(f"call {bank.count('failed')}")

    await ctx.step.run("fail", fail, max_retries=0)


def test_another_error_is_found():
    """A run that fails is compared by type and message of its error."""
    failed = failure(fails, check=lambda outcome: None)

    assert re.search("the error.* is .*call 2.*, undisturbed it is .*call 1", failed.differences[0])


def test_what_differs_without_a_crash_is_left_out():
    """A result that is another one each time isn't compared, and the report says so; what is beside it is."""
    drawn = iter(range(1_000_000))

    async def draw() -> list[Any]:
        bank.note("drawn")
        return ["steady", next(drawn), bank.count("drawn")]

    @workflow
    async def draws(ctx, payload: dict) -> Any:
        return (await ctx.step.run("draw", draw))[: payload["parts"]]

    report = swept(draws, {"parts": 2})
    failed = failure(draws, {"parts": 3})

    assert ("/result/1",) == report.left_out
    assert "/result/1" in str(report)
    assert ["the result[2] of the run is 2, undisturbed it is 1"] == failed.differences


@workflow(id="swept-random")
async def random_key(ctx) -> None:
    await ctx.step.run(f"step-{id(object())}-{next(_count)}", w.plain, 1)


_count = iter(range(1_000_000))


def test_a_key_that_differs_each_time_is_found():
    """A body that asks for another step when it is run again diverges, and the failure says where."""
    failed = failure(random_key)

    assert failed.points
    assert "diverged from its history" in failed.differences[0]


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (broken.repeats_a_completed_step, "comes after it has ended"),
        (broken.begins_before_the_intent, "before its intent is durable"),
        (broken.drops_a_row, "L6"),
    ],
)
def test_an_engine_that_breaks_a_promise_is_found(breaks: Callable[[], None], says: str):
    """An engine that calls effects when it may not, or loses a row, is caught by the sweep itself, without a check."""

    def scene() -> str:
        breaks()
        return str(failure(w.small))

    assert says in in_child(scene)


def test_a_step_that_may_be_called_once_is():
    """An engine that calls it again after a crash is found by the number of calls."""

    def scene() -> str:
        broken.calls_again_what_may_be_called_once()
        return str(failure(w.once, answers={"once": "found"}))

    assert "attempts are recorded" in in_child(scene)


def test_two_calls_of_an_attempt_in_one_life_are_told():
    """An attempt is called once a life; after a crash it may be called again."""
    audit = Audit(MemoryStore().log)
    ledger = CallLedger()
    said: list[list[str]] = []
    for life in (1, 2, 2):
        ledger.life = life
        ledger.call(audit, "run", "charge", 1, "pure")
        said.append(list(audit.violations))

    assert [[], [], ["attempt 1 of step charge of run run is called twice in one life"]] == said
    assert {"charge": 3} == ledger.by_step()


def test_a_point_that_is_not_reached_again_is_counted():
    """A run that takes another course each time may not come to a point; the report says how often it didn't."""
    turns = iter([5, 5, *[1] * 10_000])

    async def works() -> None:
        for _ in range(next(turns)):
            await asyncio.sleep(0)

    @workflow
    async def winding(ctx) -> None:
        await ctx.step.run("work", works)

    report = swept(winding, pairs=0)

    assert 4 == report.missed
    assert "4 didn't come to their point" in str(report)


# --------------------------------------------------------------------------------------------- answers


def test_waits_that_nobody_answers_are_named():
    """An undisturbed run that waits for somebody fails, and the failure says for what."""
    failed = failure(w.mixed, {"number": 1})

    assert () == failed.points
    assert re.search(r"waits for suspend 'approve' of the run \(swept-mixed\)", failed.differences[0])


def test_an_unknown_outcome_is_no_failure():
    """A step that may be called once and wasn't resolved ends a scenario; the report counts those."""
    report = swept(w.once, pairs=0)

    assert report.unknown >= 2
    assert f"{report.unknown} ended with a step or a tool of unknown outcome" in str(report)


def test_an_unknown_outcome_is_resolved_by_answers():
    """`NotDone` lets it be called again, a value is taken for its result."""
    results: set[str] = set()
    again = swept(w.once, pairs=0, answers={"once": NotDone()}, check=lambda outcome: results.add(outcome.result))
    taken = swept(w.once, pairs=0, answers={"once": "once"})

    assert {"once"} == results
    assert (0, 0) == (again.unknown, taken.unknown)


def test_an_answer_that_cannot_be_recorded_is_the_tests_mistake():
    """What isn't JSON is refused with its name."""
    with pytest.raises(PolosUsageError, match="answer for 'approve'"):
        swept(w.mixed, {"number": 1}, answers={**w.ANSWERS, "approve": object()})


@workflow(id="swept-forever")
async def forever(ctx) -> None:
    while True:
        await ctx.step.wait_for("day", days=1)


def test_a_run_that_goes_on_and_on_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """A run that never ends doesn't hang the test."""
    monkeypatch.setattr(lives, "MOMENTS_MAX", 50)

    assert "it doesn't end: it goes on and on" in failure(forever).differences[0]


async def never() -> None:
    await asyncio.get_running_loop().create_future()


@workflow(id="swept-never")
async def waits_for_nothing(ctx) -> None:
    await ctx.step.run("never", never)


def test_a_step_that_never_comes_back_is_named(monkeypatch: pytest.MonkeyPatch):
    """A function that waits for nothing is told after some patience, for a thread might have called back."""
    monkeypatch.setattr(loops, "PATIENCE_SECONDS", 0.0)

    (told,) = failure(waits_for_nothing).differences
    assert "the run doesn't end: step 'never' never comes back; it waits at" == told.partition("\n")[0]


# --------------------------------------------------------------------------------------- one point again


def target_of(failed: CrashSweepFailed) -> str:
    """Give the value of the variable that a failure's command sets."""
    return shlex.split(failed.command)[0].removeprefix(f"{POINT_VARIABLE}=")


def test_a_failure_is_played_once_more(monkeypatch: pytest.MonkeyPatch):
    """With the variable of its command only that scenario is played, and it fails in the same way."""
    first = failure(charges, check=charged_once)
    monkeypatch.setenv(POINT_VARIABLE, target_of(first))
    crashes: list[tuple[str, ...]] = []

    def check(outcome: CrashOutcome) -> None:
        crashes.append(outcome.crashes)
        charged_once(outcome)

    again = failure(charges, check=check)

    assert (first.points, first.differences, first.before, first.after) == (
        again.points, again.differences, again.before, again.after,
    )  # fmt: skip
    assert [(), (), ("after_effect_before_outcome:1",)] == crashes


def test_a_point_of_another_sweep_is_left_to_it(monkeypatch: pytest.MonkeyPatch):
    """A test with two sweeps plays the one scenario that is wanted; the other sweep does nothing, and says so."""
    monkeypatch.setenv(POINT_VARIABLE, "another@abcdef/before_append:1")

    report = swept(charges, check=charged_once)

    assert 0 == report.scenarios
    assert "names another sweep" in str(report)


def test_a_pair_can_be_played_once_more(monkeypatch: pytest.MonkeyPatch):
    """Two points are joined by a plus; what doesn't fail is reported as tried."""
    name = target_of(failure(charges, check=charged_once)).partition("/")[0]
    monkeypatch.setenv(POINT_VARIABLE, f"{name}/before_append:1+before_append:2")

    report = swept(charges)

    assert 3 == report.scenarios
    assert "was tried" in str(report)


@pytest.mark.parametrize("text", ["before_append", "before_append:", ":3", "before_append:x", "before_append:0"])
def test_what_is_no_point_is_refused(text: str):
    """A point is a name and a number from 1."""
    with pytest.raises(PolosUsageError, match="a crash point is written like"):
        CrashPoint.parse(text)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"processes": 2}, ValueError),
        ({"pairs": -1}, ValueError),
        ({"points": -1}, ValueError),
        ({"check": _awaits}, TypeError),
        ({"setup": "directory"}, TypeError),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception]):
    """Shares, numbers and functions are looked at before anything is begun."""
    with pytest.raises(error):
        swept(w.small, **options)


@pytest.mark.parametrize("way", ["fail", "raises"])
def test_what_pytest_raises_in_a_check_is_a_failure_like_any_other(way: str):
    """`pytest.fail`, and `pytest.raises` when nothing comes, are told with the point; both are no `Exception`."""

    def check(outcome: CrashOutcome) -> None:
        if bank.count("charged") > 1:
            if way == "fail":
                pytest.fail("charged twice")
            with pytest.raises(KeyError):
                bank.count("charged")

    failed = failure(charges, check=check)

    assert "after_effect_before_outcome:1" == str(failed.points[0])
    assert ("check: Failed: charged twice" if way == "fail" else "check: Failed: DID NOT RAISE") in str(failed)
    assert f"{POINT_VARIABLE}=" in failed.command


def test_a_check_may_skip_the_test():
    """What pytest means by other outcomes isn't taken for a failure of the workflow."""

    def check(outcome: CrashOutcome) -> None:
        pytest.skip("not on this machine")

    with pytest.raises(pytest.skip.Exception):
        swept(charges, check=check)


def test_a_run_that_fails_by_itself_has_to_be_meant():
    """A slip in a test would make a sweep of nothing, which survives everything; a check says that it is meant."""

    @workflow(id="swept-fails")
    async def fails(ctx, payload: dict) -> None:
        raise ValueError("no such order")

    failed = failure(fails)
    seen: list[str] = []
    swept(fails, check=lambda outcome: seen.append(outcome.status))

    assert () == failed.points
    assert "the run failed: ValueError: no such order; if it is meant to, give a `check`" in str(failed)
    assert {"failed"} == set(seen)


def test_state_that_begins_with_something():
    """`ctx.state` of a workflow without a schema is what the run is started with; each life of the run has it."""

    @workflow(id="swept-begins-with")
    async def counts(ctx, payload: dict) -> Any:
        ctx.state["n"] += await ctx.step.run("two", w.plain, 1)
        return ctx.state["n"]

    report = swept(counts, initial_state={"n": 5}, check=lambda outcome: check_equal(7, outcome.result))

    assert report.singles == len(report.points) > 5


def check_equal(expected: Any, found: Any) -> None:
    assert expected == found


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"answers": ["x"]}, "answers is a dict of what is answered, by key, it is ['x']"),
        ({"pairs": "3"}, "pairs is a whole number from 0, it is '3'"),
        ({"points": "all"}, "points is a whole number from 1, or None for all, it is 'all'"),
        ({"points": True}, "points is a whole number from 1, or None for all, it is True"),
        ({"processes": "0.1"}, "processes is a share from 0 to 1, it is '0.1'"),
        ({"chekc": print}, "a sweep has no 'chekc'; it has initial_state, check, setup, answers"),
        ({"workflows": ["kid"]}, "a sweep is of what @workflow gives, this is 'kid'"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(given: dict[str, Any], told: str):
    """Each is refused before anything is begun, with what it should be."""
    with pytest.raises((TypeError, ValueError)) as refused:
        sweep(charges, **given)
    with pytest.raises(TypeError, match="a sweep is of what @workflow gives, this is <function"):
        sweep(check_equal, {})  # type: ignore[arg-type]

    assert told in str(refused.value)


def test_a_scenario_of_a_workflow_with_slashes_in_its_id_is_found_again(monkeypatch: pytest.MonkeyPatch):
    """What the command sets names the sweep by its whole id; else it would mean another one, and try nothing."""

    @workflow(id="swept/with/slashes")
    async def slashed(ctx) -> Any:
        return await ctx.step.run("charge", charge)

    failed = failure(slashed, check=charged_once)
    monkeypatch.setenv(POINT_VARIABLE, failed.target)

    assert failed.points == failure(slashed, check=charged_once).points
