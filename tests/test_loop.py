"""
The workflow loop: time and timers, paths and contexts, how it is entered, what its host hears, where it ends.

The order of things is in test_loop_versions.py, eviction in test_loop_eviction.py, what bodies can't do and what
was changed in asyncio in test_loop_stdlib.py.
"""

# mypy: allow-untyped-calls
# Workflow bodies are written here as users write them, mostly without annotations.

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import sys
import threading
from typing import Any

import pytest
from polos.errors import PolosInternalError, WorkflowNeverWaits
from polos.replay.futures import position_of
from polos.replay.generators import OpenGenerators
from polos.replay.loop import WorkflowLoop

from tests.loop_host import Play


class Host:
    """A host that takes down what it hears."""

    def __init__(self, **options: Any) -> None:
        self.refuses = False
        self.started: list[Any] = []
        self.cancelled: list[Any] = []
        self.errors: list[str] = []
        self.loop = WorkflowLoop(self, **{"start_time": 100.0, **options})

    def timer_started(self, timer):
        if self.refuses:
            raise LookupError("no timers here")
        self.started.append(timer)

    def timer_cancelled(self, timer):
        self.cancelled.append(timer)

    def unhandled(self, context):
        self.errors.append(str(context.get("exception", context["message"])))

    def run(self, coroutine):
        """Start a main task and run it until it waits."""
        main = self.loop.start(coroutine)
        self.loop.activate(lambda: None, 100.0)
        return main


def name_of_task():
    """Give the name of the current task."""
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


def nothing():
    """Deliver nothing."""


# --------------------------------------------------------------------------------------------- time and timers


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


# ------------------------------------------------------------------------------------------------------- paths


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
    """The main task may be made while a fact is delivered; a task made before it counts as its child."""
    host, paths = Host(), []

    async def early():
        paths.append(host.loop.current_path())

    async def main():
        paths.append(host.loop.current_path())

    def happen():
        host.loop.create_task(early())
        host.loop.start(main())

    host.loop.activate(happen, 1.0)

    assert ["main.1", "main"] == paths


# ---------------------------------------------------------------------------------------------------- contexts


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
        seen.append(("main", variable.get()))

    host.run(main())

    assert [("main", "given"), ("copy", "changed"), ("own", "own"), ("empty", "outside"), ("main", "changed")] == seen
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


# ------------------------------------------------------------------------------------------- entering the loop


def outer_state():
    """Give all of an outer loop's state that an activation has to leave as it was."""
    running = asyncio._get_running_loop()
    return running, running and asyncio.current_task(running), sys.get_asyncgen_hooks()


def on_outer_loop(callback):
    """Call back from a plain callback of a running asyncio loop; give what it raised."""
    raised: list[BaseException] = []

    def call():
        try:
            callback()
        except BaseException as error:
            raised.append(error)
        finally:
            loop.stop()

    loop = asyncio.new_event_loop()
    loop.call_soon(call)
    loop.run_forever()
    loop.close()
    return raised[0] if raised else None


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["deliver", "code", "callback"])
@pytest.mark.parametrize("outside", [True, False])
def test_outer_state_is_restored(error, where, outside):
    """Running loop, current task and async generator hooks are as before, whatever is raised from inside."""
    host, inside, states = Host(), [], []

    def fail():
        if error is not None:
            raise error("stop")

    async def main():
        inside.append((asyncio.get_running_loop(), asyncio.current_task()))
        if where == "callback":
            asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0)
        if where == "code":
            fail()

    def call():
        states.append(outer_state())
        task = host.loop.start(main())
        try:
            host.loop.activate(fail if where == "deliver" else nothing, 100.0)
            if where == "deliver":
                host.loop.activate(nothing, 100.0)
        finally:
            states.append(outer_state())
            host.loop.activate(nothing, 100.0)
            states.append(outer_state())
            assert task.done()
            task.exception()

    raised = None
    if outside:
        try:
            call()
        except (ValueError, KeyboardInterrupt, SystemExit) as caught:
            raised = caught
    else:
        raised = on_outer_loop(call)
    escapes = error is not None and (where == "deliver" or error is not ValueError)

    assert (error if escapes else None) == (raised and type(raised))
    assert [(host.loop, inside[0][1])] == inside
    assert states[0] == states[1] == states[2]
    assert outside == (states[0][0] is None)
    assert int(error is ValueError and where == "callback") == len(host.errors)


def test_what_was_ready_survives_an_interruption():
    """After a KeyboardInterrupt from one callback the others run in the next activation, in order."""
    host, order = Host(), []

    def interrupt():
        raise KeyboardInterrupt

    def happen():
        for callback in (lambda: order.append(1), interrupt, lambda: order.append(2), lambda: order.append(3)):
            host.loop.call_soon(callback)

    with pytest.raises(KeyboardInterrupt):
        host.loop.activate(happen, 1.0)

    assert [1] == order

    host.loop.activate(lambda: host.loop.call_soon(order.append, 4), 1.0)

    assert [1, 2, 3, 4] == order


def test_entering_from_a_task_is_refused():
    """A task of the outer loop can't activate a workflow; nor can a workflow's own code."""
    host = Host()

    async def main():
        with pytest.raises(PolosInternalError, match="plain callback"):
            host.loop.activate(nothing, 1.0)
        with pytest.raises(PolosInternalError, match="inside itself"):
            host.loop.discard()

    async def outer():
        with pytest.raises(PolosInternalError, match="plain callback"):
            host.loop.activate(nothing, 1.0)

    asyncio.run(outer())
    host.run(main()).result()


def test_two_workflows_take_turns():
    """Loops don't mix: each body sees its own, however activations alternate inside one outer loop."""
    hosts, seen = [Host(), Host()], []

    async def main(host, event):
        for _ in range(3):
            seen.append(asyncio.get_running_loop() is host.loop)
            await event.wait()
            event.clear()

    def call():
        events = [asyncio.Event(), asyncio.Event()]
        for host, event in zip(hosts, events, strict=True):
            host.run(main(host, event))
        for turn in (0, 1, 1, 0):
            hosts[turn].loop.activate(events[turn].set, 1.0)

    assert on_outer_loop(call) is None
    assert [True] * 6 == seen


def test_running_and_closed():
    """`is_running` is true inside an activation only, `is_closed` once discarded; there is no debug mode."""
    host = Host()
    loop, states = host.loop, []

    async def main():
        states.append((loop.is_running(), loop.is_closed()))

    states.append((loop.is_running(), loop.is_closed()))
    host.run(main())
    loop.discard()
    states.append((loop.is_running(), loop.is_closed()))

    assert [(False, False), (True, False), (False, True)] == states
    assert not loop.get_debug()


# ---------------------------------------------------------------------------------------- code that never waits


def line_of(function, text):
    """Give `file:line` of a line of a function."""
    import inspect

    lines, first = inspect.getsourcelines(function)
    return f"{__file__}:{first + next(number for number, line in enumerate(lines) if text in line)}"


async def spin():
    while True:
        await asyncio.sleep(0)  # spins


def test_body_that_never_waits_is_stopped():
    """The error names the line of the task that spins and the setting; the loop can be discarded after it."""
    host = Host(activation_callbacks_max=1_000)

    async def main():
        await asyncio.gather(asyncio.Event().wait(), spin())

    with pytest.raises(WorkflowNeverWaits) as caught:
        host.run(main())

    assert line_of(spin, "# spins") in str(caught.value)
    assert "main.2" in str(caught.value)
    assert "activation_callbacks_max" in str(caught.value)
    assert [] == host.loop.discard()


def test_callbacks_that_never_end_are_stopped():
    """Callbacks that schedule each other count as well, and are named by where they are defined."""
    host = Host(activation_callbacks_max=1_000)

    class Again:
        def again(self):
            host.loop.call_soon(self.again)

    with pytest.raises(WorkflowNeverWaits) as caught:
        host.loop.activate(Again().again, 1.0)

    assert line_of(Again.again, "def again") in str(caught.value)
    assert [] == host.loop.discard()


async def spins_inside():
    async for number in numbers():
        assert number


async def numbers():
    while True:
        await asyncio.sleep(0)  # spins in a generator
        if Ellipsis is None:
            yield 1


def test_position_is_found_inside_async_generators():
    """Code that spins in an async generator is named by the generator's line."""
    host = Host(activation_callbacks_max=1_000)
    with pytest.raises(WorkflowNeverWaits) as caught:
        host.run(spins_inside())

    assert line_of(numbers, "# spins in") in str(caught.value)
    assert [] == host.loop.discard()


def test_position_of_other_things():
    """Callbacks are named by where they are defined, and what has no place by its repr."""
    assert line_of(nothing, "def nothing") == position_of(functools.partial(nothing))
    assert repr(print) == position_of(print)


def test_budget_is_per_activation():
    """Many callbacks are fine if they are spread over activations."""
    host = Host(activation_callbacks_max=10)
    called: list[int] = []
    for _ in range(50):
        host.loop.activate(lambda: host.loop.call_soon(called.append, 1), 1.0)

    assert 50 == len(called)


# ---------------------------------------------------------------------------------------- errors nobody caught


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


# ---------------------------------------------------------------------------------------- the end of a run


def test_the_rest_is_cancelled_once_and_then_discarded():
    """When main has ended, tasks are cancelled in creation order, may clean up once, and are closed if they insist."""
    play = Play(lambda _: main())

    async def worker(name):
        try:
            await play.step(name)
        finally:
            play.note(f"{name} is going")
            await asyncio.sleep(0)
            play.note(f"{name} went")

    async def insists():
        for attempt in range(5):
            with contextlib.suppress(asyncio.CancelledError):
                await play.step(f"attempt {attempt}")

    async def main():
        for coroutine in (worker("a"), insists(), worker("b")):
            asyncio.create_task(coroutine)  # noqa: RUF006
        await asyncio.sleep(0)
        return "over"

    play.deliver(("start", ""))

    assert [
        "1 start",
        "ask main.1/a",
        "ask main.2/attempt 0",
        "ask main.3/b",
        "result over",
        "abandon main.1/a",
        "a is going",
        "abandon main.2/attempt 0",
        "ask main.2/attempt 1",
        "abandon main.3/b",
        "b is going",
        "a went",
        "b went",
    ] == play.transcript
    assert play.loop.is_closed()
    assert [] == play.loop.cancel_remaining()


def test_cleanup_that_never_waits_is_stopped():
    """Also what is cancelled at the end has its budget of callbacks."""
    host = Host(activation_callbacks_max=1_000)

    async def worker():
        try:
            await asyncio.Event().wait()
        finally:
            await spin()

    async def main():
        asyncio.create_task(worker())  # noqa: RUF006
        await asyncio.sleep(0)

    host.run(main())
    with pytest.raises(WorkflowNeverWaits):
        host.loop.cancel_remaining()

    assert [] == host.loop.discard()


# ------------------------------------------------------------------------------------------- async generators


def test_generator_left_early_is_closed_by_a_task():
    """A generator whose last reference goes is closed at once, by a task of the loop, which may do steps."""
    play = Play(lambda _: main())

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            play.note(f"closing in {play.loop.current_path()}")
            await play.step("close")

    async def main():
        async for _number in numbers():
            break
        play.note("left")
        await play.step("next")

    play.deliver(("start", ""))

    assert ["1 start", "left", "ask main/next", "closing in main.1", "ask main.1/close"] == play.transcript
    assert [] == play.loop.discard()


@pytest.mark.parametrize("collected", ["in the body", "by another thread", "between activations", "never"])
def test_generator_in_a_cycle_is_closed_at_the_end(collected):
    """When the collector finds a generator is no moment of the history: it is closed when main has ended."""
    play = Play(lambda _: main())

    async def numbers(name):
        try:
            yield 1
        finally:
            play.note(f"closing {name} in {play.loop.current_path()}")

    async def main():
        for name in "ab":
            cycle: list[Any] = [numbers(name)]
            cycle.append(cycle)
            await anext(cycle[0])
            del cycle
        if collected == "in the body":
            gc.collect()
        await play.step("step")
        if collected == "by another thread":
            thread = threading.Thread(target=gc.collect)
            thread.start()
            thread.join()
        await asyncio.sleep(0)
        play.note("end of main")

    gc.disable()
    try:
        play.deliver(("start", ""))
        if collected == "between activations":
            gc.collect()
        play.deliver(("step", "main/step"))
    finally:
        gc.enable()

    assert [
        "1 start",
        "ask main/step",
        "2 step main/step",
        "end of main",
        "result None",
        "closing a in main.1",
        "closing b in main.2",
    ] == play.transcript


def test_table_of_generators_stays_small():
    """Entries of generators that ended are dropped; one the table doesn't know any more is kept all the same."""
    generators = OpenGenerators()

    async def empty():
        yield 1

    kept = [empty() for _ in range(10)]
    for generator in kept:
        generators.add(generator)
    for _ in range(1_000):
        generators.add(empty())
    unknown = empty()
    number = generators.keep(unknown)

    assert [(index + 1, generator) for index, generator in enumerate(kept)] == generators.unfinished()[:-1]
    assert (number, unknown) == generators.unfinished()[-1]
    assert len(generators._known) < 200

    generators.release(number)
    generators.release(number)

    assert 10 == len(generators.unfinished())
