"""Discarding a loop: the code ends now, in order, in silence, and nothing is left of it."""

# mypy: allow-untyped-calls
# Workflow bodies are written here as users write them, mostly without annotations.

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import linecache
import weakref
from typing import Any

import pytest
from polos.errors import RunEvicted

from tests import loop_programs
from tests.loop_host import Play

pytestmark = pytest.mark.filterwarnings("error")  # as everywhere; here it is the point


def evicted(body, facts=()):
    """Play a body up to some facts and evict it; give the play and what `discard` said."""
    play = Play(body)
    play.deliver(("start", ""))
    for fact in facts:
        play.deliver(fact)
    return play, play.evict()


@pytest.mark.parametrize("name", loop_programs.PROGRAMS)
def test_a_hundred_evictions_of_each_program(name):
    """Wherever a program is evicted, it does nothing more, warns of nothing, and goes on the same when rebuilt."""
    evictions = 0
    for seed in itertools.count():

        def make(seed: int = seed) -> Play:
            return Play(loop_programs.PROGRAMS[name], seed)

        evictions += loop_programs.evict_everywhere(make, make().go_on())
        if evictions >= 100:
            break
    gc.collect()

    assert evictions >= 100


def test_every_await_raises():
    """After the eviction each further await, of whatever kind, raises RunEvicted where it stands."""
    raised: list[str] = []

    async def attempt(name, awaitable):
        try:
            await awaitable
        except RunEvicted:
            raised.append(name)

    async def body(play):
        loop = asyncio.get_running_loop()
        full: asyncio.Queue[int] = asyncio.Queue(1)
        full.put_nowait(1)
        locked = asyncio.Lock()
        await locked.acquire()
        other = asyncio.create_task(play.step("other"))
        try:
            await play.step("wait")
        finally:
            await attempt("step", play.step("more"))
            await attempt("future", loop.create_future())
            await attempt("task", other)
            await attempt("yield", asyncio.sleep(0))
            await attempt("sleep", asyncio.sleep(5))  # durable
            await attempt("queue", full.put(2))
            await attempt("lock", locked.acquire())
            await attempt("event", asyncio.Event().wait())
            await attempt("wait", asyncio.wait([other]))
            await attempt("wait_for", asyncio.wait_for(loop.create_future(), 5))
            await attempt("shield", asyncio.shield(other))
            for name, call in {
                "create_task": lambda: asyncio.create_task(play.step("new")),
                "gather": lambda: asyncio.gather(play.step("new"), play.step("newer")),
                "call_later": lambda: loop.call_later(1, print),
                "timeout": lambda: asyncio.timeout(1).__aenter__().send(None),
            }.items():
                with contextlib.suppress(RunEvicted):
                    call()
                    raised.append(f"{name} went on")
                raised.append(name)
            with contextlib.suppress(RunEvicted):
                async with asyncio.TaskGroup() as group:
                    group.create_task(play.step("new"))
                raised.append("group went on")
            loop.call_soon(raised.append, "a callback ran")

    _, stubborn = evicted(body)

    assert [] == stubborn
    awaits = "step future task yield sleep queue lock event wait wait_for shield".split()
    calls = "create_task gather call_later timeout".split()
    assert awaits + calls == raised


def test_tasks_are_ended_in_creation_order():
    """Main first, then the others as they were made; those that never began don't run at all; generators come last."""
    order: list[str] = []

    async def member(play, name):
        try:
            await play.step(name)
        finally:
            task = asyncio.current_task()
            order.append(f"{name} in {play.loop.current_path()}, task {task and task.get_name()}")

    async def numbers(play, name):
        try:
            yield 1
        finally:
            order.append(name)
            with contextlib.suppress(RunEvicted):
                await play.step(name)
            order.append(f"end of {name}")

    async def body(play):
        kept = [numbers(play, "first generator"), numbers(play, "second generator")]
        for generator in reversed(kept):
            await anext(generator)
        tasks = [asyncio.create_task(member(play, name)) for name in "abc"]
        try:
            await asyncio.gather(*tasks)
        finally:
            order.append("main")
            play.keep = [tasks, kept]
            play.loop.call_soon(order.append, "a callback")

    async def never_begun(play):
        order.append("began")

    play = Play(body)
    play.deliver(("start", ""))
    play.loop.activate(nothing, 1.0)
    play.loop._accepting = True  # as if it were made in the moment before the eviction
    play.loop.create_task(never_begun(play))
    play.loop._accepting = False

    assert [] == play.evict()
    assert [
        "main",
        "a in main.1, task main.1",
        "b in main.2, task main.2",
        "c in main.3, task main.3",
        "second generator",
        "end of second generator",
        "first generator",
        "end of first generator",
    ] == order


def nothing():
    """Deliver nothing."""


def test_errors_of_dying_code_go_nowhere():
    """What a `finally` raises while the run is evicted is nobody's business, SystemExit included."""

    async def member(play, error):
        try:
            await play.step("wait")
        finally:
            raise error

    async def body(play):
        await asyncio.gather(*(member(play, error) for error in (ValueError(), SystemExit(3), GeneratorExit())))

    play, stubborn = evicted(body)

    assert [] == stubborn
    assert "ask main.3/wait" == play.transcript[-1]


@pytest.mark.parametrize("place", ["task", "generator"])
def test_keyboard_interrupt_goes_through(place):
    """Ctrl-C while code is being closed isn't swallowed."""

    async def numbers():
        try:
            yield 1
        finally:
            if place == "generator":
                raise KeyboardInterrupt

    async def body(play):
        play.keep = numbers()
        await anext(play.keep)
        try:
            await play.step("wait")
        finally:
            if place == "task":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evicted(body)


def test_generators_are_ended_wherever_they_stand():
    """Left early during the eviction, stopped at a yield, awaiting, yielding on, awaiting again: all end."""
    order: list[str] = []

    async def numbers(play, name):
        try:
            yield 1
            await play.step(name)
            yield 2
        finally:
            order.append(f"closing {name}")
            for _ in range(3):
                with contextlib.suppress(RunEvicted):
                    await asyncio.get_running_loop().create_future()
            order.append(f"closed {name}")

    async def yields_on():
        for _ in range(5):
            try:
                yield 1
            except RunEvicted:
                order.append("yields on")

    async def body(play):
        kept = [numbers(play, "kept"), yields_on(), numbers(play, "ended")]
        for generator in kept:
            await anext(generator)
        await kept[2].aclose()
        del order[:]
        play.keep = kept
        try:
            async for _ in numbers(play, "awaiting"):
                pass
        finally:
            async for _ in numbers(play, "begun in finally"):
                break
            async for _ in numbers(play, "left in finally"):
                break
            order.append("end of main")

    _, stubborn = evicted(body)

    assert [] == stubborn
    assert [
        "closing awaiting",
        "closed awaiting",
        "end of main",
        "closing kept",
        "closed kept",
        *["yields on"] * 5,
        "closing begun in finally",
        "closed begun in finally",
        "closing left in finally",
        "closed left in finally",
    ] == order


def test_stubborn_code_is_named():
    """Code that catches everything for ever doesn't hang the program; `discard` says where it stands."""
    free = False

    async def stubborn(play):
        while not free:
            try:
                await asyncio.get_running_loop().create_future()  # stands here
            except BaseException:
                play.count = getattr(play, "count", 0) + 1

    async def numbers():
        while not free:
            with contextlib.suppress(RunEvicted):
                yield 1

    async def body(play):
        play.keep = [asyncio.create_task(stubborn(play)), numbers()]
        await anext(play.keep[1])
        await play.step("wait")

    play, where = evicted(body)

    assert 1 < play.count <= 1_000
    assert 2 == len(where)
    file, _, line = where[0].rpartition(":")
    assert "# stands here" in linecache.getline(file, int(line))
    assert where[1].endswith("numbers")

    free = True  # so that they can end when this test does


def test_coroutines_nobody_awaited_make_no_noise():
    """What the body had made and not awaited yet is dropped in silence, also if an error holds on to its frames."""

    async def child(play):
        await play.step("child")

    async def body(play):
        waiting = [child(play) for _ in range(3)]
        error = None
        try:
            try:
                await play.step("wait")
            except BaseException as raised:
                error = raised  # a cycle: the error holds this frame, and this frame the error
                raise
        finally:
            more = child(play)
            waiting.append(more)
            _ = error
            await play.step("finally")

    play, _ = evicted(body)

    assert "ask main/wait" == play.transcript[-1]


def test_elsewhere_coroutines_nobody_awaited_are_reported():
    """The silence is for runs that are being closed: a live body that forgets an await is told so."""

    async def child():
        pass

    async def body(play):
        _ = child()
        del _
        await play.step("wait")

    with pytest.warns(RuntimeWarning, match="never awaited"):
        evicted(body)


def test_nothing_is_left_in_memory():
    """Loop, tasks, futures and locals are gone when the last reference is, without the garbage collector."""

    class Thing:
        pass

    things: list[weakref.ref[Any]] = []

    async def member(play):
        mine = Thing()
        things.append(weakref.ref(mine))
        try:
            await play.step("wait")
        finally:
            with contextlib.suppress(RunEvicted):
                await asyncio.sleep(0)

    async def body(play):
        mine = Thing()
        things.append(weakref.ref(mine))
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(member(play))
            await asyncio.gather(member(play), asyncio.shield(asyncio.create_task(member(play))))

    gc.collect()
    gc.disable()
    try:
        play, _ = evicted(body)
        things.append(weakref.ref(play.loop))
        things += [weakref.ref(future) for future in play.steps.values()]
        del play

        assert 7 == len(things)
        assert [None] * 7 == [thing() for thing in things]
    finally:
        gc.enable()


def test_discarding_twice():
    """A second discard does nothing; timers and futures of a discarded loop may be touched without harm."""

    async def body(play):
        play.timer = asyncio.get_running_loop().call_later(5, print)
        play.future = asyncio.get_running_loop().create_future()
        play.future.add_done_callback(print)
        await play.step("wait")

    play, first = evicted(body)
    lines = len(play.transcript)
    play.timer.cancel()
    play.future.cancel()

    assert ([], []) == (first, play.loop.discard())
    assert lines == len(play.transcript)


def test_loop_that_never_began_can_be_discarded():
    """A loop without a main task, or with one that didn't run, is discarded in silence."""

    async def body(play):
        play.note("ran")

    play = Play(body)

    assert [] == play.evict()

    play = Play(body)
    play.loop.start(body(play))

    assert [] == play.evict()
    assert [] == play.transcript
