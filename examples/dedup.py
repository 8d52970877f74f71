"""One run instead of two: idempotency keys for requests made again, singletons for work that once is enough."""

import asyncio
from typing import Any

from polos import Polos, WorkflowContext, events, workflow


@workflow
async def charge(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", lambda: f"charged {payload['cents']} cents")


@workflow
async def reindex(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.wait_for_signal("go")
    return f"indexed {payload['version']}"


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        # Nobody knows whether the first call came through, so it is made again, with the same key.
        calls = [await charge.invoke(polos, {"cents": 4990}, idempotency_key="order-1") for _ in range(3)]
        print(f"{len({call.id for call in calls})} run for {len(calls)} calls")
        print(await charge.run(polos, {"cents": 4990}, idempotency_key="order-1"))

        first = await reindex.invoke(polos, {"version": 1}, singleton="shop")
        again = await reindex.invoke(polos, {"version": 2}, singleton="shop")
        print(f"skipped: {again.id == first.id}")
        newer = await reindex.invoke(polos, {"version": 3}, singleton="shop", singleton_policy="cancel_old")
        last = await reindex.invoke(polos, {"version": 4}, singleton="shop", singleton_policy="queue")
        for handle in (newer, last):
            await handle.signal("go")
            async for event in events.stream_workflow(polos, "reindex", handle.id):
                if event.event_type == "workflow_finish":
                    print(event.data["result"])
        print(f"the first one is {(await first.get())['status']}")


asyncio.run(main())
