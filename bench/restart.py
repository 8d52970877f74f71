"""
Restart: from a SIGKILL until all runs that were under way go on.

Run as `python -m bench restart`. A process begins so many runs, and is killed when all of them are in the middle of
their steps. Measured is the next process, from before its interpreter starts until each run's interrupted step was
called again. The floor reads the same number of events and calls as many functions.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["main", "measure"]

RUNS = 1_000
STEPS = 10
BUDGET_SECONDS = 0.5


async def engine(folder: Path, runs: int, *, first: bool) -> None:
    """Run until every run is in its last step but one, and tell."""
    from polos import Polos, WorkflowContext, workflow

    there: set[int] = set()
    everybody = asyncio.Event()
    never = asyncio.Event()

    async def work(run: int, number: int) -> int:
        if number == STEPS - 2:
            there.add(run)
            if len(there) == runs:
                everybody.set()
            await never.wait()
        return number

    @workflow(id="bench_restart")
    async def steps(ctx: WorkflowContext, payload: dict[str, int]) -> None:
        for number in range(STEPS):
            await ctx.step.run(f"step-{number}", work, payload["run"], number)

    polos = Polos(data_dir=folder, max_concurrent_workflows=runs)
    await polos.start()
    if first:
        await asyncio.gather(*(steps.invoke(polos, {"run": number}) for number in range(runs)))
    await everybody.wait()
    tell()


async def bare(folder: Path, runs: int, *, first: bool) -> None:
    """Do the same with the floor."""
    import orjson

    from bench.floor import Floor

    floor = Floor(folder)
    if first:
        for number in range(STEPS - 2):
            events = [
                (f"run-{run}", orjson.dumps({"run": run, "name": number, "value": number})) for run in range(runs)
            ]
            await floor.durable(events)
    else:
        done: dict[int, dict[int, int]] = {}
        for event in floor.recorded():
            done.setdefault(event["run"], {})[event["name"]] = event["value"]

        async def step(run: int, number: int) -> bool:
            return number not in done[run]

        async def body(run: int) -> int:
            number = 0
            while not await step(run, number):
                number += 1
            return number

        assert [STEPS - 2] * runs == await asyncio.gather(*map(body, range(runs)))
    tell()


def tell() -> None:
    """Say that all is as it should be, and hold on to be killed."""
    os.write(1, b"there\n")
    time.sleep(3_600)


def measure(subject: str, *, root: Path | None, runs: int) -> float:
    """Give the seconds that a restart takes; `subject` is "floor" or "engine"."""
    took = 0.0
    with tempfile.TemporaryDirectory(dir=root) as folder:
        for turn in ("first", "again"):
            began = time.perf_counter()
            command = [sys.executable, "-m", "bench.restart", subject, folder, str(runs), turn]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None, "it is a pipe"
                assert process.stdout.readline() == b"there\n", "it says when all runs go on"
                took = time.perf_counter() - began
                process.kill()
    return took


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    runs = max(round(RUNS * scale), 1)
    print(f"\nrestart: {runs:,} runs x {STEPS} steps under way, killed, until all go on, best of {rounds} rounds")
    found = {name: [measure(name, root=root, runs=runs) for _ in range(rounds)] for name in ("floor", "engine")}
    for name, seconds in found.items():
        print(f"{name:26}{min(seconds):8.2f} s")
    print(f"{'  its budget':26}{BUDGET_SECONDS:8.2f} s")


if __name__ == "__main__":
    which, where, count, turn = sys.argv[1:]
    work = bare if which == "floor" else engine
    asyncio.run(work(Path(where), int(count), first=turn == "first"))
