"""The contract for commands that reach the owner from another process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from polos.data_class import dataclass

__all__ = ["Inbox", "InboxItem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxItem:
    """One command as it was put; `payload` is opaque here."""

    command_id: str
    payload: bytes


class Inbox(Protocol):
    """
    Commands for the owner of a log, kept until it has recorded their outcome.

    `put` is durable when it returns. Order is by command id (time-ordered ids). The owner decides
    each command once: it appends the outcome first and calls `remove` after, so an item whose
    outcome is already recorded is only removed.
    """

    def put(self, command_id: str, payload: bytes) -> None:
        """Keep a command, durably; putting the same id again changes nothing."""
        ...

    def pending(self, *, limit: int | None = None) -> Sequence[InboxItem]:
        """Give what is kept, in order of command id; skips and reports what can't be read."""
        ...

    def remove(self, command_id: str) -> bool:
        """Forget a command; gives False if it wasn't there."""
        ...
