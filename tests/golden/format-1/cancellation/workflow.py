"""Stopping: a run that cleans up with steps, one that doesn't want to, one with children, one that hasn't begun."""

import asyncio
from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_cleaning")
async def cleaning(ctx: WorkflowContext) -> None:
    car = await ctx.step.run("pick up", lambda: "the red one")
    try:
        await ctx.step.wait_for("trip", days=7)
    finally:
        await ctx.step.run("bring back", lambda: f"brought back {car}")
        await asyncio.sleep(5)


@workflow(id="golden_stubborn", cancel_grace_seconds=60)
async def stubborn(ctx: WorkflowContext) -> None:
    while True:
        try:
            await ctx.step.wait_for("longer", hours=1)
        except asyncio.CancelledError:
            await ctx.step.run("refuse", lambda: "no")


@workflow(id="golden_family")
async def family(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    await ctx.step.invoke("aside", cleaning)
    await ctx.step.invoke_and_wait("awaited", cleaning)


@workflow(id="golden_late")
async def late(ctx: WorkflowContext) -> str:
    try:
        await ctx.step.wait_for_signal("never")
    except asyncio.CancelledError:
        return "finished all the same"
    return ""
