"""What passes between a run's code and the shell: facts one way, calls and outcomes the other."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Protocol

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.retry import RetryPolicy

__all__ = ["Counters", "Earlier", "Fact", "Outcome", "Pending", "StepCall", "UpdateHandler", "Values", "carries_place"]


@dataclass(slots=True, kw_only=True)
class Fact:
    """
    Something that happened to the run, with its place.

    Attributes:
        version: place in the run's stream.
        event: what happened.
        time_us: the record's time.
        position: place in the log; 0 while it isn't known, which is until it is durable, or if nobody asks for it.
        source: for `ResultReused`, the event of the earlier attempt that holds the answer.
        source_position: place of that event in the log.
    """

    version: int
    event: e.Event
    time_us: int
    position: int = 0
    source: e.Event | None = None
    source_position: int = 0


def carries_place(event: e.Event) -> bool:
    """Tell whether code that gets this answer is told where it stands in the log; a signal is its data alone."""
    return isinstance(event, e.ResultReused) or (isinstance(event, e.WaitSatisfied) and event.kind != "signal")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """How the shell is to perform a step."""

    key: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    policy: RetryPolicy
    timeout_seconds: float | None = None
    effect: str = "idempotent"
    reconcile: Callable[..., Any] | None = None
    hint: Any = None
    context: contextvars.Context | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """
    What earlier attempts of a run finished.

    Attributes:
        finished: gives the version of the event that finished a name, None if there is none.
        event: reads an event of the run by version.
    """

    finished: Callable[[str], int | None]
    event: Callable[[int], e.Event]


@dataclass(slots=True)
class Pending:
    """A request whose answer the code waits for."""

    future: asyncio.Future[Fact]
    request: e.Event
    call: StepCall | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the body ended: with a result, or with an error."""

    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class UpdateHandler:
    """What `ctx.on_update` registered."""

    func: Callable[..., Any]
    validator: Callable[..., Any] | None


class Values(Protocol):
    """Where values that code may not make itself come from; `polos.clock.Clock` fits."""

    def now_us(self) -> int:
        """Microseconds since the epoch."""
        ...

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def uuid4(self) -> str:
        """A random UUID."""
        ...


@dataclass(slots=True)
class Counters:
    """Names in program order: the second use of a key is `key#2` (D11)."""

    used: dict[str, int] = field(default_factory=dict[str, int])

    def name(self, key: str) -> str:
        """Give the key's next name."""
        escaped = key.replace("#", "##")
        count = self.used.get(escaped, 0) + 1
        self.used[escaped] = count
        return escaped if count == 1 else f"{escaped}#{count}"
