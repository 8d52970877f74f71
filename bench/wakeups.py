"""
Wake-ups: how long it takes from an answer until the run that waits for it goes on.

Run as `python -m bench wakeups`. One run waits for one answer after another, and the program that sends them is the one
that the engine runs in. Measured is from before the answer is sent until the step behind the wait is called, which is
when both are durable: one commit. The floor wakes a task, which makes the same commit.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import floor
from bench.measures import flush_seconds
from polos import Polos, WorkflowContext, events, workflow

__all__ = ["engine", "main"]

ANSWERS = 300
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
async def waits(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    await ctx.step.run("ready", tell)
    for number in range(payload["answers"]):
        match payload["by"]:
            case "signal":
                await ctx.step.wait_for_signal("go")
            case "resume":
                await ctx.step.suspend(f"go-{number}", None)
            case _:
                await ctx.step.wait_for_event("wait", "bench/go")
        await ctx.step.run("went on", tell)


def engine(folder: Path, answers: int, by: str) -> list[float]:
    """Give the seconds of each wake-up, in order of size; `by` is "signal", "resume" or "event"."""

    async def main() -> list[float]:
        found: list[float] = []
        async with Polos(data_dir=folder) as polos:
            ready = Called.reset()
            handle = await waits.invoke(polos, {"answers": answers, "by": by})
            await ready
            for number in range(answers):
                await asyncio.sleep(PAUSE_SECONDS)
                called = Called.reset()
                began = time.perf_counter()
                match by:
                    case "signal":
                        await polos.signal(handle.id, "go")
                    case "resume":
                        await polos.resume(waits.id, handle.id, f"go-{number}", None)
                    case _:
                        await events.publish(polos, "bench/go", events.EventData(data={"go": True}))
                found.append(await called - began)
        return sorted(found)

    return asyncio.run(main())


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    answers = max(round(ANSWERS * scale), 1)
    subjects: list[tuple[str, Callable[[Path, int], list[float]]]] = [
        ("floor, loop's thread", lambda folder, count: floor.wakeups(folder, count, kind=floor.Floor)),
        ("floor, writer thread", lambda folder, count: floor.wakeups(folder, count, kind=floor.ThreadedFloor)),
        *((f"engine, {by}", partial(engine, by=by)) for by in ("signal", "resume", "event")),
    ]
    middles: dict[str, list[float]] = {name: [] for name, _ in subjects}
    flushes: list[float] = []
    for _ in range(rounds):
        for name, work in subjects:
            with tempfile.TemporaryDirectory(dir=root) as folder:
                flushes.append(flush_seconds(Path(folder)))
                middles[name].append(statistics.median(work(Path(folder), answers)))
    print(f"\nwakeups: from an answer until the run goes on, the middle one of {answers}, best of {rounds} rounds")
    for name, found in middles.items():
        print(f"{name:26}{min(found) * 1e3:8.2f} ms")
    print(f"{'  its budget':26}{BUDGET_SECONDS * 1e3:8.2f} ms; a flush takes {statistics.median(flushes) * 1e6:.0f} µs")
