"""`ctx.step.wait_until`: wait until a moment. One that is over is an error that the body can handle."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from polos import Polos, StepExecutionError, WorkflowContext, workflow


@workflow
async def meeting(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    # A body asks the log for the time, so that it gets the same answer when it is replayed.
    now = datetime.fromtimestamp(await ctx.step.now("now") / 1000, UTC)
    try:
        await ctx.step.wait_until("begins", now + timedelta(seconds=payload["in_seconds"]))
    except StepExecutionError:
        return "missed it"
    return "it begins"


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        print(await meeting.run(polos, {"in_seconds": 0.3}))
        print(await meeting.run(polos, {"in_seconds": -60}))


asyncio.run(main())
