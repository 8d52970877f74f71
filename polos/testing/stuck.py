"""
Whether anything can ever happen again on a loop that a test runs on.

A test that awaits a signal which nobody sends waits for ever, and in silence. On a loop of the kit that is seen at
once, because it is asked what to do instead of waiting. On the program's own loop it has to be proven, and a wrong
proof would fail a test that is right. So what is looked at isn't what tasks await, which can be anything, but all that
could wake a loop up. There is nothing ready, no timer, no connection or pipe, no thread that could call back, no
handler of a signal that the test has installed. What is left can't go on, whatever it is.

A loop of another make, a thread that isn't known to be idle, an interval timer of the system: each is a doubt, and then
nothing is said. Threads are known to be idle by the function they are in, which for polos's own and for those of
asyncio's executor is the one that takes the next job. A thread that a sweep has given up counts for nothing.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import thread as futures
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from polos.reasons import why
from polos.runtime import reads
from polos.runtime.threads import StepThreads
from polos.store.writer import Writer
from polos.testing.patience import is_lost

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["cannot_go_on", "what_waits"]

RUNS_TOLD = 5

_private: Any = StepThreads  # what tells an idle thread from one at work is nobody's interface
_writer: Any = Writer
_asyncio: Any = asyncio
_futures: Any = futures
_IDLE: Final[frozenset[CodeType]] = frozenset({_private._work.__code__, _futures._worker.__code__})  # noqa: SLF001  # see above
_WRITER: Final[CodeType] = _writer._work.__code__  # noqa: SLF001  # as above
_threads = threading.enumerate
_OF_TOOLS: Final = frozenset({"execnet", "pytest_timeout", "xdist"})  # of pytest: none of these acts for a test


def cannot_go_on(engine: Engine, looks: Callable[[object], bool]) -> bool:
    """
    Tell whether nothing can happen on the running loop any more, for certain.

    Args:
        engine: whose commits are made on a thread of its own.
        looks: tells whether a callback of a timer only looks at things, as the one that asks does.
    """
    loop: Any = asyncio.get_running_loop()
    if type(loop) is not _asyncio.SelectorEventLoop:
        return False
    jobs = any(attempt.job is not None for attempt in engine.performer.in_flight.values())
    if jobs or engine.work or engine.in_flight or engine.backlog:
        return False
    # Threads before the loop: one that has come to rest in between has left something there.
    return not (_threads_at_work() or _signals(loop) or _loop_awaits(loop, looks))


def what_waits(engine: Engine, now_us: int) -> list[str]:
    """Say what runs that haven't ended wait for, the newest few first."""
    found: list[str] = []
    with engine.store.log.reader() as reader:
        for row in _living(reader):
            if len(found) == RUNS_TOLD:
                return [*found, "…"]
            reasons = why(reader, row.run, owner=None, now_us=now_us).reasons
            text = "; ".join(reason.text for reason in reasons if reason.kind != "no_engine") or row.status
            found.append(f"run {row.run} of {row.workflow!r}: {text}")
    return found


def _living(reader: Any) -> Iterator[reads.RunRow]:
    for status in ("queued", "running", "waiting", "pending_cancel"):
        yield from reads.runs_of(reader, reads.RunFilter(status=status))


def _loop_awaits(loop: Any, looks: Callable[[object], bool]) -> bool:
    """Tell whether the loop has something to do, or waits for time or the operating system."""
    timers = [timer for timer in loop._scheduled if not timer.cancelled() and not looks(timer._callback)]  # noqa: SLF001  # asyncio tells nobody else
    watched = [key.fd for key in loop._selector.get_map().values() if key.fd != loop._ssock.fileno()]  # noqa: SLF001  # as above
    return bool(loop._ready or timers or watched)  # noqa: SLF001  # as above


def _signals(loop: Any) -> bool:
    """Tell whether a signal may make the program go on: SIGINT and SIGTERM end it."""
    if set(loop._signal_handlers) - {signal.SIGINT, signal.SIGTERM}:  # noqa: SLF001  # as above
        return True
    for number in signal.valid_signals() - {signal.SIGINT, signal.SIGTERM}:
        handler = signal.getsignal(number)
        if callable(handler) and _tool(getattr(handler, "__module__", "")) not in _OF_TOOLS:
            return True
    return False


def _threads_at_work() -> bool:
    """Tell whether a thread besides this one may have something to say."""
    frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # nothing else shows them
    for thread in _threads():
        if thread is threading.current_thread() or thread.name == "polos-watchdog":  # that one only warns
            continue
        if is_lost(thread.ident or 0):
            continue
        frame = frames.get(thread.ident or 0)
        if frame is None or not _idle(thread, frame):
            return True
    return False


def _idle(thread: threading.Thread, frame: FrameType) -> bool:
    if frame.f_code is threading.Condition.wait.__code__ and frame.f_back is not None:
        return frame.f_back.f_code is _WRITER
    if frame.f_code in _IDLE or _tool(getattr(getattr(thread, "function", None), "__module__", "")) in _OF_TOOLS:
        return True
    if thread is threading.main_thread():
        return False
    below: FrameType | None = frame
    while below is not None:
        if _tool(str(below.f_globals.get("__name__", ""))) in _OF_TOOLS:
            return True
        below = below.f_back
    return False


def _tool(module: str | None) -> str:
    return (module or "").partition(".")[0]
