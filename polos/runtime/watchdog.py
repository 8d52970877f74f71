"""
Who holds the loop for too long, and at which line.

A workflow body that computes or blocks without waiting stops every run, every step and the program around them, and
nothing says so: no line is logged, because nobody gets to log one. A thread beside the loop does.

It must cost nothing while all is well, for activations are many and short. So entering writes two attributes and
reads one; no clock is read. The thread takes looks, half the limit apart, and what stands there unchanged for the third
time in a row has held the loop for at least the limit and at most one and a half times that. Looking goes on only while
activations come: when nobody entered since the last look, the thread waits without a time, and the next one to enter
wakes it.

What holds the interpreter's lock as well (a long call into an extension) holds up this thread, too: it is reported
when the lock is given back, if it is held on for then.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, final

from polos.data_class import dataclass
from polos.runtime.installed import is_installed

__all__ = ["Blocked", "Watchdog"]

_LOOKS: Final = 2  # in a limit
_POLOS: Final = f"{Path(__file__).parent.parent}{os.sep}"

_log = logging.getLogger("polos")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """
    A run's code held the loop.

    Attributes:
        run: whose code.
        place: file, line and function where it was seen, in the program's own code as far as there is any.
        stack: the whole stack of the loop's thread, as text.
    """

    run: str
    place: str
    stack: str


@final
class Watchdog:
    """
    Watches the activations of one loop.

    Example:
        >>> watchdog = Watchdog(print, limit_seconds=5.0)
        >>> watchdog.enter("some run")
        >>> watchdog.leave()
        >>> watchdog.close()
    """

    def __init__(self, on_block: Callable[[Blocked], None], limit_seconds: float = 1.0) -> None:
        """
        Prepare a watchdog; its thread starts with the first activation.

        Args:
            on_block: called once for an activation that holds the loop, on the watchdog's thread; must not raise
                or block.
            limit_seconds: how long an activation may hold the loop.

        Raises:
            ValueError: the limit isn't positive.
        """
        if not limit_seconds > 0:
            message = f"limit_seconds must be positive, it is {limit_seconds}"
            raise ValueError(message)
        self._on_block = on_block
        self._limit_seconds = limit_seconds
        self._run: str | None = None
        self._activation = 0
        self._asleep = True  # nobody looks: whoever enters wakes the thread
        self._closed = False
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop_thread = 0
        # What the thread saw at its last look.
        self._seen = 0
        self._seen_times = 0

    def enter(self, run: str, at: int = 0) -> None:  # noqa: ARG002 - as Marker has it
        """Say that a run's code is on the loop from now on; called on the loop's thread."""
        self._activation += 1
        self._run = run
        if self._asleep:
            self._wake()

    def leave(self) -> None:
        """Say that it isn't any more."""
        self._run = None

    def close(self) -> None:
        """Stop watching and wait for the thread to end; closing twice is fine."""
        self._closed = True
        self._wanted.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _wake(self) -> None:
        if self._closed:
            return
        self._asleep = False
        self._loop_thread = threading.get_ident()
        self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="polos-watchdog", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        waited = False
        while True:
            self._wanted.clear()
            if self._closed:
                return
            again = self._look(waited=waited)
            waited = not self._wanted.wait(self._limit_seconds / _LOOKS if again else None)

    def _look(self, *, waited: bool) -> bool:
        """
        Look who is on the loop, and tell whether to look again soon.

        Args:
            waited: the time between two looks has passed in full since the last one; others don't count.
        """
        activation, run = self._activation, self._run
        if activation == self._seen and run is None:
            self._asleep = True
            # Whoever enters counts first and then asks whether we sleep; so one of us notices the other.
            if activation == self._activation:
                return False
            self._asleep = False
        elif activation != self._seen:
            self._seen, self._seen_times = activation, 0
        elif waited and run is not None:
            self._seen_times += 1
            if self._seen_times == _LOOKS:
                self._report(activation, run)
        return True

    def _report(self, activation: int, run: str) -> None:
        # Private by name, documented all the same: there is no other way to another thread's stack.
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if frame is None:
            return
        place = _place(frame)
        stack = "".join(traceback.format_stack(frame))
        if self._activation != activation or self._run is None:
            return  # it went on while we looked, so this may be anybody's stack
        _log.warning(
            "the code of run %s has held the loop for over %s s at %s; nothing else goes on meanwhile\n%s",
            run, self._limit_seconds, place, stack,
        )  # fmt: skip
        self._on_block(Blocked(run=run, place=place, stack=stack))


def _place(innermost: FrameType) -> str:
    """Name the line of the program that a thread is at: what it calls in libraries says less."""
    frame: FrameType | None = innermost
    while frame is not None and not _is_programs(frame.f_code.co_filename):
        frame = frame.f_back
    frame = frame or innermost
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def _is_programs(file: str) -> bool:
    return not file.startswith(("<frozen ", _POLOS)) and not is_installed(file)
