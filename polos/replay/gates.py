"""
The code that is put into functions of the standard library; `stdlib` says why, and which.

It runs with the globals of the function it is given to, so each gate imports what it needs. Parameters are named
as in the function, so that `inspect.signature` goes on telling the truth.
"""

# ruff: noqa: D103 -- a function that is given this code keeps its own docstring

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["all_tasks", "as_completed", "gather", "leave_group", "wait", "wait_for", "wrap_future"]


def as_completed(fs: Any, *, timeout: Any = None) -> Any:
    from polos.replay import stdlib

    return stdlib.as_completed(fs, timeout)


async def wait(fs: Any, *, timeout: Any = None, return_when: Any = asyncio.ALL_COMPLETED) -> Any:
    from polos.replay import stdlib

    return await stdlib.wait(fs, timeout, return_when)


def gather(*coros_or_futures: Any, return_exceptions: Any = False) -> Any:
    from polos.replay import stdlib

    return stdlib.gather(coros_or_futures, return_exceptions)


def wrap_future(future: Any, *, loop: Any = None) -> Any:
    from polos.replay import stdlib

    return stdlib.wrap_future(future, loop)


async def wait_for(fut: Any, timeout: Any) -> Any:
    from polos.replay import stdlib

    return await stdlib.wait_for(fut, timeout)


async def leave_group(self: Any, et: Any, exc: Any, tb: Any) -> Any:
    from polos.replay import stdlib

    return await stdlib.leave_group(self, et, exc, tb)


def all_tasks(loop: Any = None) -> Any:
    from polos.replay import stdlib

    return stdlib.all_tasks(loop)
