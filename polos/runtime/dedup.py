"""
One run instead of two: idempotency keys, singletons and debounced calls, while an engine runs.

Whether a run is to be created is decided where it is created, on the rows of keys and on what is on its way to them;
so two calls that race see each other, and a caller is told of a run only when that run is durable.

A singleton is kept at the door: of the runs with one key, one may stand in line for a slot, and the others wait outside
until it has ended. Who waits there isn't recorded, as little as lines are; it follows from the rows of the runs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import field, replace
from typing import TYPE_CHECKING, final

import orjson

from polos.data_class import dataclass
from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.projections import dedup_key
from polos.engine.state import Phase, RunState
from polos.runtime.overlay import Overlay
from polos.runtime.recovery import CANT_READ
from polos.runtime.unit import Unit, Work
from polos.store.log import Reader

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Dedup", "Plan"]


@final
@dataclass(slots=True)
class Plan:
    """
    What becomes of the runs that somebody asks for.

    Attributes:
        names: the run that each of them is, in the order of the calls.
        fresh: those that are to be created.
        replaced: calls that take the place of an earlier one, whose run hasn't begun; with that run.
    """

    names: list[str] = field(default_factory=list[str])
    fresh: dict[str, e.RunCreated] = field(default_factory=dict[str, e.RunCreated])
    replaced: list[tuple[str, e.RunCreated]] = field(default_factory=list[tuple[str, e.RunCreated]])


class Dedup:
    """Finds runs that are there already, and keeps singletons apart."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine."""
        self._engine = engine
        self.overlay: Overlay = Overlay("idempotency", "singleton", "debounce")
        self._holders: dict[str, str] = {}  # key of a singleton → the run that may go
        self._keys: dict[str, str] = {}  # and back
        self._outside: dict[str, deque[str]] = {}  # who waits for it to end, in turn

    # ------------------------------------------------------------------------------------ creating

    def plan(self, unit: Unit, wanted: list[tuple[str, e.RunCreated]]) -> Plan:
        """Look which of the runs that are asked for exist already, in the log or among themselves."""
        plan = Plan()
        here: dict[tuple[str, str], str] = {}  # key → which of the runs of this very call has it
        for run, created in wanted:
            first = next((here[key] for key in _keys(created) if key in here), None)
            if run in plan.fresh:
                plan.names.append(run)
            elif self._engine.loader.exists(run):
                unit.rests_on(self._engine.residents.get(run))
                plan.names.append(run)
            elif first is not None:
                plan.names.append(first)
                if created.debounce is not None:
                    self._replace_here(plan, first, created)
            elif (found := self._pending(unit, created)) is not None:
                plan.names.append(found)
                plan.replaced.append((found, created))
                here.update(dict.fromkeys(_keys(created), found))
            elif (found := self._existing(unit, created)) is not None:
                plan.names.append(found)
            else:
                waits_us = created.debounce_us
                after_us = created.start_after_us if waits_us is None else unit.now_us + waits_us
                plan.names.append(run)
                same = after_us == created.start_after_us
                plan.fresh[run] = created if same else replace(created, start_after_us=after_us)
                here.update(dict.fromkeys(_keys(created), run))
        return plan

    @staticmethod
    def _replace_here(plan: Plan, run: str, created: e.RunCreated) -> None:
        """Let a later run of one call take the place of an earlier one."""
        if run in plan.fresh:
            earlier = plan.fresh[run]
            plan.fresh[run] = replace(earlier, input=created.input, initial_state=created.initial_state)
        else:
            plan.replaced.append((run, created))

    def replace_input(self, unit: Unit, run: str, created: e.RunCreated) -> None:
        """Let a run that hasn't begun have what a later call gave, and begin later."""
        assert created.debounce_us is not None, "only calls that wait take the place of others"
        resident = self._engine.loader.get(run)
        command = c.Debounce(input=created.input, initial_state=created.initial_state, delay_us=created.debounce_us)
        replaced = self._engine.decide_on(unit, resident, command)
        assert replaced, "a run that has a row of this kind and isn't due waits"
        resident.input = created.input

    def _pending(self, unit: Unit, created: e.RunCreated) -> str | None:
        """Give the run that a debounced call takes the place of another in, None if it is the first of its flurry."""
        if created.debounce is None:
            return None
        prefix = ("debounce", dedup_key(created.workflow, created.debounce))
        with self._engine.store.log.reader() as reader:
            rows = self.overlay.rows(reader, unit, prefix)
        for key, due_us in reversed(rows):
            if int(due_us) > unit.now_us:
                return str(key[3])
        return None

    def _existing(self, unit: Unit, created: e.RunCreated) -> str | None:
        """Give the run that there is instead of the one that is asked for, None if that one is to be created."""
        found = self._same_request(unit, created)
        if found is None and created.singleton_policy == "skip":
            found = next(iter(self._singletons(unit, created)), None)
        if found is not None:
            unit.rests_on(self._engine.residents.get(found))
        return found

    def _same_request(self, unit: Unit, created: e.RunCreated) -> str | None:
        if created.idempotency_key is None:
            return None
        prefix = ("idempotency", dedup_key(created.workflow, created.idempotency_key))
        with self._engine.store.log.reader() as reader:
            rows = self.overlay.rows(reader, unit, prefix)
        if not rows:
            return None
        key = rows[-1][0]
        window_us = round(self._engine.settings.idempotency_seconds * 1e6)
        return str(key[3]) if unit.now_us - int(key[2]) < window_us else None

    def _singletons(self, unit: Unit, created: e.RunCreated) -> list[str]:
        """Give the living runs with the same key, the oldest first."""
        if created.singleton is None:
            return []
        prefix = ("singleton", dedup_key(created.workflow, created.singleton))
        with self._engine.store.log.reader() as reader:
            return [str(key[3]) for key, _ in self.overlay.rows(reader, unit, prefix)]

    def cancel_old(self, unit: Unit, created: e.RunCreated) -> None:
        """Ask the runs to stop whose place a run takes that is about to be created."""
        if created.singleton_policy != "cancel_old":
            return
        for run in self._singletons(unit, created):
            resident = self._engine.loader.find(run)
            if resident is not None and resident.state.cancel_requested_us is None:
                request = c.RequestCancel(by="singleton", grace_us=self._engine.grace_us(resident), reason=None)
                self._engine.decide_on(unit, resident, request)

    # ------------------------------------------------------------------------------------ the door

    def may_stand_in_line(self, state: RunState) -> bool:
        """Tell whether a run may ask for a slot; one that may not is woken when it may."""
        if state.singleton is None or state.phase is not Phase.QUEUED:
            return True
        key = dedup_key(state.workflow, state.singleton)
        holder = self._holders.get(key)
        # A successor goes on for the run that it continues.
        if holder is None or holder in (state.run, state.continues):
            self._hold(key, state.run)
            return True
        outside = self._outside.setdefault(key, deque())
        if state.run not in outside:
            outside.append(state.run)
        return False

    def _hold(self, key: str, run: str) -> None:
        self._keys.pop(self._holders.get(key, ""), None)
        self._holders[key] = run
        self._keys[run] = key

    def ended(self, run: str) -> None:
        """A run has ended, durably: the next one of its key may go."""
        key = self._keys.pop(run, None)
        if key is None:
            return
        del self._holders[key]
        try:
            self._open(key)
        except CANT_READ:
            self._engine.post(Work(lambda _unit: self._open(key)))  # who decides it tries again until it can be read

    def _open(self, key: str) -> None:
        """Let the next one of a key go, if none has gone."""
        outside = self._outside.get(key, deque())
        while outside and key not in self._holders:
            if self._engine.loader.is_alive(outside[0]):
                self._hold(key, outside[0])
                self._engine.wake(outside[0])
            outside.popleft()
        if not outside:
            self._outside.pop(key, None)

    def recover(self, reader: Reader) -> None:
        """Take up what is recorded: whoever was begun may go on, the others come to the door again."""
        self._holders.clear()
        self._keys.clear()
        self._outside.clear()
        for key, _ in reader.rows(("singleton",)):
            run = str(key[3])
            row = reader.row(("run", run))
            assert row is not None, "a run with a row has this one"
            if orjson.loads(row)["started_us"] is not None:
                self._hold(str(key[1]), run)
            else:
                self._engine.wake(run)

    def forget_undurable(self, reader: Reader) -> None:
        """Units on their way were lost."""
        self.overlay.forget_undurable()
        self.recover(reader)


def _keys(created: e.RunCreated) -> list[tuple[str, str]]:
    """Give what makes a second run of one call the same as this one."""
    found: list[tuple[str, str]] = []
    if created.debounce is not None:
        found.append(("debounce", dedup_key(created.workflow, created.debounce)))
    if created.idempotency_key is not None:
        found.append(("idempotency", dedup_key(created.workflow, created.idempotency_key)))
    if created.singleton is not None and created.singleton_policy == "skip":
        found.append(("singleton", dedup_key(created.workflow, created.singleton)))
    return found
