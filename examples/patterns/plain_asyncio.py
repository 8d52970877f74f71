"""
Plain asyncio in a body: `gather`, `TaskGroup`, `timeout` and `sleep` work as ever, and survive a crash.

`asyncio.sleep` is a durable timer here. Only real I/O has to be in a step; a body that does it itself is told so.
"""

import asyncio
from typing import Any

from polos import Polos, WorkflowContext, workflow


async def ask(supplier: str) -> int:
    await asyncio.sleep(0.05)  # a step is ordinary code
    return {"north": 120, "south": 95, "west": 140}[supplier]


@workflow
async def best_offer(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, int]:
    prices = await asyncio.gather(*(ctx.step.run(f"ask_{name}", ask, name) for name in payload["suppliers"]))
    return dict(zip(payload["suppliers"], prices, strict=True))


@workflow
async def errands(ctx: WorkflowContext) -> list[str]:
    async def errand(name: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return await ctx.step.run(name, lambda: f"{name} done")

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(errand("post", 0.2)), group.create_task(errand("bank", 0.1))]
    return [task.result() for task in tasks]


@workflow
async def impatient(ctx: WorkflowContext) -> str:
    try:
        async with asyncio.timeout(0.2):
            return str(await ctx.step.wait_for_signal("never"))
    except TimeoutError:
        return "enough waited"


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        print(await best_offer.run(polos, {"suppliers": ["north", "south", "west"]}))
        print(await errands.run(polos))
        print(await impatient.run(polos))


asyncio.run(main())
