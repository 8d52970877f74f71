"""What a step leaves in memory: nothing that would have to wait for the collector of garbage."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

from polos import Polos, WorkflowContext, workflow

CALLED: list[weakref.ref[Any]] = []


async def act() -> None:
    """Be a step, and note the task that it is."""
    CALLED.append(weakref.ref(asyncio.current_task()))


@workflow(id="step_memory")
async def acts(ctx: WorkflowContext) -> None:
    await ctx.step.run("first", act)
    await ctx.step.run("second", act)


def test_what_a_call_took_is_given_back_when_its_outcome_is_durable(tmp_path: Path):
    """A step's task goes as soon as nobody needs it: it is in no circle of references."""

    async def main() -> None:
        async with Polos(data_dir=tmp_path) as polos:
            await acts.run(polos)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())

        assert [None, None] == [task() for task in CALLED]
    finally:
        gc.enable()
