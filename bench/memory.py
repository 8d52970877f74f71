"""
Memory: what a process takes at rest, and what a run that waits takes of it.

Run as `python -m bench memory`. Each line is a process of its own, which tells how much memory it has that no file
backs (`RssAnon`): with an engine that has nothing to do, and then with runs that wait for a signal, once kept in memory
and once let go. The floor is a task that waits for a future, and what it has to remember.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["main", "measure"]

RUNS = 10_000
BUDGET_KIB = 6.0
REST_BUDGET_MIB = 60.0


def resident_kib() -> int:
    """Give the memory of this process that no file backs."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


async def engine(folder: Path, runs: int, kept: int) -> tuple[int, int]:
    """Give the KiB that an engine takes at rest, and with runs that wait."""
    from polos import Polos, WorkflowContext, workflow

    @workflow(id="bench_memory")
    async def waits(ctx: WorkflowContext) -> None:
        await ctx.step.wait_for_signal("go")

    async with Polos(data_dir=folder, sync="off", max_concurrent_workflows=100, resident_runs_max=kept) as polos:
        rest = resident_kib()
        last = None
        for _ in range(runs):
            last = await waits.invoke(polos, None)
        while last is not None and (await polos.get_execution(last.id))["status"] != "waiting":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return rest, resident_kib()


async def floor(runs: int) -> tuple[int, int]:
    """Give the KiB that tasks take which do nothing but wait, each with a few names to remember."""
    rest = resident_kib()
    futures = [asyncio.get_running_loop().create_future() for _ in range(runs)]

    async def wait(number: int) -> None:
        state = {"run": f"run-{number:06}", "workflow": "waits", "version": 3, "waits_for": "go"}
        await futures[number]
        assert state

    tasks = [asyncio.create_task(wait(number)) for number in range(runs)]
    await asyncio.sleep(0)
    found = rest, resident_kib()
    for future in futures:
        future.set_result(None)
    await asyncio.gather(*tasks)
    return found


def measure(subject: str, *, root: Path | None, runs: int) -> tuple[int, int]:
    """Give the KiB of a fresh process at rest, and with runs; `subject` is "floor", "kept" or "let go"."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        told = subprocess.check_output([sys.executable, "-m", "bench.memory", subject, folder, str(runs)], text=True)
    rest, full = json.loads(told.splitlines()[-1])
    return int(rest), int(full)


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    runs = max(round(RUNS * scale), 1)
    print(f"\nmemory: {runs:,} runs that wait, least of {rounds} rounds")
    print(f"{'':26}{'at rest':>12}{'a run':>14}")
    for subject, name in (("floor", "floor, tasks"), ("kept", "engine, kept in memory"), ("let go", "engine, let go")):
        found = [measure(subject, root=root, runs=runs) for _ in range(rounds)]
        rest = min(rest for rest, _ in found) / 1024
        each = min(full - rest for rest, full in found) / runs
        print(f"{name:26}{rest:8.1f} MiB{each:10.2f} KiB")
    print(f"{'  its budget':26}{REST_BUDGET_MIB:8.1f} MiB{BUDGET_KIB:10.2f} KiB, let go about 0")


if __name__ == "__main__":
    which, where, count = sys.argv[1:]
    work = (
        floor(int(count)) if which == "floor" else engine(Path(where), int(count), int(count) if which == "kept" else 0)
    )
    print(json.dumps(asyncio.run(work)))
