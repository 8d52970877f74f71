"""
Time that never goes back and never stands still, made of a clock that may do both.

The wall clock of a machine is set: by NTP, by a person, by a laptop that wakes up. What is recorded must not go back,
so after a clock was set back an engine goes on from where it was. To wait there until the clock has come so far again
would bring every run to a halt for as long as the clock had been wrong: a wait of a second that begins in that time
would end hours later. So while the wall clock is behind, time goes on by the monotonic clock, a little slower than
real time (`RATE`), until the wall clock has caught up. Seconds stay seconds, nearly, and the error fades away, as with
a clock that NTP slews instead of stepping it.

The price is that moments said by the wall clock, such as those of `wait_until`, come early while the clock is behind,
by as much as it is behind. When the wall clock jumps forward, time jumps with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from polos.clock import Alarm, Clock, RunIds

__all__ = ["RATE", "SteadyClock"]

# How fast time goes on while the wall clock is behind: an hour's error is gone after ten.
RATE: Final = 0.9


@final
class SteadyClock:
    """
    A clock over another one.

    Its `now_us` is that of the clock below, or later; it never decreases, and advances whenever time passes.

    Attributes:
        run_ids: makes ids of runs by it.
    """

    def __init__(self, clock: Clock) -> None:
        """Take the clock below."""
        self._clock = clock
        self._last_us = 0
        self._seen_us = 0  # of the monotonic clock, at that moment
        # Where the wall clock was left behind: this time, at that moment of the monotonic clock.
        self._ahead: tuple[int, int] | None = None
        self.run_ids = RunIds(self)

    def not_before(self, moment_us: int) -> None:
        """Go on from a moment that was recorded, if the clock below is behind it."""
        if moment_us > self.now_us():
            self._last_us = moment_us
            self._ahead = (moment_us, self._seen_us)

    def now_us(self) -> int:
        """Give microseconds since the epoch."""
        wall_us, monotonic_us = self._clock.now_us(), self._clock.monotonic_us()
        if wall_us >= self._last_us and self._ahead is None:
            self._last_us, self._seen_us = wall_us, monotonic_us
            return wall_us
        if self._ahead is None:
            self._ahead = (self._last_us, self._seen_us)
        self._seen_us = monotonic_us
        since_us, at_us = self._ahead
        steady_us = since_us + int((monotonic_us - at_us) * RATE)
        if wall_us >= steady_us:
            self._ahead = None
        self._last_us = max(self._last_us, steady_us, wall_us)
        return self._last_us

    def monotonic_us(self) -> int:
        """Give microseconds of the monotonic clock."""
        return self._clock.monotonic_us()

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Alarm:
        """Call back on the running loop once `now_us() >= due_us`; gives a handle with `cancel()`."""
        return _Alarm(self, self._clock, due_us, callback)

    def call_after(self, delay_us: int, callback: Callable[[], object]) -> Alarm:
        """Call back on the running loop once so much time has passed."""
        return self._clock.call_after(delay_us, callback)

    def random(self) -> float:
        """Give a float in [0, 1)."""
        return self._clock.random()

    def uuid4(self) -> str:
        """Give a random UUID as text."""
        return self._clock.uuid4()

    @property
    def is_behind(self) -> bool:
        """Whether the clock below is behind this one."""
        self.now_us()
        return self._ahead is not None


@final
class _Alarm:
    """A wake-up by the wall clock or by what has passed, whichever brings it first: the clock may be set meanwhile."""

    __slots__ = ("_by_length", "_by_wall", "_callback", "_clock", "_due_us", "_steady")

    def __init__(self, steady: SteadyClock, clock: Clock, due_us: int, callback: Callable[[], object]) -> None:
        self._steady, self._clock, self._due_us, self._callback = steady, clock, due_us, callback
        self._arm()

    def _arm(self) -> None:
        left_us = max(self._due_us - self._steady.now_us(), 0)
        if self._steady.is_behind:
            left_us = int(left_us / RATE) + 1
        self._by_wall = self._clock.call_at(self._due_us, self._wake)
        self._by_length = self._clock.call_after(left_us, self._wake)

    def _wake(self) -> None:
        self.cancel()
        if self._steady.now_us() < self._due_us:
            self._arm()
        else:
            self._callback()

    def cancel(self) -> None:
        """Let it be."""
        self._by_wall.cancel()
        self._by_length.cancel()
