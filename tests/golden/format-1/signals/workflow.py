"""Signals: kept for who comes later, in their order, waited for in vain, left over at the end."""

from typing import Any

from polos import StepExecutionError, WorkflowContext, workflow


@workflow(id="golden_signals")
async def signals(ctx: WorkflowContext) -> list[Any]:
    found: list[Any] = [await ctx.step.wait_for_signal("go")]
    await ctx.step.wait_for("pause", seconds=100)
    while (item := await ctx.step.wait_for_signal("item")) is not None:
        found.append(item)
    try:
        await ctx.step.wait_for_signal("never", timeout=10)
    except StepExecutionError as error:
        found.append(error.reason)
    return found
