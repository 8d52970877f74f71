"""
The only module that reads time and makes ids.

Everything else is handed a `Clock`. Instants are integers: microseconds since the Unix epoch, UTC.
A virtual clock for tests has the same shape and lives in `polos.testing`.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    import asyncio

__all__ = ["Alarm", "Clock", "RunIds", "SystemClock", "new_run_id", "uuid7"]


class Alarm(Protocol):
    """A wake-up that was asked for."""

    def cancel(self) -> None:
        """Take it back; does nothing once it has happened."""
        ...


class Clock(Protocol):
    """Where time, waiting and randomness come from."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch; may jump, in both directions."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds since some fixed moment; never goes back."""
        ...

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Alarm:
        """Call back on the running loop once `now_us() >= due_us`; gives a handle with `cancel()`."""
        ...

    def call_after(self, delay_us: int, callback: Callable[[], object]) -> Alarm:
        """Call back on the running loop once so much time has passed, wherever the wall clock is set meanwhile."""
        ...

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def uuid4(self) -> str:
        """A random UUID as text."""
        ...


# The longest one wake-up is put off: a wall clock that jumps forward is noticed within this time.
LONGEST_NAP_SECONDS = 1.0


@final
class _Alarm:
    """A wake-up at a wall-clock instant that survives jumps of that clock."""

    def __init__(self, clock: SystemClock, due_us: int, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._due_us = due_us
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._arm()

    def _arm(self) -> None:
        left = (self._due_us - self._clock.now_us()) / 1e6
        nap = min(max(left, 0.0), LONGEST_NAP_SECONDS)
        # Imported on use: the children that check a store read the time of day and run no loop.
        import asyncio

        self._handle = asyncio.get_running_loop().call_later(nap, self._wake)

    def _wake(self) -> None:
        if self._clock.now_us() < self._due_us:
            self._arm()
            return
        self._callback()

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


@final
class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch."""
        return time.time_ns() // 1_000

    def monotonic_us(self) -> int:
        """Microseconds of the monotonic clock."""
        return time.monotonic_ns() // 1_000

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Alarm:
        """Call back on the running loop at `due_us`; a jump of the clock is noticed within a second."""
        return _Alarm(self, due_us, callback)

    def call_after(self, delay_us: int, callback: Callable[[], object]) -> Alarm:
        """Call back on the running loop once so much time has passed."""
        import asyncio

        return asyncio.get_running_loop().call_later(max(delay_us, 0) / 1e6, callback)

    def random(self) -> float:
        """A float in [0, 1)."""
        return random.random()

    def uuid4(self) -> str:
        """A random UUID as text."""
        return str(uuid.uuid4())


def uuid7(now_us: int, entropy: bytes | None = None) -> str:
    """
    Make a time-ordered UUID, version 7 of RFC 9562.

    The 48-bit millisecond stamp is followed by the microseconds within it (12 bits, method 3 of
    section 6.2) and 62 random bits. `RunIds` makes those of one process sort by creation.
    """
    milli, micro = divmod(now_us, 1_000)
    noise = int.from_bytes(entropy if entropy is not None else random.randbytes(8), "big") & ((1 << 62) - 1)
    value = (milli & ((1 << 48) - 1)) << 80 | 7 << 76 | (micro * 4096 // 1000) << 64 | 2 << 62 | noise
    return str(uuid.UUID(int=value))


def new_run_id(clock: Clock, now_us: int) -> str:
    """Make the id of a new run; its chance is the clock's, so that a simulation makes the same ids again."""
    return uuid7(now_us, uuid.UUID(clock.uuid4()).bytes[8:])


@final
class RunIds:
    """
    Makes the ids of new runs, each of them after the one before.

    Runs of one commit have one time, so it is by their ids that they are in the order in which somebody asked for them:
    children of a body, items of a batch. Two ids of one microsecond would be in any order by chance, and after a step
    back of the clock in the wrong one.
    """

    def __init__(self, clock: Clock) -> None:
        """Take the clock whose chance they are made of."""
        self._clock = clock
        self._last = ""

    def go_on(self, last: str) -> None:
        """
        Make ids behind this one from now on, also where chance and clock say again what they have said before.

        An id that isn't one of these, which runs may have from elsewhere, says nothing about them.
        """
        try:
            is_ours = uuid.UUID(last).version == 7 and str(uuid.UUID(last)) == last
        except ValueError:
            is_ours = False
        if is_ours:
            self._last = max(self._last, last)

    def new(self) -> str:
        """Make the next one."""
        made = new_run_id(self._clock, self._clock.now_us())
        if made <= self._last:
            made = str(uuid.UUID(int=uuid.UUID(self._last).int + 1))
        self._last = made
        return made
