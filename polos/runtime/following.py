"""
Noticing that the log has moved, from coroutines.

In the process of the engine every commit rings, by the log's own hook, and nothing is polled. Seen
from another process a log makes no sound, so its head is looked at every few milliseconds, which
costs some ten microseconds a look. Which of the two applies can change while somebody waits (the
engine stops; one starts), so it is looked at again about once a second: only the way of noticing
depends on it, never what is noticed. An engine that has lost its log to another one isn't here any more.

What is noticed is merely "the head is behind this position now". Whoever waits looks for itself at
what that means, in one consistent view, and so can't miss anything or see it twice.

A follower waits after each commit, for the next. So the hook isn't let go with the last one who
waits but at the next look after that, and while it hangs the head is known without reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast, final

from polos.errors import PolosError, StoreFenced
from polos.store.log import LOG_START, Log, Position

if TYPE_CHECKING:
    from polos.runtime.connection import ClientStore

__all__ = ["POLL_SECONDS", "LogMoves", "Sooner"]

POLL_SECONDS: Final = 0.005
RECHECK_SECONDS: Final = 1.0


@final
class Sooner:
    """Something else that ends a wait for the log to move."""

    def __init__(self) -> None:
        """Not wanted yet."""
        self.wanted: bool = False
        self.waiting: asyncio.Future[None] | None = None

    def want(self) -> None:
        """Have the wait end; stays so until `wanted` is set back. From the loop of the one who waits."""
        self.wanted = True
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


@final
class LogMoves:
    """The moves of a log, for the coroutines of one loop."""

    def __init__(
        self, store: ClientStore, *, poll_seconds: float = POLL_SECONDS, recheck_seconds: float = RECHECK_SECONDS
    ) -> None:
        """
        Take the store.

        Args:
            store: the open data directory.
            poll_seconds: how often the head is looked at while the engine lives elsewhere.
            recheck_seconds: how often it is looked at where the engine lives.
        """
        self._store = store
        self._poll_seconds = poll_seconds
        self._recheck_seconds = recheck_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._source: Log | None = None  # the log whose hook we hang on
        self._unsubscribe: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ringing = False
        self._known = LOG_START  # the head was here, or is further

    def head(self) -> Position:
        """Give the position of the head now."""
        with self._store.log.reader() as reader:
            return reader.head().position

    async def behind(self, position: Position, sooner: Sooner | None = None) -> Position:
        """
        Wait until the head is behind a position, and give a position of the head that is.

        Args:
            position: the position.
            sooner: ends the waiting as well; what is given then is where the head was seen last.

        Raises:
            PolosStoreError: the log can't be read any more, for example because it was closed.
            EngineNotRunning: the log takes nothing any more, so that it doesn't move.
        """
        loop = asyncio.get_running_loop()
        assert self._loop in (None, loop), "one LogMoves belongs to one loop"
        self._loop = loop
        while True:
            # Counted as waiting before the head is looked at: a commit between the two then rings.
            waited = loop.create_future()
            if sooner is not None:
                sooner.waiting = waited
            self._waiting.add(waited)
            try:
                if self._timer is None:
                    self._arm()
                    self._known = self.head()
                elif self._source is None:
                    self._known = self.head()
                if self._known > position or (sooner is not None and sooner.wanted):
                    return self._known
                await waited
            finally:
                self._waiting.discard(waited)

    def fail(self, error: PolosError) -> int:
        """Have everybody who waits get an error; gives how many that are."""
        count = sum(not waited.done() for waited in self._waiting)
        self._wake(error)
        return count

    # ------------------------------------------------------------------------------------ private

    def _arm(self) -> None:
        """Hang on the hook of the engine's log if the engine is here, and see to it that this is looked at again."""
        assert self._loop is not None, "somebody waits, or did"
        engine = cast("Any", self._store.owner_engine)  # a LocalEngine; see connection.local_engine
        source: Log | None = None
        if engine is not None and not engine.loop.is_closed() and engine.watchers.over is None:
            source = engine.store.log
        if source is not self._source:
            self._unhook()
            if source is not None:
                self._source = source
                self._unsubscribe = source.subscribe(self._committed)
        nap = self._poll_seconds if source is None else self._recheck_seconds
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

    def _committed(self, position: Position) -> None:
        """Take the call of the log, on its appending thread."""
        self._known = position
        if self._ringing or not self._waiting or self._loop is None:
            return
        self._ringing = True
        try:
            self._loop.call_soon_threadsafe(self._ring)
        except RuntimeError:
            # The loop was closed while somebody waited; that mustn't harm the thread that commits.
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
        """Look at the head, and at whether the engine is still where it was; let go if nobody waits."""
        if not self._waiting:
            self._disarm()
            return
        engine = cast("Any", self._store.owner_engine)
        try:
            head = self.head()
            if engine is not None and not isinstance(engine.watchers.over, StoreFenced | None):
                raise engine.watchers.over
        except PolosError as error:
            self._disarm()
            self._wake(error)
            return
        if head > self._known:
            self._known = head
            self._wake(None)
        self._arm()
