"""
`ctx.step.wait_for`: wait for some time, an hour or a week as well as this half second.

The wait is a timer in the log: a restart in between makes no difference, and a long one holds nothing in memory.
"""

import asyncio
from typing import Any

from polos import Polos, WorkflowContext, workflow


@workflow
async def reminder(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    begun = await ctx.step.now("begun")
    await ctx.step.wait_for("pause", seconds=payload["seconds"])
    waited_ms = await ctx.step.now("ended") - begun
    return {"text": payload["text"], "waited": waited_ms >= payload["seconds"] * 1000}


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        print(await reminder.run(polos, {"text": "tea is ready", "seconds": 0.5}))


asyncio.run(main())
