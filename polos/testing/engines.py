"""
`Polos` for tests: on a log in memory or in a private directory, on a clock that jumps, with faults on order.

Nothing of the engine is replaced but its clock and, for the log in memory, what is below the log's contract: the thread
that appends, the loop, steps in threads are the real ones. A log in memory keeps what it has while its `Polos` is
stopped and started again, as a directory does, so a restart can be tested on either.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, final

from polos.errors import PolosUsageError, StoreClosed
from polos.runtime.app import Polos
from polos.runtime.ports import OwnedStore
from polos.runtime.watch import End
from polos.store.blobs import Blobs
from polos.store.directory import open_store
from polos.store.faults import FaultPlan, FaultyLog
from polos.store.inbox import Inbox
from polos.store.log import Epoch, Log
from polos.testing.capture import CapturedEvents
from polos.testing.jumping import JumpingClock
from polos.testing.store import MemoryStore
from polos.testing.unanswered import NeverAnswered, Unanswered

__all__ = ["QUIET", "polos_in_memory", "polos_on_disk"]

# An inbox that is looked at every 20 ms would keep time from standing still; only other processes need it.
QUIET: dict[str, Any] = {"inbox_poll_seconds": 0}


def polos_in_memory(
    clock: JumpingClock, *, place: Path, events: CapturedEvents, faults: FaultPlan, settings: dict[str, Any]
) -> Polos:
    """
    Make a `Polos` on a log in memory; it isn't started.

    Args:
        clock: its time.
        place: where it says that it is; nothing is made there.
        events: gets what becomes durable.
        faults: says when the log fails.
        settings: fields of `polos.runtime.settings.Settings`, over `QUIET`.
    """
    store = MemoryStore()
    store.path = place
    events.follow(store.log)
    return _TestedPolos(
        clock, events=events, faults=faults, data_dir=place, opens=lambda: _Watched(store, faults), settings=settings
    )


def polos_on_disk(
    clock: JumpingClock, *, place: Path, events: CapturedEvents, faults: FaultPlan, settings: dict[str, Any]
) -> Polos:
    """Make a `Polos` on a directory, in LMDB as a program has it; arguments as for `polos_in_memory`."""
    opened = partial(open_store, place, sync=settings.get("sync", "full"), clock=clock)

    def opens() -> OwnedStore:
        store = opened()
        events.follow(store.log)
        return _Watched(store, faults)

    return _TestedPolos(clock, events=events, faults=faults, data_dir=place, opens=opens, settings=settings)


@final
class _TestedPolos(Polos):
    """A `Polos` whose clock knows its engine."""

    def __init__(
        self, clock: JumpingClock, *, events: CapturedEvents, faults: FaultPlan, settings: dict[str, Any], **given: Any
    ) -> None:
        super().__init__(clock=clock, **given, **(QUIET | settings))
        self._jumping = clock
        self._events = events
        self._faults = faults
        self._unanswered: Unanswered | None = None
        self._never: NeverAnswered | None = None
        # A fixture is made before its test defines workflows, perhaps under an id that an earlier test has used: so
        # each is looked up in the registry when it is needed, and what is there then counts.
        self._definitions = {}

    async def start(self) -> None:
        """Start, and let the clock wait for the engine from the first moment."""
        if self._engine is None:
            await super().start()
            self._jumping.watch(self.engine)
            self._unanswered = Unanswered(
                self.engine, self._connection(), clock=self._jumping, plan=self._faults, events=self._events,
                cancel=self._cancel,
            )  # fmt: skip
            self._unanswered.start()

    async def stop(self) -> None:
        """
        Stop; that waits for a log that refuses or is held, and not for ever.

        Raises:
            NeverAnswered: an append was held, and nobody let it go; it went on then, and the engine has stopped.
        """
        unanswered, self._unanswered = self._unanswered, None
        if unanswered is None:
            await super().stop()
            return
        unanswered.stopping()
        try:
            await super().stop()
        finally:
            unanswered.stop()
        if unanswered.let_go is not None:
            raise unanswered.let_go

    def _terminate(self) -> None:
        """Let the process end, although an append is held: whoever could let it go is told to end."""
        self._faults.let_go()
        super()._terminate()

    def _cancel(self, error: NeverAnswered) -> None:
        """Take the test out of whatever it awaits."""
        self._never = error
        if self._task is not None:
            self._task.cancel(str(error))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and say why if the block was cancelled for what it awaits."""
        if error is not None:
            # The test is over, and with it whoever would have let go: an engine that waits for that can't stop, and
            # the error would never be seen.
            self._faults.let_go()
        await super().__aexit__(kind, error, trace)
        never, self._never = self._never, None
        if never is not None and isinstance(error, asyncio.CancelledError):
            if self._task is not None:
                self._task.uncancel()
            raise never from error

    async def _wait(self, run_id: str, timeout_seconds: float | None) -> End | None:
        """Wait as `Polos` does, but not for an engine that isn't started: no other comes, and no time passes."""
        if self._engine is None and (await self.get_execution(run_id))["completed_at"] is None:
            raise PolosUsageError(
                "this Polos isn't started, so the run never ends: put `async with polos:` around what waits for it"
            )
        return await super()._wait(run_id, timeout_seconds)


@final
class _Watched:
    """A store whose log fails by plan."""

    read_only = False

    def __init__(self, store: OwnedStore, faults: FaultPlan) -> None:
        self._store = store
        self._log = FaultyLog(store.log, faults)
        self._closed = False  # a log in memory lives on; who still waits on it learns that this one has ended

    @property
    def owner_engine(self) -> object | None:
        """The engine of this process that runs on it."""
        return self._store.owner_engine

    @owner_engine.setter
    def owner_engine(self, engine: object | None) -> None:
        self._store.owner_engine = engine

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._store.path

    @property
    def log(self) -> Log:
        """
        The log, with its faults.

        Raises:
            StoreClosed: as a log on disk.
        """
        if self._closed:
            raise StoreClosed(f"{self.path} is closed")
        return self._log

    @property
    def blobs(self) -> Blobs:
        """Large payloads."""
        return self._store.blobs

    @property
    def inbox(self) -> Inbox:
        """Commands from other processes."""
        return self._store.inbox

    def owner(self) -> object | None:
        """Give what owns it now."""
        return self._store.owner()

    def acquire_ownership(self) -> Epoch:
        """Become the owner."""
        return self._store.acquire_ownership()

    def collect_garbage(self) -> object:
        """Remove blobs that nothing needs."""
        return self._store.collect_garbage()

    def release_ownership(self, *, clean: bool = True) -> None:
        """Give ownership up."""
        self._store.release_ownership(clean=clean)

    def close(self) -> None:
        """Close it."""
        self._closed = True
        self._store.close()
