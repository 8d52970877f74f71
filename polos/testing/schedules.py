"""
Schedules: which of the things that could happen next happens, again and again, as a list of small numbers.

At each point of a simulated world at which more than one thing could come next, the options are put into one order,
the natural one first: what a world without trouble would do. A schedule is the list of the choices made; a choice
that it doesn't hold is 0. So the empty list is the natural course of things, each other number is a departure from
it, a schedule can be cut off or blanked out anywhere and is still one, and playing it again gives the same again.

How schedules are drawn is another matter, and nothing that repeats one knows of it. Choosing uniformly at each point
is a poor way to find what needs one thing to wait for long: it would have to lose many tosses in a row. So a schedule
is drawn in one of three ways: by tosses; by *priorities*, where whatever comes from one source keeps its place in
line, with a few points at which who is first becomes last (after Burckhardt and others, "A randomized scheduler with
probabilistic guarantees of finding bugs", 2010); or by a few departures from the natural course at drawn points (after
Emmi and others, "Delay-bounded scheduling", 2011). Disturbances, of which there are only a few, come at drawn points
in all three.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Final, Protocol, final

__all__ = [
    "WAYS", "Chooser", "Guided", "Near", "Option", "Pick", "Scripted", "Strategy", "Taken", "drawn", "trimmed",
]  # fmt: skip

IN_A_ROW_MAX: Final = 40  # so often one source may be first; then others get their turn, or polling would never end


@dataclass(frozen=True, slots=True)
class Option:
    """
    One thing that could happen next.

    Attributes:
        label: what, in words.
        source: where it comes from; of what comes from one source, the order is given.
        happen: has it happen.
        disturbs: what kind of disturbance it is, if it is one.
    """

    label: str
    source: str
    happen: Callable[[], None]
    disturbs: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """
    A choice that was made.

    Attributes:
        index: which option, 0 for the natural course.
        of: how many there were.
        label: what it was.
        natural: what the natural course would have been.
        turn: how often that had been the natural course of a choice before.
        disturbs: what kind of disturbance it was, if it was one.
    """

    index: int
    of: int
    label: str
    natural: str = ""
    turn: int = 0
    disturbs: str = ""


class Strategy(Protocol):
    """Makes choices."""

    def pick(self, at: int, options: Sequence[Option]) -> int:
        """Give the index of one of at least two options; `at` counts the choices before this one."""
        ...


@final
class Chooser:
    """
    Makes the choices of one playing, and keeps them.

    Attributes:
        taken: the choices so far.
    """

    def __init__(self, strategy: Strategy) -> None:
        """Let a strategy choose."""
        self._strategy = strategy
        self._turns: Counter[str] = Counter()
        self.taken: list[Taken] = []

    def choose(self, options: Sequence[Option]) -> int:
        """Give the index of one of the options; where there is only one, nothing is chosen and nothing kept."""
        assert options, "something can happen"
        if len(options) == 1:
            return 0
        index = self._strategy.pick(len(self.taken), options)
        assert 0 <= index < len(options), "a strategy picks one of the options"
        natural, chosen = options[0].label, options[index]
        self.taken.append(Taken(index, len(options), chosen.label, natural, self._turns[natural], chosen.disturbs))
        self._turns[natural] += 1
        return index

    @property
    def decisions(self) -> list[int]:
        """The schedule, as short as it can be written."""
        return trimmed([taken.index for taken in self.taken])


def trimmed(decisions: list[int]) -> list[int]:
    """Leave out what isn't needed at the end of a schedule: choices of the natural course."""
    end = len(decisions)
    while end and not decisions[end - 1]:
        end -= 1
    return decisions[:end]


@final
class Scripted:
    """
    Chooses as written down, and naturally where nothing is written.

    Attributes:
        misfits: choices that couldn't be made, because there were fewer options.
    """

    def __init__(self, decisions: Sequence[int] = ()) -> None:
        """Take a schedule."""
        self._decisions = decisions
        self.misfits: list[int] = []

    def pick(self, at: int, options: Sequence[Option]) -> int:
        """Give what is written."""
        index = self._decisions[at] if at < len(self._decisions) else 0
        if index < len(options):
            return index
        self.misfits.append(at)
        return 0


class Near(Enum):
    """How near to where it was something is done out of the natural order, if what comes before it is another."""

    TURN = "at the same turn of the same natural course"
    COURSE = "at the same natural course"
    ANYWHERE = "where it is possible"


@final
class Guided:
    """
    Does the same things out of the natural order as another playing, in the same order, but not by their numbers.

    Without one of them, what comes behind it is at another number, and is another option there.
    """

    def __init__(self, departures: Sequence[Taken], near: Near) -> None:
        """Take what is to be done, each at the first place that is near enough."""
        self._left = list(departures)
        self._near = near
        self._turns: Counter[str] = Counter()

    def pick(self, at: int, options: Sequence[Option]) -> int:  # noqa: ARG002  # the signature of a strategy
        """Give the next one if it is possible here, else the natural course."""
        natural = options[0].label
        turn = self._turns[natural]
        self._turns[natural] += 1
        if not self._left:
            return 0
        wanted = self._left[0]
        here = self._near is Near.ANYWHERE or wanted.natural == natural
        if not here or (self._near is Near.TURN and wanted.turn != turn):
            return 0
        found = next((index for index, option in enumerate(options) if index and option.label == wanted.label), 0)
        if found:
            self._left.pop(0)
        return found


# ---------------------------------------------------------------------------------------- drawing schedules

Pick = Callable[[int, Sequence[Option], list[int]], int]  # which of these, given by their index


@dataclass(slots=True)
class _Tosses:
    """Each of the options is as likely as the others."""

    chance: Random

    def __call__(self, _at: int, _options: Sequence[Option], usual: list[int]) -> int:
        return self.chance.choice(usual)


@dataclass(slots=True)
class _Departures:
    """The natural course, left at a few points."""

    chance: Random
    points: set[int]

    def __call__(self, at: int, _options: Sequence[Option], usual: list[int]) -> int:
        if at in self.points and len(usual) > 1:
            return self.chance.choice(usual[1:])
        return usual[0]


@dataclass(slots=True)
class _Priorities:
    """Each source has its place in line; the first one loses it at a few points, and when it was first for long."""

    chance: Random
    points: set[int]
    places: dict[str, float] = field(default_factory=dict[str, float])
    last: str = ""
    in_a_row: int = 0

    def __call__(self, at: int, options: Sequence[Option], usual: list[int]) -> int:
        for index in usual:
            self.places.setdefault(options[index].source, self.chance.random())
        first = self._first(options, usual)
        source = options[first].source
        self.in_a_row = self.in_a_row + 1 if source == self.last else 1
        self.last = source
        if at in self.points or self.in_a_row > IN_A_ROW_MAX:
            self.in_a_row = 0
            self.places[source] = min(self.places.values()) - 1
            return self._first(options, usual)
        return first

    def _first(self, options: Sequence[Option], usual: list[int]) -> int:
        return max(usual, key=lambda index: self.places[options[index].source])


@final
class _Drawn:
    """Chooses in one of the ways, and lets disturbances come at drawn points."""

    def __init__(self, pick: Pick, chance: Random, disturbed: set[int]) -> None:
        self._pick = pick
        self._chance = chance
        self._disturbed = sorted(disturbed, reverse=True)

    def pick(self, at: int, options: Sequence[Option]) -> int:
        if self._disturbed and self._disturbed[-1] <= at:
            kinds = sorted({option.disturbs for option in options if option.disturbs})
            if kinds:
                self._disturbed.pop()
                kind = self._chance.choice(kinds)
                return self._chance.choice([at for at, option in enumerate(options) if option.disturbs == kind])
        usual = [index for index, option in enumerate(options) if not option.disturbs]
        # Where nothing but trouble can come, the natural course is trouble, too: the last option that is left.
        return self._pick(at, options, usual) if usual else 0


def _tosses(chance: Random, _length: int) -> Pick:
    return _Tosses(chance)


def _priorities(chance: Random, length: int) -> Pick:
    return _Priorities(chance, _points(chance, length, chance.choice([0, 1, 2, 2])))


def _departures(chance: Random, length: int) -> Pick:
    return _Departures(chance, _points(chance, length, chance.choice([1, 2, 3])))


def _points(chance: Random, length: int, count: int) -> set[int]:
    return {chance.randrange(length) for _ in range(count)}


WAYS: Final[dict[str, Callable[[Random, int], Pick]]] = {
    "priorities": _priorities,
    "tosses": _tosses,
    "departures": _departures,
}

# Something that has to come between two given ones of a row of commits and calls was found by priorities in each of 8
# seeds within 300 schedules, and by the other two in none; where they are better they are so at once.
WEIGHTS: Final = (4, 1, 1)


def drawn(chance: Random, *, length: int, disturbances: int, way: str | None = None) -> Strategy:
    """
    Draw a schedule, choice by choice.

    Args:
        chance: draws it.
        length: how many choices a schedule has, about.
        disturbances: how many there are at most.
        way: one of `WAYS`; None to draw that, too.
    """
    length = max(1, length)
    make = WAYS[way or chance.choices(list(WAYS), weights=WEIGHTS)[0]]
    disturbed = _points(chance, length, chance.randint(0, disturbances))
    return _Drawn(make(chance, length), chance, disturbed)
