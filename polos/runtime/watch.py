"""Who in this process waits for the end of a run: futures, resolved when the end is durable, never polled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Watchers"]


class Watchers:
    """Futures by run."""

    def __init__(self, on_end: Callable[[str], None] = lambda _run: None) -> None:
        """Start with none; `on_end` is told of each end, too, whoever else waits for it."""
        self._on_end = on_end
        self._futures: dict[str, list[asyncio.Future[bool]]] = {}

    def watch(self, run: str, loop: asyncio.AbstractEventLoop) -> asyncio.Future[bool]:
        """Give a future that gets True when the run's end is durable, False when the engine stops before."""
        future: asyncio.Future[bool] = loop.create_future()
        held = self._futures.setdefault(run, [])
        held.append(future)

        def drop(_: object) -> None:
            if future in held:
                held.remove(future)
            if not held and self._futures.get(run) is held:
                del self._futures[run]

        future.add_done_callback(drop)
        return future

    def ended(self, run: str) -> None:
        """Tell everybody who waits for this run."""
        self._on_end(run)
        for future in self._futures.pop(run, []):
            if not future.done():
                future.set_result(True)

    def close(self) -> None:
        """Tell everybody that nobody will know any more."""
        for run in list(self._futures):
            for future in self._futures.pop(run):
                if not future.done():
                    future.set_result(False)
