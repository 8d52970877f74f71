"""
`handle.cancel`: ask a run to stop. It may clean up, with steps, before it does.

A body sees a `CancelledError` where it waits, as any asyncio program does.
"""

import asyncio

from polos import Polos, WorkflowContext, events, workflow


@workflow
async def rent_a_car(ctx: WorkflowContext) -> None:
    car = await ctx.step.run("pick_up", lambda: "the red one")
    try:
        await ctx.step.wait_for("trip", days=7)
    finally:
        await ctx.step.run("bring_back", lambda: print(f"brought back {car}"))


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        handle = await rent_a_car.invoke(polos)
        stopping = False
        async for event in events.stream_workflow(polos, "rent_a_car", handle.id, from_sequence=0):
            if event.event_type == "step_finish" and event.data["step_key"] == "pick_up":
                stopping = await handle.cancel()
            if event.event_type == "workflow_cancelled":
                print(f"stopping: {stopping}, cancelled by {event.data['cancelled_by']}")
        print((await handle.get())["status"])


asyncio.run(main())
