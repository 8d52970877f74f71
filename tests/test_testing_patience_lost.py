"""An interruption that code of Python's own swallows, which nobody is told of."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from itertools import repeat, takewhile
from typing import Any

import pytest
from polos.testing import patience
from polos.testing.patience import Interrupted, Patience


def test_an_interruption_that_gets_lost_is_said_to_nobody(monkeypatch: pytest.MonkeyPatch):
    """The thread asks the system again and again, and runs no Python but what is called because a number is gone."""
    known: list[Any] = []
    file = os.open(os.devnull, os.O_RDONLY)
    running, calls = [file], list[int]()
    watched, done, raise_in = Patience(0.0), threading.Event(), patience.raise_in

    class Number(int):
        def __del__(self) -> None:
            """Be here when somebody is interrupted."""

    def interrupt(thread: int) -> None:
        calls.append(thread)
        if len(calls) > 5:
            running.clear()
        else:
            raise_in(thread)

    def ask() -> None:
        watched.begin(lambda: ("a question", ()))
        deque(map(os.fstat, map(Number, takewhile(running.__contains__, repeat(file)))), maxlen=0)
        watched.end()
        done.set()

    monkeypatch.setattr(sys, "unraisablehook", known.append)
    monkeypatch.setattr(patience, "raise_in", interrupt)
    asking = threading.Thread(target=ask)
    asking.start()
    watched.watch(done)
    asking.join()
    os.close(file)

    assert len(calls) > 5
    assert [] == known
    assert known.append == sys.unraisablehook


def test_what_else_gets_lost_is_told(monkeypatch: pytest.MonkeyPatch):
    """What the program's own code raises where nobody hears it."""
    known: list[type[BaseException]] = []

    class Gone:
        def __init__(self, raised: type[BaseException]) -> None:
            self.raised = raised

        def __del__(self) -> None:
            raise self.raised

    monkeypatch.setattr(sys, "unraisablehook", lambda lost: known.append(lost.exc_type))
    with patience._lost_ones_dropped():
        Gone(LookupError)
        Gone(Interrupted)

    assert [LookupError] == known
