"""
Noticing that the log has moved, from coroutines.

In the process of the engine every commit rings, by the log's own hook, and nothing is polled. Seen
from another process a log makes no sound, so its head is looked at every few milliseconds, which
costs some ten microseconds a look. Which of the two applies can change while somebody waits (the
engine stops; one starts), so it is looked at again about once a second: only the way of noticing
depends on it, never what is noticed.

What is noticed is merely "the head is behind this position now". Whoever waits looks for itself at
what that means, in one consistent view, and so can't miss anything or see it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast, final

from polos.errors import PolosError
from polos.store.log import Log, Position

if TYPE_CHECKING:
    from polos.runtime.connection import ClientStore

__all__ = ["POLL_SECONDS", "LogMoves"]

POLL_SECONDS: Final = 0.005
RECHECK_SECONDS: Final = 1.0


@final
class LogMoves:
    """The moves of a log, for the coroutines of one loop; it listens only while somebody waits."""

    def __init__(self, store: ClientStore, *, poll_seconds: float = POLL_SECONDS) -> None:
        """Take the store, and how often the head is looked at while the engine lives elsewhere."""
        self._store = store
        self._poll_seconds = poll_seconds
        self._inside = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._source: Log | None = None  # the log whose hook we hang on
        self._unsubscribe: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ringing = False
        self._seen = Position(0)

    def head(self) -> Position:
        """Give the position of the head now."""
        with self._store.log.reader() as reader:
            return reader.head().position

    async def behind(self, position: Position) -> Position:
        """
        Wait until the head is behind a position, and give the head.

        Raises:
            PolosStoreError: the log can't be read any more, for example because it was closed.
        """
        loop = asyncio.get_running_loop()
        self._enter(loop)
        try:
            while (head := self.head()) <= position:
                # Nothing is missed between the look and the wait: a ring is delivered by the loop, later.
                waited = loop.create_future()
                self._waiting.add(waited)
                try:
                    await waited
                finally:
                    self._waiting.discard(waited)
            return head
        finally:
            self._leave()

    # ------------------------------------------------------------------------------------ private

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count one more who waits; the first begins to listen."""
        assert not self._inside or self._loop is loop, "one LogMoves belongs to one loop"
        self._inside += 1
        if self._inside == 1:
            self._loop = loop
            self._ringing = False  # a ring on its way to a loop that was closed never came
            self._arm()

    def _leave(self) -> None:
        """Count one less; the last stops listening."""
        self._inside -= 1
        if self._inside == 0:
            self._disarm()

    def _arm(self) -> None:
        """Hang on the hook of the engine's log if the engine is here, and see to it that this is looked at again."""
        assert self._loop is not None, "armed by _enter"
        engine = cast("Any", self._store.owner_engine)  # a LocalEngine; see connection.local_engine
        source: Log | None = None if engine is None or engine.loop.is_closed() else engine.store.log
        if source is not self._source:
            self._unhook()
            if source is not None:
                self._source = source
                self._unsubscribe = source.subscribe(self._committed)
        nap = self._poll_seconds if source is None else RECHECK_SECONDS
        self._timer = self._loop.call_later(nap, self._look)

    def _unhook(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._source = self._unsubscribe = None

    def _disarm(self) -> None:
        self._unhook()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _committed(self, _position: Position) -> None:
        """Take the call of the log, on its appending thread."""
        loop = self._loop
        if self._ringing or loop is None:
            return
        self._ringing = True
        try:
            loop.call_soon_threadsafe(self._ring)
        except RuntimeError:
            # The loop was closed with somebody inside; that mustn't harm the thread that commits.
            self._unhook()

    def _ring(self) -> None:
        # Set back before anybody looks: a commit during the looking rings once more.
        self._ringing = False
        self._wake(None)

    def _wake(self, error: PolosError | None) -> None:
        for waited in self._waiting:
            if waited.done():
                continue
            if error is None:
                waited.set_result(None)
            else:
                waited.set_exception(error)

    def _look(self) -> None:
        """Look at the head, and at whether the engine is still where it was."""
        try:
            head = self.head()
        except PolosError as error:
            self._disarm()
            self._wake(error)
            return
        if head > self._seen:
            self._seen = head
            self._wake(None)
        self._arm()
