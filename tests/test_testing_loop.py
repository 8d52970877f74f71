"""The simulation's loop and the operating system: nothing is opened before it is needed, and all of it works then."""

from __future__ import annotations

import asyncio
import itertools
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from polos.testing import patience
from polos.testing.clock import VirtualClock
from polos.testing.loop import SimulatedLoop


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    """Give a loop on a clock of its own."""
    made = SimulatedLoop(VirtualClock())
    yield made
    made.close()


def refuses(*_args: object, **_options: object) -> None:
    raise AssertionError("the operating system was asked for something")


def test_programs_that_meet_no_system_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop on which there is only work and time makes no selector and no pipe."""
    monkeypatch.setattr(selectors, "DefaultSelector", refuses)
    monkeypatch.setattr(socket, "socketpair", refuses)
    loop = SimulatedLoop(VirtualClock())

    came: list[float] = []
    loop.call_later(60, lambda: came.append(loop.time()))
    loop.run_for(None)
    loop.close()

    assert [60] == came


def test_nobody_is_interrupted_while_a_loop_opens_its_pipe(
    loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom patience is over with would leave two sockets open of which nobody knows."""
    found: list[bool] = []
    make = socket.socketpair

    def seen(*args: Any, **options: Any) -> Any:
        found.append(patience._is_unheard(sys._getframe()))
        return make(*args, **options)

    monkeypatch.setattr(socket, "socketpair", seen)
    loop._real.open()

    assert [True] == found


@pytest.mark.parametrize("days", [100, 200, 4_000, 40_000])
def test_a_timer_is_due_however_long_the_loop_runs_already(days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a year a float of seconds has no nanoseconds any more, and a timer still comes up."""
    turn, turns = SimulatedLoop._run_once, itertools.count()

    def turns_on(loop: SimulatedLoop) -> None:
        assert next(turns) < 1_000, "the loop turns for ever, for a timer that is never due"
        turn(loop)

    monkeypatch.setattr(SimulatedLoop, "_run_once", turns_on)
    clock = VirtualClock()
    clock.advance(days * 86_400_000_000)
    loop = SimulatedLoop(clock)
    came: list[float] = []

    async def waits() -> None:
        for _ in range(3):
            done: asyncio.Future[None] = loop.create_future()
            loop.call_later(1.1, done.set_result, None)
            await done
            came.append(loop.time() - days * 86_400)

    loop.create_task(waits())
    loop.run_for(None)
    loop.close()

    assert pytest.approx([1.1, 2.2, 3.3], abs=1e-4) == came


def test_a_connection_is_served(loop: SimulatedLoop) -> None:
    """What a connection brings comes through a loop that had opened nothing before it."""
    here, there = socket.socketpair()
    loop.is_busy = lambda: True

    async def reads() -> bytes:
        reader, writer = await asyncio.open_connection(sock=here)
        there.send(b"word\n")
        word = await reader.readline()
        loop.is_busy = None
        writer.close()
        await writer.wait_closed()
        return word

    task = loop.create_task(reads())
    loop.run_for(None)
    there.close()

    assert b"word\n" == task.result()
    assert [] == loop.transports()


def test_a_thread_wakes_the_loop_that_waits_for_it(loop: SimulatedLoop) -> None:
    """A call from another thread ends the wait for the real world, for which the pipe is made."""
    done = loop.create_future()
    loop.is_busy = lambda: not done.done()
    may = threading.Event()
    opened = loop._real.make_pipe

    def make_pipe() -> None:
        opened()
        may.set()

    loop._real.make_pipe = make_pipe
    thread = threading.Thread(target=lambda: may.wait() and loop.call_soon_threadsafe(done.set_result, "told"))
    thread.start()
    loop.run_until_complete(done)
    thread.join()

    assert "told" == done.result()


def test_a_thread_that_is_quicker_than_the_pipe_is_heard(loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread asks for while the pipe isn't there yet is done without waiting for anything."""
    done = loop.create_future()
    loop.is_busy = lambda: not done.done()
    opened = loop._real.make_pipe

    def make_pipe() -> None:
        loop.call_soon_threadsafe(done.set_result, "told")
        opened()

    loop._real.make_pipe = make_pipe
    monkeypatch.setattr(loop._real, "wait", refuses)
    loop.run_until_complete(done)

    assert "told" == done.result()


def test_a_loop_that_begins_to_wait_meanwhile_is_woken(loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that opens its pipe while another thread asks for a call hears of it: the thread looks for a pipe last."""
    call_soon = loop.call_soon

    def opens_before(*args: Any, **options: Any) -> Any:
        loop._real.open()  # the loop has found nothing to do, and will wait
        return call_soon(*args, **options)

    monkeypatch.setattr(loop, "call_soon", opens_before)
    loop.call_soon_threadsafe(print)

    assert loop._real.wait(0)


def test_signals_are_handled(loop: SimulatedLoop) -> None:
    """A handler of a signal needs the pipe, and has it."""
    heard = loop.create_future()
    loop.is_busy = lambda: not heard.done()
    loop.add_signal_handler(signal.SIGUSR1, heard.set_result, "heard")
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_until_complete(heard)
    loop.remove_signal_handler(signal.SIGUSR1)

    assert "heard" == heard.result()
