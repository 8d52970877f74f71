"""`pure` steps, beside others."""

from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_pure")
async def pure(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    doubled = await ctx.step.run("double", lambda: payload["n"] * 2, effect="pure")
    added = await ctx.step.run("add", lambda: doubled + 1)
    return await ctx.step.run("square", lambda: added**2, effect="pure")
