"""`ctx.step.wait_for_signal` and `handle.signal`: tell a run something; what comes early is kept, in its order."""

import asyncio

from polos import Polos, WorkflowContext, events, workflow


@workflow
async def basket(ctx: WorkflowContext) -> list[str]:
    items: list[str] = []
    while (item := await ctx.step.wait_for_signal("item")) is not None:
        items.append(item)
    return items


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        handle = await basket.invoke(polos)
        for item in ("bread", "butter", "jam", None):
            await handle.signal("item", item)
        async for event in events.stream_workflow(polos, "basket", handle.id):
            if event.event_type == "workflow_finish":
                print(event.data["result"])


asyncio.run(main())
