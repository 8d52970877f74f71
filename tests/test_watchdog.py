"""
Code that holds the loop is reported once, with its run and line, and nothing is done while all is well.

What the thread does between two waits is one method, `_look`; most tests call it themselves and so need neither the
thread nor time. Those with the thread hold the loop until the report has come.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import re
import threading
from typing import Any

import pytest
from polos.runtime import watchdog as watchdog_module
from polos.runtime.watchdog import Blocked, Watchdog

PATIENCE_SECONDS = 30
LIMIT_SECONDS = 0.002


class Looks:
    """A watchdog without its thread: the test looks."""

    def __init__(self) -> None:
        self.blocked: list[Blocked] = []
        self.dog = Watchdog(self.blocked.append, limit_seconds=3.0)
        self.dog._asleep = False  # so that nobody is woken
        self.dog._loop_thread = threading.get_ident()

    def look(self, *, waited: bool = True) -> bool:
        """Look once, as after a full wait."""
        return self.dog._look(waited=waited)

    def runs(self) -> list[str]:
        """Give the runs that were reported."""
        return [blocked.run for blocked in self.blocked]


@pytest.fixture
def looks():
    """A watchdog at which nobody looks but the test."""
    return Looks()


def test_blocked_loop_is_reported(caplog):
    """A body that holds a real loop is reported while it does: run, line, stack, to the log and the callback."""
    reported: queue.SimpleQueue[Blocked] = queue.SimpleQueue()
    watchdog = Watchdog(reported.put, limit_seconds=LIMIT_SECONDS)
    held = []

    def body() -> None:
        watchdog.enter("the run")
        held.append(reported.get(timeout=PATIENCE_SECONDS))
        watchdog.leave()

    async def main() -> None:
        body()

    with caplog.at_level(logging.WARNING, "polos"):
        asyncio.run(main())
        watchdog.close()

    # On a busy machine the limit may be over before the line that blocks is reached; `test_place…` pins the line.
    assert "the run" == held[0].run
    assert re.fullmatch(rf"{re.escape(__file__)}:\d+ in test_blocked_loop_is_reported.<locals>.body", held[0].place)
    assert ", in body\n" in held[0].stack
    assert ", in run_forever\n" in held[0].stack
    said = f"the code of run the run has held the loop for over {LIMIT_SECONDS} s at {held[0].place}; nothing"
    assert [f"{said} else goes on meanwhile\n{held[0].stack}"] == caplog.messages
    assert reported.empty()


def test_thread_wakes_again():
    """The thread starts with the first activation, waits without a time when all is quiet, and wakes for the next."""
    waits: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    class Watched(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.put(timeout)
            return super().wait(timeout)

    reported: queue.SimpleQueue[Blocked] = queue.SimpleQueue()
    watchdog = Watchdog(reported.put, limit_seconds=LIMIT_SECONDS)
    watchdog._wanted = Watched()
    assert None is watchdog._thread

    for run in ("first", "second"):
        watchdog.enter(run)
        assert run == reported.get(timeout=PATIENCE_SECONDS).run
        watchdog.leave()
        while waits.get(timeout=PATIENCE_SECONDS) is not None:
            pass
        assert watchdog._asleep
    watchdog.close()

    assert waits.empty()


def test_reported_at_the_limit_and_once(looks):
    """An activation is reported when it was seen for as long as the limit, and not again."""
    looks.dog.enter("run")
    seen = []
    for _ in range(10):
        looks.look()
        seen.append(looks.runs())

    # First seen, half the limit later, the whole limit later, and then on.
    assert [[], [], ["run"]] == seen[:3]
    assert ["run"] == seen[-1]


def test_each_activation_has_its_own_report(looks):
    """The next activation is reported again, also of the same run and without a look in between."""
    for _ in range(2):
        looks.dog.enter("run")
        for _ in range(4):
            looks.look()
        looks.dog.leave()

    assert ["run", "run"] == looks.runs()


def test_short_activations_are_no_block(looks):
    """Activations that end between looks are never reported, however many there are and whoever stands there."""
    for _ in range(10):
        looks.dog.enter("run")
        looks.look()
        looks.look()
        looks.dog.leave()
        looks.dog.enter("run")
        looks.look()

    assert [] == looks.runs()


def test_early_looks_do_not_count(looks):
    """A look that came early says nothing about how long the loop is held."""
    looks.dog.enter("run")
    for _ in range(10):
        looks.look(waited=False)

    assert [] == looks.runs()
    looks.look()
    looks.look()
    assert ["run"] == looks.runs()


def test_looking_ends_when_nobody_comes(looks):
    """Looks go on while activations come or last, and end with the first look that finds nothing new."""
    looks.dog.enter("run")
    assert [True, True, True] == [looks.look() for _ in range(3)]
    looks.dog.leave()
    looks.dog.enter("run")
    looks.dog.leave()

    assert [True, False] == [looks.look() for _ in range(2)]
    assert looks.dog._asleep


def test_entering_while_it_falls_asleep(looks):
    """Who enters just when the thread decides to sleep is watched, though it found the thread awake."""

    class Racing(Watchdog):  # type: ignore[misc]  # no program may; here it opens the gap between two lines
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_asleep" and value and self.__dict__.get("_armed"):
                self._activation += 1
                self._run = "run"

    dog = Racing(looks.blocked.append)
    dog._asleep = False
    dog._loop_thread = threading.get_ident()
    dog.__dict__["_armed"] = True

    assert [True] * 4 == [dog._look(waited=True) for _ in range(4)]
    assert not dog._asleep
    assert ["run"] == looks.runs()


@pytest.mark.parametrize("end", ["leave", "leave and enter"])
def test_activation_that_ends_while_it_is_looked_at(looks, monkeypatch, end):
    """What ended while its stack was taken isn't reported: the stack may be somebody else's."""

    def format_stack(_frame: object) -> list[str]:
        looks.dog.leave()
        if end == "leave and enter":
            looks.dog.enter("other")
        return ["stack"]

    monkeypatch.setattr("polos.runtime.watchdog.traceback.format_stack", format_stack)
    looks.dog.enter("run")
    for _ in range(3):
        looks.look()

    assert [] == looks.runs()


def test_thread_of_the_loop_that_is_gone(looks):
    """An activation whose thread ended without leaving has no stack to report."""
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    looks.dog._loop_thread = ended.ident
    looks.dog.enter("run")
    for _ in range(3):
        looks.look()

    assert [] == looks.runs()


def test_place_is_in_the_program(looks, monkeypatch):
    """The line named is the program's, not that of the library it called; of a library alone, the innermost."""
    looks.dog.enter("run")
    looks.look()
    looks.look()
    re.sub("x", lambda _match: str(looks.look()), "x")
    monkeypatch.setattr(watchdog_module, "_is_programs", lambda _file: False)
    looks.dog.enter("run")
    for _ in range(3):
        looks.look()

    # What is on the stack here: this file, the library's `re`, this file, and the watchdog itself.
    assert [__file__, watchdog_module.__file__] == [blocked.place.split(":")[0] for blocked in looks.blocked]
    assert f"{__file__}:{Looks.look.__code__.co_firstlineno + 2} in Looks.look" == looks.blocked[0].place


def test_programs_files():
    """Neither the standard library, nor frozen modules, nor polos are the program."""
    files = [asyncio.__file__, "<frozen importlib._bootstrap>", watchdog_module.__file__, __file__, "<string>"]

    assert [False, False, False, True, True] == [watchdog_module._is_programs(file) for file in files]


def test_closing():
    """Closing ends the thread, may be said twice and before any activation; then nothing is watched."""
    reported: list[Blocked] = []
    watchdog = Watchdog(reported.append, limit_seconds=LIMIT_SECONDS)
    watchdog.enter("run")
    watchdog.leave()
    thread = watchdog._thread
    watchdog.close()
    watchdog.close()
    assert thread is not None
    assert not thread.is_alive()

    fresh = Watchdog(reported.append)
    fresh.close()
    fresh.enter("run")
    assert None is fresh._thread


def test_closing_from_the_callback():
    """The callback may close the watchdog it is called by."""
    called = threading.Event()

    def close(_blocked: Blocked) -> None:
        watchdog.close()
        called.set()

    watchdog = Watchdog(close, limit_seconds=LIMIT_SECONDS)
    watchdog.enter("run")
    assert called.wait(PATIENCE_SECONDS)
    watchdog.close()

    assert watchdog._thread is not None
    assert not watchdog._thread.is_alive()


@pytest.mark.parametrize("limit_seconds", [0, -1, float("nan")])
def test_limits_that_make_no_sense(limit_seconds):
    """A limit that isn't positive is refused."""
    with pytest.raises(ValueError, match="limit_seconds must be positive"):
        Watchdog(print, limit_seconds=limit_seconds)
