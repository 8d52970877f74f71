"""
Leaving in peace: an engine that is to be replaced lets what it has under way come to a rest, and takes up nothing else.

A run is at rest when it has ended or waits for something long, for then it holds no slot; so draining is a matter of
slots alone. Nobody gets one any more, who has one keeps it, and when the last is given back there is nothing that a
stop would interrupt. Everything else goes on as ever: commands are decided, runs are created, timers fire, events are
recorded. What follows from them waits in the log for the next engine, as it would after any stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polos.engine.json import Json
from polos.errors import CommandRefused
from polos.runtime.unit import Reply, Unit, settle

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["asked_to_drain", "drain"]


async def drain(engine: Engine, seconds: float) -> tuple[str, ...]:
    """
    Let nothing begin any more, and wait until nothing is under way, for so long at most.

    Returns:
        The runs that are under way still.
    """
    quiet = engine.loop.create_future()
    alarm: Any = engine.clock.call_after(round(seconds * 1e6), lambda: settle(quiet))
    engine.lines.close_door(lambda: settle(quiet))
    try:
        await quiet
    finally:
        alarm.cancel()
    return engine.lines.holders()


def asked_to_drain(engine: Engine, unit: Unit, command: dict[str, Json]) -> Reply:
    """
    Take the command of another process that this engine be drained and stopped.

    It names the epoch of the engine that it means: who comes next mustn't be sent away by it.
    """
    seconds, epoch = command.get("seconds"), command.get("epoch")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 1e9:
        raise CommandRefused(f"an engine is drained for a number of seconds from 0, not {seconds!r}")
    with engine.store.log.reader() as reader:
        present = int(reader.head().epoch)
    if epoch != present:
        raise CommandRefused(f"the engine that was to be drained is gone: its epoch was {epoch!r}, it is {present} now")
    leave = engine.on_drain
    if leave is None:
        raise CommandRefused("this engine has nobody who could stop it from outside")
    unit.actions.append(lambda: leave(seconds))  # when it is durable that this was taken
    return {"outcome": "accepted"}
