"""Runs that failed or were cancelled and are retried by hand, with a child, a handled failure and a step given up."""

import asyncio
from typing import Any

from polos import StepExecutionError, WorkflowContext, workflow

WORLD = {"up": False}


def ship(parcel: str) -> str:
    if not WORLD["up"]:
        raise OSError(f"no van for {parcel}")
    return f"{parcel} is under way"


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


@workflow(id="golden_retried_child")
async def retried_child(ctx: WorkflowContext, payload: dict[str, Any]) -> list[str]:
    packed = await ctx.step.run("pack", lambda: f"packed for {payload['to']}")
    return [packed, await ctx.step.run("ship", ship, payload["to"], max_retries=0)]


@workflow(id="golden_retried")
async def retried(ctx: WorkflowContext, payload: dict[str, Any]) -> list[Any]:
    number = await ctx.step.uuid("number")
    try:
        tried: str = await ctx.step.run("try", ship, "letter", max_retries=0)
    except StepExecutionError as error:
        tried = f"handled: {error}"
    answer = await ctx.step.suspend("ok", {"to": payload["to"]}, timeout=60)
    child = await ctx.step.invoke_and_wait("child", retried_child, {"to": payload["to"]})
    return [number, tried, answer.data, child]


@workflow(id="golden_given_up")
async def given_up(ctx: WorkflowContext) -> str:
    return str(await ctx.step.run("charge", hang, effect="at_most_once"))
