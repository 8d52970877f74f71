"""
A coroutine that says when it runs.

The code of a body that isn't replayed is entered by asyncio, a step at a time, and nobody of ours stands around it.
So its coroutine is awaited through this, which drives it by hand: before each step one function is called, after it
another, and what it waits for is passed on untouched. So a body that kills the process, or holds the loop, is known.
Only the body's own task is seen: not what it starts besides, and not what runs in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, final

__all__ = ["OnLoop"]

T = TypeVar("T")


@final
class OnLoop(Generic[T]):
    """Awaits a coroutine, and tells of each time that it runs."""

    def __init__(self, code: Coroutine[Any, Any, T], enter: Callable[[], None], leave: Callable[[], None]) -> None:
        """
        Take what to await.

        Args:
            code: the coroutine.
            enter: called before each of its steps.
            leave: called after each, however it ended.
        """
        self._code = code
        self._enter = enter
        self._leave = leave

    def __await__(self) -> Generator[Any, Any, T]:
        """Run it."""
        error: BaseException | None = None
        while True:
            try:
                self._enter()
            except BaseException:
                self._code.close()  # who stops it here has nothing to close it by
                raise
            try:
                awaited = self._code.send(None) if error is None else self._code.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                self._leave()
            try:
                yield awaited
                error = None
            except BaseException as thrown:  # noqa: BLE001  # GeneratorExit, too: the coroutine is closed by what closes this
                error = thrown
