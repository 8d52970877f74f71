"""Retrying runs with children: those that failed are taken up themselves; no crash doubles what they finished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from polos import Workflow, WorkflowContext, workflow
from polos.engine import events as e
from polos.testing.simulation import Simulation

from tests.test_retry import CALLS, DOWN, call, children, kinds, pause, pay_and_send, retry


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()
    DOWN.clear()


@workflow(id="ordering")
async def ordering(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """A child that may fail, after one that doesn't."""
    first = await ctx.step.invoke_and_wait("first", pay_and_send, {"of": "nobody"})
    second = await ctx.step.invoke_and_wait("second", shipping, payload)
    return [first[1:], second]


@workflow(id="shipping")
async def shipping(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Pack, then ship, which may fail."""
    packed = await ctx.step.run("pack", call, "pack")
    shipped = await ctx.step.run("ship", call, "ship", max_retries=0)
    return [packed, shipped, payload.get("to")]


def test_a_child_that_failed_is_taken_up_where_it_failed() -> None:
    """Retrying the parent retries its child: what the child had finished isn't done twice, and no child is new."""
    DOWN.add("ship")
    with Simulation([ordering, pay_and_send, shipping]) as sim:
        run = sim.create(ordering, {"to": "ada"}).run
        sim.settle()
        child = children(sim, "shipping")[0]
        DOWN.clear()
        retry(sim, run)

        assert [["pay is done", "send is done"], ["pack is done", "ship is done", "ada"]] == sim.result(run)
        assert {"pay": 1, "send": 1, "pack": 1, "ship": 2} == CALLS
        assert [child] == children(sim, "shipping")
        assert ["RunFailed", "RunReopened", "RunCompleted"] == kinds(sim, child)


def test_a_child_that_was_retried_by_itself_answers_its_parent_later() -> None:
    """A parent that was told keeps what it was told; when it is retried, it gets how the child ended by then."""
    DOWN.add("ship")
    with Simulation([ordering, pay_and_send, shipping]) as sim:
        run = sim.create(ordering, {}).run
        sim.settle()
        child = children(sim, "shipping")[0]
        DOWN.clear()
        retry(sim, child)
        told = sim.audit.end_of(run)
        retry(sim, run)

        assert isinstance(told, e.RunFailed)
        assert ["pack is done", "ship is done", None] == sim.result(run)[1]
        assert {"pay": 1, "send": 1, "pack": 1, "ship": 2} == CALLS


def test_a_child_that_is_asked_for_something_else_is_another_one() -> None:
    """When the new code passes another input, the child that failed isn't the answer to it."""

    @workflow(id="ordering")
    async def mended(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.invoke_and_wait("second", shipping, {"to": "bob"})

    DOWN.add("ship")
    with Simulation([ordering, pay_and_send, shipping]) as sim:
        run = sim.create(ordering, {"to": "ada"}).run
        sim.settle()
        sim.crash()
        sim.workflows["ordering"] = mended
        DOWN.clear()
        sim.start()
        retry(sim, run)

        assert ["pack is done", "ship is done", "bob"] == sim.result(run)
        assert [["RunFailed"], ["RunCompleted"]] == [kinds(sim, child) for child in children(sim, "shipping")]


def test_a_child_of_a_cancelled_run_goes_on_too() -> None:
    """Children that were cancelled with their parent are taken up with it, when all of them have stopped."""

    @workflow(id="slow_child")
    async def slow_child(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("pack", call, "pack")
        try:
            await ctx.step.wait_for("nap", seconds=1_000)
        except asyncio.CancelledError:
            await ctx.step.run("clean up", pause, 50.0)
            raise
        return "slept"

    @workflow(id="slow_parent")
    async def slow_parent(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.invoke_and_wait("child", slow_child, {})

    with Simulation([slow_child, slow_parent]) as sim:
        run = sim.create(slow_parent, {}).run
        sim.run_for(10)
        sim.send("cancel", run=run)
        sim.run_for(10)
        parent_ended = sim.audit.end_of(run)
        early = sim.send("retry", run=run)
        sim.settle()
        retry(sim, run)

        assert isinstance(parent_ended, e.RunCancelled)
        assert "is still being cancelled" in str(early.error)
        assert "slept" == sim.result(run)
        assert {"pack": 1} == CALLS
        assert 1 == len(children(sim, "slow_child"))


def test_a_child_that_went_on_as_new_is_taken_up_where_it_is() -> None:
    """Of a child that continued as new the last one is retried, and its parent hears of it."""

    @workflow(id="rounds_of_two")
    async def rounds(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        if payload["left"]:
            ctx.continue_as_new({"left": payload["left"] - 1})
        return await ctx.step.run("ship", call, "ship", max_retries=0)

    @workflow(id="over_rounds")
    async def over_rounds(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.invoke_and_wait("child", rounds, {"left": 2})

    DOWN.add("ship")
    with Simulation([rounds, over_rounds]) as sim:
        run = sim.create(over_rounds, {}).run
        sim.settle()
        DOWN.clear()
        retry(sim, run)

        assert "ship is done" == sim.result(run)
        assert 3 == len(children(sim, "rounds_of_two"))


def test_what_a_failed_run_left_running_goes_on() -> None:
    """A detached child that the run waited for isn't started a second time."""

    @workflow(id="long_job")
    async def long_job(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("pack", call, "pack")
        await ctx.step.wait_for("nap", seconds=100)
        return "packed"

    @workflow(id="impatient")
    async def impatient(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        job = asyncio.ensure_future(ctx.step.invoke_and_wait("job", long_job, {}, detached=True))
        await ctx.step.run("ship", call, "ship", max_retries=0)
        return await job

    DOWN.add("ship")
    with Simulation([long_job, impatient]) as sim:
        run = sim.create(impatient, {}).run
        sim.run_for(10)
        DOWN.clear()
        retry(sim, run)

        assert "packed" == sim.result(run)
        assert {"pack": 1, "ship": 2} == CALLS


def crashed_at_each_tick(workflows: list[Workflow[Any]], play: Callable[[Simulation, bool], str]) -> int:
    """Play a scene and die at each tick of the retry in turn; gives how many there were."""
    tick = 0
    while True:
        tick += 1
        CALLS.clear()
        with Simulation(workflows, latency_us_max=5_000) as sim:
            run = play(sim, True)
            before = sim.world.ticks
            sim.world.crash_at.add(before + tick)
            made = sim.draft("retry", run=run)
            sim.send_again(made)
            sim.settle()
            died = not sim.alive
            sim.world.crash_at.clear()
            if died:
                sim.start()
                sim.settle()
                if not made.decided:
                    sim.send_again(made)  # as a client does that got no answer
                    sim.settle()
            play(sim, False)
            if not died:
                return tick


def test_no_crash_in_the_middle_loses_or_doubles_anything() -> None:
    """Killed at any moment of a retry, the run ends well, and what was finished was called once."""

    def play(sim: Simulation, before: bool) -> str:
        if before:
            DOWN.add("ship")
            run = sim.create(ordering, {"to": "ada"}).run
            sim.settle()
            DOWN.clear()
            return run
        run = next(iter(sim.audit.states))
        assert ["pack is done", "ship is done", "ada"] == sim.result(run)[1]
        assert (1, 1, 1) == (CALLS["pay"], CALLS["send"], CALLS["pack"])
        assert CALLS["ship"] in (2, 3)
        assert 1 == len(children(sim, "shipping"))
        sim.audit.check_rows()
        assert [] == sim.audit.violations
        return run

    assert crashed_at_each_tick([ordering, pay_and_send, shipping], play) > 10
