"""What was changed in asyncio for workflow bodies, and that nobody else notices the change."""

# mypy: allow-untyped-calls
# Workflow bodies are written here as users write them, mostly without annotations.

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from polos.replay import stdlib

from tests.loop_host import Play


def run(body):
    """Run a body until it waits; give its play."""
    play = Play(body)
    play.deliver(("start", ""))
    return play


async def nothing():
    pass


def loop_():
    return asyncio.get_running_loop()


# ----------------------------------------------------------------------------------------- asyncio on a workflow loop


def test_as_completed_begins_at_once_and_in_order():
    """Tasks are made by the call, one for each argument, in argument order; `async for` works on every Python."""

    async def member(play, number):
        play.note(f"begin {number}")
        await play.step(str(number))
        return number

    async def body(play):
        again = asyncio.create_task(member(play, 0))
        coming: Any = asyncio.as_completed([again, *(member(play, number) for number in range(1, 40)), again])
        await asyncio.sleep(0)
        await play.step("between")
        tasks = [task async for task in coming]
        assert tasks[0] is again
        return [task.result() for task in tasks]

    play = run(body)

    assert [f"begin {number}" for number in range(40)] == [line for line in play.transcript if "begin" in line]

    play.deliver(("step", "main/between"))
    order = [0, *range(39, 0, -1)]
    for number in order:
        play.deliver(("step", f"main.{number + 1}/{number}"))

    assert order == play.main.result()


def test_as_completed_times_out():
    """After the timeout each further await raises TimeoutError, and what completes later changes nothing."""

    async def body(play):
        results = []
        for one in asyncio.as_completed([play.step("fast"), play.step("slow"), play.step("slower")], timeout=5):
            try:
                results.append(await one)
            except TimeoutError:
                results.append("timeout")
        await play.step("more")
        with pytest.raises(TypeError):
            asyncio.as_completed(loop_().create_future())
        assert [] == list(asyncio.as_completed([]))
        (one,) = asyncio.as_completed([asyncio.sleep(0, "in time")], timeout=5)
        results.append(await one)
        return results

    play = run(body)
    for fact in [("step", "main.1/fast"), ("timer", "main/timer#1"), ("step", "main.2/slow"), ("step", "main/more")]:
        play.deliver(fact)

    assert ["<main.1/fast>", "timeout", "timeout", "in time"] == play.main.result()
    assert "no timer main/timer#2" in play.transcript


def test_as_completed_late_completion_beside_the_timeout():
    """What completes in the very activation in which the timeout fires is too late, if the timer was first."""

    async def body(play):
        play.slow = loop_().create_future()
        (one,) = asyncio.as_completed([play.slow], timeout=5)
        with pytest.raises(TimeoutError):
            await one
        return await play.slow

    play = run(body)

    def happen():
        play.loop.fire(play.timers.pop("main/timer#1"))
        play.slow.set_result("late")

    play.loop.activate(happen, 10.0)

    assert "late" == play.main.result()


@pytest.mark.parametrize("timeout", [None, 5, 0, -1])
def test_wait_for_makes_no_task_of_its_own(timeout):
    """wait_for runs a coroutine in the waiting task; with no time left it doesn't run it at all."""

    async def member(play):
        play.note(play.loop.current_path())
        return await play.step("step")

    async def body(play):
        done = loop_().create_future()
        done.set_result("done")
        assert "done" == await asyncio.wait_for(done, timeout)
        try:
            return await asyncio.wait_for(member(play), timeout)
        except TimeoutError:
            return "timeout"

    play = run(body)
    if timeout is None or timeout > 0:
        assert "main" in play.transcript
        play.deliver(("step", "main/step"))

        assert "<main/step>" == play.main.result()
    else:
        assert ["1 start", "result timeout"] == play.transcript


def test_task_that_wont_be_timed_out():
    """A task that answers the cancellation of wait_for(…, 0) with a result gets that result through."""

    async def insists():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "all the same"

    async def body(play):
        task = asyncio.create_task(insists())
        await asyncio.sleep(0)
        return await asyncio.wait_for(task, 0)

    assert "all the same" == run(body).main.result()


def test_task_group_keeps_a_cancellation_from_outside():
    """If members fail while somebody cancels the parent, the errors come first and the next await is cancelled."""

    async def cleans_up(play):
        try:
            await play.step("other")
        finally:
            await play.step("cleanup")

    async def body(play):
        try:
            async with asyncio.TaskGroup() as members:
                members.create_task(play.step("bad"))
                members.create_task(cleans_up(play))
        except* Exception as errors:
            play.note(str(errors.exceptions))
        try:
            await play.step("after")
        finally:
            play.note("cancelled here")

    play = run(body)
    for fact in [("step", "main.1/bad"), ("cancel", ""), ("step", "main.2/cleanup")]:
        play.deliver(fact)

    assert [
        "4 step main.2/cleanup",
        "(StepError('main.1/bad'),)",
        "ask main/after",
        "abandon main/after",
        "cancelled here",
        "cancelled",
    ] == play.transcript[-6:]


def test_task_group_passes_on_what_ends_its_body():
    """Errors of the body join those of members; KeyboardInterrupt and the group's own cancellation go as in asyncio."""

    async def member(play):
        try:
            await play.step("wait")
        finally:
            raise ValueError("member")

    async def fail():
        raise LookupError("member")

    async def body(play):
        try:
            async with asyncio.TaskGroup() as members:
                members.create_task(member(play))
                await asyncio.sleep(0)
                raise LookupError("body")
        except* (ValueError, LookupError) as errors:
            play.note(f"{errors.exceptions!r}")
        try:
            async with asyncio.TaskGroup() as members:
                members.create_task(fail())
                try:
                    await play.step("in the body")
                finally:
                    play.note("the body is cancelled")
        except* LookupError:
            play.note("a member failed")
        try:
            async with asyncio.TaskGroup():
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            play.note("interrupted")
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.TaskGroup() as members:
                members.create_task(play.step("cancelled with its parent"))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            play.note(f"cancelled {task.uncancel()}")

    play = run(body)

    assert [
        "(ValueError('member'), LookupError('body'))",
        "abandon main/in the body",
        "the body is cancelled",
        "a member failed",
        "interrupted",
        "abandon main.3/cancelled with its parent",
        "cancelled 0",
        "result None",
    ] == [line for line in play.transcript if not line.startswith(("1 ", "ask", "abandon main.1"))]


def test_all_tasks_is_of_this_loop():
    """asyncio.all_tasks() gives the body's own tasks, always in the same order, and asked from outside, too."""

    async def body(play):
        tasks = [asyncio.create_task(nothing()) for _ in range(5)]
        assert {asyncio.current_task(), *tasks} == asyncio.all_tasks()
        await asyncio.gather(*tasks)
        assert {asyncio.current_task()} == asyncio.all_tasks(loop_())
        await play.step("wait")

    play = run(body)

    assert {play.main} == asyncio.all_tasks(play.loop)
    assert [] == play.evict()
    assert set() == asyncio.all_tasks(play.loop)


def test_hashes_are_numbers():
    """Tasks, futures and gathers hash by number on a workflow loop, and as ever on another one."""

    async def body(play):
        task = asyncio.create_task(nothing())
        future, gathered = loop_().create_future(), asyncio.gather(task)
        hashes = [hash(asyncio.current_task()), hash(task), hash(future), hash(gathered), hash(future)]
        await gathered
        return hashes

    async def outside():
        gathered = asyncio.gather(nothing())
        assert object.__hash__(gathered) == hash(gathered)
        await gathered

    asyncio.run(outside())

    hashes = run(body).main.result()

    assert [1, 2, 3, 4, 3] == hashes


# ------------------------------------------------------------------------------------------- everybody else's asyncio


def test_other_loops_behave_as_before():
    """Under asyncio's own loops the exchanged functions do what they did: types, results, errors, tasks."""
    stdlib.install()
    stdlib.install()

    async def value(number):
        await asyncio.sleep(0)
        return number

    async def fail():
        raise ValueError("member")

    async def main():
        assert 3 == sum(await asyncio.gather(value(1), value(2)))
        coming = asyncio.as_completed([value(3), value(4)], timeout=50)
        assert type(coming).__module__ != stdlib.__name__
        assert [3, 4] == sorted([await one for one in coming])
        tasks = [asyncio.create_task(value(number)) for number in range(3)]
        assert {asyncio.current_task(), *tasks} == asyncio.all_tasks()
        done, pending = await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED)
        assert (set(tasks), set()) == (done, pending)
        with pytest.raises(TypeError):
            await asyncio.wait(tasks[0])
        assert 5 == await asyncio.wait_for(value(5), 50)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0)
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as members:
                members.create_task(fail())
        async with asyncio.TaskGroup() as members:
            members.create_task(value(9))
        promise: concurrent.futures.Future[int] = concurrent.futures.Future()
        promise.set_result(6)
        assert 6 == await asyncio.wrap_future(promise)
        assert 7 == await asyncio.to_thread(lambda: 7)
        return 8

    assert 8 == asyncio.run(main(), debug=False)
    with pytest.raises(ValueError, match="coroutine"):
        asyncio.run(None)  # type: ignore[arg-type]


def test_signatures_stay():
    """Who looks at the exchanged functions sees the parameters, names and docstrings they had."""
    stdlib.install()
    program = """
import asyncio, inspect, json, sys
names = ["as_completed", "wait", "gather", "wrap_future", "wait_for", "all_tasks", "run"]
def look():
    return {n: [str(inspect.signature(f)).replace("'", ""), f.__name__, f.__doc__, f.__module__,
            inspect.iscoroutinefunction(f)] for n in names for f in [getattr(asyncio, n)]}
before = look()
from polos.replay import stdlib
stdlib.install()
json.dump([before, look()], sys.stdout)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    before, after = json.loads(done.stdout)
    # A generator function can't be told from a plain one by its parameters.
    for entry in (before, after):
        entry["wait"][0] = entry["wait"][0].replace("ALL_COMPLETED", "")

    assert {name: [entry[0].partition(" ->")[0], *entry[1:]] for name, entry in before.items()} == {
        name: [entry[0].partition(" ->")[0].replace(": Any", ""), *entry[1:]] for name, entry in after.items()
    }


def test_names_imported_before_are_exchanged_too():
    """A module that took as_completed and wait_for from asyncio before polos was there gets the right ones, too."""
    program = """
from asyncio import as_completed, wait_for, all_tasks
import asyncio
from polos.replay import stdlib
from tests.loop_host import Play
async def member(play, number):
    play.note(f"begin {number}")
async def body(play):
    for one in as_completed([member(play, number) for number in range(30)]):
        await one
    await wait_for(member(play, play.loop.current_path()), 5)
play = Play(body)
play.deliver(("start", ""))
print(*[line.split()[1] for line in play.transcript if line.startswith("begin")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )

    assert [*map(str, range(30)), "main"] == done.stdout.split()


def test_installing_from_many_threads():
    """However many loops are made at once for the first time, the functions are exchanged once."""
    program = """
import asyncio, threading
from polos.replay import stdlib
threads = [threading.Thread(target=stdlib.install) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
async def value(): return 1
async def main(): return await asyncio.gather(value(), value())
print(asyncio.run(main()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )

    assert "[1, 1]" == done.stdout.strip()


def test_python_without_the_warning_hook(monkeypatch):
    """An interpreter that reports forgotten coroutines in another way is left alone."""
    monkeypatch.delattr(warnings, "_warn_unawaited_coroutine")
    stdlib._quieten()

    assert not hasattr(warnings, "_warn_unawaited_coroutine")


def test_replay_imports_the_standard_library_only():
    """The loop needs nothing that isn't in every Python."""
    program = """
import sys
before = set(sys.modules)
import polos.replay.loop
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )

    assert ["polos"] == done.stdout.split()


def test_tasks_stay_out_of_the_set_of_all_loops():
    """Up to Python 3.13 asyncio keeps all loops' tasks in one set, where ours, with small hashes, would pile up."""

    async def body(play):
        play.task = asyncio.create_task(play.step("wait"))
        await play.task

    play = run(body)
    registry: Any = getattr(asyncio.tasks, "_all_tasks", None) or getattr(asyncio.tasks, "_scheduled_tasks", ())

    assert sys.version_info >= (3, 14) or not {play.main, play.task} & set(registry)
    assert [] == play.evict()
