"""
When code of the program had the word, as far as a loop can tell.

Two points of a life can be taken for one only if no code ran between them that may have done something outside. What
code that would be can't be listed: functions of steps, bodies, and whatever these have left on the loop, as tasks,
callbacks and timers. So it is told the other way round: all is the program's that isn't the engine's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any, Final, cast, final

__all__ = ["ProgramCode"]

_POLOS: Final = Path(__file__).parent.parent
# Agents, tools and models act on the world from their steps, as a program does.
_OWN: Final = tuple(f"{_POLOS / part}/" for part in ("engine", "replay", "runtime", "store", "testing"))


@final
class ProgramCode:
    """
    Counts how often it had the word; a `with` around a call of it.

    Attributes:
        turns: how often it has had it.
        running: how many turns are under way, one inside of the other.
        on_turn: is told of each turn that a task of the program has had, in the task's context; None for nobody.
    """

    def __init__(self) -> None:
        """Count from nothing."""
        self.turns = self.running = 0
        self.on_turn: Callable[[asyncio.Task[Any]], None] | None = None
        self._own: dict[CodeType, bool] = {}

    def __enter__(self) -> None:
        """It begins."""
        self.turns += 1
        self.running += 1

    def __exit__(self, *_: object) -> None:
        """It ends."""
        self.running -= 1

    def seen(self, callback: Callable[..., object]) -> Callable[..., object]:
        """Give what a loop is to call instead of a callback: itself if it is the engine's own."""
        return callback if self._is_own(callback) else _Seen(self, callback)

    def _is_own(self, callback: object) -> bool:
        while isinstance(callback, partial):
            callback = callback.func
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task):  # it is a turn of a task
            coroutine = cast("Any", owner).get_coro()
            code = getattr(coroutine, "cr_code", None)
        else:
            code = getattr(getattr(callback, "__func__", callback), "__code__", None)
        if not isinstance(code, CodeType):
            return False
        own = self._own.get(code)
        if own is None:
            own = self._own[code] = code.co_filename.startswith(_OWN)
        return own


@final
class _Seen:
    """A callback of the program; of the object whose method it is, as far as a loop asks for that."""

    __slots__ = ("__self__", "_callback", "_code")

    def __init__(self, code: ProgramCode, callback: Callable[..., object]) -> None:
        self._code = code
        self._callback = callback
        self.__self__ = getattr(callback, "__self__", None)

    def __call__(self, *args: Any) -> object:
        with self._code:
            outcome = self._callback(*args)
        on_turn = self._code.on_turn
        if on_turn is not None and self._is_turn():
            on_turn(cast("asyncio.Task[Any]", self.__self__))
        return outcome

    def _is_turn(self) -> bool:
        """Tell a turn of a task, which asyncio begins by what nobody else can call, from a call of its `cancel`."""
        is_public = hasattr(self.__self__, getattr(self._callback, "__name__", ""))
        return isinstance(self.__self__, asyncio.Task) and not is_public
