"""Results that are objects: of steps, children, updates and runs, and one that a function brought back."""

import asyncio
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from polos import Completed, WorkflowContext, workflow

WORLD = {"hangs": False}


class Receipt(BaseModel):
    number: int
    lines: list[str] = []


@dataclass
class Place:
    street: str
    floor: int = 0


async def hang() -> Receipt:
    if WORLD["hangs"]:
        await asyncio.get_running_loop().create_future()
    return Receipt(number=8)


def was_it_paid() -> Completed:
    return Completed(Receipt(number=9, lines=["found"]))


@workflow(id="golden_typed_leaf")
async def leaf(ctx: WorkflowContext, payload: dict[str, Any]) -> Receipt:
    return Receipt(number=payload["number"])


@workflow(id="golden_typed")
async def typed(ctx: WorkflowContext, payload: dict[str, Any]) -> Place:
    ctx.on_update("receipt", lambda number: Receipt(number=number))
    child = await ctx.step.invoke_and_wait("child", leaf, {"number": 7})
    paid = await ctx.step.run("pay", hang, effect="at_most_once", reconcile=was_it_paid)
    await ctx.step.wait_for_signal("go")
    return Place(f"{type(child).__name__} {child.number}, {type(paid).__name__} {paid.number}", len(child.lines))
