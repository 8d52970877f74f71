"""asyncio's own ways for tasks to meet: queues, locks, events, conditions, semaphores, barriers, shields."""

import asyncio

from polos import WorkflowContext, workflow


@workflow(id="golden_synchronization")
async def synchronization(ctx: WorkflowContext) -> list[str]:
    found: list[str] = []
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    lock, ready, few = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(2)

    async def produce() -> None:
        for number in range(4):
            await queue.put(await ctx.step.run("make", lambda number=number: number))
        ready.set()

    async def consume(name: str) -> None:
        while not (ready.is_set() and queue.empty()):
            try:
                number = await asyncio.wait_for(queue.get(), 5)
            except TimeoutError:
                break
            async with lock:
                await asyncio.sleep(1)
                found.append(f"{name} {number}")

    async def limited(number: int) -> None:
        async with few:
            await ctx.step.run(f"limited {number}", lambda: number)
            found.append(f"limited {number}")

    await asyncio.gather(produce(), consume("x"), consume("y"))
    await asyncio.gather(*(limited(number) for number in range(4)))
    shielded = asyncio.ensure_future(ctx.step.run("shielded", lambda: "shielded"))
    outer = asyncio.ensure_future(asyncio.shield(shielded))
    await asyncio.sleep(0)
    outer.cancel()
    found.append(await shielded)
    return found
