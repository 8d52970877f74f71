"""
Histories, replayed from every prefix; `polos.testing.replays` replays them as a whole.

`continues` is E6 in its strong form. The code is brought to a prefix of the history, and from there on it isn't handed
what is recorded: it is run live on the recorded facts, and `decide` has to make of its requests the very events that
stand in the log, with all their fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, cast, final

from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.decide import decide
from polos.engine.state import ENDED
from polos.replay.driver import Driver
from polos.replay.facts import Fact
from polos.runtime.loading import replay
from polos.runtime.unit import Resident
from polos.testing.audit import Stored
from polos.testing.replays import attempts, check_replay, code_of, fold
from polos.testing.simulation import Simulation

__all__ = ["attempts", "check_replay", "continues"]


@final
class _Recorded:
    """Gives code that is run live once more the values that it got the first time."""

    def __init__(self, events: list[Stored], known: Collection[str]) -> None:
        self._values: dict[str, list[Any]] = {}
        for event, _, _ in events:
            if isinstance(event, e.ValueRecorded) and event.name not in known:
                self._values.setdefault(event.kind, []).append(event.value)

    def now_us(self) -> int:
        return int(self._values["now"].pop(0)) * 1_000

    def random(self) -> float:
        return float(self._values["random"].pop(0))

    def uuid4(self) -> str:
        return str(self._values["uuid"].pop(0))

    def new_run_id(self) -> str:
        return ""


def _code(sim: Simulation, run: str, start: int, history: list[Stored], values: Any) -> tuple[Driver, Resident]:
    """Make the code of an attempt, nothing run yet, with values as they were recorded."""
    code, resident = code_of(sim, run, start, history)
    assert isinstance(code, Driver)
    code._values = values
    code._new_run_id = values.new_run_id
    return code, resident


def continues(sim: Simulation, run: str, *, every: int = 1) -> int:
    """
    Check that code brought to a prefix of its history goes on from there as recorded (E6).

    Args:
        sim: the world.
        run: a run.
        every: try every so many prefixes.

    Returns:
        How many prefixes were tried.
    """
    tried = 0
    for start, history in attempts(sim.audit.histories[run]):
        for cut in [cut for cut in sim.audit.cuts[run] if start <= cut <= len(history)][::every]:
            _continue(sim, run, start, history, cut)
            tried += 1
    return tried


def _continue(sim: Simulation, run: str, start: int, history: list[Stored], cut: int) -> None:
    prefix = history[:cut]
    values = _Recorded(history[max(cut, start) :], fold(run, history[:start]).finished)
    code, resident = _code(sim, run, start, prefix, values)
    caused: dict[int, list[tuple[int, e.Event]]] = {}
    for version, (event, _, _) in enumerate(history, 1):
        cause = getattr(event, "cause", None)
        if cause:
            caused.setdefault(cause, []).append((version, event))
    try:
        facts = replay(code, prefix, attempt_version=start)
        for version, (event, time_us, position) in enumerate(history[cut:], cut + 1):
            if type(event) in e.FACTS:
                source = history[event.version - 1][0] if isinstance(event, e.ResultReused) else None
                facts.append(Fact(version=version, event=event, time_us=time_us, position=position, source=source))
        last = max(caused, default=0)
        for fact in facts:
            if fact.version > last:
                break  # nobody knows whether the code has seen it
            recorded = caused.get(fact.version, [])
            # What left no record was decided at some moment before the next activation that left one.
            following = min(caused[cause][0][0] for cause in caused if cause >= fact.version)
            _activate(code, resident, fact, history[: following - 1], [event for _, event in recorded])
    finally:
        code.discard()


def _activate(code: Driver, resident: Resident, fact: Fact, before: list[Stored], recorded: list[e.Event]) -> None:
    state = resident.state = fold(resident.run, before)
    assert state.phase not in ENDED
    requests = code.activate(fact)
    decision = decide(state, c.Activate(cause=fact.version, requests=tuple(requests)), now_us=before[-1][1])
    made = [_comparable(event) for event in decision.events if getattr(event, "cause", None)]
    assert [_comparable(event) for event in recorded] == made, f"after {fact.version} ({fact.event})"


def _comparable(event: e.Event) -> e.Event:
    """Give an event without what isn't repeatable: ids that were made for it, and where in a file it was raised."""
    failure = getattr(event, "error", None)
    if isinstance(failure, e.Failure):
        event = cast("Any", dataclasses.replace)(event, error=dataclasses.replace(failure, traceback=None))
    if isinstance(event, e.ChildStarted):
        event = dataclasses.replace(event, child="")
    if isinstance(event, e.RunContinued):
        event = dataclasses.replace(event, successor="")
    if isinstance(event, e.RunRetried):
        event = dataclasses.replace(event, due_us=0)
    return event
