"""
How a trigger goes on after what it fired was refused for good.

A full disk has room again some time, and then the same is recorded. But a log also refuses what it can never take, and
so does whoever decides; a trigger that tried that again would do so for ever, and hold up everybody. So the trigger
narrows down which event it is: it fires half as many events as it was refused with, until one is left. That one makes
no run, which is recorded as it is of an event on which a filter raised: so it is the same after a restart, and whoever
looks at the trigger's failures sees it. All other events make their runs; a batch that is too large becomes two.

If not even that can be recorded, the trigger rests. Nothing is lost by it: it stands before that event.
"""

from __future__ import annotations

from typing import Final, final

from polos.data_class import dataclass

__all__ = ["Wary"]

VAIN_MAX: Final = 3  # refusals in a row that no event is to blame for, after which a trigger rests


@final
@dataclass(slots=True)
class Wary:
    """
    What a trigger has learnt of refusals.

    Attributes:
        most: how many events it fires in one unit; None for as many as there may be.
        until: position from which on it isn't wary any more, whether or not one was found.
        guilty: position of an event of which no run can be made, and what was raised for it.
        apart: whether runs were made since the last such event.
        vain: refusals in a row that no event was to blame for.
    """

    most: int | None = None
    until: int = 0
    guilty: tuple[int, Exception] | None = None
    apart: bool = True
    vain: int = 0

    @property
    def rests(self) -> bool:
        """Whether there is no use in trying."""
        return self.vain >= VAIN_MAX

    def share(self, size: int, runs: int) -> tuple[int, int]:
        """Give how many events a run gets, and how many runs a unit, if `size` and `runs` are what there may be."""
        if self.most is None:
            return size, runs
        return (size, self.most // size) if self.most >= size else (self.most, 1)

    def refused(self, fired: list[int], error: Exception) -> None:
        """
        What a unit held was refused.

        Args:
            fired: positions of the events that it made runs of.
            error: why.
        """
        if fired and self.guilty is None:
            self.until = max(self.until, fired[-1])
            self.most = max(len(fired) // 2, 1)
            if len(fired) == 1:
                self.guilty = fired[0], error
        else:
            self.vain += 1

    def recorded(self, fired: int, cursor: int, failed: set[int]) -> None:
        """
        A unit is durable.

        Args:
            fired: how many events it made runs of.
            cursor: up to where the trigger has seen its events.
            failed: positions behind it of those of which is recorded that they make no run.
        """
        if self.guilty is not None and self.guilty[0] in failed:
            # The next one is looked for as this one was, unless they come in a row: perhaps there are only such.
            self.most = None if self.apart else 1
            self.guilty, self.vain, self.apart = None, 0, False
        if fired:
            self.vain, self.apart = 0, True
            if cursor >= self.until:
                self.most = None
