"""
One open environment for each data file and process, shared and counted.

LMDB must not be opened twice in a process: its locks are POSIX locks, which belong to process and
file, so closing one of two would release the other's. A program, however, may have a `Polos`, a
`PolosClient` and a `Worker` on one directory. So there is a table, by real path, of what is open here;
who opens something gets a share of it, and the last share to be closed closes it.

What lies below has to be swapped now and then: closed and opened again after an I/O error of unknown
outcome, remapped when it has grown. Both pull the ground from under every reader of this process. So
readers pass through a `Gate`, and who swaps waits until they have left. A thread that is inside may
enter again, or it would wait for a gate that waits for it.

A forked child has the memory but not the locks. It is told so (`ForkedStore`) for as long as it
exists, and nothing of its parent's is ever closed in it.

This module knows nothing of LMDB; `polos.store.lmdb_log` passes in how to open and to close.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar, final

from polos.clock import Clock, SystemClock
from polos.data_class import dataclass
from polos.errors import ForkedStore, PolosUsageError, StoreFailed
from polos.store.log import Head

__all__ = [
    "Environment",
    "Gate",
    "LogStatistics",
    "OpenReader",
    "OwnerInfo",
    "ReaderWatch",
    "ReadersInside",
    "Settings",
    "found_environment",
    "share_environment",
]

_log = logging.getLogger("polos.store")

READER_WARNING_SECONDS = 10.0
READERS_CHECK_US = 10_000_000
PATIENCE_SECONDS = 5.0  # how long a swap waits for the readers of this process
CLOSING_PATIENCE_SECONDS = 1.0  # and how long closing does


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an environment is opened."""

    read_only: bool = False
    sync: bool = True
    map_bytes: int = 64 << 30
    map_bytes_max: int = 1 << 42


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReader:
    """A reader of this process that is open now."""

    thread: str
    open_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerInfo:
    """The engine that owns a data directory."""

    pid: int
    host: str
    started_us: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class ReadersInside(Exception):  # internal: what a swap that can't have the gate is told
    """The readers of this process didn't leave in time."""


@final
class Gate:
    """Lets readers in, and waits until all are out for whoever needs to be alone."""

    def __init__(self, clock: Clock) -> None:
        """Take the clock by which the age of readers is told."""
        self._clock = clock
        self._moved = threading.Condition()
        self._inside: dict[object, tuple[int, str, int]] = {}  # token -> thread, its name, when it came in
        self._shut = False

    def enter(self) -> object:
        """Come in, waiting while somebody is alone inside; gives the token to leave with."""
        token = object()
        thread = threading.current_thread()
        with self._moved:
            if self._shut and not self._is_inside(thread.ident):
                self._moved.wait_for(lambda: not self._shut)
            self._inside[token] = (thread.ident or 0, thread.name, self._clock.monotonic_us())
        return token

    def leave(self, token: object) -> None:
        """Go out."""
        with self._moved:
            del self._inside[token]
            if self._shut:
                self._moved.notify_all()

    @contextmanager
    def alone(self, patience_seconds: float | None = None) -> Generator[None]:
        """
        Be inside alone, waiting `patience_seconds` (PATIENCE_SECONDS) for others to leave.

        Raises:
            ReadersInside: somebody didn't leave in time, or this thread itself has a reader open.
        """
        patience_seconds = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
        with self._moved:
            if self._is_inside(threading.get_ident()):
                raise ReadersInside("this thread has a reader open itself")
            self._moved.wait_for(lambda: not self._shut)
            self._shut = True
            if not self._moved.wait_for(lambda: not self._inside, patience_seconds):
                self._shut = False
                self._moved.notify_all()
                names = ", ".join(sorted({name for _, name, _ in self._inside.values()}))
                raise ReadersInside(f"readers are open in: {names}")
        try:
            yield
        finally:
            with self._moved:
                self._shut = False
                self._moved.notify_all()

    def readers(self) -> list[OpenReader]:
        """Give the readers that are open, the oldest first."""
        now = self._clock.monotonic_us()
        with self._moved:
            inside = sorted(self._inside.values(), key=lambda entry: entry[2])
        return [OpenReader(thread=name, open_seconds=(now - since) / 1e6) for _, name, since in inside]

    @staticmethod
    def foreign(listing: str) -> set[str]:
        """Give the lines of LMDB's list of readers (pid, thread, transaction) that are views of other processes."""
        own = str(os.getpid())
        lines = (line.split() for line in listing.splitlines()[1:])
        return {" ".join(line) for line in lines if len(line) == 3 and line[0] != own and line[2] != "-"}

    def oldest(self) -> tuple[object, OpenReader] | None:
        """Give the reader that has been open longest, with its token."""
        if not self._inside:  # the common case pays for no lock
            return None
        with self._moved:
            found = min(self._inside.items(), key=lambda entry: entry[1][2], default=None)
        if found is None:
            return None
        token, (_, name, since) = found
        return token, OpenReader(thread=name, open_seconds=(self._clock.monotonic_us() - since) / 1e6)

    def _is_inside(self, thread: int | None) -> bool:
        return any(ident == thread for ident, _, _ in self._inside.values())


class Closeable(Protocol):
    """What is open below."""

    def close(self) -> None:
        """Close it."""
        ...


Raw = TypeVar("Raw", bound=Closeable)


@final
class Environment(Generic[Raw]):
    """
    A share in something that is open once in this process.

    Attributes:
        path: its real path.
        gate: where its readers pass.
        writing: held by whoever writes or swaps; one writer a process, whatever thread it is on.
    """

    def __init__(self, path: str, opener: Callable[[str, Settings], Raw], settings: Settings, clock: Clock) -> None:
        """Open it; only `share_environment` does that."""
        self.path = path
        self.gate: Gate = Gate(clock)
        self.writing = threading.RLock()
        self.settings: Settings = settings
        self.shares: int = 1
        self.owner: OwnerInfo | None = None  # who in this process owns the log; kept by `polos.store.ownership`
        self.engine: object | None = None  # the engine of this process that runs on it; kept by the engine
        self._opener = opener
        self._pid = os.getpid()
        self._raw: Raw | None = opener(path, settings)

    @property
    def raw(self) -> Raw:
        """
        What is open below.

        Raises:
            ForkedStore: this is a forked child.
            StoreFailed: it couldn't be opened again; `reopen` may work later.
        """
        if self._pid != os.getpid():
            raise forked(self.path)
        raw = self._raw
        if raw is None:
            raise StoreFailed(f"{self.path} could not be opened again; its log takes nothing until that works")
        return raw

    @property
    def is_parents(self) -> bool:
        """Whether this was opened by the parent of this process."""
        return self._pid != os.getpid()

    def swap(self, settings: Settings) -> None:
        """
        Close and open again, with other settings.

        Raises:
            ReadersInside: readers of this process didn't leave.
            Exception: what the opener raised; nothing is open then until a later `swap` works.
        """
        with self.writing, self.gate.alone():
            if self.is_parents:
                raise forked(self.path)
            if self._raw is not None:
                self._raw.close()
                self._raw = None
            self._raw = self._opener(self.path, settings)
            self.settings = settings

    def release(self) -> None:
        """Give the share back; the last one closes."""
        if self.is_parents:
            return  # closing here would abort the parent's transactions: they are in shared memory
        with _table_lock:
            self.shares -= 1
            if self.shares:
                return
            _table.pop(self.path, None)
            with self.writing:
                try:
                    with self.gate.alone(CLOSING_PATIENCE_SECONDS):
                        self._close()
                except ReadersInside:
                    # A reader somebody forgot must not keep the program from ending. What is below
                    # tells it that it is closed; a swap, where that would hit a working reader, waits.
                    self._close()

    def _close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()


def forked(path: str) -> ForkedStore:
    """Make the error for a forked child."""
    return ForkedStore(
        f"{path} was opened by the parent of this process, and what is open doesn't survive fork(); "
        "start the process with multiprocessing's 'spawn' or subprocess, or open the store after forking"
    )


@contextmanager
def found_environment(path: str | os.PathLike[str]) -> Generator[Environment[Any] | None]:
    """Give the environment of a path if it is open here; while inside, none is opened, closed or owned."""
    with _table_lock:
        found = _table.get(os.path.realpath(path))
        yield None if found is None or found.is_parents else found


def share_environment(
    path: str, opener: Callable[[str, Settings], Raw], settings: Settings, *, clock: Clock | None = None
) -> Environment[Raw]:
    """
    Open the environment of a path, or share the one that is open.

    Raises:
        ForkedStore: the parent of this process has it open.
        PolosUsageError: it is open here with another `sync`.
    """
    real = os.path.realpath(path)
    found = _table.get(real)
    if found is not None and found.is_parents:
        raise forked(real)
    with _table_lock:
        found = _table.get(real)
        if found is None:
            made = Environment(real, opener, settings, clock or SystemClock())
            _table[real] = made
            return made
        if not settings.read_only:
            if found.settings.read_only:
                found.swap(settings)
            elif found.settings.sync != settings.sync:
                raise PolosUsageError(f"{real} is open in this process already, with another `sync`")
        found.shares += 1
        return found


# The table of open environments: the one module-level state of the store.
_table: dict[str, Environment[Any]] = {}  # of any kind: each path is always opened by the same opener
_table_lock = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked child: the thread that held it may not exist there."""
    global _table_lock  # noqa: PLW0603  # the one thing of this module that a fork breaks
    _table_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatistics:
    """What a log can tell of itself now."""

    head: Head
    map_bytes: int
    used_bytes: int
    readers: tuple[OpenReader, ...]  # of this process, the oldest first
    reader_slots: int  # of all processes


@final
class ReaderWatch:
    """Reports readers that are open for so long that the file grows for them."""

    def __init__(self, environment: Environment[Any], clock: Clock) -> None:
        """Take what they read, and the clock by which their age is told."""
        self._environment = environment
        self._clock = clock
        self._reported: object = None
        self._foreign_seen: set[str] = set()
        self._foreign_reported: set[str] = set()
        self._checked_us = clock.monotonic_us()

    def look(self, env: Any) -> None:
        """Look at those of this process, and now and then, in LMDB's table, at those of others."""
        environment = self._environment
        oldest = environment.gate.oldest()
        if oldest is not None and oldest[0] is not self._reported and oldest[1].open_seconds > READER_WARNING_SECONDS:
            self._reported = oldest[0]
            _log.warning(
                "%s: a reader of thread %s is open for %.0f s; meanwhile the file only grows",
                environment.path, oldest[1].thread, oldest[1].open_seconds,
            )  # fmt: skip
        now = self._clock.monotonic_us()
        if now - self._checked_us < READERS_CHECK_US:
            return
        self._checked_us = now
        env.reader_check()
        seen = environment.gate.foreign(env.readers())
        stuck = seen & self._foreign_seen
        for reader in stuck - self._foreign_reported:
            pid = reader.split()[0]
            _log.warning(
                "%s: a reader of process %s is open for over 10 s; meanwhile the file only grows", environment.path, pid
            )
        self._foreign_seen, self._foreign_reported = seen, stuck
