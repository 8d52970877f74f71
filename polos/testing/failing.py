"""
What of all that a test's code may raise says that the test fails, and who raised it.

An `Exception` does. So does what `pytest.fail` raises, and `pytest.raises` if nothing came, although it is none:
pytest lets its outcomes pass every ``except Exception``. A skipped test, an interrupted one and one that is expected to
fail say nothing about the code under test, and are nobody's to catch here. pytest is asked only if it is there, since
what uses this module is used by programs, too.

Code of a program that a sweep calls besides bodies and steps, which have an engine to raise at, is the program's all
the same: a `setup` that can't read what a killed step left half written is the bug that the sweep is about. So what it
raises is kept with a word about who it was, and is told like everything else that a crash has done.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, final

from polos.engine.json import message_of
from polos.testing.patience import own_frames, without_polos

__all__ = ["Raised", "RaisedElsewhere", "said_by", "says_no"]

__tracebackhide__ = True  # pytest shows the test's own lines, and the page


def says_no(error: BaseException) -> bool:
    """Tell whether a test that raises this fails by it."""
    if isinstance(error, Exception):
        return True
    pytest: Any = sys.modules.get("pytest")
    if pytest is None:
        return False
    return isinstance(error, pytest.fail.Exception) and not isinstance(error, pytest.xfail.Exception)


@final
class Raised(Exception):  # what is told is made of it
    """
    Code of the program raised where only the kit hears it; the text says whose, what, and at which line.

    Attributes:
        error: what it raised.
    """

    def __init__(self, who: str, error: BaseException) -> None:
        """Take what was raised, and by whom, in words."""
        found = f"{who} raises {type(error).__name__}: {message_of(error)}"
        stack = tuple(traceback.extract_tb(error.__traceback__))
        # What can't even be called, with these arguments, has no line of its own, and polos's would say nothing.
        lines = "".join(traceback.format_list(list(own_frames(stack) or without_polos(stack)))).rstrip("\n")
        super().__init__(f"{found}, at\n{lines}" if lines else found)
        self.error = error


@final
class RaisedElsewhere(Exception):
    """What another process raised; the text is the traceback that it had there."""

    def __str__(self) -> str:
        """Give it from its own line on."""
        return "\n" + super().__str__()


@contextmanager
def said_by(who: str) -> Generator[None]:
    """
    Have whatever the program's code raises in here said to be its own.

    Args:
        who: whose code it is, in words.

    Raises:
        Raised: it says that the test fails; all else is raised as it is.
    """
    try:
        yield
    except BaseException as error:
        if not says_no(error):
            raise
        raise Raised(who, error) from error
