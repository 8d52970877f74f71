"""
Making a failing schedule short.

A drawn schedule departs from the natural course at dozens of points, of which two or three matter. So departures are
taken back, many at once first, then all of a kind, then one by one (after Zeller's delta debugging), what is left is
cut out or brought nearer to the natural choice, and whatever still fails in the same way is kept. It ends when no
single departure can be taken back, or when the budget is spent. Nothing here is drawn: the same failing schedule is
shrunk to the same short one everywhere.

A schedule is a list of numbers, and without one departure there are other options at the places of those behind it. So
each is tried twice: by the numbers, and by what was done, wherever that is possible now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from polos.testing.schedules import Guided, Near, Scripted, Strategy, Taken, trimmed

__all__ = ["Shrunk", "shrink"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """
    What a failing schedule was shrunk to.

    Attributes:
        decisions: a schedule that fails, in which fewer things are out of the natural order.
        tries: how many were played for it.
        done: whether no single one of these things can be taken back; False if the budget was spent before.
    """

    decisions: list[int]
    tries: int
    done: bool


@dataclass(frozen=True, slots=True)
class _Candidate:
    key: tuple[object, ...]
    strategy: Strategy
    cost: tuple[int, int, int]  # at least


def shrink(
    taken: Sequence[Taken], fails: Callable[[Strategy], Sequence[Taken] | None], *, tries_max: int
) -> Shrunk:  # fmt: skip
    """
    Make a failing schedule shorter, as far as the budget goes.

    Args:
        taken: the choices of a playing that failed.
        fails: plays another one; gives the choices that it came to if that fails in the same way, else None.
        tries_max: so many schedules are played at most.
    """
    best = list(taken)
    seen: set[tuple[object, ...]] = set()
    tries = 0
    better = True
    while better:
        better = False
        for candidate in _simpler(best):
            if candidate.key in seen or not candidate.cost < _cost(_decisions(best)):
                continue
            if tries >= tries_max:
                return Shrunk(decisions=_decisions(best), tries=tries, done=False)
            seen.add(candidate.key)
            tries += 1
            came_to = fails(candidate.strategy)
            if came_to is not None and _cost(_decisions(came_to)) < _cost(_decisions(best)):
                best = list(came_to)
                better = True
                break
    return Shrunk(decisions=_decisions(best), tries=tries, done=True)


def _decisions(taken: Sequence[Taken]) -> list[int]:
    return trimmed([choice.index for choice in taken])


def _cost(decisions: list[int]) -> tuple[int, int, int]:
    """Departures count first: each of them is something that a reader has to understand."""
    return sum(1 for index in decisions if index), len(decisions), sum(decisions)


def _simpler(taken: Sequence[Taken]) -> Iterator[_Candidate]:
    """Give simpler schedules, the boldest first."""
    decisions = _decisions(taken)
    departures = [at for at, index in enumerate(decisions) if index]
    size = len(departures)
    while size:
        for start in range(0, len(departures), size):
            yield from _without(taken, departures, set(departures[start : start + size]))
        size //= 2
    kinds = dict.fromkeys(taken[at].disturbs for at in departures if taken[at].disturbs)
    for kind in kinds:
        yield from _without(taken, departures, {at for at in departures if taken[at].disturbs == kind})
    for at in departures:
        yield _guided(taken, [at], Near.ANYWHERE)
    for near in (Near.COURSE, Near.ANYWHERE):
        for at in departures:
            yield _guided(taken, [kept for kept in departures if kept != at], near)
    for at in range(len(decisions)):
        yield _scripted(decisions[:at] + decisions[at + 1 :])
    for at in departures:
        for index in range(1, decisions[at]):
            yield _scripted([*decisions[:at], index, *decisions[at + 1 :]])


def _without(taken: Sequence[Taken], departures: Sequence[int], taken_back: set[int]) -> Iterator[_Candidate]:
    """Give the schedule with some departures taken back, both ways."""
    yield _scripted([0 if at in taken_back else index for at, index in enumerate(_decisions(taken))])
    yield _guided(taken, [at for at in departures if at not in taken_back], Near.TURN)


def _scripted(decisions: list[int]) -> _Candidate:
    found = trimmed(decisions)
    return _Candidate(tuple(found), Scripted(found), _cost(found))


def _guided(taken: Sequence[Taken], departures: Sequence[int], near: Near) -> _Candidate:
    wanted = [taken[at] for at in departures]
    return _Candidate((near, *wanted), Guided(wanted, near), (0, 0, 0))  # not all may come to pass
