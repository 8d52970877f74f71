"""A data directory that isn't one: everything in memory, with the shape of `polos.store.directory.Store`."""

from __future__ import annotations

from pathlib import Path
from typing import final

from polos.store.blobs import Collected, MemoryBlobs
from polos.store.inbox_dir import MemoryInbox
from polos.store.log import Epoch, Log
from polos.store.memory import MemoryLog

__all__ = ["MemoryStore"]


@final
class MemoryStore:
    """
    What an engine runs on.

    It outlives the engines that run on it, as a directory does; a crash needs nothing of it, because the next
    owner's epoch fences the last one off.
    """

    read_only = False
    path = Path("memory")

    def __init__(self, log: Log | None = None) -> None:
        """
        Make an empty store.

        Args:
            log: to be used instead of a new `MemoryLog`, as it stands.
        """
        self.blobs = MemoryBlobs()
        self.log: Log = MemoryLog(blobs=self.blobs) if log is None else log
        self.inbox = MemoryInbox()
        self.owner_engine: object | None = None
        self.owned = False

    def changes(self) -> int:
        """Count what was made durable: as long as it is the same, the next owner finds the same."""
        log = self.log
        assert isinstance(log, MemoryLog), "another log doesn't count"
        return log.changes + self.inbox.changes + self.blobs.changes

    @property
    def entries(self) -> int:
        """Count what a copy would have to hold."""
        log = self.log
        assert isinstance(log, MemoryLog), "another log can't be copied"
        return log.entries

    @property
    def is_new(self) -> bool:
        """Whether whoever owns it next finds nothing in it."""
        return self.entries <= 1 and not (self.inbox.changes or self.blobs.changes)  # the one is of who owned it

    def copy(self) -> MemoryStore:
        """Give another one with the same content, as a process finds it that begins after a crash."""
        log = self.log
        assert isinstance(log, MemoryLog), "another log can't be copied"
        other = MemoryStore()
        other.blobs, other.inbox = self.blobs.copy(), self.inbox.copy()
        other.log = log.copy(blobs=other.blobs)
        return other

    def acquire_ownership(self) -> Epoch:
        """Become the owner; whoever owned it before is fenced off."""
        self.owned = True
        return self.log.acquire()

    def release_ownership(self, *, clean: bool = True) -> None:  # noqa: ARG002  # a directory would note it
        """Give ownership up."""
        self.owned = False

    def owner(self) -> object | None:
        """Give what owns it, if anything does."""
        return self.owner_engine if self.owned else None

    def collect_garbage(self) -> Collected:
        """Remove blobs that no record needs."""
        with self.log.reader() as reader:
            needed = {digest for _, digests in reader.blobs() for digest in digests}
        return self.blobs.collect(needed)

    def close(self) -> None:
        """Close nothing: the next engine finds it as it is."""
