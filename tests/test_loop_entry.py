"""How a workflow loop is entered and left, and how code that never lets it go is stopped."""

# mypy: allow-untyped-calls
# Workflow bodies are written here as users write them, mostly without annotations.

from __future__ import annotations

import asyncio
import functools
import inspect
import sys

import pytest
from polos.errors import PolosInternalError, WorkflowNeverWaits
from polos.replay.futures import position_of

from tests.loop_host import Host


def nothing():
    """Deliver nothing."""


# -------------------------------------------------------------------------------------------------- entering the loop


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
    escapes = error is not None and (where == "deliver" or error is KeyboardInterrupt)

    assert (error if escapes else None) == (raised and type(raised))
    assert [(host.loop, inside[0][1])] == inside
    assert states[0] == states[1] == states[2]
    assert outside == (states[0][0] is None)
    assert int(error in (ValueError, SystemExit) and where == "callback") == len(host.errors)


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


# ---------------------------------------------------------------------------------------------- code that never waits


def line_of(function, text):
    """Give `file:line` of a line of a function."""
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
