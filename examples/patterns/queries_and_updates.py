"""
`handle.query` and `handle.update`: look into a run, and change it with an answer.

A query only looks: the recorded state, for which no engine is needed, or what a function of the body says. An update
is part of the run's history, unless its validator refuses it; then it leaves no trace.
"""

import asyncio

from polos import Polos, WorkflowContext, WorkflowState, events, workflow
from polos.errors import UpdateRejected


class Table(WorkflowState):
    name: str = "for Ada"
    seats: int = 2


@workflow(state_schema=Table)
async def reservation(ctx: WorkflowContext) -> int:
    async def change_seats(seats: int) -> str:
        ctx.state.seats = seats
        return await ctx.step.run("tell_kitchen", lambda: f"table {ctx.state.name} now has {seats} seats")

    def check(seats: int) -> None:
        if not 1 <= seats <= 8:
            raise ValueError(f"no table has {seats} seats")

    ctx.on_query("summary", lambda: f"{ctx.state.seats} seats {ctx.state.name}")
    ctx.on_update("seats", change_seats, validator=check)
    await ctx.step.wait_for_signal("arrived")
    return int(ctx.state.seats)


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        handle = await reservation.invoke(polos)
        print(await handle.query("summary"))
        print(await handle.update("seats", 5))
        try:
            await handle.update("seats", 12)
        except UpdateRejected as refused:
            print(f"refused: {refused}")
        print(await handle.query())
        await handle.signal("arrived")
        async for event in events.stream_workflow(polos, "reservation", handle.id):
            if event.event_type == "workflow_finish":
                print(event.data["result"], "came")


asyncio.run(main())
