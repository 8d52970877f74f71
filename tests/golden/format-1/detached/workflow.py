"""Children that nobody cancels with their parent, one that a person cancels, and a chain with one deadline."""

import asyncio
from typing import Any

from polos import StepExecutionError, WorkflowContext, workflow


@workflow(id="golden_alone", tags=["alone"])
async def alone(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.wait_for("long", seconds=payload["seconds"])
    return "by itself"


@workflow(id="golden_leaving")
async def leaving(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.invoke("unwatched", alone, {"seconds": 300}, detached=True)
    try:
        async with asyncio.timeout(60):
            await ctx.step.invoke_and_wait("watched", alone, {"seconds": 200}, detached=True, tags=["watched"])
    except TimeoutError:
        await ctx.step.run("tell", lambda: "not waited for")
    return await ctx.step.wait_for_signal("never")


@workflow(id="golden_left")
async def left(ctx: WorkflowContext) -> str:
    try:
        return await ctx.step.invoke_and_wait("cancelled", alone, {"seconds": 1000})
    except StepExecutionError as error:
        return str(error)


@workflow(id="golden_chain")
async def chain(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    await ctx.step.wait_for("round", seconds=40)
    ctx.continue_as_new({"round": payload["round"] + 1})
