"""A run that is pinned to the version that began it, waits through a restart, and fails once."""

import asyncio

from polos import RetryPolicy, WorkflowContext, workflow


@workflow(id="golden_pinned", version="2024-06", pin=True, retries=RetryPolicy(max_retries=1))
async def pinned(ctx: WorkflowContext) -> list[str]:
    first = await ctx.step.run("first", lambda: "by this version")
    await asyncio.sleep(3600)
    if ctx.retry_count == 0:
        raise ConnectionError("the first attempt fails")
    return [first, await ctx.step.run("second", lambda: "and again")]
