"""
Histories, replayed from the log alone.

What the code of a run asks for when it is run on its recorded facts must be what is recorded, request for request:
nothing new, nothing else, and with the same functions and arguments. It holds for every attempt of a run, whatever
happened to it, so every scenario of the kit ends with it. Bodies that do I/O themselves aren't replayed by the engine
either, and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from polos.engine import events as e
from polos.engine.evolve import evolve
from polos.engine.state import RunState
from polos.replay.driver import Driver
from polos.replay.requests import name_of
from polos.runtime.loading import input_of, replay
from polos.runtime.ports import RunCode
from polos.runtime.unit import Resident
from polos.testing.audit import Stored
from polos.testing.simulation import Simulation

__all__ = ["Difference", "attempts", "check_replay", "code_of", "differences_of", "fold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something recorded that differs without stopping the run: a function's name, arguments."""

    version: int
    name: str
    what: str
    recorded: str | None
    asked: str | None


def attempts(history: list[Stored]) -> Iterator[tuple[int, list[Stored]]]:
    """Give each attempt of a run: the version of its start, and the stream up to its end."""
    starts = [version for version, (event, _, _) in enumerate(history, 1) if isinstance(event, e.RunStarted)]
    for start, following in pairwise([*starts, len(history) + 1]):
        yield start, history[: following - 1]


def fold(run: str, history: Iterable[Stored]) -> RunState:
    """Give a run's state after a part of its history."""
    state = RunState(run=run)
    for event, time_us, _ in history:
        evolve(state, event, time_us=time_us)
    return state


def code_of(sim: Simulation, run: str, start: int, history: list[Stored]) -> tuple[RunCode, Resident]:
    """Make the code of the attempt that begins with that version, nothing run yet; the engine has to know it."""
    state = fold(run, history[:start])
    created = history[0][0]
    assert isinstance(created, e.RunCreated), "a run's stream begins with its creation"
    resident = Resident(state, durable=start)
    resident.input = input_of(event for event, _, _ in history)
    return sim.engine.bodies.make(sim.engine, resident, python=None), resident


def differences_of(code: Driver) -> list[Difference]:
    """Give the list in which a driver that is about to replay will note what differs without stopping it."""
    found: list[Difference] = []

    def note(recorded: e.Event, asked: e.Event) -> None:
        for what in ("function", "digest", "workflow"):
            old, new = getattr(recorded, what, None), getattr(asked, what, None)
            if old != new:
                found.append(Difference(version=code.cause, name=name_of(asked), what=what, recorded=old, asked=new))

    code.on_match = note
    return found


def check_replay(sim: Simulation, run: str, whole: list[Stored] | None = None) -> None:
    """
    Check that replay asks for nothing new and nothing else, in every attempt of a run (E6).

    Args:
        sim: its engine has the code.
        run: the run.
        whole: its history, if it isn't that world's own.
    """
    for start, history in attempts(sim.audit.histories[run] if whole is None else whole):
        code, _ = code_of(sim, run, start, history)
        if not isinstance(code, Driver):
            return
        found = differences_of(code)
        try:
            replay(code, history, attempt_version=start)
            assert not found, f"E6: run {run} is replayed with other functions or arguments: {found}"
        finally:
            code.discard()
