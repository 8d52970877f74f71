"""Events of topics: waited for, waited for in vain, published before, published by runs and to their own stream."""

from typing import Any

from polos import StepExecutionError, WorkflowContext, workflow


@workflow(id="golden_reader")
async def reader(ctx: WorkflowContext) -> list[Any]:
    earlier = await ctx.step.wait_for_event("earlier", "news", since=0)
    later = await ctx.step.wait_for_event("later", "news", timeout=3600)
    try:
        await ctx.step.wait_for_event("never", "silence", timeout=60)
    except StepExecutionError as error:
        return [[earlier.event_type, earlier.data], [later.event_type, later.data], error.reason]
    return []


@workflow(id="golden_writer")
async def writer(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.publish_event("first", "news", {"text": payload["text"]}, event_type="headline")
    await ctx.step.publish_event("second", "news", [1, 2, 3])
    await ctx.step.publish_workflow_event("progress", {"done": 1.0}, event_type="progress")
    return "published"
