"""Runs that start runs: waited for, not waited for, in batches, failing, given up."""

import asyncio
from typing import Any

from polos import BatchWorkflowInput, StepExecutionError, WorkflowContext, workflow


@workflow(id="golden_child")
async def child(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    if payload.get("wait"):
        await ctx.step.wait_for("long", hours=payload["wait"])
    if payload.get("bad"):
        raise ValueError("a bad child")
    return {"n": await ctx.step.run("double", lambda: payload["n"] * 2)}


@workflow(id="golden_parent")
async def parent(ctx: WorkflowContext) -> dict[str, Any]:
    found: dict[str, Any] = {"one": await ctx.step.invoke_and_wait("one", child, {"n": 1})}
    await ctx.step.invoke("aside", child, {"n": 2})
    inputs = [BatchWorkflowInput(id="golden_child", payload={"n": n, "bad": n == 4}) for n in (3, 4, 5)]
    batch = await ctx.step.batch_invoke_and_wait("batch", inputs)
    found["batch"] = [one.result if one.success else one.error for one in batch]
    found["started"] = len(await ctx.step.batch_invoke("more", inputs[:1]))
    try:
        await ctx.step.invoke_and_wait("bad", child, {"n": 6, "bad": True})
    except StepExecutionError as error:
        found["bad"] = error.reason
    try:
        async with asyncio.timeout(30):
            await ctx.step.invoke_and_wait("slow", child, {"n": 7, "wait": 5})
    except TimeoutError:
        found["slow"] = "given up"
    return found
