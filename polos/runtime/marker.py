"""
Whose code is on the loop, kept so that it outlives the process.

Some code kills the process that runs it: it exhausts memory, or crashes the interpreter in an extension. Recovery
would run it again and die again, for ever, and take all other runs along. So the engine notes the run before it runs
its code and takes the note back afterwards, and whoever opens the store next finds out who was on the loop.

* **A mapped file**, because it is written twice an activation: two stores into memory take a third of a microsecond, a
  system call ten times that. The kernel owns the pages, so SIGKILL doesn't lose them. A power cut does, and may leave
  any older state; that is told by the boot it was written under, and then nothing is known. Nothing is ever synced.
* **Progress is no poison.** Whoever kills a busy program three times hits the same run three times. So deaths count
  together only if they were on the same fact (`at`); code that does kill its process does it at the same place, as it
  never gets past it.
* **A death between any two instructions leaves a readable file**: opening writes a new one beside and renames it; while
  it is in use the flag is set after the run's id is there, and taken back before the id may change.

The file is made in full when it is opened, so that writing to it needs no space later. On file systems that copy what
they overwrite (btrfs, ZFS) that doesn't hold: a full one may end the process by SIGBUS. `NoMarker` is for stores
without a directory and notes nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Final, final

from polos.errors import StoreDamaged
from polos.store.files import map_fresh, read_regular

__all__ = ["Marker", "NoMarker"]

_MAGIC: Final = b"polos on the loop 1\n"
_FLAG: Final = 31  # 1: the run in the slot at _CURRENT is on the loop
_CURRENT: Final = 32
_LAST: Final = 512  # who died last; written only before the file has its name
_BOOT: Final = 992  # of the machine, 32 hexadecimal digits
_BYTES: Final = 1024
_SLOT: Final = struct.Struct("<IHIH")  # checksum, length of the id, fact, deaths in a row
_DEATHS_MAX: Final = 0xFFFF
_ID_BYTES_MAX: Final = _LAST - _CURRENT - _SLOT.size
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@final
class Marker:
    """
    A note of the run whose code is on the loop.

    Only the owner of the data directory may open it.

    Example:
        >>> import tempfile, pathlib
        >>> marker = Marker(pathlib.Path(tempfile.mkdtemp(), "on_loop"))
        >>> marker.enter("some run")
        >>> marker.leave()
        >>> marker.previous() is None
        True
        >>> marker.close()
    """

    def __init__(self, path: Path) -> None:
        """
        Find out how the last process ended, and begin anew.

        Args:
            path: the file, in a directory that exists.

        Raises:
            StoreReadOnly: the directory can't be written.
            StoreFull: there is no space for the file.
            StoreFailed: something else is wrong with it.
        """
        boot = _boot_id()
        self._last = _last_death(path, boot)
        self._pid = os.getpid()
        self._map = _begin(path, boot, self._last)

    def enter(self, run: str, at: int = 0) -> None:
        """
        Note that a run's code is on the loop; kept when the process is killed, not over a power cut.

        `leave` comes before the next `enter`.

        Args:
            run: its id, of at most 462 bytes.
            at: the version of the fact that it is run on, below 2**32; deaths at different facts don't count together.
        """
        text = run.encode()
        size = len(text)
        assert size <= _ID_BYTES_MAX, "ids of runs are short: they stand in keys of the log"
        noted = self._map
        noted[_CURRENT : _CURRENT + _SLOT.size + size] = _SLOT.pack(zlib.crc32(text, at), size, at, 0) + text
        noted[_FLAG] = 1

    def leave(self) -> None:
        """Note that no run's code is on the loop."""
        self._map[_FLAG] = 0

    def previous(self) -> tuple[str, int] | None:
        """
        Tell who was on the loop when the last process died.

        Returns:
            The run, and how many processes in a row died with it on the loop at the same fact; None if the last
            process closed the marker, or died while nobody was on the loop.
        """
        return None if self._last is None else (self._last[0], self._last[2])

    def close(self) -> None:
        """Note that the process ended well; closing twice is fine, and in a forked child nothing is noted."""
        if self._map.closed:
            return
        if os.getpid() == self._pid:
            self._map[_FLAG] = 0
            self._map[_LAST : _LAST + _SLOT.size] = bytes(_SLOT.size)
        self._map.close()


@final
class NoMarker:
    """Notes nothing."""

    def enter(self, run: str, at: int = 0) -> None:
        """Note nothing."""

    def leave(self) -> None:
        """Note nothing."""

    def previous(self) -> tuple[str, int] | None:
        """Give None: nothing outlives a process here."""
        return None

    def close(self) -> None:
        """Do nothing."""


_Death = tuple[str, int, int]  # run, fact, how often in a row


def _begin(path: Path, boot: bytes, last: _Death | None) -> mmap.mmap:
    """Put a fresh file in place and map it."""
    fresh = bytearray(_BYTES)
    fresh[: len(_MAGIC)] = _MAGIC
    fresh[_BOOT : _BOOT + len(boot)] = boot
    if last is not None:
        text = last[0].encode()
        slot = _SLOT.pack(_checksum(text, last[1], last[2]), len(text), last[1], last[2]) + text
        fresh[_LAST : _LAST + len(slot)] = slot
    return map_fresh(path, bytes(fresh))


def _last_death(path: Path, boot: bytes) -> _Death | None:
    """Read what the last process left; None for anything that isn't a whole marker of this boot."""
    try:
        raw = read_regular(path, bytes_max=_BYTES)
    except (OSError, StoreDamaged):
        return None  # there was none; what else is wrong shows when it is written
    if len(raw) != _BYTES or not raw.startswith(_MAGIC) or raw[_BOOT : _BOOT + len(boot)] != boot or raw[_FLAG] != 1:
        return None
    current, last = _slot(raw, _CURRENT), _slot(raw, _LAST)
    if current is None:
        return None
    run, at, _ = current
    before = last[2] if last is not None and last[:2] == (run, at) else 0
    return run, at, min(before + 1, _DEATHS_MAX)


def _slot(raw: bytes, start: int) -> _Death | None:
    check, size, at, deaths = _SLOT.unpack_from(raw, start)
    text = raw[start + _SLOT.size : start + _SLOT.size + size]
    if not 0 < size <= _ID_BYTES_MAX or _checksum(text, at, deaths) != check:
        return None
    return text.decode(errors="replace"), at, deaths


def _checksum(text: bytes, at: int, deaths: int) -> int:
    # The numbers are where the sum starts: one that is damaged changes it as surely as a damaged id does.
    return zlib.crc32(text, at ^ deaths << 16)


def _boot_id() -> bytes:
    """Name this boot of the machine; nothing where the system doesn't."""
    try:
        return _BOOT_ID.read_bytes().replace(b"-", b"").strip()[: _BYTES - _BOOT]
    except OSError:
        return b""
