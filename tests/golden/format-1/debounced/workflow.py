"""Debounced calls: a flurry that is one run, one that is held back no longer, one that is cancelled while it waits."""

from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_debounced")
async def debounced(ctx: WorkflowContext, payload: dict[str, Any]) -> list[Any]:
    return [payload["n"], dict(ctx.state)]
