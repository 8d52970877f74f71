"""
How often Python looks for garbage while thousands of engines come and go.

An engine and its parts know each other, so what is left of a life goes when the collector comes by: some hundred
objects a scenario, among the thousands that it makes and that go by themselves. By default the collector comes by when
there are 700 more than before, which in a sweep is several times a scenario, nearly always for nothing. Here it comes
when there is enough to make it worth the way. It mustn't come too seldom either: what is new lies in memory that no
cache has, so at 50,000 objects a scenario costs more than with no change at all, and at 5,000 a fourteenth less.

The setting belongs to the whole process. So it is only ever raised, given back when the sweep is over, and left alone
if the program has set it itself meanwhile or has turned the collector off.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

__all__ = ["seldom_collected"]

OBJECTS: Final = 5_000


@contextmanager
def seldom_collected() -> Generator[None]:
    """Have garbage collected seldom while something goes on that makes little of it, and all that is young after it."""
    youngest, *older = gc.get_threshold()
    if not gc.isenabled() or not 0 < youngest < OBJECTS:
        yield
        return
    gc.set_threshold(OBJECTS, *older)
    try:
        yield
    finally:
        if gc.get_threshold()[0] == OBJECTS:
            gc.set_threshold(youngest, *older)
        gc.collect(1)
