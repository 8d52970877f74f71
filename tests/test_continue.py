"""What a run leaves to its successor, and whom an answer given to a root reaches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, WorkflowTimeoutError, workflow
from polos.testing.simulation import Simulation


@workflow(id="lap")
async def lap(ctx: WorkflowContext, payload: dict[str, int]) -> object:
    """Go on as a new run once, then wait for a signal and an answer."""
    if payload["lap"] == 1:
        await ctx.step.wait_for_signal("go on")
        ctx.continue_as_new({"lap": 2})
    signal = await ctx.step.wait_for_signal("kept")
    answer = await ctx.step.suspend("question", {})
    return [signal, answer.data]


@workflow(id="detached_asker")
async def detached_asker(ctx: WorkflowContext) -> object:
    """Ask something."""
    return (await ctx.step.suspend("ask", {})).data


@workflow(id="short_parent")
async def short_parent(ctx: WorkflowContext) -> str:
    """Start a child and end before it."""
    handle = await ctx.step.invoke("child", detached_asker, None, detached=True)
    return handle.id


def run(tmp_path: Path, program: Callable[[Polos], Awaitable[Any]]) -> Any:
    """Run a program on a fresh store."""

    async def main() -> Any:
        async with Polos(data_dir=tmp_path) as polos:
            return await program(polos)

    return asyncio.run(main())


def test_answers_that_nobody_waited_for_go_to_the_successor(tmp_path: Path) -> None:
    """A signal and a resume that came early are there for the run that goes on."""

    async def program(polos: Polos) -> Any:
        handle = await lap.invoke(polos, {"lap": 1})
        await handle.signal("kept", "early")
        await polos.resume("lap", handle.id, "question", {"yes": True})
        await handle.signal("go on")
        return await polos._wait_ended(handle.id)

    found = run(tmp_path, program)

    assert ["early", {"yes": True}] == found["result"]


def test_an_answer_to_an_ended_root_reaches_who_waits_below_it(tmp_path: Path) -> None:
    """A detached child that outlives its parent is answered through the root."""

    async def program(polos: Polos) -> Any:
        root = await short_parent.invoke(polos)
        child = (await polos._wait_ended(root.id))["result"]
        while (await polos.get_execution(child))["status"] != "waiting":
            await asyncio.sleep(0)
        await polos.resume("short_parent", root.id, "ask", "fine")
        return await polos._wait_ended(child)

    found = run(tmp_path, program)

    assert "fine" == found["result"]


@workflow(id="endless", run_timeout_seconds=25)
async def endless(ctx: WorkflowContext, payload: dict[str, int]) -> None:
    """Go on as a new run every ten seconds."""
    await ctx.step.wait_for("wait", seconds=10)
    ctx.continue_as_new({"lap": payload["lap"] + 1})


@workflow(id="runs_endless")
async def runs_endless(ctx: WorkflowContext) -> str:
    """Wait for it."""
    try:
        await ctx.step.invoke_and_wait("endless", endless, {"lap": 1}, run_timeout_seconds=25)
    except Exception as error:
        return str(error)
    return "it ended"


def ends(sim: Simulation) -> list[tuple[str, int]]:
    """Give how each run ended, and how many seconds after the first one began."""
    states = sorted(sim.audit.states.values(), key=lambda state: state.created_us)
    first = states[0].created_us
    return [
        (type(sim.audit.end_of(state.run)).__name__, ((state.ended_us or 0) - first) // 1_000_000) for state in states
    ]


@pytest.mark.parametrize("crashes", [False, True], ids=["without a crash", "with crashes"])
def test_the_time_of_a_run_is_that_of_its_chain(crashes: bool):
    """However often a run goes on as a new one, it is ended when the time is over that the first one was given."""
    with Simulation([endless]) as sim:
        sim.create(endless, {"lap": 1}, seconds=25)
        for _ in range(8):
            sim.run_for(4)
            if crashes:
                sim.recover()
        sim.run_for(20)

        assert [("RunContinued", 10), ("RunContinued", 20), ("RunCancelled", 25)] == ends(sim)
        (last,) = [state for state in sim.audit.states.values() if state.successor is None]
        assert "timeout" == last.cancelled_by


def test_the_time_of_a_chain_runs_while_a_successor_is_queued():
    """A successor that finds no place is ended in the queue: its caller waits for the chain, not for the place."""

    @workflow(id="laps", queue={"name": "one place", "concurrency_limit": 1})
    async def laps(ctx: WorkflowContext, payload: dict[str, int]) -> None:
        await ctx.step.wait_for("wait", seconds=5)  # too short to give the place up
        if payload["lap"]:
            ctx.continue_as_new({"lap": payload["lap"] - 1})
        await ctx.step.wait_for("more", seconds=9)

    with Simulation([laps]) as sim:
        sim.create(laps, {"lap": 1}, seconds=8)
        sim.create(laps, {"lap": 0})
        sim.settle()

        assert ("RunCancelled", 8) in ends(sim)


def test_a_child_that_goes_on_is_ended_in_time():
    """The parent waits for one run and its time, whatever that goes on as."""
    with Simulation([endless, runs_endless]) as sim:
        parent = sim.create(runs_endless, None)
        sim.run_for(60)

        assert str(sim.result(parent.run)).endswith("timed out and was cancelled")
        assert 25 == max(seconds for _, seconds in ends(sim))


def test_running_with_a_timeout_ends_the_chain(tmp_path: Path):
    """`run(timeout=...)` raises when the time is over, and the last of the chain is cancelled."""

    @workflow(id="hurried")
    async def hurried(ctx: WorkflowContext, payload: dict[str, int]) -> None:
        await ctx.step.wait_for("wait", seconds=0.02)
        ctx.continue_as_new({"lap": payload["lap"] + 1})

    async def program(polos: Polos) -> Any:
        with pytest.raises(WorkflowTimeoutError):
            await hurried.run(polos, {"lap": 1}, timeout=0.2)
        page = await polos.list_executions(workflow_id="hurried", limit=1)
        last = await polos._wait_ended(page[0]["id"])
        return last["status"], last["cancelled_by"]

    assert ("cancelled", "timeout") == run(tmp_path, program)
