"""
Ctrl-C while a program does nothing but serve: an end, not an accident.

`asyncio.run` turns Ctrl-C into a cancellation of its main task, and when that is through into a KeyboardInterrupt, for
which Python prints a traceback. For a server that is asked to stop, and has stopped gracefully, that looks like a
fault. So what leaves `serve` then is a KeyboardInterrupt still, for programs that catch one, and a SystemExit as well:
uncaught it ends the process with status 130 and says nothing.

Only `serve` does that, as other servers take a signal as theirs only while they serve. In a block of `async with` that
doesn't serve, or not yet, it is the program that is interrupted and not a server that is asked to stop: which line of
it was waited at is what somebody who presses Ctrl-C there wants to see, and the traceback is the one that asyncio gives
any program. The engine stops as gracefully on the way out of the block, whatever is printed.

It is raised only where asyncio would have raised a KeyboardInterrupt: in the main task of `asyncio.run`, with asyncio's
own handler of the signal. A program that handles the signal itself, or serves in a task of its own beside others, is
left as it is; so is an interactive interpreter, which a SystemExit would end.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

__all__ = ["INTERRUPTED_STATUS", "Interrupt", "Interrupted", "interrupts"]

INTERRUPTED_STATUS: Final = 130  # as shells tell of a process that ended by SIGINT


class Interrupted(KeyboardInterrupt, SystemExit):
    """Ctrl-C, and everything has stopped."""

    def __init__(self) -> None:
        """Take the status with which an uncaught one ends the process."""
        super().__init__()
        self.code = INTERRUPTED_STATUS


class Interrupt:
    """
    Whether Ctrl-C was pressed.

    Attributes:
        pressed: it was, and asyncio cancels the main task for it.
    """

    def __init__(self) -> None:
        """Begin with no."""
        self.pressed = False


@contextmanager
def interrupts() -> Generator[Interrupt]:
    """Note a Ctrl-C for which asyncio cancels the running task; whoever handled the signal handles it still."""
    found = Interrupt()
    handler: Any = None
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGINT)
    if not _cancels_this_task(handler) or hasattr(sys, "ps1") or sys.flags.interactive:
        yield found
        return

    def note(number: int, frame: FrameType | None) -> None:
        found.pressed = True
        handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield found
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, handler)


def _cancels_this_task(handler: Any) -> bool:
    """Tell whether a handler is that of `asyncio.run`, for the task that is running."""
    name = getattr(getattr(handler, "func", None), "__qualname__", "")
    return name == "Runner._on_sigint" and handler.keywords.get("main_task") is asyncio.current_task()
