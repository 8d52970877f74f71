"""
What appends, without a thread of its own.

Does what `polos.store.writer.Writer` does, to the same rules: what is queued when an append begins is its group, a
group takes a while, what comes meanwhile goes into the next, a failure fails everything that waits, and nothing is
taken until `reset`. How long an append takes is drawn from the world's chance.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, final

from polos.errors import PolosError, PolosStoreError, StoreClosed
from polos.points import reach
from polos.store.blobs import Blobs
from polos.store.log import AppendUnit, Epoch, Head, Log
from polos.store.writer import (
    Committed,
    Outcome,
    Refused,
    Unknown,
    WriterFailed,
    WriterFull,
    WriterStatistics,
    check_owner,
)
from polos.testing.world import World

if TYPE_CHECKING:
    from polos.runtime.unit import Unit

__all__ = ["SimulatedAppender"]


@final
class SimulatedAppender:
    """Appends in groups, on virtual time."""

    def __init__(
        self,
        log: Log,
        epoch: Epoch,
        blobs: Blobs,  # noqa: ARG002  # payloads stay in the log
        *,
        on_commit: Callable[[list[tuple[Unit, Outcome]]], None],
        on_room: Callable[[], None],
        world: World,
        queue_units_max: int = 10_000,
        latency_us_max: int = 0,
        hold: Callable[[str, Callable[[], None]], None] | None = None,
    ) -> None:
        """
        Begin to append.

        Args:
            log: to this.
            epoch: under this.
            blobs: not used; payloads stay in the log.
            on_commit: gets each group's units with their outcomes.
            on_room: called when units were refused for lack of room and there is room again.
            world: counts appends, and draws how long they take.
            queue_units_max: units that may wait.
            latency_us_max: how long an append takes at most; with 0 it takes no time.
            hold: is given what comes next, a group's append and then the handing back of its outcome, and has it
                happen when it likes; None for a disk that takes its time by chance.
        """
        self._log = log
        self._epoch = epoch
        self._on_commit = on_commit
        self._on_room = on_room
        self._world = world
        self._queue_units_max = queue_units_max
        self._latency_us_max = latency_us_max
        self._hold = hold
        self._queue: deque[tuple[AppendUnit, Unit]] = deque()
        self._busy = False
        self._refused = False
        self._failure: Exception | None = None
        self._failure_unknown = False
        self._closed = False
        self._commits = self._units = self._failures = 0

    @property
    def busy(self) -> bool:
        """Whether an append is under way."""
        return self._busy

    def submit(self, unit: AppendUnit, token: Unit) -> None:
        """Queue a unit."""
        if self._closed:
            raise StoreClosed("the appender was closed")
        if self._failure is not None:
            raise WriterFailed(self._failure)
        if len(self._queue) >= self._queue_units_max:
            self._refused = True
            raise WriterFull
        self._queue.append((unit, token))
        if not self._busy:
            self._begin_soon()

    def reset(self) -> Head:
        """Take units again after a failure."""
        if self._failure_unknown:
            head = self._log.reopen()
        else:
            with self._log.reader() as reader:
                head = reader.head()
        check_owner(head, self._epoch)
        self._failure, self._failure_unknown = None, False
        return head

    def close(self) -> None:
        """Append what is queued, and stop."""
        self._closed = True
        while self._queue and self._failure is None:
            self._append(self._take())

    def statistics(self) -> WriterStatistics:
        """Tell what was done and what waits."""
        return WriterStatistics(
            commits=self._commits,
            units=self._units,
            failures=self._failures,
            queue_units=len(self._queue),
            queue_bytes=0,
        )

    # ------------------------------------------------------------------------------------ private

    def _take(self) -> list[tuple[AppendUnit, Unit]]:
        group = list(self._queue)
        self._queue.clear()
        return group

    def _begin_soon(self) -> None:
        self._busy = True
        if self._hold is not None:
            self._hold("append", self._begin)
        else:
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        group = self._take()
        if not group:  # `close` was quicker
            self._busy = False
            return
        if self._hold is not None:
            self._append(group)
            return
        latency_us = self._world.chance.randrange(self._latency_us_max + 1)
        loop = asyncio.get_running_loop()
        if latency_us:
            loop.call_later(latency_us / 1e6, self._append, group)
        else:
            loop.call_soon(self._append, group)

    def _append(self, group: list[tuple[AppendUnit, Unit]]) -> None:
        self._world.tick()
        reach("before_append")
        outcomes: list[tuple[Unit, Outcome]] = []
        try:
            receipts = self._log.append([unit for unit, _ in group], epoch=self._epoch)
        except PolosError as error:
            unknown = isinstance(error, PolosStoreError) and error.maybe_happened
            self._failures += 1
            self._failure, self._failure_unknown = error, unknown
            outcomes += [(token, Unknown(error=error) if unknown else Refused(error=error)) for _, token in group]
            outcomes += [(token, Refused(error=error, following=True)) for _, token in self._take()]
        else:
            self._commits += 1
            self._units += len(group)
            for (_, token), receipt in zip(group, receipts, strict=True):
                outcomes.append((token, Committed(receipt=receipt)))
            reach("after_append_before_handback")
        self._world.tick()
        self._busy = False
        if self._hold is None:
            self._hand_back(outcomes)
            return
        # A writer on a thread goes on with the next group, whether or not the program's loop has come to this one.
        self._hold("hand back", lambda: self._hand_back(outcomes))
        self._go_on()

    def _hand_back(self, outcomes: list[tuple[Unit, Outcome]]) -> None:
        self._on_commit(outcomes)
        if self._refused and self._failure is None:
            self._refused = False
            self._on_room()
        self._go_on()

    def _go_on(self) -> None:
        if self._queue and not self._busy and not self._closed:
            self._begin_soon()
