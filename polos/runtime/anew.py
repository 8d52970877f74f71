"""
Commands of this process whose commit failed, perhaps only seemingly, and which are decided anew.

A commit of unknown outcome may have kept what a command did, and the run may have gone on with it and have ended: in
the same unit even, for code sees an answer before it is durable. Deciding it once more would refuse what was done, or
do it twice. So the log is asked first, behind where the records of the first decision would stand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast, final

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.json import Json
from polos.engine.projections import run_stream
from polos.engine.state import Phase
from polos.errors import CommandRefused
from polos.runtime.foreign import text_of
from polos.runtime.unit import Reply, Unit
from polos.store.log import Version

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Anew"]


@final
class Anew:
    """Decides one command, as often as its commit fails."""

    __slots__ = ("_before", "_command", "_command_id", "_decide", "_engine", "_reply", "_tried")

    def __init__(
        self,
        engine: Engine,
        command_id: str,
        command: dict[str, Json],
        decide: Callable[[Unit, str, dict[str, Json]], Reply],
    ) -> None:
        """
        Take a command.

        Args:
            engine: whose log is asked.
            command_id: by which what the command did is known.
            command: the command.
            decide: decides it.
        """
        self._engine = engine
        self._command_id = command_id
        self._command = command
        self._decide = decide
        self._tried = False
        self._reply: Reply | None = None
        self._before: dict[str, Version] = {}  # versions of streams in front of what was decided the last time

    def apply(self, unit: Unit) -> Reply:
        """Decide it into a unit."""
        tried, self._tried = self._tried, True
        reply = self._kept(unit) if tried else None
        if reply is None:
            reply = self._once_more(unit) if tried else self._decide(unit, self._command_id, self._command)
        self._reply, self._before = reply, dict(unit.expected)
        return reply

    def _kept(self, unit: Unit) -> Reply | None:
        """Give the reply if what it tells of is in the log: an answer, a signal or an update that a run has taken."""
        run = self._taker()
        before = None if run is None else self._before.get(run_stream(run))
        if run is None or before is None:
            return None
        identity = str(self._command.get("update_id") or self._command_id)
        with self._engine.store.log.reader() as reader:
            if reader.row(("archived", run)) is not None:
                return None  # whoever asks for it is told so
            for record in reader.stream(run_stream(run), after=before):
                if identity == _came_of(decode(record.type, record.schema_version, record.payload)):
                    unit.rests_on(self._engine.residents.get(run))
                    return self._reply
        return None

    def _taker(self) -> str | None:
        """Give the run that has taken what the command sends."""
        kind = self._command.get("kind")
        if kind == "resume" and self._reply is not None:
            detail = cast("dict[str, list[str]]", self._reply["detail"])
            return detail["runs"][0]
        return text_of(self._command, "run") if kind in ("signal", "update") else None

    def _once_more(self, unit: Unit) -> Reply:
        """
        Decide it once more.

        Most commands that are in the log already are told by their id or decide to nothing. For the others, what they
        wanted is the case, so they are taken for done.
        """
        kind = self._command.get("kind")
        if kind == "publish":
            ids = self._engine.intake.topics.published(text_of(self._command, "topic"), self._command_id)
            if ids:
                return {"outcome": "published", "detail": {"sequence_ids": list(ids)}}
        elif kind == "cancel":
            run = text_of(self._command, "run")
            phase = self._engine.loader.get(run).state.phase
            if phase is Phase.CANCELLING or (phase is Phase.CANCELLED and run_stream(run) in self._before):
                return {"outcome": "accepted", "detail": {"cancelled": True}}
        try:
            return self._decide(unit, self._command_id, self._command)
        except CommandRefused:
            if kind in ("resolve", "readmit", "retry"):
                return {"outcome": "accepted"}
            raise


def _came_of(event: e.Event) -> str | None:
    """Give the id of what was sent to a run, of the event by which the run has taken it."""
    match event:
        case e.WaitSatisfied():
            return event.event_id
        case e.SignalReceived():
            return event.signal_id
        case e.UpdateReceived():
            return event.update_id
        case _:
            return None
