"""
Threads of a simulation whose functions may wait, for ever too, while virtual time passes.

A plain function holds its thread until it returns; what an engine does about that (it lets the time of a step run out,
gives the thread up, calls again, ignores what comes too late) can't be seen if the function is over as soon as it
begins. Here each function has a thread of its own, and yet nothing runs at the same time: the loop's thread stands
still until the function returns or waits, and goes on with it when it has waited long enough.
So who runs is handed on like a baton, and a course of events is the same each time.

A crash ends the functions that wait: `Crashed` is raised in them, and nobody hears of it, for the process is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast, final

from polos.runtime.threads import Job
from polos.testing.loop import SimulatedLoop
from polos.testing.patience import Interrupted, raise_in
from polos.testing.world import Crashed, Effect, World

__all__ = ["WaitingThreads", "perform_in_thread"]


@final
class _Thread(threading.Thread):
    """
    A thread of one job.

    Attributes:
        loop: on which its job was asked for.
        died: whether the process is to die of what the job did.
        job: its job.
    """

    def __init__(self, threads: WaitingThreads, loop: SimulatedLoop, job: Job) -> None:
        super().__init__(name="polos-simulated", daemon=True)
        self.loop = loop
        self.died = False
        self.job = job
        self._threads = threads
        self._ours = threading.Semaphore(0)  # the baton: whose it is runs
        self._loops = threading.Semaphore(0)
        self._over = False
        self._wanted: Callable[[Callable[[], None]], object] | None = None

    def run(self) -> None:
        """Do the job."""
        try:
            self.job.work()
        except Interrupted:
            pass  # it didn't come back, and nobody waits for it any more
        finally:
            self._threads.alive.remove(self)
            self._loops.release()

    def wait(self, until: Callable[[Callable[[], None]], object]) -> None:
        """
        Wait, on this thread.

        Args:
            until: called on the loop's thread, with what goes on with this one.

        Raises:
            Crashed: the process is gone.
        """
        self._wanted = until
        self._loops.release()
        self._ours.acquire()
        if self._over:
            raise Crashed

    def go(self) -> None:
        """Begin, or go on, until the job is done or waits; on the loop's thread."""
        if self._over:
            return
        wanted = self._hand_over()
        if self.died:
            raise Crashed
        if wanted is not None:
            wanted(self.go)

    def end(self) -> None:
        """Have the job end, wherever it is: the process is gone."""
        self._over = True
        if self._threads.running is not self:
            self._hand_over()
        elif self.ident is not None:  # one that doesn't come back isn't waited for any more, and mustn't run for ever
            raise_in(self.ident)

    def _hand_over(self) -> Callable[[Callable[[], None]], object] | None:
        """Let it run until it is over, or waits; gives for what."""
        self._wanted = None
        self._threads.running = self
        if self.ident is None:
            self.start()
        else:
            self._ours.release()
        self._loops.acquire()
        self._threads.running = None
        return self._wanted


@final
class WaitingThreads:
    """
    Gives each job a thread.

    Attributes:
        alive: threads whose jobs aren't over, the oldest first.
        running: the one that the loop waits for; it stays here if that was interrupted.
    """

    def __init__(self, loop: SimulatedLoop) -> None:
        """Do them beside a loop."""
        self._loop = loop
        self.alive: list[_Thread] = []
        self.running: _Thread | None = None

    @property
    def doing(self) -> Job | None:
        """The job that is being done."""
        return None if self.running is None else self.running.job

    @property
    def beside(self) -> int | None:
        """The thread on which it is."""
        return None if self.running is None else self.running.ident

    def submit(self, job: Job) -> None:
        """Do a job soon."""
        self._loop.call_soon(self._begin, job)

    def give_up(self, job: Job) -> int | None:  # noqa: ARG002  # it keeps its thread, and there are as many as it takes
        """Do nothing: a job that hasn't begun looks by itself whether it is still wanted."""
        return None

    def close(self) -> None:
        """Do nothing; `end` ends them."""

    def end(self) -> None:
        """End all jobs, as the end of the process does; its loop must be closed."""
        for thread in list(self.alive):
            thread.end()

    def _begin(self, job: Job) -> None:
        thread = _Thread(self, self._loop, job)
        self.alive.append(thread)
        thread.go()


def perform_in_thread(*, takes_us: int = 0, pure: bool = False) -> Effect:
    """
    Do what `World.perform` does, in a plain function of a step.

    Args:
        takes_us: how long it takes.
        pure: whether the step was asked for with `effect="pure"`.
    """
    thread = threading.current_thread()
    assert isinstance(thread, _Thread), "plain functions of a simulation have threads of their own"
    outside = cast("World", thread.loop.world)
    try:
        effect = outside.begin(pure=pure)
        if takes_us:
            thread.wait(lambda go_on: thread.loop.call_later(takes_us / 1e6, go_on))
        outside.end(effect)
    except Crashed:
        thread.died = True  # whoever calls functions of steps takes whatever they raise for their outcome
        raise
    return effect
