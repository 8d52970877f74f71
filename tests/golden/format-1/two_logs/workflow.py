"""A child whose log is another one: messages are owed until they are delivered."""

from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_far_child")
async def far_child(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    return int(payload["n"]) * 2


@workflow(id="golden_near_parent")
async def near_parent(ctx: WorkflowContext) -> Any:
    return await ctx.step.invoke_and_wait("far", far_child, {"n": 21})
