"""
The workflow loop: time and timers, paths and contexts, what its host hears.

How it is entered is in test_loop_entry.py, how a run ends in test_loop_end.py, eviction in test_loop_eviction.py, what
bodies can't do in test_loop_refusals.py, what was changed in asyncio in test_loop_stdlib.py; that all of it is the same
everywhere, in test_loop_versions.py.
"""

# mypy: allow-untyped-calls
# Workflow bodies are written here as users write them, mostly without annotations.

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
from typing import Any

import pytest

from tests.loop_host import Host


def name_of_task():
    """Give the name of the current task."""
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


def nothing():
    """Deliver nothing."""


# ---------------------------------------------------------------------------------------------------- time and timers


def test_time_is_that_of_the_fact_and_never_goes_back():
    """`loop.time()` is what the activation said, and stays when a fact claims to be older."""
    host, seen = Host(), []

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(4):
            seen.append(loop.time())
            await asyncio.shield(tick)

    tick = host.loop.create_future()

    def happen():
        nonlocal tick
        done, tick = tick, host.loop.create_future()
        done.set_result(None)

    host.run(main())
    for now in (101.5, 101.0, 200.0):
        host.loop.activate(happen, now)

    assert [100.0, 101.5, 101.5, 200.0] == seen


def test_every_timer_is_the_hosts():
    """call_later and call_at tell the host, also if they are due already; nothing fires by itself."""
    host, called = Host(), list[Any]()

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(5, called.append, "later")
        loop.call_later(0, called.append, "now")
        loop.call_at(50, called.append, "past")
        await asyncio.create_task(asyncio.sleep(7))  # durable

    main_task = host.run(main())
    timers = {timer.name: timer for timer in host.started}
    host.loop.activate(nothing, 1_000.0)

    assert {"main/timer#1": 105.0, "main/timer#2": 100.0, "main/timer#3": 50.0, "main.1/timer#1": 107.0} == {
        name: timer.due for name, timer in timers.items()
    }
    assert [] == called

    for name in ("main/timer#3", "main.1/timer#1"):
        host.loop.activate(functools.partial(host.loop.fire, timers[name]), 1_000.0)

    assert ["past"] == called
    assert main_task.done()


def test_sleep_zero_is_no_timer():
    """`sleep(0)` lets the others run and asks the host for nothing."""
    host, order = Host(), []

    async def other():
        order.append("other")

    async def main():
        task = asyncio.create_task(other())
        await asyncio.sleep(0)
        order.append("main")
        await task

    host.run(main())

    assert ["other", "main"] == order
    assert [] == host.started


def test_timer_cancellation_is_told_once_and_not_after_firing():
    """The host hears of a cancelled timer once; a timer that fired isn't reported, but its callback still held back."""
    host, called = Host(), list[Any]()

    async def main():
        loop = asyncio.get_running_loop()
        first, second = loop.call_later(1, called.append, 1), loop.call_later(2, called.append, 2)
        first.cancel()
        first.cancel()
        await event.wait()
        second.cancel()

    event = asyncio.Event()
    host.run(main())
    first, second = host.started

    def happen():
        event.set()
        host.loop.fire(first)
        host.loop.fire(second)
        host.loop.fire(second)

    host.loop.activate(happen, 102.0)

    assert [first] == host.cancelled
    assert "main/timer#1 due 101.0 cancelled" in repr(first)
    assert second.cancelled()
    assert [] == called
    assert 2 == len({first, second})
    assert first == first  # noqa: PLR0124 -- the base class compares by due time and callback
    assert first != second


def test_fired_timer_runs_once():
    """Firing a timer twice runs its callback once."""
    host, called = Host(), list[Any]()

    async def main():
        asyncio.get_running_loop().call_later(1, called.append, 1)

    host.run(main())

    def happen():
        host.loop.fire(host.started[0])
        host.loop.fire(host.started[0])

    host.loop.activate(happen, 101.0)

    assert [1] == called


def test_timer_of_no_number_is_refused():
    """A timer due at NaN is a mistake at that line; one due at infinity is a wish like others."""
    host = Host()

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(float("inf"), nothing)
        with pytest.raises(ValueError, match="not a number"):
            loop.call_later(float("nan"), nothing)

    host.run(main()).result()

    assert [float("inf")] == [timer.due for timer in host.started]


def test_host_may_refuse_a_timer():
    """What the host raises when a timer starts, the code that wanted it gets."""
    host = Host()
    host.refuses = True

    async def main():
        with pytest.raises(LookupError):
            await asyncio.sleep(1)  # durable
        return "went on"

    assert "went on" == host.run(main()).result()


# -------------------------------------------------------------------------------------------------------------- paths


def test_paths_name_tasks_by_parent_and_number():
    """A task's path is its parent's and its number there; so are default task names, and callbacks inherit it."""
    host, paths = Host(), []

    def note():
        paths.append(host.loop.current_path())

    async def leaf():
        note()
        asyncio.get_running_loop().call_soon(note)
        asyncio.get_running_loop().call_later(1, note)
        return name_of_task()

    async def branch():
        return await asyncio.gather(leaf(), leaf())

    async def main():
        note()
        one = asyncio.create_task(leaf(), name="mine")
        return [await one, await asyncio.create_task(branch()), await asyncio.create_task(leaf())]

    main_task = host.run(main())

    assert ["mine", ["main.2.1", "main.2.2"], "main.3"] == main_task.result()
    assert ["main", "main.1", "main.1", "main.2.1", "main.2.2", "main.2.1", "main.2.2", "main.3", "main.3"] == paths

    paths.clear()
    for timer in host.started:
        host.loop.activate(functools.partial(host.loop.fire, timer), 101.0)

    assert ["main.1", "main.2.1", "main.2.2", "main.3"] == paths


def test_host_code_belongs_to_main():
    """What the host schedules itself, and what it asks outside of activations, is on behalf of `main`."""
    host, paths = Host(), []

    async def main():
        await asyncio.Event().wait()

    async def handler():
        paths.append(host.loop.current_path())

    before = host.loop.current_path()
    host.run(main())
    host.loop.activate(lambda: host.loop.create_task(handler()), 101.0)

    assert ["main", "main.1", "main"] == [before, *paths, host.loop.current_path()]


def test_start_inside_an_activation():
    """The main task may be made while a fact is delivered, and runs in that activation."""
    host, paths = Host(), []

    async def main():
        paths.append(host.loop.current_path())

    host.loop.activate(lambda: host.loop.start(main()), 1.0)

    assert ["main"] == paths


# ----------------------------------------------------------------------------------------------------------- contexts


def test_context_of_main_and_of_tasks():
    """Main runs in the context that was given; tasks in copies of their maker's, or in one of their own."""
    variable = contextvars.ContextVar("variable", default="outside")
    given, own = contextvars.Context(), contextvars.Context()
    given.run(variable.set, "given")
    own.run(variable.set, "own")
    host, seen = Host(context=given), []

    async def child(name):
        seen.append((name, variable.get()))
        variable.set(name)

    async def main():
        seen.append(("main", variable.get()))
        variable.set("changed")
        await asyncio.create_task(child("copy"))
        await asyncio.create_task(child("own"), context=own)
        await asyncio.get_running_loop().create_task(child("empty"), context=contextvars.Context())
        asyncio.get_running_loop().call_later(1, lambda: seen.append(("timer", variable.get())), context=own)
        seen.append(("main", variable.get()))

    host.run(main())
    host.loop.activate(functools.partial(host.loop.fire, host.started[0]), 101.0)

    assert [
        ("main", "given"),
        ("copy", "changed"),
        ("own", "own"),
        ("empty", "outside"),
        ("main", "changed"),
        ("timer", "own"),
    ] == seen
    assert ("changed", "own", "outside") == (given.run(variable.get), own.run(variable.get), variable.get())


def test_task_options():
    """`eager_start` runs a task's first step at once on every Python; an option nobody knows is a TypeError."""
    host, order = Host(), []

    async def child(name):
        order.append((name, name_of_task(), host.loop.current_path()))

    async def main():
        loop: Any = asyncio.get_running_loop()
        tasks = [
            loop.create_task(child("lazy"), eager_start=False),
            loop.create_task(child("eager"), eager_start=True),
            loop.create_task(child("none"), eager_start=None, name="named"),
        ]
        order.append(("main", name_of_task(), host.loop.current_path()))
        assert [False, True, False] == [task.done() for task in tasks]
        await asyncio.gather(*tasks)
        unknown = child("unknown")
        with pytest.raises(TypeError):
            loop.create_task(unknown, from_the_future=1)  # noqa: RUF006
        unknown.close()

    host.run(main()).result()
    host.loop.activate(lambda: host.loop.create_task(child("host"), eager_start=True), 101.0)

    assert [
        ("eager", "main.2", "main.2"),
        ("main", "main", "main"),
        ("lazy", "main.1", "main.1"),
        ("none", "named", "main.3"),
        ("host", "main.5", "main.5"),
    ] == order


# ----------------------------------------------------------------------------------------------- errors nobody caught


def test_unhandled_errors_go_to_the_host():
    """An error of a callback, and one of a task that nobody asked, reach the host; a discarded loop is silent."""
    host = Host()

    async def fail():
        raise ValueError("nobody asked")

    def callback():
        raise LookupError("from a callback")

    async def main():
        asyncio.create_task(fail())  # noqa: RUF006
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0)
        asyncio.get_running_loop().default_exception_handler({"message": "by hand"})

    host.run(main())
    gc.collect()

    assert ["by hand", "from a callback", "nobody asked"] == sorted(host.errors)

    host.errors.clear()
    host.loop.discard()
    host.loop.call_exception_handler({"message": "too late"})

    assert [] == host.errors
