"""Who in this process waits for the end of a run: futures, resolved when the end is durable, never polled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.json import Json
from polos.errors import PolosError

__all__ = ["End", "Watchers", "end_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """
    How a run ended.

    Attributes:
        status: `completed`, `failed` or `cancelled`.
        result: what its body returned, as JSON; the engine's own, so not to be changed.
        type: path of the result's type, if one was recorded.
        error: the message of what it failed with.
        by: who cancelled it.
    """

    status: str
    result: Json = None
    type: str | None = None
    error: str | None = None
    by: str | None = None


def end_of(event: e.Event | None) -> End | None:
    """Give the end that an event is; None if it is none, or if a successor goes on."""
    match event:
        case e.RunCompleted():
            return End(status="completed", result=event.result, type=event.result_type)
        case e.RunFailed():
            return End(status="failed", error=event.error.message)
        case e.RunCancelled():
            return End(status="cancelled", by=event.by)
        case _:
            return None


class Watchers:
    """
    Futures by run.

    Attributes:
        over: why the engine will never tell of an end any more; None while it will.
    """

    def __init__(self, on_end: Callable[[str], None] = lambda _run: None) -> None:
        """Start with none; `on_end` is told of each end, too, whoever else waits for it."""
        self.over: PolosError | None = None
        self._on_end = on_end
        self._futures: dict[str, list[asyncio.Future[End | None]]] = {}

    def watch(self, run: str, loop: asyncio.AbstractEventLoop) -> asyncio.Future[End | None]:
        """
        Give a future that gets the run's end when that is durable.

        It gets None when the log has to be asked: a successor goes on, or the engine stops before, or has lost the log.
        """
        future: asyncio.Future[End | None] = loop.create_future()
        held = self._futures.setdefault(run, [])
        held.append(future)

        def drop(_: object) -> None:
            if future in held:
                held.remove(future)
            if not held and self._futures.get(run) is held:
                del self._futures[run]

        future.add_done_callback(drop)
        return future

    def ended(self, run: str, end: End | None = None) -> None:
        """Tell everybody who waits for this run, and how it ended, if the engine knows."""
        self._on_end(run)
        for future in self._futures.pop(run, ()):
            if not future.done():
                future.set_result(end)

    def fail(self, error: Exception) -> int:
        """Have everybody who waits get an error; gives how many that are."""
        waiting = [future for held in self._futures.values() for future in held if not future.done()]
        for future in waiting:
            future.set_exception(error)
        return len(waiting)

    def close(self, over: PolosError | None = None) -> None:
        """Tell everybody that nobody will know any more, and why, if the engine still seems to be there."""
        self.over = over
        for run in list(self._futures):
            for future in self._futures.pop(run):
                if not future.done():
                    future.set_result(None)
