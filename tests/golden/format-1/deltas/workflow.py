"""A step that streams: deltas in two chunks, of an attempt that fails, and of the one behind it."""

from typing import Any

from polos import WorkflowContext, workflow

calls = 0


def count(ctx: WorkflowContext, to: int) -> int:
    global calls
    calls += 1
    ctx.step.emit("stream_start", {"call": calls})
    for number in range(to):
        ctx.step.emit("counted", {"number": number})
    if calls == 1:
        raise OSError("cut off")
    return to


@workflow(id="golden_deltas")
async def deltas(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    return await ctx.step.run("count", count, ctx, payload["to"])
