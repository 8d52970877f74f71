"""Which points of many are tried: a sample that begins with the effects that may happen twice."""

from __future__ import annotations

import functools
from random import Random
from typing import Any

import pytest
from polos import workflow
from polos.testing import CrashOutcome, CrashPoint, CrashSweepFailed, Outside
from polos.testing.sweep import sweep
from polos.testing.sweep_effects import Effect, effect_of, first_of
from polos.testing.sweep_fixture import QUICK
from polos.testing.sweep_points import AFTER_EFFECT

bank = Outside("sample")


async def looks(number: int) -> int:
    return number


async def calls(service: str) -> None:
    """Do whatever it is told to, as a client of somebody's interface does."""
    if service == "charge":
        bank.note("charged")


async def charges() -> None:
    bank.note("charged")


@workflow(id="sample-charges")
async def charges_once(ctx, payload: dict) -> None:
    """Charge in the midst of much else."""
    for number in range(payload["around"]):
        await ctx.step.run(f"before-{number}", looks, number)
    await ctx.step.run("charge", charges)
    for number in range(payload["around"]):
        await ctx.step.run(f"after-{number}", looks, number)


@workflow(id="sample-calls")
async def calls_services(ctx, payload: dict) -> None:
    """Charge by a function that does everything else as well."""
    for number in range(15):
        await ctx.step.run(f"look-{number}", calls, "look")
    await ctx.step.run("charge", calls, "charge")
    for number in range(15):
        await ctx.step.run(f"tell-{number}", calls, "tell")


def once(_outcome: CrashOutcome) -> None:
    assert bank.count("charged") == 1


@pytest.mark.sweep
@pytest.mark.parametrize("points", [2, 12, QUICK["points"]])
@pytest.mark.parametrize(("around", "seeds"), [(2, (0, 1)), (5, (0, 8)), (15, (1, 2))])
def test_a_double_charge_is_found_among_many_steps(around: int, seeds: tuple[int, ...], points: int):
    """Whatever the seed: a sample holds an effect of each function, and of few points it is all."""
    for seed in seeds:
        with pytest.raises(CrashSweepFailed) as failed:
            sweep(charges_once, {"around": around}, check=once, seed=seed, processes=0, **{**QUICK, "points": points})
        assert "check: AssertionError" in failed.value.differences[0]


@pytest.mark.sweep
@pytest.mark.parametrize("seed", [0, 1])
def test_a_double_charge_by_a_function_of_all_trades_is_found(seed: int):
    """Steps of one function are told apart by their names, as far as there is room."""
    with pytest.raises(CrashSweepFailed) as failed:
        sweep(calls_services, {}, check=once, seed=seed, points=12, pairs=0, processes=0)

    assert (f"{AFTER_EFFECT}:16",) == tuple(map(str, failed.value.points))


@pytest.mark.sweep
def test_few_points_are_all_tried_by_default():
    """A sample begins where they are many; what a test asks for it gets."""
    few = sweep(charges_once, {"around": 1}, processes=0, **QUICK)
    asked = sweep(charges_once, {"around": 1}, processes=0, **{**QUICK, "points": 6})
    many = sweep(charges_once, {"around": 30}, processes=0, **QUICK)

    assert (len(few.points), 6) == (few.singles, asked.singles)
    assert QUICK["points"] == many.singles < len(many.points)


def effects(*kinds: Effect) -> dict[CrashPoint, Effect]:
    """Give points at which these have happened."""
    return {CrashPoint(AFTER_EFFECT, number): kind for number, kind in enumerate(kinds, 1)}


def test_more_functions_than_there_is_room_for_are_drawn():
    """Another seed has others, and none has one twice."""
    many = effects(*(Effect(number // 2, "a", failed=False) for number in range(20)))
    drawn = [first_of(many, 4, Random(seed)) for seed in range(30)]

    assert all(len({many[point].function for point in points}) == 4 for points in drawn)
    assert set(many) == {point for points in drawn for point in points}
    assert [] == first_of(many, 0, Random(0))


def test_names_take_half_of_the_room():
    """What is left is for points of other kinds; a name with other numbers in it is the same."""
    named = effects(*(Effect(0, name, failed=False) for name in "abcdefgh"))
    alike = effects(*(effect_of(looks, f"look-{number}", failed=False) for number in range(8)))

    assert [4, 1] == [len(first_of(kinds, 8, Random(0))) for kinds in (named, alike)]
    assert 4 == len({named[point].name for point in first_of(named, 8, Random(0))})


def test_a_call_that_came_back_well_comes_before_one_that_raised():
    """What raised is called again anyway, so that its function has most likely no effect that counts."""
    tried = effects(*(Effect(0, "a", failed=failed) for failed in (True, True, False, True)))
    never = effects(Effect(0, "a", failed=True))

    assert {CrashPoint(AFTER_EFFECT, 3)} == {first_of(tried, 1, Random(seed))[0] for seed in range(9)}
    assert list(never) == first_of(never, 1, Random(0))


class _Called:
    def __call__(self) -> None: ...

    def method(self) -> None: ...


def _decorated(func: Any) -> Any:
    @functools.wraps(func)
    def call(*args: Any) -> Any:
        return func(*args)

    return call


@pytest.mark.parametrize(
    ("given", "function"),
    [
        (looks, looks.__code__),
        (functools.partial(functools.partial(looks), 1), looks.__code__),
        (_decorated(looks), looks.__code__),
        (_Called().method, _Called.method.__code__),
        (_Called(), _Called),
        (len, len),
    ],
)
def test_a_function_is_known_by_its_code(given: Any, function: object):
    """Whatever it is wrapped in, of whichever object it is a method."""
    assert function == effect_of(given, "a", failed=False).function
