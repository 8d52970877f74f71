"""
Threads for functions that block.

`concurrent.futures` joins its threads when the interpreter exits, so one step that hangs would keep
the program from ending; these are daemons. A step cut off that way stays owed and is called again.

A thread can't be taken away from the function that it runs. When nobody waits for that function any more, because
its time was up or its run went on, its thread is *lost*: it doesn't count against the limit, and another one is
started in its place. Otherwise a few functions that hang would hold up every other step of the program, for ever and
without a word. So that functions which always hang don't make threads without end, only so many may be lost; those
beyond count again. A lost thread whose function does return ends, or takes the place of another.
"""

from __future__ import annotations

import functools
import inspect
import queue
import threading
from collections.abc import Callable
from enum import Enum, auto
from types import FunctionType
from typing import Any, Protocol, final

__all__ = ["Job", "StepThreads", "Threads", "is_async"]


def is_async(func: Callable[..., Any]) -> bool:
    """Tell whether calling a function gives something to await; a partial is as its function."""
    if type(func) is FunctionType and func.__code__.co_flags & inspect.CO_COROUTINE:
        return True  # nearly all are that
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004 — a callable object's method is looked at


class _Stage(Enum):
    WAITS = auto()
    RUNS = auto()
    LOST = auto()
    DROPPED = auto()
    DONE = auto()


@final
class Job:
    """
    Something to be done on a thread.

    Attributes:
        work: what to call; it must not raise.
        waiting: is told True when every thread is taken, and False when one is found or it is given up.
        promised: whether a thread was free, or started, when it came.
    """

    __slots__ = ("promised", "stage", "waiting", "work")

    def __init__(self, work: Callable[[], None], waiting: Callable[[bool], None] | None = None) -> None:
        """Take what to call."""
        self.work = work
        self.waiting = waiting
        self.stage = _Stage.WAITS
        self.promised = True


class Threads(Protocol):
    """Where functions are called that block; `StepThreads` is one, simulations have their own."""

    def submit(self, job: Job) -> None:
        """Do a job soon, as threads get free."""
        ...

    def give_up(self, job: Job) -> int | None:
        """Tell that nobody waits for a job; gives how many threads are lost with it, None if it holds none."""
        ...

    def close(self) -> None:
        """Take no more."""
        ...


@final
class StepThreads:
    """A pool of daemon threads that grows up to a limit."""

    def __init__(self, limit: int, lost_max: int = 0) -> None:
        """
        Make an empty pool.

        Args:
            limit: of threads that do what somebody waits for.
            lost_max: of threads beside those, which do what nobody waits for any more.
        """
        if limit < 1:
            message = f"step_threads_max must be at least 1, it is {limit}"
            raise ValueError(message)
        self._limit = limit
        self._lost_max = lost_max
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = 0  # alive, the lost ones too
        self._made = 0
        self._lost = 0
        self._idle = 0  # without a job that is promised to them
        self._behind = 0  # jobs that no thread is promised to
        self._lock = threading.Lock()

    def submit(self, job: Job) -> None:
        """Run a job on some thread, soon; the job must not raise."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._counted < self._limit:
                self._start()
            else:
                self._behind += 1
                job.promised = False
                if job.waiting is not None:
                    job.waiting(True)
            self._jobs.put(job)

    def give_up(self, job: Job) -> int | None:
        """
        Tell that nobody waits for a job any more: it isn't begun, or its thread is lost.

        Returns:
            How many threads are lost by now; None if the job holds none.
        """
        with self._lock:
            if job.stage is _Stage.WAITS:
                job.stage = _Stage.DROPPED
                if not job.promised and job.waiting is not None:
                    job.waiting(False)
            if job.stage is not _Stage.RUNS:
                return None
            job.stage = _Stage.LOST
            self._lost += 1
            if self._behind and self._counted < self._limit:
                self._behind -= 1
                self._start()
            return self._lost

    def close(self) -> None:
        """Let threads end when they have nothing left to do; doesn't wait for them."""
        with self._lock:
            count = self._threads
        for _ in range(count):
            self._jobs.put(None)

    @property
    def _counted(self) -> int:
        """How many threads count against the limit."""
        return self._threads - min(self._lost, self._lost_max)

    def _start(self) -> None:
        self._threads += 1
        self._made += 1
        threading.Thread(target=self._work, name=f"polos-step-{self._made}", daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            if self._begin(job):
                job.work()
            if not self._goes_on(job):
                return

    def _begin(self, job: Job) -> bool:
        with self._lock:
            if job.stage is not _Stage.WAITS:
                return False
            job.stage = _Stage.RUNS
            if not job.promised and job.waiting is not None:
                job.waiting(False)
            return True

    def _goes_on(self, job: Job) -> bool:
        """Take note of the end of a job; tells whether its thread is still wanted."""
        with self._lock:
            self._lost -= job.stage is _Stage.LOST
            job.stage = _Stage.DONE
            if self._counted > self._limit:
                self._threads -= 1  # another one was started in its place
                return False
            if self._behind:
                self._behind -= 1
            else:
                self._idle += 1
            return True
