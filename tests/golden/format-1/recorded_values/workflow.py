"""What a body may not make itself, and code that is patched under runs."""

from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_values")
async def values(ctx: WorkflowContext) -> dict[str, Any]:
    found: dict[str, Any] = {
        "now": await ctx.step.now(),
        "named": await ctx.step.now("named"),
        "random": [await ctx.step.random() for _ in range(2)],
        "uuid": await ctx.step.uuid("ticket"),
    }
    await ctx.step.wait_for("pause", seconds=20)
    found["patched"] = [ctx.patched("new"), ctx.patched("new"), ctx.patched("newer")]
    found["later"] = await ctx.step.now()
    return found


async def without_the_patch(ctx: WorkflowContext) -> dict[str, Any]:
    await ctx.step.run("old", lambda: "old")
    await ctx.step.wait_for("pause", seconds=20)
    return {}


@workflow(id="golden_patched")
async def patched(ctx: WorkflowContext) -> dict[str, Any]:
    if ctx.patched("no more old"):
        return {"way": "new"}
    await ctx.step.run("old", lambda: "old")
    await ctx.step.wait_for("pause", seconds=20)
    return {"way": "old"}
