"""
Schedules: what one that is due costs, however many aren't.

Run as `python -m bench schedules`. A thousand schedules are due when the engine starts, among as many others as the
line says; measured is the time from before the start until their thousand runs have ended.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from polos import Polos, WorkflowContext, schedules, workflow
from polos.clock import Alarm, SystemClock

__all__ = ["main"]

DUE = 1_000
OTHERS = (0, 1_000, 10_000, 100_000)
AT_ONCE = 2_000


@workflow(id="bench_scheduled", schedule=True)
async def scheduled(ctx: WorkflowContext) -> str:
    return ctx.workflow_id


class Shifted:
    """The machine's clock, set forward."""

    def __init__(self, by_us: int) -> None:
        self._below = SystemClock()
        self._by_us = by_us

    def now_us(self) -> int:
        return self._below.now_us() + self._by_us

    def monotonic_us(self) -> int:
        return self._below.monotonic_us()

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Alarm:
        return self._below.call_at(due_us - self._by_us, callback)

    def call_after(self, delay_us: int, callback: Callable[[], object]) -> Alarm:
        return self._below.call_after(delay_us, callback)

    def random(self) -> float:
        return self._below.random()

    def uuid4(self) -> str:
        return self._below.uuid4()


async def _make(folder: Path, others: int, due: int) -> float:
    async with Polos(data_dir=folder, sync="off") as polos:
        wanted = [(f"other {number}", "0 0 1 1 *") for number in range(others)]
        wanted += [(f"due {number}", "30 12 * * *") for number in range(due)]
        began = time.perf_counter()
        for at in range(0, len(wanted), AT_ONCE):
            await asyncio.gather(
                *(schedules.create(polos, "bench_scheduled", cron, key=key) for key, cron in wanted[at : at + AT_ONCE])
            )
        return (time.perf_counter() - began) / len(wanted)


async def _fire(folder: Path, due: int) -> tuple[float, float]:
    began = time.perf_counter()
    async with Polos(data_dir=folder, clock=Shifted(86_400_000_000), max_concurrent_workflows=due, sync="off") as polos:
        started = time.perf_counter() - began
        listed = partial(polos.list_executions, workflow_id="bench_scheduled", status="completed", limit=due)
        while len(await listed()) < due:  # noqa: ASYNC110  # who watches from outside has no event
            await asyncio.sleep(0.01)
        return started, time.perf_counter() - began


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    due = max(round(DUE * scale), 1)
    print(f"\nschedules: {due:,} of them due at the start, best of {rounds} rounds")
    print(f"{'others':>10}  {'making one':>12}  {'engine starts':>14}  {'one that is due':>16}")
    for others in (round(count * scale) for count in OTHERS):
        made, started, fired = [], [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(dir=root) as folder:
                made.append(asyncio.run(_make(Path(folder), others, due)))
                start, all_done = asyncio.run(_fire(Path(folder), due))
                started.append(start)
                fired.append(all_done / due)
        print(
            f"{others:>10,}  {min(made) * 1e6:>9.0f} µs  {min(started) * 1e3:>11.0f} ms  {min(fired) * 1e6:>13.0f} µs"
        )
