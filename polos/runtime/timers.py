"""
When something has to be looked at: one heap, one alarm.

An entry names a run and one of its debts, or the run alone if it isn't in memory. When one comes up, the
shell looks whether the debt still stands. A run has at most one entry a debt, so reading a run again and
again doesn't make the heap grow; nor do timeouts that hardly ever come, because what is no longer wanted
is dropped, and the heap is made anew when most of it is stale.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from polos.clock import Alarm, Clock

__all__ = ["Timers", "Wanted"]

# So many stale entries may be in the heap, beside as many as there are good ones.
STALE_MAX = 64

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
        self._by_run: dict[str, set[Wanted]] = {}
        self._count = 0
        self._alarm: Alarm | None = None
        self._alarm_us: int | None = None
        self._closed = False

    def add(self, due_us: int, wanted: Wanted) -> None:
        """Note a moment; an earlier note for the same debt gives way."""
        if self._closed or self._known.get(wanted) == due_us:
            return
        self._known[wanted] = due_us
        self._by_run.setdefault(wanted[0], set()).add(wanted)
        self._count += 1
        heappush(self._heap, (due_us, self._count, wanted))
        self._arm()

    def drop(self, wanted: Wanted) -> None:
        """Forget a moment; does nothing if it isn't noted."""
        if self._known.pop(wanted, None) is None:
            return
        names = self._by_run[wanted[0]]
        names.discard(wanted)
        if not names:
            del self._by_run[wanted[0]]
        if len(self._heap) > 2 * len(self._known) + STALE_MAX:
            self._heap = [entry for entry in self._heap if self._known.get(entry[2]) == entry[0]]
            heapify(self._heap)

    def drop_run(self, run: str) -> None:
        """Forget all moments of a run."""
        for wanted in list(self._by_run.get(run, ())):
            self.drop(wanted)

    def next_due_us(self) -> int | None:
        """Give the next moment, None if there is none."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    @property
    def heap_size(self) -> int:
        """Count the entries, stale ones included."""
        return len(self._heap)

    def __len__(self) -> int:
        """Count the moments noted."""
        return len(self._known)

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._heap.clear()
        self._known.clear()
        self._by_run.clear()
        self._disarm()

    def _drop_stale(self) -> None:
        while self._heap and self._known.get(self._heap[0][2]) != self._heap[0][0]:
            heappop(self._heap)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
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
            wanted = self._heap[0][2]
            self.drop(wanted)
            self._on_due(wanted)
        if not self._closed:
            self._arm()
