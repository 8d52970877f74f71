"""
Room for what scenarios leave outside, which goes away with the sweep or with the program, whichever ends first.

A sweep is on a thread of its own, and nobody may be left who waits for it: on Ctrl-C, when a handler of a signal ends
the program, when the coroutine that began it is cancelled. It is told to stop and clears its room away, but only when
it comes to the end of a scenario; a program that ends meanwhile takes the thread with it, in the midst of anything.
So at the end of a program the rooms that are still there are waited for, for a moment, and then taken away. A signal
that ends the process without Python's getting to know of it leaves them behind.

The working directory is the process's, and whoever makes a scenario's directory the working one leaves everybody in a
directory that is about to go. A killed process leaves it to nobody. So each life begins where the sweep did (`Home`),
and so does whatever the program does after it.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from polos.testing.outside import take_away
from polos.testing.patience import raise_in

__all__ = ["Home", "Room"]

GRACE_SECONDS: Final = 0.3  # in which a sweep that was told to stop does so by itself, unless a scenario takes long
AGAIN_SECONDS: Final = 0.05
TIMES: Final = 10


@final
class Room:
    """
    A directory of a sweep.

    Attributes:
        path: where it is; of no use before `open`.
    """

    def __init__(self, stop: threading.Event) -> None:
        """
        Prepare.

        Args:
            stop: ends the sweep, when it comes to it.
        """
        self.path = Path()
        self._stop = stop
        self._thread = 0
        self._cleared = threading.Event()

    def open(self) -> None:
        """Make it, on the sweep's thread."""
        self._thread = threading.get_ident()
        self.path = Path(tempfile.mkdtemp(prefix="polos-sweep-"))
        if not _open:
            atexit.register(_clear_all, os.getpid())
        _open.append(self)

    def clear(self) -> None:
        """Take it away with everything in it; fine if it is gone."""
        take_away(self.path)
        self._cleared.set()
        if self in _open:
            _open.remove(self)
        if not _open:
            atexit.unregister(_clear_all)

    def give_up(self) -> None:
        """Have the sweep end, and take the room away; on another thread, when the program ends."""
        self._stop.set()
        for time in range(TIMES):
            if self._cleared.wait(AGAIN_SECONDS if time else GRACE_SECONDS):
                return
            raise_in(self._thread)
        self.clear()


@final
class Home:
    """The working directory that a sweep began in."""

    def __init__(self) -> None:
        """Remember it, unless it is gone."""
        self._path = _working_directory()

    def go_back(self) -> None:
        """Make it the working directory again, if it is there and isn't any more."""
        if self._path is not None and _working_directory() != self._path:
            with suppress(OSError):  # the program has taken it away
                os.chdir(self._path)


def _working_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # asked for each life, and `Path` takes its time
    except FileNotFoundError:
        return None


_open: list[Room] = []


def _clear_all(process: int) -> None:
    if process == os.getpid():  # what a fork of the program finds here is somebody else's
        for room in _open:
            room.give_up()
