"""
Which async generators of a run are open, in the order they were begun.

The interpreter tells a loop when an async generator is iterated for the first time, and when an unfinished one
has lost its last reference. Between the two it must not be kept alive here, so it is known by a weak reference;
that one is dead before the interpreter's second call, hence the table by `id`. After that call the generator is
alive again and nobody but us holds it.
"""

from __future__ import annotations

import weakref
from types import AsyncGeneratorType
from typing import Any, final

__all__ = ["Generator", "OpenGenerators"]

Generator = AsyncGeneratorType[Any, Any]


@final
class OpenGenerators:
    """The async generators that were begun on one loop and may not have ended."""

    __slots__ = ("_begun", "_entries_max", "_known", "_left")

    def __init__(self) -> None:
        self._begun = 0
        self._known: dict[int, tuple[int, weakref.ref[Generator]]] = {}
        self._entries_max = 64  # entries of generators that ended are dropped when there are so many
        self._left: dict[int, Generator] = {}

    def add(self, generator: Generator) -> None:
        """Take in a generator that begins."""
        if len(self._known) >= self._entries_max:
            self._known = {key: entry for key, entry in self._known.items() if entry[1]() is not None}
            self._entries_max = 2 * len(self._known) + 64
        self._begun += 1
        self._known[id(generator)] = (self._begun, weakref.ref(generator))

    def keep(self, generator: Generator) -> int:
        """Keep a generator that nobody else refers to any more; give the number under which `release` finds it."""
        entry = self._known.pop(id(generator), None)
        if entry is None:
            # The collector of another thread was at it while `add` dropped entries.
            self._begun += 1
        number = self._begun if entry is None else entry[0]
        self._left[number] = generator
        return number

    def release(self, number: int) -> None:
        """Stop keeping a generator; somebody else holds it, or it has ended."""
        self._left.pop(number, None)

    def unfinished(self) -> list[tuple[int, Generator]]:
        """Give the open generators with their numbers, in the order they were begun."""
        found = dict(self._left)
        for number, reference in list(self._known.values()):  # a copy: another thread may collect garbage meanwhile
            generator = reference()
            if generator is not None and generator.ag_frame is not None:
                found[number] = generator
        return sorted(found.items())

    def clear(self) -> None:
        """Forget them all."""
        self._known.clear()
        self._left.clear()
