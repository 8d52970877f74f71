"""
Wake-ups: how long it takes from a signal until the run that waits for it goes on.

Run as `python -m bench wakeups`. One run waits for one signal after another, and the program that sends them is the one
that the engine runs in. Measured is from before the signal is sent until the step behind the wait is called, which is
when both are durable: one commit. The floor wakes a task, which makes the same commit.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import floor
from bench.measures import flush_seconds
from polos import Polos, WorkflowContext, workflow

__all__ = ["engine", "main"]

SIGNALS = 300
PAUSE_SECONDS = 0.005  # until the run waits again
BUDGET_SECONDS = 0.0007


class Called:
    """When the step behind a wait was called, told by the step."""

    at: asyncio.Future[float]

    @classmethod
    def reset(cls) -> asyncio.Future[float]:
        cls.at = asyncio.get_running_loop().create_future()
        return cls.at


async def tell() -> None:
    Called.at.set_result(time.perf_counter())


@workflow(id="bench_wakeups")
async def waits(ctx: WorkflowContext, payload: dict[str, int]) -> None:
    await ctx.step.run("ready", tell)
    for _ in range(payload["signals"]):
        await ctx.step.wait_for_signal("go")
        await ctx.step.run("went on", tell)


def engine(folder: Path, signals: int) -> list[float]:
    """Give the seconds of each wake-up, in order of size."""

    async def main() -> list[float]:
        found: list[float] = []
        async with Polos(data_dir=folder) as polos:
            ready = Called.reset()
            handle = await waits.invoke(polos, {"signals": signals})
            await ready
            for _ in range(signals):
                await asyncio.sleep(PAUSE_SECONDS)
                called = Called.reset()
                began = time.perf_counter()
                await polos.signal(handle.id, "go")
                found.append(await called - began)
        return sorted(found)

    return asyncio.run(main())


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    signals = max(round(SIGNALS * scale), 1)
    subjects: list[tuple[str, Callable[[Path, int], list[float]]]] = [
        ("floor, loop's thread", lambda folder, count: floor.wakeups(folder, count, kind=floor.Floor)),
        ("floor, writer thread", lambda folder, count: floor.wakeups(folder, count, kind=floor.ThreadedFloor)),
        ("engine", engine),
    ]
    middles: dict[str, list[float]] = {name: [] for name, _ in subjects}
    flushes: list[float] = []
    for _ in range(rounds):
        for name, work in subjects:
            with tempfile.TemporaryDirectory(dir=root) as folder:
                flushes.append(flush_seconds(Path(folder)))
                middles[name].append(statistics.median(work(Path(folder), signals)))
    print(f"\nwakeups: from a signal until the run goes on, the middle one of {signals}, best of {rounds} rounds")
    for name, found in middles.items():
        print(f"{name:26}{min(found) * 1e3:8.2f} ms")
    print(f"{'  its budget':26}{BUDGET_SECONDS * 1e3:8.2f} ms; a flush takes {statistics.median(flushes) * 1e6:.0f} µs")
