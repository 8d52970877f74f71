"""
Threads that a program has begun itself, where one process stands for several.

A step may begin a thread and come back. Killed, a process takes its threads with it; a sweep's process lives on, and so
do they. What such a thread still does would be the doing of a dead process, and might be told of another scenario. It
can't be ended from outside, so it is *gone* from the next life on, as far as an `Outside` is concerned. A process that
ends by itself waits for its threads, unless they are daemons; so does the last life of a scenario.

Threads of pools do what they are given, whoever gives it, so they are left alone.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import thread as pools
from typing import Final, final

__all__ = ["ProgramThreads", "is_refused"]

WAIT_SECONDS: Final = 1.0
_REFUSED: Final = (
    "The thread {name!r} was begun in a process that is gone by now, so its note {kind!r} wasn't taken: killed, a "
    "process takes its threads with it. One that is to be there in each life can be begun in setup."
)

_gone: frozenset[threading.Thread] = frozenset()
_refused: dict[str, str] = {}


def is_refused(kind: str) -> bool:
    """
    Tell whether nothing may be noted here: this thread is gone.

    Args:
        kind: what it would note.
    """
    if not _gone or (mine := threading.current_thread()) not in _gone:
        return False
    _refused[mine.name] = kind
    return True


@final
class ProgramThreads:
    """The threads that are begun from now on, by anybody but polos and pools."""

    def __init__(self) -> None:
        """Leave out those that are there."""
        self._others = frozenset(threading.enumerate())
        self._waits = True

    def forsake(self) -> None:
        """The process in which they began is gone: so are they from now on."""
        global _gone  # noqa: PLW0603  # whoever asks knows nothing of sweeps
        found = self._found()
        if found or _gone:
            _gone = frozenset(thread for thread in _gone if thread.is_alive()) | frozenset(found)

    def wait(self) -> None:
        """
        Wait until they are over, as a process does that ends by itself: not for daemons.

        One that isn't over after a second isn't waited for, nor is anybody after that.
        """
        if not self._waits:
            return
        until = time.monotonic() + WAIT_SECONDS
        for thread in self._found():
            if not thread.daemon:
                thread.join(max(until - time.monotonic(), 0))
                self._waits = self._waits and not thread.is_alive()

    @property
    def said(self) -> list[str]:
        """What was refused since the last `hush`, in words."""
        return [_REFUSED.format(name=name, kind=kind) for name, kind in list(_refused.items())]

    @staticmethod
    def hush() -> None:
        """Forget what was refused: another scenario begins."""
        _refused.clear()

    def _found(self) -> list[threading.Thread]:
        mine = threading.current_thread()
        return [
            thread for thread in threading.enumerate()
            if thread is not mine and not (thread in self._others or thread in _gone or _is_anothers(thread))
        ]  # fmt: skip


def _is_anothers(thread: threading.Thread) -> bool:
    """Tell whether a thread does what others ask it for, or is one of polos's own."""
    target = getattr(thread, "_target", None)
    where = str(getattr(target, "__module__", None) or type(thread).__module__)
    return where.partition(".")[0] == "polos" or where == pools.__name__
