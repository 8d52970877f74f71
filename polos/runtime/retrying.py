"""
Taking up runs that failed or were cancelled: by hand, and children of one that was.

What may be reopened is decided on the run alone (`polos.engine.reopening`). Here is what takes looking around: its
queue must have room, nothing below it may still be stopping, and a child that a reopened run asks for again may have
ended well meanwhile, or have gone on as another run. Then its parent, which gave it up, is told how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson

from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.json import Json
from polos.engine.messages import Message, body_text
from polos.engine.projections import queue_of
from polos.engine.state import REOPENED, Phase
from polos.errors import CommandRefused, UnknownRun
from polos.runtime.foreign import text_of
from polos.runtime.unit import Reply, Resident, Unit

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["retry_child", "retry_run"]


def retry_run(engine: Engine, unit: Unit, command: dict[str, Json]) -> Reply:
    """
    Let a run go on that failed or was cancelled.

    Raises:
        CommandRefused: it completed, is under way, or something of it is.
        QueueFull: as many runs wait in its queue as may.
        UnknownRun: there is none.
    """
    resident = engine.loader.get(text_of(command, "run"))
    unit.rests_on(resident)
    by, reason = str(command.get("by") or "user"), command.get("reason")
    if resident.state.phase in REOPENED:
        stopping = next(_stopping(engine, resident), None)
        if stopping is not None:
            unit.rests_on(engine.residents.get(stopping))
            raise CommandRefused(f"run {stopping}, which run {resident.run} started, is still being cancelled")
        engine.lines.room(queue_of(resident.state), 1)
    _reopen(engine, unit, resident, c.Reopen(by=by, reason=None if reason is None else str(reason)))
    return {"outcome": "accepted"}


def retry_child(engine: Engine, unit: Unit, message: Message) -> None:
    """Take up a child that its parent asks for again, or tell the parent how it ended."""
    try:
        resident = engine.loader.get(message.target)
        while resident.state.successor is not None:
            resident = engine.loader.get(resident.state.successor)
    except UnknownRun as error:
        gone: dict[str, Json] = {"type": "UnknownRun", "message": str(error), "traceback": None}
        _answer(engine, unit, message, {"status": "failed", "error": gone})
        return
    if resident.state.phase is Phase.COMPLETED:
        end = resident.end
        assert isinstance(end, e.RunCompleted), "a run that completed has a result"
        unit.rests_on(resident)
        _answer(engine, unit, message, {"status": "completed", "result": end.result, "result_type": end.result_type})
        return
    _reopen(engine, unit, resident, c.Deliver(message=message))


def _answer(engine: Engine, unit: Unit, message: Message, body: dict[str, Json]) -> None:
    told: dict[str, Json] = {"name": body_text(message, "name"), "child": message.target, **body}
    answer = Message(id=f"{message.id}:ended", kind="finished", target=body_text(message, "parent"), body=told)
    engine.intake.deliver(unit, answer)


def _reopen(engine: Engine, unit: Unit, resident: Resident, command: c.Command) -> None:
    if engine.decide_on(unit, resident, command):
        # It is begun when this is durable: what it finished is looked up in the log.
        engine.residents[resident.run] = resident
        engine.activations.close_code(resident)  # facts that nobody saw belong to the life that is over
        engine.suspects.try_again(resident.run)
        resident.end = None


def _stopping(engine: Engine, resident: Resident) -> Iterator[str]:
    """Give the runs below a run that are still being cancelled: who takes it up would find them in the middle of it."""
    run, root = resident.run, resident.state.root
    with engine.store.log.reader() as reader:

        def row_of(name: str) -> dict[str, Any]:
            found = reader.row(("run", name))
            return {} if found is None else orjson.loads(found)

        stopping = [str(key[-1]) for key, _ in reader.rows(("status", "pending_cancel"))]
        if resident.in_flight:  # its end isn't in the rows yet, and what it asked others for isn't either
            stopping += [name for name, one in engine.residents.items() if one.state.phase is Phase.CANCELLING]
        for name in stopping:
            held = engine.residents.get(name)
            parent = row_of(name).get("parent") if held is None else held.state.parent
            same = (row_of(name).get("root") if held is None else held.state.root) == root
            while same and parent is not None and parent != run:
                parent = row_of(parent).get("parent")
            if same and parent == run:
                yield name
