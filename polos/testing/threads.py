"""
Threads of a simulation, which has none.

A job is done on the loop's own thread, between two of its callbacks and as if no loop were running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from polos.runtime.threads import Job
from polos.testing.loop import SimulatedLoop
from polos.testing.patience import stop_if_over

__all__ = ["SimulatedThreads"]


@final
class SimulatedThreads:
    """
    Does jobs one after another.

    Attributes:
        doing: the job that is being done.
    """

    def __init__(self, loop: SimulatedLoop, *, after: Callable[[], None] | None = None) -> None:
        """
        Do them on a loop.

        Args:
            loop: the loop.
            after: called after each: a job takes whatever is raised in it for its outcome, the end of the process, too.
        """
        self._loop = loop
        self._after = after
        self.doing: Job | None = None

    def submit(self, job: Job) -> None:
        """Do a job soon."""
        self._loop.call_soon(self.do, job)

    def do(self, job: Job) -> None:
        """Do a job, from a callback of the loop."""
        self.doing = job
        with self._loop.left():
            job.work()
        self.doing = None
        stop_if_over()
        if self._after is not None:
            self._after()

    def give_up(self, job: Job) -> int | None:  # noqa: ARG002  # a job that has begun is over
        """Do nothing: whoever gave a job up has noted it where the job looks."""
        return None

    def close(self) -> None:
        """Do nothing."""
