"""Attempts of a run: what one finished the next one uses, what it left open the next one takes over."""

import asyncio
from typing import Any

from polos import RetryPolicy, WorkflowContext, workflow

WORLD = {"breaks": 2}


class Broken(Exception):
    pass


@workflow(id="golden_run_retries", retries=RetryPolicy(max_retries=3, base_delay_seconds=2))
async def run_retries(ctx: WorkflowContext) -> dict[str, Any]:
    number = await ctx.step.random("number")
    at = await ctx.step.now("at")
    first = await ctx.step.run("first", lambda: "done once")
    waiting = asyncio.ensure_future(ctx.step.wait_for_signal("hello"))
    child = await ctx.step.invoke_and_wait("helper", helper, {"n": ctx.retry_count})
    await ctx.step.publish_event("told", "attempts", {"attempt": ctx.retry_count})
    await asyncio.sleep(1)
    if ctx.retry_count < 2:
        raise Broken(f"attempt {ctx.retry_count} broke")
    return {"first": first, "child": child, "number": number < 1, "at": at > 0, "signal": await waiting}


@workflow(id="golden_helper")
async def helper(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    return int(payload["n"]) + 100


@workflow(id="golden_always_failing", retries=RetryPolicy(max_retries=1))
async def always_failing(ctx: WorkflowContext) -> None:
    await ctx.step.run("fine", lambda: "fine")
    raise ZeroDivisionError("no attempt helps")
