"""
Performing what runs owe.

`perform` takes up every debt that became durable and wasn't taken up yet; a run that was just read
from the log has taken up none. So a step in the middle of a run, one that was cut off by a crash and
one whose code was evicted are all started here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polos.engine import commands as c
from polos.engine.state import Debt, DebtKind, OpStatus
from polos.points import reach
from polos.runtime.unit import Resident, Unit, Work

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Debts"]


class Debts:
    """Takes up debts, and remembers what this process began."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine."""
        self._engine = engine
        # `at_most_once` attempts that this process recorded and hasn't called yet. One that stands as
        # started in the log and isn't here was begun by a process that is gone.
        self.begun: set[tuple[str, str, int]] = set()
        self.waking: str | None = None  # the run that is being read to be begun or to have its facts delivered

    def perform(self, resident: Resident) -> None:
        """Take up what became owed since the last time and is durable."""
        if self._engine.stopping:
            return
        fresh: list[Debt] = []
        for debt in reversed(resident.state.owed.values()):
            if debt.version <= resident.performed:
                break
            if debt.version <= resident.durable:
                fresh.append(debt)
        resident.performed = resident.durable
        for debt in reversed(fresh):
            self._take_up(resident, debt)

    def _take_up(self, resident: Resident, debt: Debt) -> None:
        engine = self._engine
        if debt.due_us is not None and debt.due_us > engine.clock.now_us():
            engine.timers.add(debt.due_us, (resident.run, debt.kind, debt.name))
            return
        match debt.kind:
            case DebtKind.EXECUTE:
                self._execute(resident, debt)
            case DebtKind.RECONCILE:
                held = resident.code.pending.get(debt.name) if resident.code is not None else None
                if held is not None and held.call is not None and held.call.reconcile is not None:
                    engine.performer.reconciling.ask(resident.run, debt.name, debt.attempt, held.call)
            case DebtKind.START:
                # Who is being woken is begun by that; woken once more, a run that was evicted meanwhile would be read
                # again and again, for ever if more are to be begun than fit into memory.
                if resident.run != self.waking:
                    engine.wake(resident.run)
            case DebtKind.DELIVER:
                engine.intake.send_away(resident, debt)
            case _:
                self._decide_later(resident.run, debt)

    def _execute(self, resident: Resident, debt: Debt) -> None:
        """Call the step's function, if the code is there to say which one."""
        engine = self._engine
        op = resident.state.ops.get(debt.name)
        key = (resident.run, debt.name, debt.attempt)
        if op is None or key in engine.performer.in_flight or resident.state.aside is not None:
            return
        if op.status is OpStatus.STARTED and key not in self.begun:
            reason = "the process that called it ended before its outcome was recorded"
            command = c.MarkUnknown(name=debt.name, attempt=debt.attempt, reason=reason)
            engine.outcome(resident.run, command, lambda _told: None)
            return
        held = resident.code.pending.get(debt.name) if resident.code is not None else None
        if held is None or held.call is None:
            return
        self.begun.discard(key)
        engine.performer.start(resident.run, debt.name, debt.attempt, held.call)

    def start_pure(self, run: str, name: str) -> None:
        """Call a step without effects before its intent is durable: calling it in vain does no harm."""
        resident = self._engine.residents.get(run)
        op = resident.state.ops.get(name) if resident is not None else None
        if resident is None or op is None or resident.code is None:
            return  # answered by an earlier attempt, or the run ended in the same breath
        held = resident.code.pending.get(name)
        if held is not None and held.call is not None:
            self._engine.performer.start(run, name, op.attempt, held.call)

    def due(self, wanted: tuple[str, str, str]) -> None:
        """Look at a debt whose moment came, or at a run that must be read first."""
        run, kind, name = wanted
        engine = self._engine

        def apply(unit: Unit) -> None:
            resident = engine.loader.find(run)
            if resident is None or not kind:
                return  # reading a run takes up its debts
            unit.residents[run] = resident
            debt = resident.state.owed.get((DebtKind(kind), name))
            if debt is None or debt.due_us is None:
                return
            if debt.due_us > engine.clock.now_us():
                engine.timers.add(debt.due_us, wanted)
            elif debt.kind is DebtKind.EXECUTE:
                self._execute(resident, debt)
            elif debt.kind is DebtKind.START:
                engine.activations.begin(unit, resident)
            else:
                self._decide(unit, resident, debt)

        engine.post(Work(apply))

    def _decide_later(self, run: str, debt: Debt) -> None:
        def apply(unit: Unit) -> None:
            resident = self._engine.loader.find(run)
            if resident is not None:
                held = resident.state.owed.get((debt.kind, debt.name))
                if held is not None and held.version == debt.version:
                    self._decide(unit, resident, debt)

        self._engine.post(Work(apply))

    def _decide(self, unit: Unit, resident: Resident, debt: Debt) -> None:
        engine = self._engine
        match debt.kind:
            case DebtKind.FIRE:
                engine.decide_on(unit, resident, c.FireTimer(name=debt.name))
            case DebtKind.EXPIRE:
                engine.decide_on(unit, resident, c.ExpireWait(name=debt.name))
            case DebtKind.BEGIN:
                engine.decide_on(unit, resident, c.BeginAttempt(name=debt.name, attempt=debt.attempt))
            case DebtKind.DEADLINE:
                grace_us = engine.grace_us(resident)
                engine.decide_on(unit, resident, c.RequestCancel(by="timeout", grace_us=grace_us))
            case DebtKind.GRACE:
                engine.force_cancel(unit, resident)
            case _:
                message = f"a debt of kind {debt.kind} isn't decided"
                raise AssertionError(message)

    def enter_code(self, run: str, at: int) -> None:
        """
        Mark that this run's code is on the loop: should the process die or hang now, it was this one.

        Args:
            run: the run.
            at: how far it has come; deaths at different places are a busy program's bad luck, not the run's doing.
        """
        for mark in self._engine.marks:
            mark.enter(run, at)
        reach("code_on_loop")

    def leave_code(self) -> None:
        """The code is quiet."""
        for mark in self._engine.marks:
            mark.leave()
