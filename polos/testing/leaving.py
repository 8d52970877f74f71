"""
Telling the points of a life apart by what a crash there would leave behind.

What the next life can see are the store, the time, and whatever code of the program did outside. Where the first life
of a scenario is lived, that code is taken to have done something whenever it was run, for it may have done it in this
process's memory. Where scenarios begin with remains, it has done what these hold: files. They hold the calls of
functions as well, and what came back, but nobody recovers by these; they are for judging.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from polos.testing.outside import Place
from polos.testing.remains import files_in
from polos.testing.sweep_points import Left

__all__ = ["Leaving"]


@final
class Leaving:
    """Says at each point of a life what would be left if the process died now."""

    def __init__(
        self,
        durable: Callable[[], object],
        turns: Callable[[], object],
        *,
        calls: Callable[[], int],
        outside: Place | None,
    ) -> None:
        """
        Look at nothing yet.

        Args:
            durable: counts what has become durable, and tells the time.
            turns: counts the turns of the program's code; something that equals nothing else while one is under way.
            calls: counts the notes of calls, see `Left`.
            outside: where the program may write to; None if nothing begins with what is there.
        """
        self._durable = durable
        self._turns = turns
        self._calls = calls
        self._outside = outside
        self._looked: tuple[object, object] | None = None

    def __call__(self) -> Left:
        """Say what would be left."""
        durable, turns = self._durable(), self._turns()
        if self._outside is None:
            return Left((durable, turns))
        return Left((durable, turns), (durable, self._files(self._outside, turns)), self._calls())

    def _files(self, outside: Place, turns: object) -> object:
        """Give what is in the directory; looks only if code has run since it was looked at last."""
        if not outside.made:
            return None
        if self._looked is None or self._looked[0] != turns:
            files = files_in(outside.directory)
            self._looked = turns, object() if files is None else {name: file.written for name, file in files.items()}
        return self._looked[1]
