"""
Making a failing schedule short.

A drawn schedule departs from the natural course at dozens of points, of which two or three matter. So departures are
taken back, many at once first and then one by one (after Zeller's delta debugging), what is left is cut out or brought
nearer to the natural choice, and whatever still fails in the same way is kept. Nothing here is drawn: the same failing
schedule is shrunk to the same short one everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from polos.testing.schedules import trimmed

__all__ = ["shrink"]


def shrink(decisions: list[int], fails: Callable[[list[int]], list[int] | None], *, tries_max: int) -> list[int]:
    """
    Make a failing schedule shorter, as far as the budget goes.

    Args:
        decisions: a schedule that fails.
        fails: plays another one; gives the choices that it came to if that fails in the same way, else None.
        tries_max: so many schedules are played at most.

    Returns:
        A schedule that fails, in which fewer things are out of the natural order.
    """
    best = trimmed(decisions)
    seen = {tuple(best)}
    tries = 0
    better = True
    while better and tries < tries_max:
        better = False
        for candidate in _simpler(best):
            if tuple(candidate) in seen or not _cost(candidate) < _cost(best):
                continue
            if tries >= tries_max:
                break
            seen.add(tuple(candidate))
            tries += 1
            came_to = fails(candidate)
            if came_to is None:
                continue
            came_to = trimmed(came_to)
            best = came_to if _cost(came_to) < _cost(candidate) else candidate
            better = True
            break
    return best


def _cost(decisions: list[int]) -> tuple[int, int, int]:
    """Departures count first: each of them is something that a reader has to understand."""
    return sum(1 for index in decisions if index), len(decisions), sum(decisions)


def _simpler(decisions: list[int]) -> Iterator[list[int]]:
    """Give simpler schedules, the boldest first."""
    departures = [at for at, index in enumerate(decisions) if index]
    size = len(departures)
    while size:
        for start in range(0, len(departures), size):
            taken_back = set(departures[start : start + size])
            yield trimmed([0 if at in taken_back else index for at, index in enumerate(decisions)])
        size //= 2
    for at in range(len(decisions)):
        yield trimmed(decisions[:at] + decisions[at + 1 :])
    for at in departures:
        for index in range(1, decisions[at]):
            yield [*decisions[:at], index, *decisions[at + 1 :]]
