"""A run that goes on as another one, under its handle, and whose child comes with it."""

from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_companion")
async def companion(ctx: WorkflowContext) -> str:
    await ctx.step.wait_for("long", hours=1)
    return "still here"


@workflow(id="golden_rounds", tags=["round"])
async def rounds(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    if payload["round"] == 1:
        await ctx.step.invoke("companion", companion)
    await ctx.step.run("look", lambda: f"round {payload['round']}")
    if payload["round"] < 3:
        ctx.continue_as_new({"round": payload["round"] + 1})
    return f"ended in round {payload['round']}"


@workflow(id="golden_watcher")
async def watcher(ctx: WorkflowContext) -> Any:
    return await ctx.step.invoke_and_wait("rounds", rounds, {"round": 2})
