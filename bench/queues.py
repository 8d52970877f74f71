"""
Queues: what picking the next run costs, however many wait.

Run as `python -m bench queues`. So many runs stand in one queue, spread over a thousand keys that take turns; then
they are let through one after another, each giving its slot to the next. No disk takes part: what is looked at is
the decision alone, which every start makes.
"""

from __future__ import annotations

import time
from pathlib import Path

from polos.engine.admission import Admission, Limits, Ticket

__all__ = ["main"]

WAITING = (1_000, 10_000, 100_000)
KEYS = 1_000
PICKED = 1_000


def _pick(waiting: int, picked: int) -> tuple[float, float]:
    """Give the seconds that joining a line, and picking the next of it, took."""
    admission = Admission(10)
    admission.configure("lane", Limits(concurrency=10, key_concurrency=2), now_us=0)
    tickets = [
        Ticket(run=f"{number:09}", queue="lane", key=f"key {number % KEYS}", created_us=number)
        for number in range(waiting + 10)
    ]
    began = time.perf_counter()
    under_way = [run for ticket in tickets for run in admission.join(ticket, now_us=0)]
    joined = (time.perf_counter() - began) / len(tickets)
    began = time.perf_counter()
    for number in range(picked):
        under_way += admission.give_back(under_way[number], now_us=number)
    return joined, (time.perf_counter() - began) / picked


def main(*, root: Path | None, rounds: int, scale: float) -> None:  # noqa: ARG001  # as all benchmarks are called
    """Print the table."""
    print(f"\nqueues: {KEYS:,} keys that take turns, best of {rounds} rounds")
    print(f"{'waiting':>10}  {'joining':>10}  {'picking the next':>17}")
    for waiting in (round(count * scale) for count in WAITING):
        found = [_pick(waiting, min(PICKED, waiting)) for _ in range(rounds)]
        joined, picked = (min(column) for column in zip(*found, strict=True))
        print(f"{waiting:>10,}  {joined * 1e6:>7.1f} µs  {picked * 1e6:>14.1f} µs")
