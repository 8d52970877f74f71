"""
Events as they become durable, decoded, in one list.

A test that asks "was this charged twice?" asks the log, not the program. The list is filled by the log itself, on the
thread that commits, so it has what is durable, in order, and nothing else: also what the engine was never told of,
because a commit's outcome was unknown, and also after the engine has stopped and the log is closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final, overload

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import RUN_PREFIX
from polos.store.log import Log, Position

__all__ = ["Captured", "CapturedEvents"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """
    One durable event and its place. An example stands at `JumpingClock`.

    Attributes:
        position: place in the log, from 1.
        stream: what it belongs to.
        run: the run that it belongs to; None if it is no run's.
        version: place in its stream, from 1.
        time_us: when it was recorded, in microseconds since the epoch by the test's clock.
        event: what happened.
    """

    position: int
    stream: str
    run: str | None
    version: int
    time_us: int
    event: e.Event

    @property
    def type(self) -> str:
        """The event's type: "RunCompleted", "StepCompleted", ..."""
        return type(self.event).__name__


@final
class CapturedEvents(Sequence[Captured]):
    """What became durable, in order; grows as the engine works; an example stands at `JumpingClock`."""

    def __init__(self) -> None:
        """Begin without any."""
        self._kept: list[Captured] = []
        self._reading = threading.Lock()  # commits are on another thread than whoever opens the log
        self._position = Position(0)
        self._log: Log | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def follow(self, log: Log) -> None:
        """Capture what this log has and what it gets from now on; the one before is left."""
        if log is self._log:
            return
        self._unsubscribe()
        self._log = log
        self._unsubscribe = log.subscribe(lambda _position: self._read(log))
        self._read(log)

    # ------------------------------------------------------------------------------------ reading

    def __len__(self) -> int:
        """Count them."""
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Captured: ...

    @overload
    def __getitem__(self, index: slice) -> list[Captured]: ...

    def __getitem__(self, index: int | slice) -> Captured | list[Captured]:
        """Give one, or some."""
        return self._kept[index]

    def __iter__(self) -> Iterator[Captured]:
        """Give those that are there now."""
        return iter(list(self._kept))

    def __repr__(self) -> str:
        """Show the types in order."""
        return f"<captured {self.types()}>"

    def of(self, *types: type[Any] | str, run: object = None) -> list[Any]:
        """
        Give the events of some types.

        Args:
            *types: classes of `polos.engine.events`, or their names; all types if none is given.
            run: only of this run: its id or its handle.

        Returns:
            The events themselves, in order.
        """
        return [captured.event for captured in self._matching(types, run)]

    def types(self, run: object = None) -> list[str]:
        """Give the types of what happened to a run, in order; of everything if no run is given."""
        return [captured.type for captured in self._matching((), run)]

    async def wait_for(self, *types: type[Any] | str, run: object = None, count: int = 1) -> Captured:
        """
        Wait until something is durable.

        Args:
            *types: as for `of`.
            run: as for `of`.
            count: until so many are.

        Returns:
            The one of that number.
        """
        while True:
            loop = asyncio.get_running_loop()
            changed: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, changed))  # before looking: what comes in between isn't missed
            try:
                found = self._matching(types, run)
                if len(found) >= count:
                    return found[count - 1]
                await changed
            finally:
                self._waiting.remove((loop, changed))

    def fail(self, error: Exception) -> int:
        """Have everybody who waits on the running loop get an error; gives how many that are."""
        here = asyncio.get_running_loop()
        waiting = [changed for loop, changed in self._waiting if loop is here and not changed.done()]
        for changed in waiting:
            changed.set_exception(error)
        return len(waiting)

    # ------------------------------------------------------------------------------------ private

    def _matching(self, types: tuple[type[Any] | str, ...], run: object) -> list[Captured]:
        names = {name if isinstance(name, str) else name.__name__ for name in types}
        unknown = names - e.EVENTS.keys()
        if unknown:
            raise ValueError(f"there are no events {sorted(unknown)}; polos.engine.events has {sorted(e.EVENTS)}")
        wanted = None if run is None else str(getattr(run, "id", run))
        return [
            captured
            for captured in list(self._kept)
            if (not names or captured.type in names) and (wanted is None or captured.run == wanted)
        ]

    def _read(self, log: Log) -> None:
        """Take what is new, on whichever thread has committed it."""
        with self._reading, log.reader() as reader:
            for record in reader.records(after=self._position):
                run = record.stream.removeprefix(RUN_PREFIX) if record.stream.startswith(RUN_PREFIX) else None
                event = decode(record.type, record.schema_version, record.payload)
                self._kept.append(
                    Captured(
                        position=record.position, stream=record.stream, run=run, version=record.version,
                        time_us=record.time_us, event=event,
                    )
                )  # fmt: skip
                self._position = record.position
        for loop, changed in list(self._waiting):
            if not loop.is_closed():
                loop.call_soon_threadsafe(_changed, changed)


def _changed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
