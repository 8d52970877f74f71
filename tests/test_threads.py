"""The pool of threads: its limit, who waits, and threads that are lost to functions that hang."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from polos.runtime.threads import Job, StepThreads


class Hang:
    """A job that has begun when `begun` is set, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.over = threading.Event()
        self.said: list[bool] = []
        self.job = Job(self._work, self.said.append)

    def _work(self) -> None:
        self.begun.set()
        assert self.go.wait(20)
        self.over.set()


class Pool:
    """A pool, and the jobs that were put there."""

    def __init__(self, limit: int, lost_max: int) -> None:
        self.threads = StepThreads(limit, lost_max)
        self.jobs: list[Hang] = []

    def put(self) -> Hang:
        """Put another job."""
        self.jobs.append(Hang())
        self.threads.submit(self.jobs[-1].job)
        return self.jobs[-1]

    def put_begun(self) -> Hang:
        """Put another job, and wait until it has begun."""
        job = self.put()
        assert job.begun.wait(20)
        return job


@pytest.fixture
def pools() -> Iterator[list[Pool]]:
    """Let every job go at the end."""
    made: list[Pool] = []
    yield made
    for pool in made:
        for job in pool.jobs:
            job.go.set()
        pool.threads.close()


def make(pools: list[Pool], limit: int, lost_max: int) -> Pool:
    """Make a pool."""
    pools.append(Pool(limit, lost_max))
    return pools[-1]


def test_a_job_beyond_the_limit_waits_and_says_so(pools: list[Pool]):
    """Who waits for a thread is told so, and told again when it has one."""
    pool = make(pools, 1, 0)
    first = pool.put_begun()
    second = pool.put()
    before = list(second.said), second.begun.is_set()
    first.go.set()
    assert second.begun.wait(20)

    assert ([True], False) == before
    assert ([], [True, False]) == (first.said, second.said)


def test_a_lost_thread_makes_room(pools: list[Pool]):
    """A job that nobody waits for doesn't count: what waits gets another thread."""
    pool = make(pools, 1, 2)
    hangs = pool.put_begun()
    waits = pool.put()
    lost = pool.threads.give_up(hangs.job)

    assert 1 == lost
    assert waits.begun.wait(20)


def test_only_so_many_threads_may_be_lost(pools: list[Pool]):
    """Beyond the cap lost threads count again, and jobs wait for them."""
    pool = make(pools, 1, 1)
    first = pool.put_begun()
    pool.threads.give_up(first.job)
    second = pool.put_begun()
    waits = pool.put()
    before = set(threading.enumerate())
    lost = pool.threads.give_up(second.job)
    more = set(threading.enumerate()) - before
    first.go.set()  # now one less is lost
    assert waits.begun.wait(20)

    assert (2, set(), [True, False]) == (lost, more, waits.said)


def test_a_lost_thread_ends_when_its_place_is_taken(pools: list[Pool]):
    """Never do more threads than the limit do what somebody waits for."""
    pool = make(pools, 1, 5)
    lost = pool.put_begun()
    pool.threads.give_up(lost.job)
    taken = pool.put_begun()
    (thread,) = [one for one in threading.enumerate() if one.name == "polos-step-1" and one.is_alive()][-1:]
    waits = pool.put()
    lost.go.set()
    thread.join(20)
    still = waits.begun.is_set()
    taken.go.set()

    assert (False, False) == (thread.is_alive(), still)
    assert waits.begun.wait(20)


def test_what_is_given_up_before_it_begins_is_never_done(pools: list[Pool]):
    """A job that waits is taken out, holds no thread, and doesn't keep the one behind it from its own."""
    pool = make(pools, 1, 1)
    first = pool.put_begun()
    dropped, behind = pool.put(), pool.put()
    lost = pool.threads.give_up(dropped.job)
    first.go.set()
    assert behind.begun.wait(20)

    assert (None, False, [True, False]) == (lost, dropped.begun.is_set(), dropped.said)


def test_giving_up_what_is_over_changes_nothing(pools: list[Pool]):
    """A late word about a job that has ended loses no thread."""
    pool = make(pools, 1, 1)
    first = pool.put_begun()
    first.go.set()
    second = pool.put_begun()  # on the same thread: the first is over for sure
    lost = pool.threads.give_up(first.job)
    waits = pool.put()

    assert (None, [True]) == (lost, waits.said)
    second.go.set()
    assert waits.begun.wait(20)


def test_a_pool_has_at_least_one_thread():
    """A pool of none would do nothing."""
    with pytest.raises(ValueError, match="step_threads_max must be at least 1, it is 0"):
        StepThreads(0)
