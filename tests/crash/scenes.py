"""
Scenes: an engine in a forked child, with what a test wants to have its hands on.

A scene is a coroutine function that runs in a child of its own, so it may send signals, limit resources, open stores
and leave threads behind. What the engine appends through can be a `FaultyLog`; everything else is as in a program.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from polos import Polos
from polos.runtime import app
from polos.runtime.engine import Engine
from polos.store.faults import FaultPlan, FaultyLog
from polos.store.writer import Writer

from tests.crash.children import in_child
from tests.crash.engine_checks import Check, find
from tests.crash.engine_lives import PATIENCE_SECONDS, forked, light

__all__ = ["checked", "dying", "engine_on", "faulty", "play", "until"]

T = TypeVar("T")


def play(scene: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Give what a scene returns; it runs in a child, on a loop of its own."""
    return in_child(lambda: _run(scene))


def dying(scene: Callable[[], Coroutine[Any, Any, object]]) -> int:
    """Run a scene in a child that may die of it; gives its exit code, negative for the signal that ended it."""
    return forked(lambda: _run(scene))


def _run(scene: Callable[[], Coroutine[Any, Any, T]]) -> T:
    light()
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
    # As in a program: whoever runs the tests may have changed these.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return asyncio.run(scene())


def faulty(plan: FaultPlan) -> None:
    """From now on the engines of this process append through a log that fails by plan."""

    def appender(log: Any, *rest: Any, **named: Any) -> Any:
        return Writer(FaultyLog(log, plan), *rest, **named)

    vars(app)["Engine"] = partial(Engine, appender=appender)


def engine_on(directory: Path, **settings: Any) -> Polos:
    """Make an engine that tries a failed log again quickly."""
    settings = {"retry_append_seconds": 0.002, "inbox_poll_seconds": 0.002, **settings}
    return Polos(data_dir=directory / "data", **settings)


async def until(fact: Callable[[], object]) -> None:
    """Let others run until something is so."""
    while not fact():
        await asyncio.sleep(0)


def checked(directory: Path, *promises: Check) -> None:
    """Check promises on what a scene left, in a child."""

    def look() -> None:
        found = find(directory)
        for promise in promises:
            promise(found)

    in_child(look)
