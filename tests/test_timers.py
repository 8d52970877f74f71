"""The heap of moments."""

from __future__ import annotations

from collections.abc import Callable

from polos.runtime.timers import STALE_MAX, Timers, Wanted


class Alarm:
    """What `call_at` gives."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        """Take it back."""
        self.cancelled = True


class HandClock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.time_us = 0
        self.alarms: list[tuple[int, Callable[[], object], Alarm]] = []

    def now_us(self) -> int:
        """Give the time."""
        return self.time_us

    def monotonic_us(self) -> int:
        """Give the time."""
        return self.time_us

    def random(self) -> float:
        """Give no randomness."""
        return 0.0

    def uuid4(self) -> str:
        """Give always the same."""
        return "00000000-0000-4000-8000-000000000000"

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Alarm:
        """Note a wake-up."""
        alarm = Alarm()
        self.alarms.append((due_us, callback, alarm))
        return alarm

    def call_after(self, delay_us: int, callback: Callable[[], object]) -> Alarm:
        """Note a wake-up; this clock is only turned, never set."""
        return self.call_at(self.time_us + delay_us, callback)

    def turn(self, time_us: int) -> None:
        """Move the time, and wake whoever is due."""
        self.time_us = time_us
        for entry in list(self.alarms):
            due_us, callback, alarm = entry
            if due_us <= time_us:
                self.alarms.remove(entry)
                if not alarm.cancelled:
                    callback()


def make() -> tuple[Timers, HandClock, list[Wanted]]:
    """Make timers that note what came up."""
    clock = HandClock()
    came: list[Wanted] = []
    return Timers(clock, came.append), clock, came


def test_what_is_due_comes_up_in_order_and_once() -> None:
    """Moments come up by time; a jump over several brings each of them once."""
    timers, clock, came = make()
    for due_us, name in ((30, "c"), (10, "a"), (20, "b"), (90, "z")):
        timers.add(due_us, ("run", "fire", name))
    clock.turn(5)

    assert [] == came

    clock.turn(50)
    clock.turn(60)

    assert ["a", "b", "c"] == [name for _, _, name in came]
    assert 90 == timers.next_due_us()


def test_a_debt_has_one_moment() -> None:
    """Noting a debt again moves it."""
    timers, clock, came = make()
    timers.add(10, ("run", "fire", "a"))
    timers.add(40, ("run", "fire", "a"))
    clock.turn(20)

    assert [] == came

    clock.turn(40)

    assert [("run", "fire", "a")] == came
    assert 0 == len(timers)


def test_what_is_dropped_doesnt_come_up() -> None:
    """A dropped moment, and those of a dropped run, never come up."""
    timers, clock, came = make()
    timers.add(10, ("run", "fire", "a"))
    timers.add(11, ("run", "fire", "b"))
    timers.add(12, ("other", "fire", "a"))
    timers.drop(("run", "fire", "b"))
    timers.drop(("run", "fire", "unknown"))
    timers.drop_run("other")
    clock.turn(100)

    assert [("run", "fire", "a")] == came


def test_timeouts_that_never_come_dont_pile_up() -> None:
    """A long-lived program that starts and drops timeouts keeps a small heap."""
    timers, _, _ = make()
    timers.add(5, ("run", "fire", "kept"))
    for number in range(10 * STALE_MAX):
        timers.add(10**12 + number, ("run", "fire", str(number)))
        timers.drop(("run", "fire", str(number)))

    assert 1 == len(timers)
    assert 5 == timers.next_due_us()
    assert timers.heap_size <= STALE_MAX + 3
