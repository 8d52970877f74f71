"""
What the engine needs of the things around it, in its own words.

Each has more than one form: code is replayed or does I/O itself, a store is a directory or held in memory, and what
appends is a thread of its own, or part of a simulation that has only one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from polos.engine import events as e
from polos.engine.commands import Request
from polos.replay.facts import Fact, Outcome, Pending
from polos.store.blobs import Blobs
from polos.store.inbox import Inbox
from polos.store.log import AppendUnit, Epoch, Head, Log
from polos.store.writer import Outcome as Written
from polos.store.writer import WriterStatistics

if TYPE_CHECKING:
    import asyncio

    from polos.runtime.engine import Engine
    from polos.runtime.performer import Performer
    from polos.runtime.unit import Unit

__all__ = ["Appender", "MakesAppender", "MakesPerformer", "Mark", "OwnedStore", "RunCode"]


class OwnedStore(Protocol):
    """What an engine owns; `polos.store.directory.Store` is one."""

    @property
    def owner_engine(self) -> object | None:
        """The engine of this process that runs on it."""
        ...

    @owner_engine.setter
    def owner_engine(self, engine: object | None) -> None: ...

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def log(self) -> Log:
        """The log."""
        ...

    @property
    def blobs(self) -> Blobs:
        """Large payloads."""
        ...

    @property
    def inbox(self) -> Inbox:
        """Commands from other processes."""
        ...

    def owner(self) -> object | None:
        """Give what owns it now, if anything does."""
        ...

    def acquire_ownership(self) -> Epoch:
        """Become the owner."""
        ...

    def release_ownership(self, *, clean: bool = True) -> None:
        """Give ownership up."""
        ...

    def collect_garbage(self) -> object:
        """Remove blobs that nothing needs; blocks."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Appender(Protocol):
    """What appends units in groups; `polos.store.writer.Writer` is one, and says what each method promises."""

    def submit(self, unit: AppendUnit, token: Unit) -> None:
        """Queue a unit."""
        ...

    def reset(self) -> Head:
        """Take units again after a failure."""
        ...

    def close(self) -> None:
        """Append what is queued, and stop."""
        ...

    def statistics(self) -> WriterStatistics:
        """Tell what was done and what waits."""
        ...


class MakesAppender(Protocol):
    """The class of an `Appender`."""

    def __call__(
        self,
        log: Log,
        epoch: Epoch,
        blobs: Blobs,
        *,
        on_commit: Callable[[list[tuple[Unit, Written]]], None],
        on_room: Callable[[], None],
    ) -> Appender:
        """Begin to append under an epoch."""
        ...


class Mark(Protocol):
    """Is told whose code is on the loop: the poison marker and the watchdog."""

    def enter(self, run: str, at: int) -> None:
        """This run's code is on the loop from now on, on the fact of that version."""
        ...

    def leave(self) -> None:
        """It isn't any more."""
        ...

    def close(self) -> None:
        """The engine stopped."""
        ...


class MakesPerformer(Protocol):
    """The class of a `Performer`, or of one that is held back at what it does."""

    def __call__(self, engine: Engine, loop: asyncio.AbstractEventLoop, /) -> Performer:
        """Begin to call functions for an engine, asynchronous ones on this loop."""
        ...


class RunCode(Protocol):
    """
    The code of one attempt of a run.

    `Driver` runs it deterministically and may be handed facts before they are durable; `DirectCode`
    lets it do I/O and hands it nothing that isn't.
    """

    direct: bool
    pending: dict[str, Pending]
    outcome: Outcome | None

    def activate(self, fact: Fact, *, recorded: Sequence[e.Event] | None = None) -> list[Request]:
        """Run the code on one fact and give what it asked for."""
        ...

    def discard(self) -> None:
        """Take the code out of memory."""
        ...

    def has_query(self, name: str) -> bool:
        """Tell whether there is a function for this query."""
        ...

    def query(self, name: str, args: tuple[Any, ...]) -> Any:
        """Call a function registered by `ctx.on_query`."""
        ...

    def has_update(self, name: str) -> bool:
        """Tell whether there is a handler for this update."""
        ...

    def validate_update(self, name: str, data: Any) -> None:
        """Let the validator look at an update."""
        ...
