"""
What functions given as `reconcile` say of a call, held against the calls that there were.

`Completed` of a function that no life has called loses its effect, and `NotDone` of a call that has come back with a
result has it a second time. Neither needs to be seen in what the run ends with, but whoever counts the calls knows.
Only what is beyond doubt is told. A call that raised, or was cut off, may have had its effect or not; where one attempt
of several was called, another may have done what `Completed` speaks of. What persons say, and programs in their name,
is their own affair, and `StillUnknown` can't be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

from polos.engine import events as e
from polos.testing.audit import Audit, Stored
from polos.testing.sweep_calls import TOOL, Note
from polos.types.answers import Completed, NotDone
from polos.value_types import type_path

__all__ = ["Claims"]

_ASKS: Final = "_reconcile"  # the step by which a tool asks
_ANSWERS: Final = {type_path(Completed): True, type_path(NotDone): False}


@final
@dataclass(frozen=True, slots=True)
class _Claim:
    """
    What was said of a call.

    Attributes:
        call: of which; whether it has come back is what it is about.
        who: the step or the tool, in words.
        done: whether it is said to have been done.
        final: whether nothing is called any more.
        version: of the event that says it.
    """

    call: Note
    who: str
    done: bool
    final: bool
    version: int


@final
class Claims:
    """What was said of calls in one scenario, and the calls."""

    def __init__(self, audit: Audit, notes: Iterable[Note], called: Mapping[str, str]) -> None:
        """
        Read what was said.

        Args:
            audit: what the log holds.
            notes: of the calls, as `CallLedger` has them.
            called: what each run is called.
        """
        self._notes = Counter(notes)
        self._claims = [
            claim
            for run, history in audit.histories.items()
            for claim in (*_of_steps(run, history, called[run]), *_of_tool(run, history, called[run]))
        ]

    def untrue(self, without: Counter[Note] | None = None) -> list[str]:
        """
        Say in words what isn't true.

        Args:
            without: notes that are to be taken off: for a crash before them, with the same end.
        """
        if not self._claims:
            return []
        notes = self._notes if without is None else self._notes - without
        called = {(note.run, note.name) for note in notes}
        return [
            f"{claim.who}{_LOST if claim.done else _IN_VAIN if claim.final else _TWICE}".format(**_said(claim))
            for claim in self._claims
            if (claim.done and claim.call[:2] not in called) or (not claim.done and claim.call in notes)
        ]


def _said(claim: _Claim) -> dict[str, object]:
    which = f"call {claim.call.attempt}" if claim.call.name == TOOL else f"attempt {claim.call.attempt}"
    return {"which": which, "version": claim.version}


_LOST: Final = (
    ": its reconcile says Completed (event {version}), but its function hasn't been called in any life: "
    "its effect is lost"
)
_TWICE: Final = (
    ": its reconcile says NotDone (event {version}), but {which} of its function has come back with a result: "
    "it is called once more, and its effect may be had twice"
)
_IN_VAIN: Final = (
    ": its reconcile says NotDone (event {version}), but {which} of its function has come back with a result: "
    "it counts as failed, and its effect was had"
)


def _of_steps(run: str, history: Iterable[Stored], called: str) -> list[_Claim]:
    found: list[_Claim] = []
    attempts: dict[str, int] = {}
    for version, (event, _, _) in enumerate(history, 1):
        if isinstance(event, e.StepAttemptStarted):
            attempts[event.name] = event.attempt
        elif isinstance(event, e.StepResolved) and event.by == "reconcile":
            call = Note(run, event.name, attempts.get(event.name, 1), back=True)
            done, final = event.outcome == "completed", event.outcome == "failed"
            found.append(_Claim(call, f"step {event.name!r} of {called}", done, final, version))
    return found


def _of_tool(run: str, history: Iterable[Stored], called: str) -> list[_Claim]:
    """Give what the `reconcile` of a tool said; there is none in a run that is no call of a tool."""
    found: list[_Claim] = []
    records: dict[str, str] = {}
    for version, (event, _, _) in enumerate(history, 1):
        if isinstance(event, e.ValueRecorded) and event.kind == "tool_call":
            records[event.name] = str(event.value.get("tool")) if isinstance(event.value, dict) else ""
        elif isinstance(event, e.StepCompleted) and records and event.name.partition("#")[0] == _ASKS:
            done = _ANSWERS.get(event.type or "")
            if done is not None:
                call, tool = Note(run, TOOL, len(records), back=True), next(reversed(records.values()))
                found.append(_Claim(call, f"tool {tool!r}, {called}", done, final=False, version=version))
    return found
