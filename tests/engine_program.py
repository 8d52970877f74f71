"""
A small program with an engine, for tests that want the engine in another process.

Started as `python -m tests.engine_program DIRECTORY`: it says `ready` when it owns the directory, and
stops gracefully when its standard input ends, so it can't outlive the test that started it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from polos.context import WorkflowContext
from polos.definition import workflow
from polos.runtime.app import Polos

__all__ = ["approval", "counter", "pair", "relay"]


@workflow(id="approval")
async def approval(ctx: WorkflowContext, payload: dict[str, Any]) -> list[Any]:
    """Take a step, ask somebody, take another."""
    first = await ctx.step.run("first", lambda: payload["n"] + 1)
    answer = await ctx.step.suspend("ok", {"sum": first})
    return [first, answer.data]


@workflow(id="pair")
async def pair(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Have a child ask somebody."""
    return await ctx.step.invoke_and_wait("child", "approval", payload)


@workflow(id="counter")
async def counter(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Count what comes by updates, signals and events, until a signal says that it is enough."""
    total = payload.get("n", 0)

    async def add(data: Any) -> int:
        nonlocal total
        if data == 13:
            raise LookupError("13 brings bad luck")
        total += data
        return int(total)

    def positive(data: Any) -> None:
        if data <= 0:
            raise ValueError(f"{data} isn't positive")

    ctx.on_update("add", add, validator=positive)
    ctx.on_query("total", lambda factor=1: total * factor)
    if topic := payload.get("topic"):
        event = await ctx.step.wait_for_event("event", topic)
        total += event.data["n"]
    last = await ctx.step.wait_for_signal("enough")
    total += last  # in one line the total would be read before the wait
    return int(total)


@workflow(id="relay")
async def relay(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Hand over to a successor, twice."""
    await ctx.step.run("lap", lambda: payload["n"])
    if payload["n"] < 3:
        ctx.continue_as_new({"n": payload["n"] + 1})
    answer = await ctx.step.suspend("ok", {})
    return f"lap {payload['n']}: {answer.data}"


async def main(directory: str) -> None:
    """Run the engine until standard input ends."""
    async with Polos(data_dir=directory):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
