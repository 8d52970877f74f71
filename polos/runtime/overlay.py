"""
Rows as they will be when what is on its way is durable.

What is decided now must see what was decided a moment ago, though that isn't on disk yet: two commands in one group of
commits would otherwise both find nothing. So the changes of units on their way are kept beside the rows, for the few
kinds of row that are looked at in deciding.
"""

from __future__ import annotations

from typing import final

from polos.engine.projections import Changes
from polos.runtime.unit import Unit
from polos.store.log import Key, Reader

__all__ = ["Overlay"]


@final
class Overlay:
    """The rows of some kinds, with the changes on their way."""

    def __init__(self, *kinds: str) -> None:
        """Take the first parts of the keys that are looked at."""
        self._kinds = kinds
        self._fresh: dict[Key, tuple[bytes | None, int]] = {}

    def rows(self, reader: Reader, unit: Unit, prefix: Key) -> list[tuple[Key, bytes]]:
        """Give what lies below a prefix, the unit that is being built included, in the order of the keys."""
        found: dict[Key, bytes] = dict(reader.rows(prefix))
        fresh: Changes = {key: value for key, (value, _) in self._fresh.items()}
        for changes in (fresh, unit.rows):
            for key, value in changes.items():
                if key[: len(prefix)] == prefix:
                    if value is None:
                        found.pop(key, None)
                    else:
                        found[key] = value
        return sorted(found.items())

    def note(self, unit: Unit) -> None:
        """Keep what a unit on its way says."""
        for key, value in unit.rows.items():
            if key[0] in self._kinds:
                self._fresh[key] = (value, id(unit))

    def durable(self, unit: Unit) -> None:
        """What this unit says is in the rows now."""
        for key in unit.rows:
            if key[0] in self._kinds:
                held = self._fresh.get(key)
                if held is not None and held[1] == id(unit):
                    del self._fresh[key]

    def forget_undurable(self) -> None:
        """Units on their way were lost."""
        self._fresh.clear()
