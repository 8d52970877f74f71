"""
Triggers: what a published event costs, however many triggers it isn't for.

Run as `python -m bench triggers`. One trigger is for the events, by their topic or by a pattern, and takes a hundred at
a time; the others are for other topics of the same shape. Measured is the time from the first event until the runs of
all of them have ended. By pattern every event has a topic that no event had before, so that nothing is remembered; the
last column is finding who listens to such a topic alone, with all else left out.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from polos import BatchEventPayload, Polos, WorkflowContext, events, registry, workflow
from polos.engine.patterns import Patterns

__all__ = ["main"]

EVENTS = 2_000
TRIGGERS = (1, 100, 1_000)
BATCH = 100


def _define(number: int, topic: str, seen: asyncio.Queue[int]) -> None:
    async def take(_ctx: WorkflowContext, payload: BatchEventPayload) -> None:
        seen.put_nowait(len(payload.events))

    options: dict[str, Any] = {"batch_size": BATCH, "batch_timeout_seconds": 0.2}
    workflow(id=f"bench_trigger_{number}", trigger_on_event=topic, **options)(take)


async def _publish(folder: Path, triggers: int, count: int, *, by_pattern: bool) -> float:
    seen: asyncio.Queue[int] = asyncio.Queue()
    for number in range(triggers):
        _define(number, f"bench/{number}/*" if by_pattern else f"bench/{number}", seen)
    async with Polos(data_dir=folder, sync="off") as polos:
        began = 0.0
        for at in range(-BATCH, count, BATCH):
            if not at:  # each trigger has looked at the log by now, as it does once after a start
                left = BATCH
                while left:
                    left -= await seen.get()
                began = time.perf_counter()
            topics = [f"bench/0/{number}" if by_pattern else "bench/0" for number in range(at, at + BATCH)]
            await asyncio.gather(*(events.publish(polos, topic, events.EventData(data={"at": at})) for topic in topics))
        left = count
        while left:
            left -= await seen.get()
        return (time.perf_counter() - began) / count


def _find(triggers: int, count: int) -> float:
    patterns: Patterns[int] = Patterns()
    for number in range(triggers):
        patterns.add(f"bench/{number}/*", number)
    topics = [f"bench/0/{number}" for number in range(count)]
    began = time.perf_counter()
    for topic in topics:
        assert patterns.matching(topic) == [0]
    return (time.perf_counter() - began) / count


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    count = max(round(EVENTS * scale) // BATCH, 1) * BATCH
    print(f"\ntriggers: {count:,} events for one of them, best of {rounds} rounds")
    print(f"{'triggers':>10}  {'by topic':>12}  {'by pattern':>12}  {'finding it':>12}")
    before = dict(registry.get_all_workflows())
    for triggers in TRIGGERS:
        costs: list[list[float]] = [[], [], []]
        for _ in range(rounds):
            for by_pattern in (False, True):
                with tempfile.TemporaryDirectory(dir=root) as folder:
                    costs[by_pattern].append(
                        asyncio.run(_publish(Path(folder), triggers, count, by_pattern=by_pattern))
                    )
                registry.restore(before)
            costs[2].append(_find(triggers, count))
        best = [f"{min(found) * 1e6:>9.1f} µs" for found in costs]
        print(f"{triggers:>10,}  {'  '.join(best)}")
