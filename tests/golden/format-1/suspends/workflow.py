"""Asking people: answered, answered before the question, by another run, by step name, not in time."""

from typing import Any

from polos import StepExecutionError, WorkflowContext, workflow


@workflow(id="golden_suspends")
async def suspends(ctx: WorkflowContext) -> list[Any]:
    found: list[Any] = []
    for key in ("approve", "early", "approve", "by a run"):
        answer = await ctx.step.suspend(key, {"question": key})
        found.append([key, answer.data])
        await ctx.step.wait_for("pause", seconds=60)
    try:
        await ctx.step.suspend("nobody", "a question that is no object", timeout=30)
    except StepExecutionError as error:
        found.append(error.reason)
    return found


@workflow(id="golden_answering")
async def answering(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    await ctx.step.resume("answer", "by a run", payload["run"], "golden_suspends", {"by": "a run"})
