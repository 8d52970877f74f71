"""
Threads for functions that block.

`concurrent.futures` joins its threads when the interpreter exits, so one step that hangs would keep
the program from ending; these are daemons. A step cut off that way stays owed and is called again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

__all__ = ["StepThreads"]


class StepThreads:
    """A pool of daemon threads that grows up to a limit."""

    def __init__(self, limit: int) -> None:
        """Make an empty pool of at most `limit` threads."""
        if limit < 1:
            message = f"step_threads_max must be at least 1, it is {limit}"
            raise ValueError(message)
        self._limit = limit
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job on some thread, soon; the job must not raise."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._threads < self._limit:
                self._threads += 1
                threading.Thread(target=self._work, name=f"polos-step-{self._threads}", daemon=True).start()
        self._jobs.put(job)

    def close(self) -> None:
        """Let threads end when they have nothing left to do; doesn't wait for them."""
        with self._lock:
            count = self._threads
        for _ in range(count):
            self._jobs.put(None)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            with self._lock:
                self._idle += 1
