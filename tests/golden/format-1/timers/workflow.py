"""Waiting for time: sleeps, deadlines, `wait_for`, `wait_until`, `call_later`, short and long."""

import asyncio
from datetime import UTC, datetime

from polos import WorkflowContext, workflow


@workflow(id="golden_timers")
async def timers(ctx: WorkflowContext) -> list[str]:
    found: list[str] = []
    await asyncio.sleep(0.5)
    await asyncio.sleep(3600)
    await ctx.step.wait_for("a day", days=1)
    await ctx.step.wait_until("spring", datetime(2026, 3, 20, 14, 46, tzinfo=UTC))
    loop = asyncio.get_running_loop()
    rung = loop.create_future()
    loop.call_later(2, rung.set_result, "rung")
    loop.call_later(1, found.append, "one second")
    loop.call_later(99, found.append, "never").cancel()
    found.append(await rung)
    try:
        await asyncio.wait_for(asyncio.sleep(60), 1)
    except TimeoutError:
        found.append("timed out")
    async with asyncio.timeout(60):
        await asyncio.sleep(1)
    started = loop.time()
    await asyncio.sleep(0)
    found.append(str(loop.time() - started))
    return found
