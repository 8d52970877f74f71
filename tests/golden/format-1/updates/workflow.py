"""Updates and queries: handled, refused by the validator, failing, answered by a step, open at the end."""

from typing import Any

from polos import WorkflowContext, WorkflowState, workflow


class Table(WorkflowState):
    seats: int = 2


@workflow(id="golden_updates", state_schema=Table)
async def updates(ctx: WorkflowContext) -> int:
    async def change(seats: int) -> str:
        ctx.state.seats = seats
        return await ctx.step.run("tell", lambda: f"{seats} seats now")

    def check(seats: int) -> None:
        if not 1 <= seats <= 8:
            raise ValueError(f"no table has {seats} seats")

    def fail(data: Any) -> None:
        raise LookupError(f"nothing is known of {data}")

    async def wait(data: Any) -> None:
        await ctx.step.wait_for("long", hours=1)

    ctx.on_query("summary", lambda factor=1: f"{ctx.state.seats * factor} seats")
    ctx.on_update("seats", change, validator=check)
    ctx.on_update("fail", fail)
    ctx.on_update("wait", wait)
    await ctx.step.wait_for_signal("arrived")
    return int(ctx.state.seats)
