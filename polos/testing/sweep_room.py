"""
Room for what scenarios leave outside, which goes away with the sweep or with the program, whichever ends first.

A sweep is on a thread of its own, and nobody may be left who waits for it: on Ctrl-C, when a handler of a signal ends
the program, when the coroutine that began it is cancelled. It is told to stop and clears its room away, but only when
it comes to the end of a scenario; a program that ends meanwhile takes the thread with it, in the midst of anything.
So at the end of a program the rooms that are still there are waited for, for a moment, and then taken away. A signal
that ends the process without Python's getting to know of it leaves them behind.

The working directory is the process's, and whoever makes a scenario's directory the working one leaves everybody in a
directory that is about to go. A killed process leaves it to nobody, nor its environment, its umask, or the path on
which it looks for modules. So each life begins with those that the sweep began with (`Home`), and so does whatever the
program does after it.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from polos.testing.outside import take_away
from polos.testing.patience import raise_in

__all__ = ["Home", "Room", "put_in_place"]

GRACE_SECONDS: Final = 0.3  # in which a sweep that was told to stop does so by itself, unless a scenario takes long
AGAIN_SECONDS: Final = 0.05
TIMES: Final = 10
_PRIVATE: Final = 0o077  # for the moment in which the umask is read, which can't be done without setting one


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
        for attempt in range(TIMES):
            if self._cleared.wait(AGAIN_SECONDS if attempt else GRACE_SECONDS):
                return
            raise_in(self._thread)
        self.clear()


@final
class Home:
    """
    What a sweep began with and a killed process leaves to nobody: working directory, environment, umask, module path.

    Attributes:
        environment: the variables.
    """

    def __init__(self) -> None:
        """Remember them; a working directory that is gone is none."""
        self._path = _working_directory()
        self.environment = dict(os.environ)
        self._variables = dict(_variables())
        self._umask = os.umask(_PRIVATE)
        os.umask(self._umask)
        self._modules = list(sys.path)

    def go_back(self) -> None:
        """Have them again, where they are others now; the directory if it is still there."""
        if self._path is not None and _working_directory() != self._path:
            with suppress(OSError):  # the program has taken it away
                os.chdir(self._path)
        if _variables() != self._variables:
            put_in_place(self.environment)
        os.umask(self._umask)
        if sys.path != self._modules:
            sys.path[:] = self._modules


def put_in_place(environment: Mapping[str, str]) -> None:
    """Make these the environment of this process."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    time.tzset()


def _variables() -> Mapping[object, object]:
    """Give what is in the environment, to be compared; all that `os.environ` decodes at each look takes its time."""
    kept: Mapping[object, object] = vars(os.environ).get("_data", os.environ)
    return kept


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
