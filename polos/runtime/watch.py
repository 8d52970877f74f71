"""Who in this process waits for the end of a run: futures, resolved when the end is durable, never polled."""

from __future__ import annotations

import asyncio

__all__ = ["Watchers"]


class Watchers:
    """Futures by run."""

    def __init__(self) -> None:
        """Start with none."""
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
        for future in self._futures.pop(run, []):
            if not future.done():
                future.set_result(True)

    def close(self) -> None:
        """Tell everybody that nobody will know any more."""
        for run in list(self._futures):
            for future in self._futures.pop(run):
                if not future.done():
                    future.set_result(False)
