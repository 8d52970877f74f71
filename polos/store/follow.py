"""
Following a log: what is behind a position now, and what comes.

A follower remembers one position and nothing else. In the process that appends it is woken by each
commit. In another process nobody can wake it, so it looks at the head every few milliseconds; a look costs
some microseconds. Either way it reads whole batches in short views, never one view across a wait, and what it
gives is the log: nothing twice, nothing left out, in order, from the position it was started behind.

It is used from a thread (`for`) or from an event loop (`async for`), by one of them at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Self, final

from polos.errors import StoreClosed
from polos.store.log import LOG_START, Log, Position, Record

__all__ = ["Follower"]

BATCH_RECORDS_MAX = 256


@final
class Follower:
    """
    Gives the records of a log behind a position, those that come included, until it is closed.

    Example:
        >>> from polos.store.memory import MemoryLog
        >>> with Follower(MemoryLog()) as follower:
        ...     follower.take()
        []
    """

    def __init__(
        self,
        log: Log,
        *,
        after: Position = LOG_START,
        poll_seconds: float | None = None,
        batch_records_max: int = BATCH_RECORDS_MAX,
    ) -> None:
        """
        Start behind a position.

        Args:
            log: what to follow.
            after: the last position that is known already.
            poll_seconds: how often to look for what another process appends; None to be woken by this process only.
            batch_records_max: records read in one view.
        """
        self._log = log
        self._position = after
        self._poll_seconds = poll_seconds
        self._batch_records_max = batch_records_max
        self._changed = threading.Condition()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()
        self._woken = True  # something may be there that wasn't looked at
        self._closed = False
        self._unsubscribe = log.subscribe(lambda _: self.wake())

    @property
    def position(self) -> Position:
        """The position up to which records were given."""
        return self._position

    def take(self) -> list[Record]:
        """
        Give what is there now behind the position, at most a batch, and go on behind it; never waits.

        Raises:
            StoreClosed: the log was closed.
            StoreDamaged: what is there isn't what was written; the position stays in front of it.
        """
        with self._changed:
            self._woken = False
        with self._log.reader() as reader:
            records = list(reader.records(after=self._position, limit=self._batch_records_max))
        if records:
            self._position = records[-1].position
        if len(records) == self._batch_records_max:
            self.wake()
        return records

    def wake(self) -> None:
        """Have it look again, from any thread."""
        with self._changed:
            self._woken = True
            waiting, self._waiting = self._waiting, set()
            self._changed.notify_all()
        for loop, future in waiting:
            _call(loop, future)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Block this thread until there may be something to take, or it is closed; False if neither in time."""
        with self._changed:
            if self._poll_seconds is None:
                return self._changed.wait_for(self._may_go_on, timeout_seconds)
            limit = self._poll_seconds if timeout_seconds is None else min(self._poll_seconds, timeout_seconds)
            return self._changed.wait_for(self._may_go_on, limit) or limit == self._poll_seconds

    async def wait_async(self) -> None:
        """Wait until there may be something to take, or it is closed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._changed:
            if self._may_go_on():
                return
            self._waiting.add((loop, future))
        timer = None if self._poll_seconds is None else loop.call_later(self._poll_seconds, _resolve, future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            with self._changed:
                self._waiting.discard((loop, future))

    def close(self) -> None:
        """Stop; whoever waits goes on, and iteration ends. Closing twice is fine, and the log stays open."""
        self._closed = True
        self._unsubscribe()
        self.wake()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.close()

    def __iter__(self) -> Iterator[Record]:
        """Give records, blocking this thread for more, until closed."""
        while not self._closed:
            records = self._take_open()
            yield from records
            if not records:
                self.wait()

    async def __aiter__(self) -> AsyncIterator[Record]:
        """Give records, waiting for more, until closed."""
        while not self._closed:
            records = self._take_open()
            for record in records:
                yield record
            if not records:
                await self.wait_async()

    def _may_go_on(self) -> bool:
        return self._woken or self._closed

    def _take_open(self) -> list[Record]:
        """Take, and end the iteration if the log was closed below it."""
        try:
            return self.take()
        except StoreClosed:
            self.close()
            return []


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _call(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed with the one who waited on it
        loop.call_soon_threadsafe(_resolve, future)
