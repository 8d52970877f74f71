"""
One run whose steps follow one another: what durability costs when nothing can be shared.

Run as `python -m bench sequential`. Each step is one commit of two device flushes, and the disk decides most of it;
what the engine adds is in the processor time and in the ratio.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from bench import floor
from bench.measures import Budget, Sample, Subject, compare, measured
from polos import Polos, WorkflowContext, workflow

__all__ = ["engine", "main"]

STEPS = 1_000


@workflow(id="bench_sequential")
async def steps_in_a_row(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    for number in range(payload["steps"]):
        await ctx.step.run(f"step-{number}", floor.work, number)
    return int(payload["steps"])


def engine(folder: Path, steps: int) -> Sample:
    """Run it on the engine, through its public API."""

    async def main() -> Sample:
        async with Polos(data_dir=folder) as polos:
            await steps_in_a_row.run(polos, {"steps": 1})
            with measured(steps, folder) as sample:
                assert steps == await steps_in_a_row.run(polos, {"steps": steps})
        return sample

    return asyncio.run(main())


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    steps = max(round(STEPS * scale), 1)
    subjects = [
        Subject("floor, loop's thread", partial(floor.sequential, steps=steps, kind=floor.Floor)),
        Subject("floor, writer thread", partial(floor.sequential, steps=steps, kind=floor.ThreadedFloor)),
        Subject("engine", partial(engine, steps=steps), Budget(per_second=2_800, cpu_us=230, commits=1.0)),
    ]
    compare(f"sequential: one run, {steps:,} steps one after another", subjects, root=root, rounds=rounds)
