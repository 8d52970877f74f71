"""
How often Python looks for garbage while polos makes thousands of objects that aren't any.

By default the collector comes by when there are 700 objects more than before. An engine that is busy holds some forty
for everything under way, and lets go of them when that is durable, without the collector. So it comes at every other
commit and finds nothing: with 1,000 runs at once that took a third of the processor time. In a sweep an engine and its
parts know each other, so what is left of a life does wait for the collector: some hundred objects a scenario, among the
thousands that it makes and that go by themselves. In both cases it had better come when there is enough to make it
worth the way. It mustn't come too seldom either: what is new lies in memory that no cache has, so at 50,000 objects a
scenario costs more than with no change at all, and at 5,000 a fourteenth less.

The setting belongs to the whole process. So it is only ever raised, given back when that is over, and left alone if
the program has set it itself meanwhile or has turned the collector off. Who raises it remembers what it was and knows
of nobody else: if another gives it back too early, it is raised anew at the next look.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, final

__all__ = ["OBJECTS", "Seldom", "seldom_collected"]

OBJECTS: Final = 5_000
BUSY: Final = 50  # things under way: together they hold some 2,000 objects
QUIET: Final = 5


@final
class Seldom:
    """Has garbage collected seldom as long as somebody is busy, by what it is told of that."""

    __slots__ = ("_youngest",)

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self._youngest = 0  # what the threshold was, if it was raised here

    def look(self, load: int) -> None:
        """
        Raise the threshold or give it back.

        Args:
            load: how many things are under way; 0 gives back in any case.
        """
        if load >= BUSY:
            youngest, *older = gc.get_threshold()
            if 0 < youngest < OBJECTS and gc.isenabled():
                self._youngest = youngest
                gc.set_threshold(OBJECTS, *older)
        elif load <= QUIET and self._youngest:
            youngest, *older = gc.get_threshold()
            if youngest == OBJECTS:
                gc.set_threshold(self._youngest, *older)
            self._youngest = 0

    def __del__(self) -> None:
        """Give back, too, when whoever is busy is gone without having said that it is over."""
        if self._youngest:
            self.look(0)


@contextmanager
def seldom_collected() -> Generator[None]:
    """Have garbage collected seldom while something goes on that makes little of it, and all that is young after it."""
    seldom, before = Seldom(), gc.get_threshold()
    seldom.look(BUSY)
    if gc.get_threshold() == before:
        yield
        return
    try:
        yield
    finally:
        seldom.look(0)
        gc.collect(1)
