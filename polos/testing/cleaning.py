"""
Which points of a run a crash in this process isn't quite a crash at.

Coroutines of the dead are closed here, so the ``finally`` and ``with`` blocks that they wait in run; a killed process
runs nothing. A lock file that is taken away in a ``finally`` is gone after each crash here, and stays after each kill.
That can't be helped in one process, but it can be foreseen: by the code of the functions that a step waits in. Points
there belong to those that are tried in child processes before all others.

What a function would do isn't known from its code, only that it might. ``except`` looks the same, which costs a child
process more, and finds the ``except BaseException`` that cleans up, too.
"""

from __future__ import annotations

import dis
from functools import lru_cache
from types import CodeType
from typing import Any

from polos.testing.patience import is_programs

__all__ = ["cleans_up"]


def cleans_up(coroutine: object) -> tuple[CodeType, ...]:
    """
    Say what of the program would be run if a coroutine that waits were closed.

    Args:
        coroutine: of a step's function.

    Returns:
        The code of the functions it waits in that have something to clean up, the outermost first; empty for nothing.
    """
    found: list[CodeType] = []
    inner: Any = coroutine
    while inner is not None:
        code = getattr(inner, "cr_code", None) or getattr(inner, "gi_code", None)
        if isinstance(code, CodeType) and _has_handler(code):
            found.append(code)
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
    return tuple(found)


@lru_cache(500)
def _has_handler(code: CodeType) -> bool:
    return is_programs(code.co_filename) and any(step.opname == "PUSH_EXC_INFO" for step in dis.get_instructions(code))
