"""
Faults on order: a log that fails when a test says so.

Part of the package, not of its tests, because every layer above the log has to show what it does when
the log is slow, is full, or breaks off in a commit, and because a program's own tests may want to know
the same of their workflows. Nothing here is random: a `FaultPlan` says at which append what happens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import cast, final

from polos.errors import StoreFailed, StoreFull
from polos.store.log import AppendUnit, Epoch, Head, Key, Log, Position, Reader, Receipt, Version

__all__ = ["Fault", "FaultPlan", "FaultyLog"]


class Fault(Enum):
    """What happens to an append; an example stands at `FaultPlan`."""

    FULL = "the disk is full: nothing is written"
    REFUSED = "the write fails, and nothing is written"
    UNKNOWN_LOST = "the outcome is unknown, and nothing was written"
    UNKNOWN_KEPT = "the outcome is unknown, and everything was written"


@final
class FaultPlan:
    """
    Says what happens at which append; appends count from 1. Safe to change from any thread.

    Attributes:
        appends: how many have begun.
        failed: how many of them failed.
        refused: how many were refused, or kept waiting for a log that can't be opened again, since one was written.
        on_refused: called at each of these, where it happens.

    Example:
        >>> plan = FaultPlan()
        >>> plan.at(3, Fault.UNKNOWN_KEPT)
        >>> plan.always(Fault.FULL)     # from now on
        >>> plan.never()                # the disk has room again
    """

    def __init__(self) -> None:
        """Make a plan without faults."""
        self._lock = threading.Lock()
        self._at: dict[int, Fault] = {}
        self._always: Fault | None = None
        self._reopening_fails = 0
        self._gate = threading.Event()
        self._gate.set()
        self._holder = 0  # the thread that ordered `hold`
        self._reached = threading.Condition(self._lock)
        self._waiting = 0
        self.appends = 0
        self.failed = 0
        self.refused = 0
        self.on_refused: Callable[[], None] = _nothing

    def at(self, number: int, fault: Fault) -> None:
        """
        Fail the append of that number.

        Raises:
            ValueError: it has begun already, so that this would never happen.
            TypeError: that is no number, or no fault.
        """
        _look(fault)
        if type(cast("object", number)) is not int:
            raise TypeError(f"appends are counted by whole numbers from 1, this is {number!r}")
        with self._lock:
            if number <= self.appends:
                raise ValueError(f"append {number} can't fail any more: {self.appends} have begun; they count from 1")
            self._at[number] = fault

    def next(self, fault: Fault) -> None:
        """Fail the next append that begins."""
        _look(fault)
        with self._lock:
            self._at[self.appends + 1] = fault

    def always(self, fault: Fault) -> None:
        """Fail every append from now on, until `never`; whoever asks for something meanwhile waits for that."""
        _look(fault)
        with self._lock:
            self._always = fault

    def never(self) -> None:
        """Fail none from now on."""
        with self._lock:
            self._always = None
            self._at.clear()

    def fail_reopening(self, times: int) -> None:
        """Let the next `times` calls of `reopen` fail."""
        with self._lock:
            self._reopening_fails = times

    def hold(self) -> None:
        """Make appends wait before they write, until `let_go`, on another thread: a slow disk, without a clock."""
        self._holder = threading.get_ident()
        self._gate.clear()

    def let_go(self) -> None:
        """Let waiting appends go on, and later ones through."""
        self._gate.set()

    def wait_appends(self, number: int, timeout_seconds: float = 30.0) -> bool:
        """Wait until that many appends have begun; False if they don't in time."""
        with self._reached:
            return self._reached.wait_for(lambda: self.appends >= number, timeout_seconds)

    def begin(self) -> Fault | None:
        """Count an append and say what happens to it."""
        with self._reached:
            self.appends += 1
            fault = self._at.pop(self.appends, self._always)
            self.failed += fault is not None
            self._reached.notify_all()
            written = fault in (None, Fault.UNKNOWN_KEPT)
            self.refused = 0 if written else self.refused + 1
        if not written:
            self.on_refused()
        if self._holder == threading.get_ident() and not self._gate.is_set():
            raise RuntimeError(f"append {self.appends} is held, on the only thread that could let it go")
        self._waiting += 1
        self._gate.wait()
        self._waiting -= 1
        return fault

    @property
    def held(self) -> int | None:
        """The number of the append that waits for `let_go`; None if none does."""
        with self._lock:
            return None if self._gate.is_set() or not self._waiting else self.appends

    def begin_reopening(self) -> bool:
        """Say whether this `reopen` fails."""
        with self._lock:
            fails = self._reopening_fails > 0
            self._reopening_fails -= fails
            self.refused += fails
        if fails:
            self.on_refused()
        return fails

    def __str__(self) -> str:
        """Say what is ordered, as a test orders it."""
        with self._lock:
            orders = [] if self._always is None else [f"always({self._always})"]
            orders += [f"at({number}, {fault})" for number, fault in sorted(self._at.items())]
            orders += [f"fail_reopening({self._reopening_fails})"] if self._reopening_fails else []
            orders += [] if self._gate.is_set() else ["hold()"]
        return ", ".join(orders) or "nothing"


def _nothing() -> None:
    """Do nothing."""


def _look(fault: object) -> None:
    if not isinstance(fault, Fault):
        raise TypeError(f"a fault is one of {', '.join(map(str, Fault))}, this is {fault!r}")


@final
class FaultyLog:
    """A `Log` that passes everything on to another one and fails by plan."""

    def __init__(self, log: Log, plan: FaultPlan) -> None:
        """Take the log that does the work, and the plan."""
        self.log = log
        self.plan = plan

    def reader(self) -> AbstractContextManager[Reader]:
        """Open a view."""
        return self.log.reader()

    def acquire(self) -> Epoch:
        """Take the next epoch."""
        return self.log.acquire()

    def append(self, units: Sequence[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
        """Append, or fail as planned."""
        fault = self.plan.begin()
        if fault is Fault.FULL:
            raise StoreFull("planned: no space is left on the device; nothing was written")
        if fault is Fault.REFUSED:
            raise StoreFailed("planned: the write failed; nothing was written")
        if fault is Fault.UNKNOWN_LOST:
            raise StoreFailed("planned: the commit broke off", maybe_happened=True)
        receipts = self.log.append(units, epoch=epoch)
        if fault is Fault.UNKNOWN_KEPT:
            raise StoreFailed("planned: the commit broke off", maybe_happened=True)
        return receipts

    def replace_rows(self, rows: Mapping[Key, bytes], *, version: int, at: Position, epoch: Epoch) -> int:
        """Replace the rows; no plan has that fail."""
        return self.log.replace_rows(rows, version=version, at=at, epoch=epoch)

    def seal(self, streams: Mapping[str, Version], *, epoch: Epoch) -> int:
        """Seal; no plan has that fail."""
        return self.log.seal(streams, epoch=epoch)

    def subscribe(self, callback: Callable[[Position], None]) -> Callable[[], None]:
        """Call back after each commit of the log below, also one that was reported as unknown."""
        return self.log.subscribe(callback)

    def reopen(self) -> Head:
        """Open the log below again, or fail as planned."""
        if self.plan.begin_reopening():
            raise StoreFailed("planned: it can't be opened again")
        return self.log.reopen()

    def close(self) -> None:
        """Close the log below."""
        self.log.close()
