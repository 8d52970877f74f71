"""Runs that leave memory whenever they wait, and are brought back by replay for each thing that happens to them."""

import asyncio

from pydantic import BaseModel

from polos import StepExecutionError, WorkflowContext, workflow


class Notes(BaseModel):
    lines: list[str] = []


@workflow(id="golden_evicted_child")
async def child(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    await asyncio.sleep(3600)
    return payload["n"] * 2


async def beside(ctx: WorkflowContext) -> object:
    try:
        return await ctx.step.wait_for_signal("beside", timeout=7200)
    except StepExecutionError as error:
        return error.reason


@workflow(id="golden_evicted", state_schema=Notes)
async def evicted(ctx: WorkflowContext) -> list[object]:
    found: list[object] = [await ctx.step.uuid("id") != "", await ctx.step.run("begin", lambda: "begun")]
    ctx.state.lines.append("begun")
    found.append(await ctx.step.wait_for_signal("go"))
    both = await asyncio.gather(ctx.step.invoke_and_wait("child", child, {"n": 21}), beside(ctx))
    ctx.state.lines.append("both")
    answer = await ctx.step.suspend("answer", {"why": "asked"})
    return [*found, *both, answer, ctx.state.lines]
