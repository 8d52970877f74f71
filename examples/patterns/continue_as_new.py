"""
`ctx.continue_as_new`: end a run and go on as a new one under the same handle, so that no history grows for ever.

The caller waits for one run, and gets the result of the last.
"""

import asyncio
from typing import Any

from polos import Polos, WorkflowContext, workflow


@workflow
async def watch(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.run("look", lambda: f"round {payload['round']}")
    if payload["round"] < 3:
        ctx.continue_as_new({"round": payload["round"] + 1})
    return f"ended in round {payload['round']}"


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        print(await watch.run(polos, {"round": 1}))
        print(f"{len(await polos.list_executions(workflow_id='watch'))} runs, each with a short history")


asyncio.run(main())
