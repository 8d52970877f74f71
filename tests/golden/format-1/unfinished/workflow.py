"""Runs in the middle of everything: whoever opens this log goes on with them."""

import asyncio
from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_unfinished")
async def unfinished(ctx: WorkflowContext) -> list[Any]:
    first = await ctx.step.run("first", lambda: "first")
    asked, slept, heard = await asyncio.gather(
        ctx.step.suspend("approve", {"question": 1}),
        ctx.step.wait_for("a week", weeks=1),
        ctx.step.wait_for_event("news", "news"),
    )
    return [first, asked.data, slept, heard.data, await ctx.step.run("last", lambda: "last")]


@workflow(id="golden_waiting_parent")
async def waiting_parent(ctx: WorkflowContext) -> Any:
    return await ctx.step.invoke_and_wait("child", unfinished)
