"""How often garbage is looked for in a sweep and by a busy engine, and that the program gets its setting back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from polos import BatchWorkflowInput, Polos, WorkflowContext, workflow
from polos.garbage import BUSY, OBJECTS, QUIET, Seldom, seldom_collected
from polos.runtime.loading import Loader

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


def test_who_is_busy_raises_it_until_it_is_quiet() -> None:
    """Between the two it stays as it is, so that a load that goes up and down a little sets nothing again and again."""
    gc.set_threshold(800, 11, 12)
    seldom = Seldom()

    found: list[int] = []
    for load in (BUSY - 1, BUSY, BUSY * 2, QUIET + 1, QUIET, QUIET + 1):
        seldom.look(load)
        found.append(gc.get_threshold()[0])

    assert [800, OBJECTS, OBJECTS, OBJECTS, 800, 800] == found
    assert (800, 11, 12) == gc.get_threshold()


def test_one_of_two_that_are_busy_gives_it_back_and_the_other_raises_it_anew() -> None:
    """They know nothing of each other, and in the end the setting is the program's."""
    gc.set_threshold(800, 11, 12)
    first, second = Seldom(), Seldom()

    first.look(BUSY)
    second.look(BUSY)
    first.look(0)
    second.look(BUSY)
    assert OBJECTS == gc.get_threshold()[0]
    second.look(0)

    assert (800, 11, 12) == gc.get_threshold()


def test_who_is_gone_without_a_word_gives_it_back() -> None:
    """A loop that was closed under an engine doesn't change the program's setting for ever."""
    gc.set_threshold(800, 11, 12)
    seldom = Seldom()
    seldom.look(BUSY)
    assert OBJECTS == gc.get_threshold()[0]

    del seldom

    assert (800, 11, 12) == gc.get_threshold()


def test_an_engine_raises_it_while_many_runs_are_under_way(tmp_path: Path) -> None:
    """Seen from their steps; when the engine has stopped, the program has its own setting."""
    gc.set_threshold(800, 11, 12)
    seen: set[int] = set()

    @workflow(id="garbage_of_many")
    async def looks(ctx: WorkflowContext) -> None:
        for key in ("one", "two"):
            await ctx.step.run(key, lambda: seen.add(gc.get_threshold()[0]))

    async def main() -> None:
        async with Polos(data_dir=tmp_path) as polos:
            await looks.run(polos)
            assert {800} == seen
            await asyncio.gather(*(looks.run(polos) for _ in range(BUSY * 4)))

    asyncio.run(main())

    assert OBJECTS in seen
    assert (800, 11, 12) == gc.get_threshold()


def test_an_engine_raises_it_for_the_children_of_a_batch(tmp_path: Path) -> None:
    """They begin in the turn that creates them, which has no other end than theirs."""
    gc.set_threshold(800, 11, 12)
    seen: set[int] = set()

    @workflow(id="garbage_of_a_child")
    async def child(ctx: WorkflowContext) -> None:
        seen.add(gc.get_threshold()[0])

    @workflow(id="garbage_of_a_batch")
    async def parent(ctx: WorkflowContext) -> None:
        await ctx.step.batch_invoke_and_wait("all", [BatchWorkflowInput(id=child.id)] * BUSY)

    async def main() -> None:
        async with Polos(data_dir=tmp_path) as polos:
            await parent.run(polos)

    asyncio.run(main())

    assert {OBJECTS} == seen
    assert (800, 11, 12) == gc.get_threshold()


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
