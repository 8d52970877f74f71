"""Bodies that do I/O themselves: begun anew after a crash, finished work looked up; plain functions."""

import asyncio
from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_direct", deterministic=False)
async def direct(ctx: WorkflowContext, payload: dict[str, Any]) -> list[Any]:
    first = await ctx.step.run("first", lambda: payload["n"] + 1)
    ticket = await ctx.step.uuid("ticket")
    await ctx.step.wait_for("pause", seconds=30)
    answer = await ctx.step.suspend("ok", {"first": first})
    last = await asyncio.gather(ctx.step.run("last", lambda: "z"), ctx.step.run("other", lambda: "y"))
    return [first, len(ticket), answer.data, last]


@workflow(id="golden_plain")
def plain(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    return int(payload["n"]) * 3


@workflow(id="golden_plain_failing")
def plain_failing(ctx: WorkflowContext) -> None:
    raise RuntimeError("a plain function failed")
