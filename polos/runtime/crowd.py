"""
Steps that wait for a thread, noted where other processes can see it.

Whether a function has been called is the engine's to know and isn't recorded: for the log a step that waits for a
thread looks like one that takes long. Who asks why a run doesn't move needs the difference, and asks from another
process, which must not disturb the engine. So the engine keeps the waiting steps in a mapped file: a step more or less
is a store into memory, and who looks reads the file.

The file is a hint. It holds digests, not names, in a table of fixed size; what doesn't fit stays in memory until there
is room. Nothing is synced, and what a killed engine left means nothing, because only an owner's file is looked at.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path
from typing import Final, final

from polos.errors import StoreDamaged
from polos.store.files import map_fresh, read_regular

__all__ = ["CROWD_FILE", "Crowd", "waits_for_thread"]

CROWD_FILE: Final = "threads"
SLOTS: Final = 255
_MAGIC: Final = b"polos threads 1\n"
_SLOT: Final = len(_MAGIC)  # bytes of one digest, too
_BYTES: Final = _SLOT * (SLOTS + 1)
_FREE: Final = bytes(_SLOT)


@final
class Crowd:
    """The steps of an engine that wait for a thread. Its callers see to it that one thread at a time is in here."""

    def __init__(self) -> None:
        """Note them in memory only."""
        self._map: mmap.mmap | None = None
        self._slots: dict[bytes, int] = {}
        self._free = list(range(SLOTS, 0, -1))
        self._over: dict[bytes, None] = {}

    def __len__(self) -> int:
        """Count them."""
        return len(self._slots) + len(self._over)

    def open(self, path: Path) -> None:
        """
        Note them in a file, too.

        Raises:
            StoreReadOnly: the directory can't be written.
            StoreFull: there is no space for the file.
            StoreFailed: something else is wrong with it.
        """
        self._map = map_fresh(path, _MAGIC.ljust(_BYTES, b"\0"))

    def note(self, run: str, name: str, number: int, *, waiting: bool) -> None:
        """Note that an attempt waits for a thread, or doesn't any more."""
        digest = _digest(run, name, number)
        if waiting:
            if self._free:
                self._put(digest, self._free.pop())
            else:
                self._over[digest] = None
        elif digest in self._slots:
            slot = self._slots.pop(digest)
            self._write(slot, _FREE)
            if self._over:
                later = next(iter(self._over))
                del self._over[later]
                self._put(later, slot)
            else:
                self._free.append(slot)
        else:
            self._over.pop(digest, None)

    def close(self) -> None:
        """Let go of the file."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def _put(self, digest: bytes, slot: int) -> None:
        self._slots[digest] = slot
        self._write(slot, digest)

    def _write(self, slot: int, value: bytes) -> None:
        if self._map is not None:
            self._map[slot * _SLOT : (slot + 1) * _SLOT] = value


def waits_for_thread(data_dir: Path, run: str, name: str, number: int) -> bool:
    """
    Tell whether an attempt waits for a thread, as far as the engine that owns a directory has noted.

    Args:
        data_dir: the directory; an engine owns it.
        run: the run.
        name: of the step.
        number: of the attempt.
    """
    try:
        raw = read_regular(data_dir / CROWD_FILE, bytes_max=_BYTES)
    except (OSError, StoreDamaged):
        return False  # an engine in memory has none; anything else that is wrong is no reason not to answer
    if len(raw) != _BYTES or not raw.startswith(_MAGIC):
        return False
    wanted = _digest(run, name, number)
    return any(raw[at : at + _SLOT] == wanted for at in range(_SLOT, _BYTES, _SLOT))


def _digest(run: str, name: str, number: int) -> bytes:
    # Names may hold what UTF-8 doesn't.
    text = f"{run}/{number}/{name}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=_SLOT).digest()
