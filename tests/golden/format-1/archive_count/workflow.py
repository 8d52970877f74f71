"""Archived by number: of a workflow's trees the newest one is kept."""

from typing import Any

from polos import Retention, WorkflowContext, workflow


@workflow(id="golden_counted", retention=Retention(max_count=1))
async def counted(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    return int(payload["n"])
