"""Threads that steps begin and leave behind: a killed process takes them with it, and a sweep's process does as if."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.testing import CrashOutcome, CrashSweepFailed, Outside
from polos.testing.program_threads import ProgramThreads
from polos.testing.sweep import sweep

post = Outside("post")
released: dict[str, threading.Event] = {}


def _begin(target: Callable[[], object], *, daemon: bool) -> None:
    threading.Thread(target=target, name="sender", daemon=daemon).start()


def _send_when_released(release: threading.Event) -> None:
    release.wait()
    post.note("sent")


def send_later() -> None:
    """Leave the sending to a thread, which comes to it at the end of the run; an earlier one comes to it now."""
    finish()
    release = released["now"] = threading.Event()
    _begin(lambda: _send_when_released(release), daemon=False)


def send_much_later() -> None:
    """Leave it to a daemon, which comes to it when another one is begun."""
    before = released.get("daemon")
    release = released["daemon"] = threading.Event()
    _begin(lambda: _send_when_released(release), daemon=True)
    if before is not None:
        before.set()


def finish() -> None:
    """Let the thread go on that this process has begun."""
    if "now" in released:
        released["now"].set()


@workflow(id="threads-later")
async def later(ctx: WorkflowContext) -> None:
    """Lose what is sent when it is killed between its steps."""
    await ctx.step.run("send", send_later)
    await ctx.step.run("finish", finish)


@workflow(id="threads-daemon")
async def by_daemon(ctx: WorkflowContext) -> None:
    """Send by a thread that nobody waits for."""
    await ctx.step.run("send", send_much_later)


def is_sent(_outcome: CrashOutcome) -> None:
    """Hold that what was asked for was sent, as far as it will be."""
    for thread in threading.enumerate():
        if thread.name == "sender":
            thread.join()
    assert post.count("sent"), "lost"


def failure(flow: Any, **options: Any) -> CrashSweepFailed:
    """Give what a sweep fails with."""
    with pytest.raises(CrashSweepFailed) as failed:
        sweep(flow, pairs=0, **options)
    return failed.value


@pytest.mark.parametrize("options", [{"processes": 0}, {"real": True}])
def test_what_a_thread_has_not_done_is_lost(options: dict[str, Any]):
    """In this process the dead life's thread goes on, and counts for nothing; in another it is gone."""
    failed = failure(later, check=is_sent, **options)

    assert failed.differences[0].startswith("check: AssertionError: lost")
    named = "The thread 'sender' was begun in a process that is gone by now, so its note 'sent' wasn't taken" in str(
        failed
    )
    assert named is not failed.real


def test_a_daemon_of_one_scenario_says_nothing_in_another():
    """Nobody waits for it, so its note is never seen, wherever it comes to it."""

    def check(_outcome: CrashOutcome) -> None:
        assert 0 == post.count("sent")

    assert sweep(by_daemon, check=check, pairs=0, processes=0).points
    released.pop("daemon").set()


pool: list[ThreadPoolExecutor] = []


def by_pool() -> None:
    """Have a thread send that does whatever is asked for, in whichever life."""
    pool[0].submit(post.note, "sent").result()


@workflow(id="threads-pool")
async def pooled(ctx: WorkflowContext) -> None:
    """Send by a pool that lives as long as the process."""
    await ctx.step.run("send", by_pool)


def test_threads_of_pools_are_left_alone():
    """They were begun in an earlier life, and do what this one asks for."""
    with ThreadPoolExecutor(1) as executor:
        pool[:] = [executor]
        assert sweep(pooled, check=is_sent, pairs=0, processes=0).points


def _somebody_waits() -> bool:
    return any(_is_in_wait(frame) for frame in sys._current_frames().values())


def _is_in_wait(frame: Any) -> bool:
    while frame is not None and frame.f_code is not ProgramThreads.wait.__code__:
        frame = frame.f_back
    return frame is not None


over = threading.Event()


def _send_when_waited_for() -> None:
    while not _somebody_waits():
        if over.wait(0.001):
            return  # of a life that was gone before
    post.note("sent")


def send_at_the_end() -> None:
    """Leave it to a thread that only comes to it when its process waits for it."""
    _begin(_send_when_waited_for, daemon=False)


@workflow(id="threads-end")
async def at_the_end(ctx: WorkflowContext) -> None:
    """Send when all is over."""
    await ctx.step.run("send", send_at_the_end)


@pytest.mark.parametrize("options", [{"processes": 0}, {"real": True}])
def test_who_ends_by_itself_waits_for_its_threads(options: dict[str, Any]):
    """As an interpreter does: what it had begun when it came to its end is there."""
    seen: list[int] = []

    def check(_outcome: CrashOutcome) -> None:
        seen.append(post.count("sent"))
        assert seen[-1], "lost"

    over.clear()
    try:
        failed = failure(at_the_end, check=check, **options)
    finally:
        over.set()

    assert failed.points, "only a crash loses it"
    assert [1, 0] == sorted(set(seen), reverse=True)


@pytest.mark.parametrize(("daemon", "times"), [(False, 1), (True, 0)])
def test_a_thread_that_does_not_end_is_waited_for_once(monkeypatch: pytest.MonkeyPatch, daemon: bool, times: int):
    """After that nobody is waited for, for a sweep has many lives; and a daemon isn't at all."""
    waits: list[float] = []
    release = threading.Event()
    threads = ProgramThreads()
    thread = threading.Thread(target=release.wait, daemon=daemon)
    monkeypatch.setattr(thread, "join", waits.append)
    thread.start()
    threads.wait()
    threads.wait()
    release.set()

    assert times == len(waits)
