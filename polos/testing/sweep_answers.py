"""
Answers that nothing asks for.

A misspelt key of `answers` can pass for a sound test: a step whose outcome is unknown ends its scenario uncompared if
nobody says what became of it, and what an answer was to show is never shown. But that nothing asked in the undisturbed
run says little, since some things are asked only by a recovery: what became of a step, or a person, by code that finds
an order placed already. So a sweep looks at its end. If every point was tried, a key that nothing has asked for is
refused; where one that wasn't tried may ask for it, the report says so.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import final

from polos.errors import PolosUsageError
from polos.testing.lives import Task

__all__ = ["Unused"]


@final
class Unused:
    """The keys of `answers` of one sweep that nothing has asked for."""

    def __init__(self, task: Task, steps: Collection[str]) -> None:
        """
        Look at what was asked for so far.

        Args:
            task: what all lives had in common.
            steps: names of the steps that the undisturbed run called.
        """
        never = [key for key in task.answers if key not in task.answered and not _begins_any(key, task.asked)]
        self._asked = list(task.asked)
        self._named = [key for key in never if key in steps or _begins_any(key, steps)]
        self._other = [key for key in never if key not in self._named]

    def look(self, *, every_point: bool) -> str:
        """
        Say it at the end of a sweep; empty if there is nothing to say.

        Args:
            every_point: whether each was tried in this process, so that nobody else could have asked.

        Raises:
            PolosUsageError: nobody could have asked for one, by whatever name.
        """
        if not every_point:
            return self.said(self._other)
        refused = [key for key in self._other if not key.endswith("*")]  # a beginning may be for names yet to come
        if refused:
            raise PolosUsageError(f"{self.said(refused)}, although every point was tried")
        return self.said([*self._named, *self._other])

    def said(self, keys: Collection[str] | None = None) -> str:
        """Say of keys, of all by default, that nothing has asked for them, and what was asked for."""
        never = [*self._named, *self._other] if keys is None else keys
        if not never:
            return ""
        asked = f"asked for was {_list(self._asked)}" if self._asked else "nothing was asked for at all"
        return f"answers has {_list(never)}, and nothing has asked for that ({asked})"


def _begins_any(key: str, names: Collection[str]) -> bool:
    return key.endswith("*") and any(name.startswith(key[:-1]) for name in names)


def _list(keys: Collection[str]) -> str:
    return ", ".join(map(repr, keys))
