"""
Many runs at once: what remains of a step's cost when a commit is shared.

Run as `python -m bench many_runs`. The disk matters little here; processor time is the number to guard.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from bench import floor
from bench.measures import Budget, Sample, Subject, compare, measured
from bench.sequential import steps_in_a_row
from polos import Polos

__all__ = ["engine", "main"]

RUNS = 1_000
STEPS = 10


def engine(folder: Path, runs: int, steps: int) -> Sample:
    """Run it on the engine, through its public API; starting the runs and waiting for their ends is included."""

    async def main() -> Sample:
        async with Polos(data_dir=folder, max_concurrent_workflows=runs) as polos:
            await steps_in_a_row.run(polos, {"steps": 1})
            with measured(runs * steps, folder) as sample:
                results = await asyncio.gather(*(steps_in_a_row.run(polos, {"steps": steps}) for _ in range(runs)))
            assert [steps] * runs == results
        return sample

    return asyncio.run(main())


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    runs = max(round(RUNS * scale), 1)
    subjects = [
        Subject("floor, loop's thread", partial(floor.many_runs, runs=runs, steps=STEPS, kind=floor.Floor)),
        Subject("floor, writer thread", partial(floor.many_runs, runs=runs, steps=STEPS, kind=floor.ThreadedFloor)),
        Subject("engine", partial(engine, runs=runs, steps=STEPS), Budget(per_second=20_000, cpu_us=80)),
    ]
    compare(f"many runs: {runs:,} runs at once, {STEPS} steps each", subjects, root=root, rounds=rounds)
