"""
Updates and queries: what a client asks of the code of a run that is being run.

Both call functions that the body registered. Whatever those raise is an answer for who asked, never an end of the run;
only Ctrl-C goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polos.engine import commands as c
from polos.engine.json import Json, message_of
from polos.engine.state import Phase
from polos.errors import CommandRefused, UpdateRejected
from polos.runtime.foreign import text_of
from polos.runtime.unit import Reply, Unit

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["query_run", "update_run"]


def update_run(engine: Engine, unit: Unit, command_id: str, command: dict[str, Json]) -> Reply:
    """
    Hand an update to the code of a run; its validator may refuse it.

    Raises:
        UnknownRun: there is no such run.
        CommandRefused: its code isn't running, or has no handler for this update.
        UpdateRejected: the validator raised; nothing is recorded then.
    """
    run, name = text_of(command, "run"), text_of(command, "name")
    update_id = str(command.get("update_id") or command_id)
    resident = engine.loader.get(run)
    unit.rests_on(resident)
    data = command.get("data")
    code = resident.code
    if code is None or resident.state.phase not in (Phase.ACTIVE, Phase.CANCELLING):
        message = f"run {run} can't take updates: {resident.state.aside or resident.state.phase}"
        raise CommandRefused(message)
    if not code.has_update(name):
        message = f"run {run} has no handler for the update {name!r} (ctx.on_update registers one)"
        raise CommandRefused(message)
    try:
        code.validate_update(name, data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it raises, it says no
        raise UpdateRejected(message_of(error) or type(error).__name__) from error
    engine.decide_on(unit, resident, c.ReceiveUpdate(update_id=update_id, name=name, data=data))
    return {"outcome": "accepted", "detail": {"update_id": update_id}}


def query_run(engine: Engine, unit: Unit, command: dict[str, Json]) -> Reply:
    """
    Call a query function of a run's code; the answer waits until what it rests on is durable.

    Raises:
        UnknownRun: there is no such run.
        CommandRefused: its code isn't running, has no such query, or the function raised.
    """
    run, name = text_of(command, "run"), text_of(command, "name")
    resident = engine.loader.get(run)
    unit.residents[run] = resident
    if resident.code is None:
        why = resident.state.aside or resident.state.phase
        message = f"run {run} can't answer queries: its code isn't running ({why})"
        raise CommandRefused(message)
    if not resident.code.has_query(name):
        message = f"run {run} has no query {name!r} (ctx.on_query registers one)"
        raise CommandRefused(message)
    args = command.get("args")
    try:
        value = resident.code.query(name, tuple(args) if isinstance(args, list) else ())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it raises, who asked gets an answer
        message = f"the query {name!r} of run {run} failed: {type(error).__name__}: {message_of(error)}"
        raise CommandRefused(message) from error
    return {"outcome": "answered", "detail": {"value": engine.bodies.plain(value)}}
