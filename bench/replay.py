"""
Coming back to a run with a long history: reading it, and running its code against it until it goes on.

Run as `python -m bench replay`. Measured is what a restart costs without the start of the interpreter: the store is
opened, the history read, the code replayed to the wait at its end, the signal delivered, the next step called.
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

STEPS = 10_000


class Reached:
    """What a run of `steps_and_a_wait` tells the benchmark, in steps of its own."""

    event = asyncio.Event()

    @classmethod
    def reset(cls) -> asyncio.Event:
        cls.event = asyncio.Event()
        return cls.event


async def reach() -> None:
    """Be the step that comes where the benchmark waits."""
    Reached.event.set()


@workflow(id="bench_replay")
async def steps_and_a_wait(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    for number in range(payload["steps"]):
        await ctx.step.run(f"step-{number}", floor.work, number)
    await ctx.step.run("history is there", reach)
    await ctx.step.wait_for_signal("go")
    await ctx.step.run("went on", reach)


def engine(folder: Path, steps: int) -> Sample:
    """Record the history, stop, and measure from the next start until the run's next step is called."""

    async def record() -> str:
        reached = Reached.reset()
        # What is measured comes later, so the disk needn't be waited for here.
        async with Polos(data_dir=folder, sync="off") as polos:
            handle = await steps_and_a_wait.invoke(polos, {"steps": steps})
            await reached.wait()
        return handle.id

    async def restart(run: str) -> Sample:
        reached = Reached.reset()
        with measured(steps, folder) as sample:
            polos = Polos(data_dir=folder)
            await polos.start()
            await polos.signal(run, "go")
            await reached.wait()
        await polos.stop()
        return sample

    return asyncio.run(restart(asyncio.run(record())))


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    steps = max(round(STEPS * scale), 1)
    subjects = [
        Subject("floor", partial(floor.replay, steps=steps)),
        Subject("engine", partial(engine, steps=steps), Budget(per_second=60_000)),
    ]
    compare(f"replay: a run with {steps:,} steps behind it goes on after a restart", subjects, root=root, rounds=rounds)
