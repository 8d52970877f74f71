"""
The inbox as a directory of one file a command, and the same in memory.

Commands from other processes must not go through the log: an LMDB write transaction held by a client
that is stopped in the middle of it would hold up the owner. A file that is written beside and renamed
holds up nobody. Its name is the command's id, so the owner takes commands in the order of their ids,
and a client that isn't sure may put the same command again.

A file carries a digest. What can't be read as a command (a disk that lies, a stray file, a fifo
somebody left) is moved aside into ``unreadable/`` and reported, or it would be read again for ever.
That is for the owner to do: who only looks leaves it where it is. And what this process can't read for
want of descriptors or memory says nothing about the file; a command that was accepted isn't lost for it.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, final

from polos.clock import Clock, SystemClock
from polos.errors import PolosUsageError, StoreDamaged
from polos.store.files import TEMPORARY_PREFIX, place_file, read_regular, sync_directory, translated
from polos.store.inbox import InboxItem

__all__ = ["COMMAND_BYTES_MAX", "DirectoryInbox", "MemoryInbox"]

_log = logging.getLogger("polos.store")

MAGIC: Final = b"polos command 1\n"
COMMAND_BYTES_MAX: Final = 64 << 20
UNREADABLE: Final = "unreadable"
LEFTOVER_AGE_US: Final = 3600 * 1_000_000
SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def check_command(command_id: str, payload: bytes) -> None:
    """Refuse an id that is no file name, and a payload over the limit."""
    if not _ID.fullmatch(command_id) or command_id == UNREADABLE:
        raise PolosUsageError(f"a command id is 1 to 128 letters, digits, '_', '-' and '.', not {command_id[:200]!r}")
    if len(payload) > COMMAND_BYTES_MAX:
        raise PolosUsageError(f"a command of {len(payload)} bytes is over COMMAND_BYTES_MAX ({COMMAND_BYTES_MAX})")


@final
class MemoryInbox:
    """
    An `Inbox` that is gone with its process.

    Attributes:
        changes: how often something was put in or removed.
    """

    def __init__(self) -> None:
        """Make it empty."""
        self.changes = 0
        self._kept: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def copy(self) -> MemoryInbox:
        """Give another one with the same content."""
        other = MemoryInbox()
        with self._lock:
            other._kept = self._kept.copy()
        return other

    def put(self, command_id: str, payload: bytes) -> None:
        """Keep a command."""
        check_command(command_id, payload)
        with self._lock:
            self.changes += 1
            self._kept.setdefault(command_id, bytes(payload))

    def pending(self, *, limit: int | None = None) -> Sequence[InboxItem]:
        """Give what is kept, in order of command id."""
        with self._lock:
            ids = sorted(self._kept)[:limit]
            return [InboxItem(command_id=command_id, payload=self._kept[command_id]) for command_id in ids]

    def remove(self, command_id: str) -> bool:
        """Forget a command."""
        with self._lock:
            self.changes += 1
            return self._kept.pop(command_id, None) is not None


@final
class DirectoryInbox:
    """An `Inbox` in a directory that exists."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        on_unreadable: Callable[[Path, str], None] | None = None,
        owned: bool = True,
    ) -> None:
        """
        Take the directory.

        Args:
            path: the directory.
            clock: by which leftovers of clients that died are told.
            on_unreadable: called with where an unreadable file was moved to, and why; without, it is logged.
            owned: whether `pending` is the owner's; anybody else's leaves what can't be read where it is.
        """
        self.path = path
        self._clock = clock or SystemClock()
        self._on_unreadable = on_unreadable or _report
        self._owned = owned

    def put(self, command_id: str, payload: bytes) -> None:
        """
        Keep a command, durably when this returns; the same id again changes nothing.

        Raises:
            PolosUsageError: the id is no file name, or the payload is over the limit.
            StoreFull: no space; the command wasn't kept.
            StoreReadOnly: the directory can't be written.
            StoreFailed: the write failed; with `maybe_happened` the owner may find the command.
        """
        check_command(command_id, payload)
        path = self.path / command_id
        if path.exists():
            try:
                # Whoever put it may have died before the name was durable.
                sync_directory(self.path)
            except OSError as error:
                raise translated(error, path, maybe_happened=True) from error
            return
        place_file(path, MAGIC + hashlib.sha256(payload).digest() + payload)

    def pending(self, *, limit: int | None = None) -> Sequence[InboxItem]:
        """
        Give what is kept, in order of command id; what can't be read is moved aside and reported.

        Raises:
            StoreFailed: the directory can't be read, or not now.
        """
        items: list[InboxItem] = []
        for name in sorted(self._names()):
            if limit is not None and len(items) >= limit:
                break
            path = self.path / name
            try:
                items.append(InboxItem(command_id=name, payload=_read(path)))
            except FileNotFoundError:
                continue  # another thread of the owner removed it meanwhile
            except (StoreDamaged, OSError) as error:
                if isinstance(error, OSError) and error.errno in SHORTAGES:
                    raise translated(error, path) from error
                if self._owned:
                    self._set_aside(path, str(error))
        return items

    def remove(self, command_id: str) -> bool:
        """Forget a command; gives False if it wasn't there."""
        try:
            (self.path / command_id).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise translated(error, self.path / command_id) from error
        return True

    def clear_leftovers(self) -> int:
        """Remove what clients left half-written over an hour ago; gives how many."""
        oldest_us = self._clock.now_us() - LEFTOVER_AGE_US
        removed = 0
        for path in self.path.glob(f"{TEMPORARY_PREFIX}*"):
            try:
                if path.stat().st_mtime_ns // 1000 < oldest_us:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue  # its client was only slow
        return removed

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.path) if name != UNREADABLE and not name.startswith(".")]
        except OSError as error:
            raise translated(error, self.path) from error

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = self.path / UNREADABLE
        try:
            aside.mkdir(mode=0o700, exist_ok=True)
            target = aside / path.name
            path.rename(target)
            sync_directory(self.path)
        except OSError as error:
            raise translated(error, path) from error
        self._on_unreadable(target, reason)


def _report(path: Path, reason: str) -> None:
    _log.error("a command in the inbox can't be read and was moved to %s: %s", path, reason)


def _read(path: Path) -> bytes:
    """Give the payload of a command file."""
    if not _ID.fullmatch(path.name):
        raise StoreDamaged(f"{path} has no name that a command has")
    data = read_regular(path, bytes_max=COMMAND_BYTES_MAX + 1024, follow=False)
    head = len(MAGIC)
    payload = data[head + 32 :]
    if data[:head] != MAGIC or data[head : head + 32] != hashlib.sha256(payload).digest():
        raise StoreDamaged(f"{path} isn't what a client put")
    return payload
