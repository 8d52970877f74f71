"""
A data directory: what lies where in it, and opening it.

::

    <directory>/            0700: what is in it is private to the user
        format              JSON; says that this is a polos store, and of which format
        owner.lock          who owns it, see `polos.store.ownership`
        log/data.mdb        the log, see `polos.store.lmdb_log`
        log/lock.mdb        LMDB's table of readers
        blobs/xx/...        large payloads by digest, see `polos.store.blobs`
        inbox/<command id>  commands from other processes, see `polos.store.inbox_dir`

A store that wasn't closed cleanly is checked before it is opened, in a process of its own: a damaged page can end
the process that reads it, and that shouldn't be the program.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, final

from polos.clock import Clock, SystemClock
from polos.errors import NotAPolosStore, PolosUsageError, StoreDamaged, StoreFailed, StoreReadOnly
from polos.store.blobs import Collected, FileBlobs
from polos.store.check import check_before_opening
from polos.store.files import TEMPORARY_PREFIX, make_durably, place_file, sync_directory, translated
from polos.store.format import (
    BLOBS_DIRECTORY,
    FORMAT_FILE,
    FORMAT_VERSION,
    INBOX_DIRECTORY,
    LOG_DIRECTORY,
    check_format,
    format_content,
)
from polos.store.inbox_dir import DirectoryInbox
from polos.store.lmdb_log import LmdbLog
from polos.store.log import Epoch
from polos.store.ownership import OwnerInfo, Ownership, owner_info, was_closed_cleanly

__all__ = ["FORMAT_VERSION", "Store", "open_store"]


Sync = Literal["full", "off"]


@final
class Store:
    """
    An open data directory; close it, or use it in a `with`.

    Attributes:
        path: the directory.
        log: its log.
        blobs: its large payloads.
        inbox: commands for its owner.
        read_only: whether the log may not be written through this.
    """

    def __init__(self, path: Path, log: LmdbLog, blobs: FileBlobs, inbox: DirectoryInbox, clock: Clock) -> None:
        """Bundle what is open; `open_store` makes one."""
        self.path = path
        self.log = log
        self.blobs = blobs
        self.inbox = inbox
        self.read_only: bool = log.read_only
        self._ownership = Ownership(path, log.environment, clock=clock)

    def __enter__(self) -> Store:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def acquire_ownership(self) -> Epoch:
        """
        Become the owner of the directory and take the next epoch of its log.

        Raises:
            StoreInUse: another engine owns it; the text says which.
            StoreReadOnly: it can't be written, or was opened read-only.
        """
        if self.read_only:
            raise StoreReadOnly(f"{self.path} was opened read-only; only an engine that may write can own it")
        self._ownership.acquire()
        try:
            return self.log.acquire()
        except BaseException:
            self._ownership.release(clean=False)
            raise

    def release_ownership(self, *, clean: bool = True) -> None:
        """Give ownership up; with `clean=False` the next one to open the store checks it first."""
        self._ownership.release(clean=clean)

    def owner(self) -> OwnerInfo | None:
        """Give the engine that owns the directory now, if any."""
        return owner_info(self.path)

    @property
    def owner_engine(self) -> object | None:
        """The engine of this process that runs on the directory, whoever opened it; the engine keeps this."""
        return self.log.environment.engine

    @owner_engine.setter
    def owner_engine(self, engine: object | None) -> None:
        self.log.environment.engine = engine

    def collect_garbage(self) -> Collected:
        """Remove blobs that nothing needs and what clients left half-written. Only for the owner."""
        self.inbox.clear_leftovers()

        def needed() -> set[str]:
            with self.log.reader() as reader:
                return {digest for _, digests in reader.blobs() for digest in digests}

        return self.blobs.collect(needed)

    def close(self) -> None:
        """Give ownership up and close everything. Closing twice is fine."""
        try:
            if self._ownership.held:
                self._ownership.release(clean=self._flushed())
        finally:
            self.log.close()

    def _flushed(self) -> bool:
        try:
            self.log.flush()
        except StoreFailed:
            return False  # whoever opens the store next has it checked
        return True


def open_store(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    sync: Sync = "full",
    map_bytes: int = 64 << 30,
    map_bytes_max: int = 1 << 42,
    check: bool = True,
    clock: Clock | None = None,
) -> Store:
    """
    Open a data directory, making it if there is none.

    Args:
        path: the directory.
        read_only: never write the log, and make nothing. The inbox takes commands all the same.
        sync: "full" syncs each commit; with "off" a power cut may lose what was acknowledged, a killed process doesn't.
        map_bytes: address space reserved for the log; the file grows as used.
        map_bytes_max: the log never grows over this.
        check: look for damage first, in a child process, if the last owner didn't close the store or the file of the
            log is too short.
        clock: where time comes from.

    Raises:
        NotAPolosStore: the directory holds something else, or, if `read_only`, nothing.
        StoreFormatTooNew: a newer polos wrote it.
        StoreReadOnly: it can't be written; try `read_only`.
        StoreDamaged: the log isn't what was written.
        ForkedStore: the parent of this process has it open.
    """
    if sync not in ("full", "off"):
        raise PolosUsageError(f"sync is 'full' or 'off', not {sync!r}")
    directory = Path(path).absolute()
    clock = clock or SystemClock()
    if not read_only:
        _prepare(directory)
    check_format(directory)
    if check and owner_info(directory) is None:
        clean = was_closed_cleanly(directory)
        damage = check_before_opening(directory, clean=clean, writing=not read_only)
        if damage is not None:
            how = "" if clean else "wasn't closed cleanly and "
            raise StoreDamaged(
                f"{directory} {how}is damaged ({damage.place}: {damage.message}). "
                "`polos verify` says more; restore a backup, or copy what can still be read",
                position=damage.position,
            )
    blobs = FileBlobs(directory / BLOBS_DIRECTORY, clock=clock)
    log = LmdbLog(
        directory / LOG_DIRECTORY,
        read_only=read_only,
        sync=sync == "full",
        map_bytes=map_bytes,
        map_bytes_max=map_bytes_max,
        blobs=blobs,
        clock=clock,
    )
    inbox = DirectoryInbox(directory / INBOX_DIRECTORY, clock=clock, owned=not read_only)
    return Store(directory, log, blobs, inbox, clock)


def _prepare(directory: Path) -> None:
    """Make what is missing in a directory that is ours, or can become ours."""
    try:
        if not (directory / FORMAT_FILE).exists():
            make_durably(directory)
            strangers = [name for name in os.listdir(directory) if not name.startswith(TEMPORARY_PREFIX)]
            # Another process may be making the same store at this moment, and have come further.
            if strangers and not (directory / FORMAT_FILE).exists():
                return
            place_file(directory / FORMAT_FILE, format_content())
        check_format(directory)
        for name in (LOG_DIRECTORY, BLOBS_DIRECTORY, INBOX_DIRECTORY):
            (directory / name).mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory)
    except (FileExistsError, NotADirectoryError):
        raise NotAPolosStore(f"{directory} is no directory") from None
    except OSError as error:
        raise translated(error, directory) from error
