"""Queues, triggers and schedules that break one promise each, on purpose; as `broken_parts`, put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from polos.engine import events as e
from polos.engine.admission import Admission, Ticket
from polos.engine.state import RunState
from polos.runtime import lines
from polos.runtime.bodies import Bodies
from polos.runtime.dedup import Dedup
from polos.runtime.engine import Engine
from polos.runtime.intake import Intake
from polos.runtime.lines import Lines
from polos.runtime.unit import Resident, Unit, Work

__all__ = [
    "begins_while_draining",
    "drains_without_waiting",
    "forgets_requests",
    "forgets_starts_in_a_crash",
    "forgets_who_waits_at_the_door",
    "frees_a_slot_twice",
    "ignores_keys",
    "lets_singletons_in",
    "makes_runs_a_commit_late",
    "passes_on_slots_of_the_evicted",
    "runs_what_is_pinned_elsewhere",
]


def frees_a_slot_twice(patch: pytest.MonkeyPatch) -> None:
    """A slot that is given back counts as two free ones of its queue."""
    whole = Admission.give_back

    def give_back(self: Admission, run: str, *, now_us: int) -> list[str]:
        ticket = self._holders.get(run)
        if ticket is not None:
            self._queues[ticket.queue].held -= 1
        return whole(self, run, now_us=now_us)

    patch.setattr(Admission, "give_back", give_back)


def ignores_keys(patch: pytest.MonkeyPatch) -> None:
    """Each run counts as a key of its own."""
    whole = lines._ticket

    def ticket(state: RunState) -> Ticket:
        return replace(whole(state), key=state.run)

    patch.setattr(lines, "_ticket", ticket)


def passes_on_slots_of_the_evicted(patch: pytest.MonkeyPatch) -> None:
    """A run that leaves memory gives its slot back, also in the middle of a short timer."""
    whole = Engine.discard

    def discard(self: Engine, resident: Resident, **_: Any) -> None:
        whole(self, resident)

    patch.setattr(Engine, "discard", discard)


def forgets_starts_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    """An engine begins without knowing what was started just before."""

    def starts(_self: Lines, _reader: Any, _event: e.QueueConfigured) -> Iterator[tuple[str, int]]:
        return iter(())

    patch.setattr(Lines, "_starts", starts)


def lets_singletons_in(patch: pytest.MonkeyPatch) -> None:
    """Nobody stands at the door of a singleton."""
    patch.setattr(Dedup, "may_stand_in_line", lambda _self, _state: True)


def forgets_who_waits_at_the_door(patch: pytest.MonkeyPatch) -> None:
    """The end of a singleton is told to nobody."""
    patch.setattr(Dedup, "ended", lambda _self, _run: None)


def forgets_requests(patch: pytest.MonkeyPatch) -> None:
    """A request that was made before isn't known again."""
    patch.setattr(Dedup, "_same_request", lambda _self, _unit, _created: None)


def makes_runs_a_commit_late(patch: pytest.MonkeyPatch) -> None:
    """What a trigger or a schedule fired is recorded, its cursor moved, and the run is made in the commit behind."""
    whole = Intake.start_run

    def start_run(self: Intake, unit: Unit, run: str, created: e.RunCreated) -> bool:
        if created.parent is not None:
            return whole(self, unit, run, created)

        def apply(later: Unit) -> None:
            whole(self, later, run, created)

        unit.on_durable.append(lambda _first: self._engine.post(Work(apply)))
        return True

    patch.setattr(Intake, "start_run", start_run)


def runs_what_is_pinned_elsewhere(patch: pytest.MonkeyPatch) -> None:
    """Whatever version a run is pinned to, today's code runs it."""
    patch.setattr(Bodies, "_of", lambda self, state: self._find(state.workflow))


def begins_while_draining(patch: pytest.MonkeyPatch) -> None:
    """The door stays open: an engine that drains begins what comes."""

    def close_door(self: Lines, quiet: Callable[[], None]) -> None:
        self._when_quiet.append(quiet)
        self._tell_quiet()

    patch.setattr(Lines, "close_door", close_door)


def drains_without_waiting(patch: pytest.MonkeyPatch) -> None:
    """Draining is over at once, whoever is under way."""
    whole = Lines.close_door

    def close_door(self: Lines, quiet: Callable[[], None]) -> None:
        whole(self, quiet)
        quiet()

    patch.setattr(Lines, "close_door", close_door)
