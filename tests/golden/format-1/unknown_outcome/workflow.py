"""`at_most_once`: the process dies in the middle, the outcome is unknown, a person says what it was."""

import asyncio
from typing import Any

from polos import StepExecutionError, WorkflowContext, workflow

WORLD = {"hangs": True}


async def charge(what: str) -> str:
    if WORLD["hangs"]:
        await asyncio.Event().wait()
    return f"charged {what}"


@workflow(id="golden_unknown_outcome")
async def unknown_outcome(ctx: WorkflowContext) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("completed", "failed", "not_done"):
        try:
            found[name] = await ctx.step.run(name, charge, name, effect="at_most_once")
        except StepExecutionError as error:
            found[name] = error.reason
    return found
