"""One run instead of two: idempotency keys, and singletons that are skipped, that wait, that cancel the one before."""

from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_once")
async def once(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    await ctx.step.run("work", lambda: "done")
    await ctx.step.wait_for("rest", seconds=60)
    return int(payload["n"])
