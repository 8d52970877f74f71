"""
State that is changed inside a step, and what a crash sweep says of it.

`ctx.state` is rebuilt by running the body again, and a completed step isn't called again. So what its function changed
is gone after a crash. A step returns what it found out, and the body changes the state.
"""

from __future__ import annotations

import asyncio
from typing import Any

from polos import WorkflowContext, WorkflowState, workflow
from polos.testing import CrashSweepFailed, crash_sweep


class Cart(WorkflowState):
    reserved: int = 0


async def reserve_into(ctx: WorkflowContext, pieces: int) -> None:
    ctx.state.reserved += pieces


async def reserve(pieces: int) -> int:
    return pieces


async def ship() -> str:
    return "shipped"


@workflow(id="cart-broken", state_schema=Cart)
async def broken(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.run("reserve", reserve_into, ctx, payload["pieces"])
    return await ctx.step.run("ship", ship)


@workflow(id="cart", state_schema=Cart)
async def mended(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    ctx.state.reserved += await ctx.step.run("reserve", reserve, payload["pieces"])
    return await ctx.step.run("ship", ship)


async def main() -> None:
    try:
        await crash_sweep(broken, {"pieces": 3})
    except CrashSweepFailed as failed:
        print(f"broken: {failed.differences[0]}")
    report = await crash_sweep(mended, {"pieces": 3})
    print(f"mended: survives {report.singles} of {len(report.points)} crashes, and {report.pairs} pairs")


if __name__ == "__main__":
    asyncio.run(main())
