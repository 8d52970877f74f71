"""
Runs a function in a forked child and brings its result back.

What a crash leaves is looked at in a child, never in the test's own process: a damaged store can
end in a signal, LMDB allows one environment per path and process, and a store that was opened by a
test would be carried into the next victim.

What comes back is JSON, as between all processes here: bytes from a process that may have gone wrong
are never more than data. A result that would come back as something else (a tuple, keys that aren't
text) is refused in the child, so that nobody compares with what wasn't returned.
"""

from __future__ import annotations

import gc
import json
import os
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar

__all__ = ["ChildFailed", "fork", "in_child"]

T = TypeVar("T")


class ChildFailed(AssertionError):
    """What ran in the child raised, or the child died; the text says how."""


def fork() -> int:
    """
    Fork; gives 0 in the child, which must end by `os._exit`.

    Newer Pythons warn of a fork beside other threads, because the child may wait for a lock that one
    of them held. Ours is safe enough: what runs beside a test is a test runner's own thread, whose
    locks no victim takes; the locks of the interpreter and of malloc are made free by themselves.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        # What the parent held must not be finalized here: it may be an open store.
        gc.freeze()
    return process


def in_child(function: Callable[[], T]) -> T:
    """
    Give what a function returns in a forked child; it must be the same when read from JSON.

    Raises:
        ChildFailed: it raised (the text is the child's traceback), or the child died of a signal.
    """
    hear, tell = os.pipe()
    process = fork()
    if process == 0:
        _answer(function, hear, tell)
    os.close(tell)
    with os.fdopen(hear, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code != 0:
        raise ChildFailed(f"the child died, {'of signal' if code < 0 else 'with exit code'} {abs(code)}")
    failure, value = json.loads(answer)
    if failure is not None:
        raise ChildFailed(failure)
    result: T = value
    return result


def _answer(function: Callable[[], object], hear: int, tell: int) -> None:
    """Send a traceback or a result; never returns into the code that forked."""
    code = 1
    try:
        os.close(hear)
        try:
            result = function()
            answer = json.dumps([None, result])
            assert [None, result] == json.loads(answer), f"this isn't the same when read from JSON: {result!r}"
        except Exception:
            answer = json.dumps([traceback.format_exc(), None])
        with os.fdopen(tell, "wb") as pipe:
            pipe.write(answer.encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
