"""
Time that stands still until somebody moves it.

A `VirtualClock` has the shape of `polos.clock.Clock`. It moves in two ways: `advance` lets time pass, for the wall
clock and the monotonic clock alike; `jump` sets the wall clock alone, forwards or backwards, as an administrator or a
laptop's lid does. What was asked for by `call_at` stands on the wall clock, so a jump brings it nearer or moves it
away; what was asked for by `call_after` comes when it comes.

Whoever runs the program's loop decides when time passes. `SimulatedLoop` lets it pass when nothing is ready and
nothing is on its way: that is the only moment at which moving time can't change the order of anything else.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol, cast, final

__all__ = ["START_US", "Alarm", "Chance", "VirtualClock"]

START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


class Chance(Protocol):
    """What numbers are drawn from; `random.Random` is one."""

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """A number of so many bits."""
        ...


@final
class Alarm:
    """A wake-up at a moment, of the wall clock or of the monotonic one."""

    __slots__ = ("callback", "cancelled", "due_us")

    def __init__(self, due_us: int, callback: Callable[[], object]) -> None:
        """Take the moment and what is to be called."""
        self.due_us = due_us
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Let it be."""
        self.cancelled = True


@final
class VirtualClock:
    """Time, waiting and chance, all of them repeatable; an example stands at `Simulation`."""

    def __init__(self, *, seed: int = 0, start_us: int = START_US, chance: Chance | None = None) -> None:
        """
        Begin at a moment.

        Args:
            seed: from which `random` and `uuid4` draw.
            start_us: the first moment.
            chance: to draw from instead.
        """
        self._wall_us = start_us
        self._monotonic_us = 0
        self._alarms: list[tuple[int, int, Alarm]] = []
        self._intervals: list[tuple[int, int, Alarm]] = []
        self._count = 0
        self._chance: Chance = random.Random(seed) if chance is None else chance

    # ---------------------------------------------------------------------------------- for the engine

    def now_us(self) -> int:
        """Microseconds since the epoch."""
        return self._wall_us

    def monotonic_us(self) -> int:
        """Microseconds that have passed; jumps of the wall clock don't count."""
        return self._monotonic_us

    def call_at(self, due_us: int, callback: object) -> Alarm:
        """Call back once the wall clock shows `due_us`; gives a handle with `cancel()`."""
        alarm = Alarm(due_us, cast("Callable[[], object]", callback))  # the protocol says no more than `object`
        self._count += 1
        heappush(self._alarms, (due_us, self._count, alarm))
        return alarm

    def call_after(self, delay_us: int, callback: object) -> Alarm:
        """Call back once so much time has passed."""
        alarm = Alarm(self._monotonic_us + delay_us, cast("Callable[[], object]", callback))
        self._count += 1
        heappush(self._intervals, (alarm.due_us, self._count, alarm))
        return alarm

    def random(self) -> float:
        """A float in [0, 1)."""
        return self._chance.random()

    def uuid4(self) -> str:
        """A random UUID as text."""
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    # ------------------------------------------------------------------------------- for whoever moves it

    def next_us(self) -> int | None:
        """Tell how long it is until the next alarm, 0 if one is due; None without any."""
        waits: list[int] = []
        for heap, now_us in self._heaps():
            while heap and heap[0][2].cancelled:
                heappop(heap)
            if heap:
                waits.append(max(0, heap[0][0] - now_us))
        return min(waits, default=None)

    def advance(self, by_us: int) -> None:
        """Let time pass."""
        assert by_us >= 0, "time passes in one direction"
        self._wall_us += by_us
        self._monotonic_us += by_us

    def jump(self, by_us: int) -> None:
        """Set the wall clock, forwards or backwards; no time passes."""
        self._wall_us += by_us

    def take_due(self) -> list[Alarm]:
        """Take out the alarms whose moment has come, in order."""
        due: list[Alarm] = []
        for heap, now_us in self._heaps():
            while heap and heap[0][0] <= now_us:
                due.append(heappop(heap)[2])
        return due

    def _heaps(self) -> tuple[tuple[list[tuple[int, int, Alarm]], int], ...]:
        return (self._intervals, self._monotonic_us), (self._alarms, self._wall_us)

    def drop_alarms(self) -> None:
        """Forget all alarms: the process that set them is gone."""
        self._alarms.clear()
        self._intervals.clear()
