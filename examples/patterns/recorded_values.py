"""
`ctx.step.uuid`, `now` and `random`: values that a body may not make itself, recorded so that replay gives them again.

The run is taken out of memory in the middle: what it goes on with, when it is rebuilt, is what it had before.
"""

import asyncio
from typing import Any

from polos import Polos, WorkflowContext, events, workflow


@workflow
async def lottery(ctx: WorkflowContext) -> list[Any]:
    before = [await ctx.step.uuid("ticket"), await ctx.step.now("drawn_at"), await ctx.step.random("number")]
    await ctx.step.wait_for_signal("draw")
    return before


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        handle = await lottery.invoke(polos)
    # The engine has stopped, and with it the run left memory; another engine goes on with it.
    async with Polos(log_file="polos.log") as polos:
        await handle.signal(polos, "draw")
        async for event in events.stream_workflow(polos, "lottery", handle.id):
            if event.event_type == "workflow_finish":
                ticket, drawn_at_ms, number = event.data["result"]
                print(f"a {len(ticket)}-character ticket, drawn after 2020: {drawn_at_ms > 1_577_836_800_000}")
                print(f"a number from 0 up to 1: {0 <= number < 1}")


asyncio.run(main())
