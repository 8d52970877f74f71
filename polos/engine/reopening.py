"""
Taking up a run that ended, and letting one call take the place of another: what `decide` says to these two.

A run that failed is reopened, not copied: it keeps its id, and with it the idempotency keys of its steps, its place in
its tree, and the handle that callers hold. What it finished well stays finished (design.md section 4); what ended
otherwise is done again. A child that failed is part of that: it is taken up again itself, so that what the child
finished isn't done twice either.
"""

from __future__ import annotations

from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.messages import Message
from polos.engine.state import ENDED, REOPENED, DebtKind, Phase, RunState
from polos.errors import CommandRefused

__all__ = ["UNSURE", "asked_again", "debounced", "reopened"]

UNSURE = "an attempt was under way when the run gave it up"


def reopened(state: RunState, command: c.Reopen) -> list[e.Event]:
    """
    Decide on taking up a run.

    Raises:
        CommandRefused: it is under way, or there is nothing to be done again.
    """
    if state.phase in REOPENED:
        return [e.RunReopened(by=command.by, reason=command.reason)]
    if state.phase in ENDED:
        raise CommandRefused(f"run {state.run} has {state.phase}: there is nothing to retry")
    if state.phase is Phase.CANCELLING:
        raise CommandRefused(f"run {state.run} is being cancelled; it can be retried when that is over")
    what = f"it is set aside ({state.aside}): let it in again with readmit, or cancel it first"
    raise CommandRefused(f"run {state.run} hasn't ended; {what if state.aside else 'only what ended can be retried'}")


def asked_again(state: RunState, message: Message) -> list[e.Event]:
    """Decide on a parent that was reopened and asks for its child again; one that is alive will tell it anyway."""
    if state.phase not in REOPENED or message.id in state.signals_seen:
        return []
    return [e.RunReopened(by="parent", origin=message.id)]


def debounced(state: RunState, command: c.Debounce, now_us: int) -> list[e.Event]:
    """Decide on a later call of the same key; nothing if the run is due, or was never meant to wait."""
    debt = state.owed.get((DebtKind.START, ""))
    if state.phase is not Phase.QUEUED or debt is None or debt.due_us is None or debt.due_us <= now_us:
        return []
    due_us = now_us + command.delay_us
    if state.debounce_max_us is not None:
        due_us = min(due_us, state.created_us + state.debounce_max_us)
    return [e.RunDebounced(start_after_us=due_us, input=command.input, initial_state=command.initial_state)]
