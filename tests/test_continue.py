"""What a run leaves to its successor, and whom an answer given to a root reaches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from polos import Polos, WorkflowContext, workflow


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
