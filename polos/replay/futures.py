"""
Tasks, futures and handles of a workflow loop.

asyncio keeps tasks and futures in sets in several places (`wait`, `as_completed`, `TaskGroup`), and a set's
order is the order of hashes. By default those are memory addresses, so the same program would go on
differently in the next process. Here they hash by creation number. The classes stay subclasses of the ones
written in C: a step of a task costs what it costs in plain asyncio.

A task also knows its *path*: `main`, `main.1`, `main.1.2`: its parent's path and its number among the
parent's children. Unlike a creation number it doesn't change when an unrelated branch gets ahead.
"""

# Handles fill the slots that asyncio.Handle declares; there is no public way to set them.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, final

from polos.replay.refusals import PureLoop

__all__ = ["Callback", "LoopTimer", "WorkflowFuture", "WorkflowTask", "awaited_by", "position_of"]

_RUNS_CODE: tuple[type[Any], ...] = (CoroutineType, GeneratorType, AsyncGeneratorType)


@final
class WorkflowFuture(asyncio.Future[Any]):
    """A future that hashes by number; the number is drawn when somebody first asks for the hash."""

    __slots__ = ("_number",)
    _number: int

    def __hash__(self) -> int:
        try:
            return self._number
        except AttributeError:
            # Numbered late, because hardly any future is ever hashed and one is made for every step.
            loop = self.get_loop()
            assert isinstance(loop, PureLoop)
            self._number = loop.next_number()
            return self._number


@final
class WorkflowTask(asyncio.Task[Any]):
    """
    A task of a workflow loop.

    Attributes:
        number: place in the creation order of this loop's tasks.
        path: `main`, or the parent's path and the number among the parent's children.
        context: the context its code runs in (Python 3.11 has no `get_context`).
        first_step: runs one plain step; kept while the task lives, to resume it after an error was thrown in by hand.
        children: how many tasks it has made.
        timers: how many timers it has started.
    """

    __slots__ = ("children", "context", "first_step", "number", "path", "timers")

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        loop: PureLoop,
        name: str | None,
        context: Context,
        path: str,
        **options: Any,
    ) -> None:
        # Before the base class, which (up to Python 3.13) puts the task into a set.
        self.number: int = loop.next_number()
        self.path: str = path
        self.context: Context = context
        self.first_step: Callable[[], object] | None = None
        self.children: int = 0
        self.timers: int = 0
        # asyncio numbers nameless tasks over all loops of the process; a path is the same everywhere.
        super().__init__(coro, loop=loop, name=path if name is None else name, context=context, **options)

    def __hash__(self) -> int:
        return self.number


class Callback(asyncio.Handle):
    """A callback that waits for its turn; `scope` is the task on whose behalf it was scheduled."""

    __slots__ = ("scope",)

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: PureLoop,
        context: Context,
        scope: WorkflowTask | None,
    ) -> None:
        # The base's __init__ would ask the loop for debug mode and note a stack; this is made for every step.
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self.scope = scope

    def __repr__(self) -> str:
        return f"<Callback {'cancelled' if self._cancelled else self._callback!r}>"


@final
class LoopTimer(asyncio.TimerHandle):
    """
    A timer that the code wants, to be made durable by the host and fired by `WorkflowLoop.fire`.

    Attributes:
        due: when, in seconds of the loop's clock.
        name: the task's path and a number: `main.1/timer#2`.
        fired: whether it was fired; after that a cancellation is no longer told to the host.
    """

    __slots__ = ("fired", "name", "scope")

    def __init__(  # noqa: PLR0917 -- as Callback, and called in one place
        self,
        due: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: PureLoop,
        context: Context,
        scope: WorkflowTask | None,
        name: str,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._when = due
        self._scheduled = True
        self.scope = scope
        self.name: str = name
        self.fired: bool = False

    @property
    def due(self) -> float:
        """When it is due, in seconds of the loop's clock."""
        return self._when

    # The base class compares due time and callback; two timers are never the same one.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<LoopTimer {self.name} due {self._when}{' cancelled' if self._cancelled else ''}>"


def awaited_by(code: object) -> list[object]:
    """Give a coroutine and what it awaits, and what that awaits, down to the iterator of a future or a bare yield."""
    chain: list[object] = []
    step: object = code
    while step is not None and step not in chain:
        chain.append(step)
        deeper: object = None
        for attribute in ("cr_await", "gi_yieldfrom", "ag_await"):
            deeper = deeper or getattr(step, attribute, None)
        if deeper is None and not isinstance(step, _RUNS_CODE):
            # One resumption of an async generator, or a coroutine's __await__: known to the collector only.
            inner: list[object] = gc.get_referents(step)
            deeper = next((one for one in inner if isinstance(one, _RUNS_CODE)), None)
        step = deeper
    return chain


def position_of(code: object) -> str:
    """Give `file:line` of where a coroutine, task or callback stands, outside asyncio where possible."""
    found = ""
    for step in awaited_by(code.get_coro() if isinstance(code, WorkflowTask) else code):
        frames = (getattr(step, attribute, None) for attribute in ("cr_frame", "gi_frame", "ag_frame"))
        for frame in frames:
            if isinstance(frame, FrameType) and not (found and _is_asyncio(frame)):
                found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    if found:
        return found
    plain: object = getattr(code, "func", code)  # functools.partial
    plain = getattr(plain, "__func__", plain)  # a bound method
    source = getattr(plain, "__code__", None)
    return f"{source.co_filename}:{source.co_firstlineno}" if isinstance(source, CodeType) else repr(code)


def _is_asyncio(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "asyncio"
