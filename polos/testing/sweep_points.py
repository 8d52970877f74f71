"""
Points at which a sweep lets the process die.

`polos.points` names the moments between a decision and its effect. Here they are counted: the third time that
``before_append`` is reached is the point ``before_append:3``, and since nothing in a simulated life is left to chance,
it is the same moment each time. A sweep adds one name of its own, ``inside_effect/await``: the asynchronous function of
a step, or a task that it has started, has begun and waits for something, so that its effect may have happened in part.
A task comes past it at its end as well, for others may wait still, or not have begun; and so does what a step has done
in a thread (``asyncio.to_thread``), before whoever waits for that gets on.

Many points can't be told apart by whoever comes after the crash: between them nothing became durable, no code of the
program ran and no time passed, and nothing else outlives a process. `grouped` finds those, so that one of them can be
tried for all. Where all that code of the program leaves is kept (`polos.testing.remains`), it may as well have run, as
long as nothing of that is another.

The hook that `polos.points` calls belongs to the whole process, but a sweep runs on a thread of its own beside the
program's loop, which may have an engine, too. So what other threads reach isn't counted.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, final

from polos.errors import PolosUsageError
from polos.testing.world import Crashed

__all__ = [
    "AFTER_EFFECT", "AWAIT", "Alike", "CrashPoint", "Left", "Points", "grouped", "numbered", "spoken_for",
    "with_fewer",
]  # fmt: skip

AFTER_EFFECT: Final = "after_effect_before_outcome"
AWAIT: Final = "inside_effect/await"


@final
@dataclass(frozen=True, slots=True)
class CrashPoint:
    """
    A moment at which the process dies. An example stands at `CrashReport`.

    Attributes:
        name: the place, one of `polos.points.POINTS` or ``inside_effect/await``.
        nth: which time it is reached in a life, from 1.
    """

    name: str
    nth: int

    def __str__(self) -> str:
        """Give it as it is typed: ``before_append:3``."""
        return f"{self.name}:{self.nth}"

    @classmethod
    def parse(cls, text: str) -> CrashPoint:
        """
        Read what `str` gives.

        Raises:
            PolosUsageError: it is no point.
        """
        name, colon, nth = text.rpartition(":")
        if not (colon and name and nth.isdecimal() and int(nth)):
            raise PolosUsageError(f"a crash point is written like before_append:3, this is {text!r}")
        return cls(name, int(nth))


@final
@dataclass(frozen=True, slots=True)
class Left:
    """
    What a crash at a point leaves behind, so that equals leave the same.

    Attributes:
        lived: for a scenario whose first life is lived; code of the program is taken to have done something whenever it
            was run.
        kept: for one that begins with remains, where it has done what these have; None if nothing begins so.
        calls: how many notes there were of calls of functions, and of what came back; known with `kept`, and no part of
            it.
    """

    lived: object
    kept: object = None
    calls: int = 0


@final
@dataclass(frozen=True, slots=True)
class Alike:
    """
    Points at which a crash leaves the same, so that one of them is tried for all.

    Attributes:
        points: all of them, in the order in which they are reached.
        fewer: of those at which less had been called, or had come back, than at the one that is tried, one for each
            number of notes of that, with those that there weren't yet.
    """

    points: tuple[CrashPoint, ...]
    fewer: Mapping[CrashPoint, Counter[Any]]


@final
class Points:
    """
    Counts what one life reaches, and ends it where it is told to.

    Attributes:
        reached: names, in order.
        left: what a crash at each of them leaves behind, as `leaves` says it; empty without it.
        cleaning: what would be cleaned up at a point, if the coroutines of the dead are closed there.
        whose: tells whose outcome is about to be decided, as whoever sets it likes.
        effects: `whose` at each point at which an effect has happened and isn't recorded; empty without `leaves`.
        dead: whether the life is over.
        leaves: says what would outlive the process if it died now, for comparing; None if nobody wants to know.
        on_point: is told of each point, and which time it is reached; None for nobody.
    """

    def __init__(self, crash_at: CrashPoint | None, *, die: Callable[[], object] | None = None) -> None:
        """
        Begin to count, on the thread that calls this.

        Args:
            crash_at: where the life ends; None for nowhere.
            die: ends the process; without, `Crashed` is raised, which is as near as one process comes to it.
        """
        self._crash_at = crash_at
        self._die = die
        self._thread = threading.get_ident()
        self._counts: dict[str, int] = {}
        self.reached: list[str] = []
        self.left: list[Left] = []
        self.cleaning: dict[CrashPoint, object] = {}
        self.whose: Any = None
        self.effects: dict[CrashPoint, Any] = {}
        self.leaves: Callable[[], Left] | None = None
        self.on_point: Callable[[str, int], None] | None = None
        self.dead = False

    def __call__(self, name: str) -> None:
        """Come past a point."""
        if threading.get_ident() != self._thread:
            return
        self.reached.append(name)
        number = self._counts[name] = self._counts.get(name, 0) + 1
        if self.leaves is not None:
            self.left.append(self.leaves())
            if name == AFTER_EFFECT:
                self.effects[_point(name, number)] = self.whose
        if self.on_point is not None:
            self.on_point(name, number)
        wanted = self._crash_at
        if wanted is not None and wanted.nth == number and wanted.name == name:
            self.dead = True
            if self._die is not None:
                self._die()
            raise Crashed

    def cleans_up(self, name: str, what: object) -> None:
        """Note what would be cleaned up at the point that was reached last of these; nothing if it is empty."""
        if what and name in self._counts:
            self.cleaning[CrashPoint(name, self._counts[name])] = what

    def check(self) -> None:
        """Raise `Crashed` if the life is over: code that caught it the first time doesn't get on."""
        if self.dead:
            raise Crashed


def numbered(names: Iterable[str]) -> list[CrashPoint]:
    """Give the points that a life has come to, from their names in order."""
    counts: dict[str, int] = {}
    found: list[CrashPoint] = []
    for name in names:
        number = counts[name] = counts.get(name, 0) + 1
        found.append(_point(name, number))
    return found


_point = lru_cache(CrashPoint)  # each scenario of a sweep comes past the same ones


def grouped(points: Sequence[CrashPoint], left: Sequence[object]) -> list[tuple[CrashPoint, ...]]:
    """
    Put those side by side at which a crash leaves the same.

    Args:
        points: in the order in which they are reached.
        left: what a crash at each leaves, one side of a `Left`; nothing comes back that was left behind, so the same
            ones are neighbours.
    """
    groups: list[tuple[CrashPoint, ...]] = []
    last: object = None
    for point, behind in zip(points, left, strict=True):
        if groups and behind == last:
            groups[-1] += (point,)
        else:
            groups.append((point,))
        last = behind
    return groups


def spoken_for(
    groups: Iterable[tuple[CrashPoint, ...]], calls: Mapping[CrashPoint, int], noted: Sequence[Any], *, seed: int
) -> dict[CrashPoint, Alike]:
    """
    Give to each group the point that is tried for it; another one with another seed.

    It is one at which the most calls had been made, and had come back: what calls an effect too often does so there, if
    anywhere.

    Args:
        groups: of `grouped`.
        calls: how many notes of calls there were at each point, see `Left`.
        noted: these notes, in order.
        seed: chooses.
    """
    found: dict[CrashPoint, Alike] = {}
    for group in groups:
        most = [point for point in group if calls.get(point) == calls.get(group[-1])]
        tried = most[seed % len(most)]
        found[tried] = Alike(group, with_fewer(tried, group, calls, noted))
    return found


def with_fewer(
    tried: CrashPoint, group: Sequence[CrashPoint], calls: Mapping[CrashPoint, int], noted: Sequence[Any]
) -> dict[CrashPoint, Counter[Any]]:
    """Give what `Alike.fewer` is; arguments as above."""
    most, others = calls.get(tried, 0), dict[int, CrashPoint]()
    for point in group:
        others.setdefault(calls.get(point, 0), point)
    return {point: Counter(noted[number:most]) for number, point in others.items() if number < most}
