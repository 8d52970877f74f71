"""
What is given up: runs that are cancelled together, and requests that code no longer waits for.

Each of these is about a moment between two others. A child that is told to stop twice, an answer to a question that
nobody asks any more: what comes in such a moment is for somebody else, or for nobody.
"""

from __future__ import annotations

import asyncio
from typing import Any

from polos import RetryPolicy, WorkflowContext, workflow
from polos.engine import events as e
from polos.testing.simulation import Simulation
from polos.testing.world import world

from tests.property.replaying import check_replay


async def tidy(takes_us: int) -> str:
    """Clean up, which takes a while."""
    await world().perform(takes_us=takes_us)
    return "tidy"


@workflow(id="given-up-child")
async def child(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Sleep for an hour, and clean up for half a minute."""
    try:
        await asyncio.sleep(3_600)
    finally:
        await ctx.step.run("tidy", tidy, 30_000_000)
    return "slept"


@workflow(id="given-up-parent")
async def parent(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Wait for a child, if `waits`, else for nobody; clean up for a minute, and if `stays` end as if nothing was."""
    try:
        if payload["waits"]:
            return str(await ctx.step.invoke_and_wait("child", child, {}))
        await ctx.step.invoke("child", child, {})
        return str(await ctx.step.wait_for_signal("never"))
    except asyncio.CancelledError:
        await ctx.step.run("tidy", tidy, 60_000_000)
        if not payload["stays"]:
            raise
    return "stayed"


@workflow(id="given-up-shielding")
async def shielding(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Go on waiting for a child, whatever comes."""
    waiting = asyncio.ensure_future(ctx.step.invoke_and_wait("child", child, {}))
    try:
        return str(await asyncio.shield(waiting))
    except asyncio.CancelledError:
        return str(await waiting)


@workflow(id="given-up-impatient", retries=RetryPolicy(max_retries=1, base_delay_seconds=0))
async def impatient(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Give a child a second in the first attempt, and all the time in the second."""
    async with asyncio.timeout(1 if ctx.retry_count == 0 else None):
        return str(await ctx.step.invoke_and_wait("child", child, {}))


@workflow(id="given-up-undecided")
async def undecided(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Ask for a signal, think better of it in the same breath, and ask once more or have a successor ask."""
    if payload["first"]:
        await ctx.step.wait_for_signal("go")
        waiting = asyncio.ensure_future(ctx.step.wait_for_signal("ring"))
        for _ in range(3):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        if payload["hands over"]:
            ctx.continue_as_new({"first": False})
    return await ctx.step.wait_for_signal("ring")


@workflow(id="given-up-counting")
async def counting(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Add up what comes, until it is enough."""
    total = 0

    async def add(data: int) -> int:
        nonlocal total
        total += data
        return total

    ctx.on_update("add", add)
    await ctx.step.wait_for_signal("enough")
    return total


def child_of(sim: Simulation, run: str) -> str:
    """Give the newest child of a run."""
    return [event.child for event, _, _ in sim.audit.histories[run] if isinstance(event, e.ChildStarted)][-1]


def has_tidied(sim: Simulation, run: str) -> bool:
    """Tell whether a run has cleaned up to the end."""
    return any(isinstance(event, e.StepCompleted) and event.name == "tidy" for event, _, _ in sim.audit.histories[run])


def test_a_child_that_is_cancelled_and_then_its_parent_cleans_up() -> None:
    """A person cancels the child and then its parent: the parent's word to its child isn't a second request."""
    with Simulation([parent, child]) as sim:
        run = sim.create(parent, {"waits": True, "stays": False}).run
        sim.run_for(1)
        asked = child_of(sim, run)
        sim.send("cancel", run=asked)
        sim.run_for(1)
        sim.send("cancel", run=run)
        sim.run_for(100)

        assert has_tidied(sim, asked)
        assert "user" == sim.audit.states[asked].cancelled_by
        assert [] == sim.audit.living()
        assert not [event for event, _, _ in sim.audit.histories[asked] if isinstance(event, e.CancelForced)]


def test_a_child_that_nobody_awaits_is_cancelled_at_once() -> None:
    """It is told when its parent is, not when that has cleaned up; a parent that stays leaves it cancelled, too."""
    for stays in (False, True):
        with Simulation([parent, child]) as sim:
            run = sim.create(parent, {"waits": False, "stays": stays}).run
            sim.run_for(1)
            asked = child_of(sim, run)
            sim.send("cancel", run=run)
            sim.run_for(40)

            assert isinstance(sim.audit.end_of(asked), e.RunCancelled)
            assert [run] == sim.audit.living()
            sim.run_for(40)
            assert isinstance(sim.audit.end_of(run), e.RunCompleted if stays else e.RunCancelled)


def test_a_child_that_is_awaited_is_cancelled_when_that_is_over() -> None:
    """A cancelled run that goes on waiting for its child isn't taken the child away."""
    with Simulation([shielding, child]) as sim:
        run = sim.create(shielding, {}).run
        sim.run_for(1)
        asked = child_of(sim, run)
        sim.send("cancel", run=run)
        sim.run_for(60)

        assert {asked, run} == set(sim.audit.living())
        assert not [event for event, _, _ in sim.audit.histories[asked] if isinstance(event, e.CancelRequested)]


def test_the_end_of_a_child_that_was_given_up_is_nobodys() -> None:
    """An attempt gives up its child, the next one has another of that name: the end of the first isn't its answer."""
    with Simulation([impatient, child]) as sim:
        run = sim.create(impatient, {}).run
        sim.run_for(5_000)

        first, second = [event.child for event, _, _ in sim.audit.histories[run] if isinstance(event, e.ChildStarted)]
        assert first != second
        assert isinstance(sim.audit.end_of(first), e.RunCancelled)
        assert "slept" == sim.result(run)
        check_replay(sim, run)


def test_a_signal_that_was_taken_and_given_back_is_there_for_the_next() -> None:
    """A wait is given up in the activation that asked for it: the signal it would have had is kept for the next one."""
    for hands_over in (False, True):
        with Simulation([undecided]) as sim:
            call = sim.create(undecided, {"first": True, "hands over": hands_over})
            sim.run_ready()
            sim.send("signal", run=call.run, name="ring", data="ding")
            sim.run_ready()
            sim.send("signal", run=call.run, name="go", data=None)
            sim.run_for(1)

            assert [] == sim.audit.living()
            assert "ding" == sim.result(sim.audit.states[call.run].successor or call.run)


def test_an_update_that_is_sent_twice_is_received_once() -> None:
    """A client that got no answer sends its update again under its id, when the run has handled it."""
    with Simulation([counting]) as sim:
        run = sim.create(counting, {}).run
        sim.run_ready()
        sent = sim.send("update", run=run, name="add", data=5)
        sim.run_ready()
        sim.send_again(sent)
        sim.run_ready()

        assert sent.answered
        assert sent.error is None
        sim.send("signal", run=run, name="enough", data=None)
        sim.run_for(1)
        assert 5 == sim.result(run)
