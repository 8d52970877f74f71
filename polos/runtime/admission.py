"""How many runs may be under way at once: slots, given in the order they were asked for."""

from __future__ import annotations

from collections import deque

__all__ = ["Slots"]


class Slots:
    """A limit on runs whose code is being run or whose steps are in flight."""

    def __init__(self, limit: int) -> None:
        """Make `limit` free slots."""
        if limit < 1:
            message = f"max_concurrent_workflows must be at least 1, it is {limit}"
            raise ValueError(message)
        self._limit = limit
        self._held: set[str] = set()
        self._waiting: deque[str] = deque()
        self._waits: set[str] = set()

    def take(self, run: str) -> bool:
        """Take a slot; a run that gets none stands in line."""
        if run in self._held:
            return True
        if len(self._held) < self._limit:
            self._held.add(run)
            self._waits.discard(run)
            return True
        if run not in self._waits:
            self._waits.add(run)
            self._waiting.append(run)
        return False

    def give_back(self, run: str) -> str | None:
        """
        Give a slot back.

        Returns:
            The run whose turn it is, None if no one's. It holds a slot from now on, so that nobody gets in before it.
        """
        self._held.discard(run)
        while self._waiting and len(self._held) < self._limit:
            following = self._waiting.popleft()
            if following in self._waits:
                self._waits.discard(following)
                self._held.add(following)
                return following
        return None

    def leave(self, run: str) -> None:
        """Leave the line. A run that only leaves memory keeps its place: it is read again when its turn comes."""
        self._waits.discard(run)

    @property
    def held(self) -> int:
        """Count the slots that are taken."""
        return len(self._held)
