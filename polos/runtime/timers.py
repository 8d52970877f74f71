"""
When something has to be looked at: one heap, one alarm.

An entry names a run and one of its debts, or the run alone if it isn't in memory. Entries aren't taken
out when a debt is paid: when one comes up, the shell looks whether it still stands. A run has at most
one entry a debt, so reading a run again and again doesn't make the heap grow.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from polos.clock import Clock

__all__ = ["Timers", "Wanted"]

# Run, debt kind, debt name; kind and name are empty for a run that must be read first.
Wanted = tuple[str, str, str]


class Timers:
    """Moments at which debts are due."""

    def __init__(self, clock: Clock, on_due: Callable[[Wanted], None]) -> None:
        """
        Make an empty heap.

        Args:
            clock: gives the time and wakes us.
            on_due: called for each entry whose moment came, in order.
        """
        self._clock = clock
        self._on_due = on_due
        self._heap: list[tuple[int, int, Wanted]] = []
        self._known: dict[Wanted, int] = {}
        self._count = 0
        self._alarm: object | None = None
        self._alarm_us: int | None = None
        self._closed = False

    def add(self, due_us: int, wanted: Wanted) -> None:
        """Note a moment; an earlier note for the same debt gives way."""
        if self._closed or self._known.get(wanted) == due_us:
            return
        self._known[wanted] = due_us
        self._count += 1
        heappush(self._heap, (due_us, self._count, wanted))
        self._arm()

    def next_due_us(self) -> int | None:
        """Give the next moment, None if there is none."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        """Count the moments noted."""
        return len(self._known)

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._heap.clear()
        self._known.clear()
        self._disarm()

    def _drop_stale(self) -> None:
        while self._heap and self._known.get(self._heap[0][2]) != self._heap[0][0]:
            heappop(self._heap)

    def _disarm(self) -> None:
        cancel = getattr(self._alarm, "cancel", None)
        if cancel is not None:
            cancel()
        self._alarm = self._alarm_us = None

    def _arm(self) -> None:
        self._drop_stale()
        if not self._heap:
            return
        due_us = self._heap[0][0]
        if self._alarm_us is not None and self._alarm_us <= due_us:
            return
        self._disarm()
        self._alarm_us = due_us
        self._alarm = self._clock.call_at(due_us, self._wake)

    def _wake(self) -> None:
        self._alarm = self._alarm_us = None
        now_us = self._clock.now_us()
        while not self._closed:
            self._drop_stale()
            if not self._heap or self._heap[0][0] > now_us:
                break
            wanted = heappop(self._heap)[2]
            del self._known[wanted]
            self._on_due(wanted)
        if not self._closed:
            self._arm()
