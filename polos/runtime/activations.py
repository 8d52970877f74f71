"""
Running code on facts: who may see which fact when, and what follows from it within a unit.

A deterministic body is handed a fact before it is on disk, because nothing it does in between leaves
the process: what it asks for joins the unit that holds the fact. Two kinds of fact wait until they are
durable all the same: answers that carry their place in the log, if it isn't known before (the engine
counts what it hands to the writer; after a failed commit it has to learn anew where the log ends), and
every fact of a body that may do I/O itself. A unit of which a place was told is appended there or not
at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.state import DebtKind, Phase, is_running, status
from polos.errors import PolosUsageError
from polos.garbage import BUSY
from polos.replay.driver import Driver
from polos.replay.facts import Fact, carries_place
from polos.runtime.performer import failure_of
from polos.runtime.ports import RunCode
from polos.runtime.unit import Resident, Unit

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Activations"]


class Activations:
    """Starts attempts and delivers facts."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine."""
        self._engine = engine
        self.running: str | None = None  # whose code is being run, or was when something went wrong

    def run_code(self, unit: Unit) -> None:
        """Run the code of all runs that got facts, until nothing more follows within this unit."""
        self._begin_ready(unit)
        while unit.ready:
            resident = unit.ready.popleft()
            self._deliver(unit, resident)
            self._begin_ready(unit)
        # What a body that isn't replayed asks for comes by itself, and no fact is delivered with it.
        for resident in unit.residents.values():
            if resident.has_slot:
                self._settle_slot(resident)

    def run_code_of(self, unit: Unit, run: str | None) -> None:
        """Run the code of one run at most; that of all others has units of its own, when this one is durable."""
        while unit.ready:
            resident = unit.ready.popleft()
            if resident.run == run:
                self._deliver(unit, resident)
        if not unit.plain:
            for resident in unit.created:
                self._engine.wake(resident.run)
        for resident in unit.residents.values():
            if resident.has_slot:
                self._settle_slot(resident)

    def _begin_ready(self, unit: Unit) -> None:
        """Start runs that were created in this unit and find a slot."""
        if unit.plain:
            return
        if len(unit.created) >= BUSY:
            self._engine.garbage.look(len(unit.created))  # all that is made for them is one turn's
        while unit.created:
            resident = unit.created.popleft()
            debt = resident.state.owed.get((DebtKind.START, ""))
            if debt is not None and resident.state.phase is Phase.QUEUED and debt.due_us is None:
                self.begin(unit, resident)

    def begin(self, unit: Unit, resident: Resident) -> None:
        """Start the attempt that is owed, if there is code for it and a slot."""
        state = resident.state
        if self._engine.stopping or state.aside not in (None, "no_code", "pinned"):
            return
        stuck = self._engine.recovery.stuck
        if stuck and resident.run in stuck:
            verdict = stuck[resident.run]
            if verdict is not None:
                self._engine.decide_on(unit, resident, verdict)
            return
        debt = state.owed.get((DebtKind.START, ""))
        later = state.phase is Phase.BACKOFF or state.attempt > 0
        if later and debt is not None and debt.version > resident.durable:
            return  # the attempt looks up what earlier ones finished; when that is durable, the debt is taken up
        if state.cancel_forced:
            # An earlier attempt's grace is over, and the process that should have closed the run is gone.
            self._engine.decide_on(unit, resident, c.ForceCancel(by="engine", close=True))
            return
        missing = self._engine.bodies.missing(state)
        if missing is not None:
            self._engine.decide_on(unit, resident, c.SetAside(reason=missing[0], message=missing[1]))
            return
        if not self._engine.lines.take(resident):
            return
        if state.aside is not None:
            self._engine.decide_on(unit, resident, c.Readmit(by="engine"))
        definition = self._engine.bodies.describe(state)
        self._engine.intake.register_code(unit, state.workflow, definition)
        first = self._engine.bodies.first_state(state)
        begun = c.BeginRun(
            code=definition.code,
            python=definition.python,
            direct=definition.direct,
            state=first,
            counted=self._engine.lines.counts(state),
            pinned=definition.pinned,
        )
        if self._engine.decide_on(unit, resident, begun):
            self._engine.lines.started(resident.run, now_us=unit.now_us)
            if resident.code is not None:
                resident.code.discard()
            resident.code = self._engine.bodies.make(self._engine, resident, python=definition.python)

    def _deliver(self, unit: Unit, resident: Resident) -> None:
        """Run a run's code on the facts it may see now."""
        self.running = resident.run
        while resident.facts and self.may_deliver(resident):
            fact = resident.take_fact()
            code = resident.code
            assert code is not None
            if isinstance(fact.event, e.ResultReused):
                fact.source, fact.source_position = self._engine.loader.event_at(resident.run, fact.event.version)
            requests = self._activate(resident, code, fact)
            if isinstance(code, Driver) and code.actions:
                unit.actions.extend(code.actions)
                code.actions.clear()
            if requests:
                self._engine.decide_on(unit, resident, c.Activate(cause=fact.version, requests=tuple(requests)))
                for request in requests:
                    if isinstance(request.event, e.StepScheduled) and request.event.effect == "pure":
                        unit.pure.append((resident.run, request.event.name))
            if isinstance(fact.event, e.CancelForced) and not resident.ended:
                self._engine.decide_on(unit, resident, c.ForceCancel(by="engine", close=True))
            if resident.ended or resident.state.phase is Phase.BACKOFF:
                self.close_code(resident)
        self.running = None
        self._settle_slot(resident)

    def _activate(self, resident: Resident, code: RunCode, fact: Fact) -> list[c.Request]:
        self._engine.debts.enter_code(resident.run, fact.version)
        try:
            return code.activate(fact)
        except PolosUsageError as error:
            # The code never became quiet, or its state can't be recorded: another attempt can't help.
            failed = e.RunFailed(cause=fact.version, error=failure_of(error))
            return [c.Request(event=failed)]
        finally:
            self._engine.debts.leave_code()

    def may_deliver(self, resident: Resident) -> bool:
        """Tell whether the run's code may see its next fact now; takes a slot for it."""
        code = resident.code
        if code is None or self._engine.stopping or resident.state.aside is not None:
            return False
        fact = resident.facts[0]
        if fact.version > resident.durable and (code.direct or (carries_place(fact.event) and not fact.position)):
            return False
        return self._engine.lines.take(resident)

    def close_code(self, resident: Resident) -> None:
        """Close the code of a run that is over, or between two attempts."""
        if resident.code is not None:
            resident.code.discard()
            resident.code = None
        resident.facts = ()

    def _settle_slot(self, resident: Resident) -> None:
        """Give the slot back when nothing of the run is being run."""
        state = resident.state
        if resident.facts or not resident.has_slot or is_running(state):
            return
        shown = status(state)
        cleaning_up = shown == "pending_cancel" and (state.busy > 0 or not state.ops)
        if not cleaning_up:
            self._engine.lines.give_back(resident)
