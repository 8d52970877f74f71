"""`at_most_once` with a function that finds out what happened: it did, it did not, nobody knows yet."""

import asyncio
from typing import Any

from polos import Completed, NotDone, StillUnknown, WorkflowContext, workflow

WORLD = {"hangs": True}


async def send(letter: str) -> str:
    if WORLD["hangs"]:
        await asyncio.Event().wait()
    return f"sent {letter}"


def find_out(letter: str) -> Completed | NotDone | StillUnknown:
    if letter == "spring":
        return Completed(f"{letter} was sent")
    return NotDone() if letter == "summer" else StillUnknown()


@workflow(id="golden_reconcile")
async def reconcile(ctx: WorkflowContext) -> list[Any]:
    return [
        await ctx.step.run(letter, send, letter, effect="at_most_once", reconcile=find_out)
        for letter in ("spring", "summer", "autumn")
    ]
