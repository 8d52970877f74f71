"""How often garbage is looked for during a sweep, and that the program gets its setting back."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from polos import workflow
from polos.runtime.loading import Loader
from polos.testing.garbage import OBJECTS, seldom_collected

from tests.test_testing_sweep import swept


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    kept = gc.get_threshold()
    yield
    gc.set_threshold(*kept)
    gc.enable()


def test_the_setting_is_raised_and_given_back() -> None:
    """Inside the collector comes seldom, afterwards as before, whatever happened inside."""
    gc.set_threshold(800, 11, 12)
    inside: list[object] = []

    def fails() -> None:
        inside.extend(gc.get_threshold())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), seldom_collected():
        fails()

    assert [OBJECTS, 11, 12] == inside
    assert (800, 11, 12) == gc.get_threshold()


@pytest.mark.parametrize("own", [(0, 10, 10), (OBJECTS * 2, 10, 10)])
def test_a_setting_that_is_as_good_is_left_alone(own: tuple[int, int, int]) -> None:
    """A program that collects as seldom, or never, goes on with that."""
    gc.set_threshold(*own)

    with seldom_collected():
        assert own == gc.get_threshold()
    assert own == gc.get_threshold()


def test_a_collector_that_is_off_stays_as_it_is() -> None:
    """Where the program has turned it off nothing is set, and nothing collected."""
    gc.set_threshold(800, 11, 12)
    gc.disable()
    made: list[object] = []
    gc.collect()

    with seldom_collected():
        made.append(made)
        made = []
        assert (800, 11, 12) == gc.get_threshold()

    assert not gc.isenabled()
    assert 1 == gc.collect()


def test_what_the_program_sets_meanwhile_counts() -> None:
    """A setting that was made inside isn't taken back."""
    gc.set_threshold(800, 11, 12)

    with seldom_collected():
        gc.set_threshold(900, 11, 12)

    assert (900, 11, 12) == gc.get_threshold()


def test_the_garbage_of_a_sweep_does_not_outlive_it() -> None:
    """What is young is collected at the end, under the program's own setting."""
    gc.collect()

    with seldom_collected():
        kept: list[object] = []
        kept.append(kept)
        del kept

    assert 0 == gc.collect()


def test_engines_of_a_sweep_go_by_themselves() -> None:
    """What an engine is made of goes with its life, and waits for no collector."""

    @workflow
    async def leaves_nothing(ctx) -> None:
        await ctx.step.run("one", lambda: 1)

    def parts() -> int:
        return sum(type(found) is Loader for found in gc.get_objects())

    gc.collect()
    gc.disable()
    before = parts()
    swept(leaves_nothing, pairs=0, processes=0, points=3)

    assert before == parts()
