"""
Who owns a data directory.

One engine at a time may append. What decides is a lock of the kernel on ``owner.lock``, which goes when
its process goes, however it goes. It is a POSIX lock (`fcntl.lockf`) because the other kind, `flock`,
stays held by a forked child that outlives its killed parent. The price is two traps, both closed here:

* POSIX locks belong to process and file. A second engine in the same process would get the lock, too,
  so it is refused by the table of open environments instead.
* Closing *any* descriptor of the file in the process gives the lock up. So this module is the only one that
  opens it, and it doesn't while this process is the owner, nor while it is becoming one.

The file holds who the owner is, as JSON, for whoever is refused. After a clean close it says so; if it
doesn't, the next one to open the store has it checked first. The epoch of the log fences whoever thinks
to own it although the lock was lost.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import struct
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final

from polos.clock import Clock, SystemClock
from polos.errors import StoreInUse
from polos.store.environment import Environment, OwnerInfo, found_environment
from polos.store.files import json_fields, read_regular, sync_directory, translated
from polos.store.format import LOG_DIRECTORY

__all__ = ["LOCK_FILE", "OwnerInfo", "Ownership", "owner_info", "was_closed_cleanly"]

LOCK_FILE: Final = "owner.lock"
INFO_BYTES_MAX: Final = 4096
TIME_US_MAX: Final = 253_402_300_800_000_000  # the year 10000: later moments can't be shown
# struct flock. Linux: type, whence, start, length, pid. The BSDs: start, length, pid, type, whence.
_IS_LINUX: Final = platform.system() == "Linux"
_FLOCK: Final = "hhqqi4x" if _IS_LINUX else "qqihh"
_FLOCK_QUESTION: Final = (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0) if _IS_LINUX else (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
_FLOCK_TYPE: Final = 0 if _IS_LINUX else 3
_FLOCK_PID: Final = 4 if _IS_LINUX else 2
# How often, and how many seconds apart, the file is looked at again if its lock is held by somebody it doesn't tell of.
LOOKS: Final = 200
LOOK_SECONDS: Final = 0.005
pause = threading.Event().wait  # nobody sets it; tests say what happens meanwhile
UNKNOWN: Final = OwnerInfo(pid=0, host="unknown host", started_us=0)


@final
class Ownership:
    """A claim on a data directory, held from `acquire` to `release`."""

    def __init__(self, directory: Path, environment: Environment[Any], *, clock: Clock | None = None) -> None:
        """Take the data directory and the environment of its log."""
        self._directory = directory
        self._environment = environment
        self._clock = clock or SystemClock()
        self._descriptor: int | None = None
        self._info: OwnerInfo | None = None

    @property
    def held(self) -> bool:
        """Whether this is the owner; a forked child never is."""
        return self._descriptor is not None and not self._environment.is_parents

    def acquire(self) -> OwnerInfo:
        """
        Become the owner.

        Raises:
            StoreInUse: somebody else is, in this process or another; the text names the process.
            StoreReadOnly: the directory can't be written.
        """
        path = self._directory / LOCK_FILE
        with found_environment(self._environment.path):
            if self._environment.owner is not None:
                raise _in_use(self._directory, self._environment.owner)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise translated(error, path) from error
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                info = OwnerInfo(pid=os.getpid(), host=platform.node(), started_us=self._clock.now_us())
                _write_info(descriptor, info, clean=False)
                sync_directory(self._directory)
            except BlockingIOError:
                holder = _holder(descriptor) or UNKNOWN
                os.close(descriptor)
                raise _in_use(self._directory, holder) from None
            except OSError as error:
                os.close(descriptor)
                raise translated(error, path) from error
            self._descriptor = descriptor
            self._info = self._environment.owner = info
        return info

    def release(self, *, clean: bool = True) -> None:
        """
        Give ownership up; doing it twice is fine, and in a forked child it does nothing.

        Args:
            clean: everything appended is known to be on disk, so whoever opens the store need not check it.
        """
        if self._descriptor is None or not self.held:
            return
        with found_environment(self._environment.path):
            assert self._info is not None, "who has the lock has said who it is"
            try:
                if clean:
                    _write_info(self._descriptor, self._info, clean=True)
            except OSError as error:
                raise translated(error, self._directory / LOCK_FILE) from error
            finally:
                os.close(self._descriptor)
                self._descriptor = self._info = self._environment.owner = None


def owner_info(directory: str | os.PathLike[str]) -> OwnerInfo | None:
    """Give the engine that owns a data directory now; None if nobody does. Takes nothing, holds up nobody."""
    path = Path(directory, LOCK_FILE)
    with found_environment(Path(directory, LOG_DIRECTORY)) as environment:
        if environment is not None and environment.owner is not None:
            return environment.owner
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translated(error, path) from error
        try:
            return _holder(descriptor)
        finally:
            os.close(descriptor)


def was_closed_cleanly(directory: str | os.PathLike[str]) -> bool:
    """Tell whether the last owner said that all is well; True if there never was one."""
    with found_environment(Path(directory, LOG_DIRECTORY)) as environment:
        if environment is not None and environment.owner is not None:
            return True  # it is open here; and opening the file would drop the lock
        try:
            # The same file and the same trap as above, hence inside the same block.
            found = json_fields(read_regular(Path(directory, LOCK_FILE)))
        except FileNotFoundError:
            return True
        except OSError as error:
            raise translated(error, Path(directory, LOCK_FILE)) from error
    return found.get("clean") is True


def _holder(descriptor: int) -> OwnerInfo | None:
    """
    Ask who has the lock: the kernel for the process, the file for the rest.

    A new owner has the lock a moment before it has written who it is. The kernel knows at once, so what
    the file says counts only if it is about the same process; until then it is looked at again, for a second
    at most: an owner may have been stopped in that moment.
    """
    pid = 0
    for look in range(LOOKS):
        if look:
            pause(LOOK_SECONDS)
        answer: tuple[int, ...] = struct.unpack(
            _FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, *_FLOCK_QUESTION))
        )
        if answer[_FLOCK_TYPE] == fcntl.F_UNLCK:
            return None
        pid = answer[_FLOCK_PID]
        fields = json_fields(os.pread(descriptor, INFO_BYTES_MAX, 0))
        written, host, started = fields.get("pid"), fields.get("host"), fields.get("started_us")
        # A lock held on another machine, or outside this container, shows no process of ours.
        if isinstance(written, int) and isinstance(host, str) and isinstance(started, int) and pid in (written, 0, -1):
            return OwnerInfo(pid=written, host=host, started_us=started if 0 <= started < TIME_US_MAX else 0)
    return OwnerInfo(pid=max(pid, 0), host=UNKNOWN.host, started_us=0)


def _write_info(descriptor: int, info: OwnerInfo, *, clean: bool) -> None:
    text = json.dumps({"pid": info.pid, "host": info.host, "started_us": info.started_us, "clean": clean})
    # Padded to one length and written at once: whoever reads meanwhile sees the old text or the new one.
    os.pwrite(descriptor, text.encode().ljust(INFO_BYTES_MAX - 1) + b"\n", 0)
    os.fsync(descriptor)


def _in_use(directory: Path, holder: OwnerInfo) -> StoreInUse:
    since = ""
    if holder.started_us:
        since = f", since {datetime.fromtimestamp(holder.started_us // 1_000_000, UTC).isoformat()}"
    return StoreInUse(
        f"{directory} is owned by another engine: {holder}{since}. "
        "One engine may own a directory at a time; use PolosClient to talk to that one, or stop it first"
    )
