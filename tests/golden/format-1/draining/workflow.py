"""An engine that is drained: what is under way comes to its end or to a long wait, and nothing else begins."""

import asyncio

from polos import WorkflowContext, workflow


async def take(seconds: float) -> str:
    loop = asyncio.get_running_loop()
    waited = loop.create_future()
    loop.call_later(seconds, waited.set_result, None)
    await waited
    return f"took {seconds} s"


@workflow(id="golden_drained", queue="golden drained")
async def drained(ctx: WorkflowContext) -> list[str]:
    return [await ctx.step.run("first", take, 2.0), await ctx.step.run("second", take, 2.0)]


@workflow(id="golden_drained_waiting")
async def waiting(ctx: WorkflowContext) -> list[object]:
    first = await ctx.step.run("first", take, 1.0)
    return [first, await ctx.step.wait_for_signal("go"), await ctx.step.run("second", take, 1.0)]
