"""How a run ends: what main leaves behind, and async generators that are left early or forgotten."""

# mypy: allow-untyped-calls
# Workflow bodies are written here as users write them, mostly without annotations.

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import Any

import pytest
from polos.errors import WorkflowNeverWaits
from polos.replay.generators import OpenGenerators

from tests.loop_host import Host, Play


def nothing():
    """Deliver nothing."""


# --------------------------------------------------------------------------------------------------- the end of a run


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
            while True:
                await asyncio.sleep(0)

    async def main():
        asyncio.create_task(worker())  # noqa: RUF006
        await asyncio.sleep(0)

    host.run(main())
    with pytest.raises(WorkflowNeverWaits):
        host.loop.cancel_remaining()

    assert [] == host.loop.discard()


def test_errors_at_the_end_are_told():
    """What tasks and generators raise when they are cancelled and closed is told to the host, in creation order."""
    host = Host()

    async def worker(name):
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError(name)

    async def fine():
        await asyncio.Event().wait()

    async def insists():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async def numbers():
        try:
            yield 1
        finally:
            raise LookupError("generator")

    kept = numbers()

    async def main():
        tasks = [asyncio.create_task(one) for one in (worker("a"), fine(), insists(), worker("b"))]
        await anext(kept)
        return tasks

    tasks = host.run(main()).result()

    assert [] == host.loop.cancel_remaining()
    assert ["a", "b", "generator"] == host.errors
    assert all(task.done() for task in tasks)


# --------------------------------------------------------------------------------------------------- async generators


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
    for _ in range(10):
        ended = [empty() for _ in range(100)]  # together, or each would take the place of the one before
        for generator in ended:
            generators.add(generator)
        del ended, generator
    unknown = empty()
    number = generators.keep(unknown)

    assert [(index + 1, generator) for index, generator in enumerate(kept)] == generators.unfinished()[:-1]
    assert (number, unknown) == generators.unfinished()[-1]
    assert len(generators._known) < 200

    generators.release(number)
    generators.release(number)

    assert 10 == len(generators.unfinished())
