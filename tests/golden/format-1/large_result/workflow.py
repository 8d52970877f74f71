"""Payloads over the limit that the log keeps itself: they are blobs, and the record names them."""

from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_large_result")
async def large_result(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    text = await ctx.step.run("large", lambda: "".join(f"{number:6}" for number in range(payload["n"])))
    short = await ctx.step.run("short", lambda: text[-6:])
    return len(text) + int(short)
