"""Queues: how many runs are under way, who goes first, how fast they begin, and what happens while one is paused."""

import asyncio
from typing import Any

from polos import Polos, Queue, RateLimit, WorkflowContext, events, queues, workflow
from polos.errors import QueueFull

MAIL = Queue("mail", 4, key_concurrency_limit=1, rate_limit=RateLimit(100, period_seconds=1), max_queued=6)

under_way: list[str] = []
most = 0


async def deliver(to: str) -> None:
    global most  # noqa: PLW0603  # what the program counts for its last line
    under_way.append(to)
    most = max(most, len(under_way))
    await asyncio.sleep(0.02)
    under_way.remove(to)
    print(f"sent to {to}")


@workflow(queue=MAIL)
async def send(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    await ctx.step.run("deliver", deliver, payload["to"])


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        await queues.pause(polos, "mail")
        handles = [
            await send.invoke(polos, {"to": f"{tenant}-{number}"}, concurrency_key=tenant, priority=priority)
            for tenant, number, priority in (("a", 1, 0), ("a", 2, 0), ("a", 3, 0), ("b", 1, 0), ("a", 4, 9))
        ]
        print(f"{queues.get(polos, 'mail').queued} wait")
        await send.invoke(polos, {"to": "never"}, start_after=3600)  # isn't in anybody's way before its time

        await queues.configure(polos, "mail", concurrency_limit=1, max_queued=5)
        try:
            await send.invoke(polos, {"to": "too much"})
        except QueueFull as error:
            print(f"refused: {str(error).split(':')[0]}")

        await queues.resume(polos, "mail")
        for handle in handles:
            async for _ in events.stream_workflow(polos, "send", handle.id):
                pass  # until it has ended
        print(f"{most} at once")


asyncio.run(main())
