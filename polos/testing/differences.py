"""
In what ways the current code can differ from a recorded run, each a type of its own.

A test that fails has to say what changed and what that means, so a difference knows the step, the line that asks now,
what stands in the recording and what the code does instead. One that `--polos-accept` can write into the recording
carries the event that it would write; where nothing honest can be written (nobody knows what a new step would have
returned) there is none, and the run must be recorded again.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import orjson

from polos.engine import events as e
from polos.engine.json import Json

__all__ = [
    "ArgumentsChanged",
    "CostChanged",
    "Difference",
    "Diverged",
    "EffectChanged",
    "EndChanged",
    "ExtraStep",
    "FunctionChanged",
    "MissingStep",
    "ModelChanged",
    "NotReached",
    "OrderChanged",
    "PromptChanged",
    "RequestChanged",
    "ResultChanged",
    "RunDiffers",
    "SchemaChanged",
    "StateChanged",
    "ToolsChanged",
    "WorkflowChanged",
    "named",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """
    One way in which the code differs from the recording. An example stands at `RecordedRun`.

    Attributes:
        run: the recorded run.
        step: name of what the code asked for, or that it didn't; empty for the run itself.
        kind: what it is: "StepScheduled", "ChildStarted", "TimerStarted", ...
        recorded: what the recording has.
        asked: what the code does now.
        line: file and line that ask now, if they do.
        version: of the record that is meant, 0 if there is none.
        accepted: what accepting puts in that record's place; None if nothing honest can be put there.
        note: more, for people.
        reason: what tells it from others of its type; those that have the same are told once. Empty if it has none.
    """

    means: ClassVar[str] = "the code differs"
    run: str
    step: str = ""
    kind: str = ""
    recorded: Json = None
    asked: Json = None
    line: str | None = None
    version: int = 0
    accepted: e.Event | None = None
    note: str = ""
    reason: str = ""

    def lines(self) -> list[str]:
        """Tell it in lines of text."""
        found = [f"{type(self).__name__}: {named(self.kind, self.step)}: {self._meaning()}"]
        if self.line:
            found.append(f"    at {self.line}")
        if self.recorded is not None or self.asked is not None:
            found += [f"    {line}" for line in _diff(self.recorded, self.asked)]
        found += [f"    {line}" for line in self.note.splitlines()]
        return found

    def _meaning(self) -> str:
        return self.means


_KINDS = {
    "StepScheduled": "step",
    "ChildStarted": "child run",
    "TimerStarted": "timer",
    "WaitStarted": "wait",
    "MessageSent": "message",
    "ValueRecorded": "recorded value",
    "PatchMarked": "patch",
    "StateChanged": "ctx.state",
    "TagsChanged": "tags",
    "UpdateAnswered": "answer to an update",
    "": "the run",
}


def named(kind: str, step: str) -> str:
    """Give a request by what it is and its name, as it is told."""
    return f"{_KINDS.get(kind, kind)}{f' {step!r}' if step else ''}"


class ArgumentsChanged(Difference):
    """A step, or a child run, is given something else."""

    means = "is given other arguments"


class FunctionChanged(Difference):
    """A step of that name calls another function."""

    means = "calls another function"


class EffectChanged(Difference):
    """A step has another effect class: what is promised about it after a crash has changed."""

    means = "has another effect class"


class WorkflowChanged(Difference):
    """A child run of that name is of another workflow."""

    means = "starts another workflow"


class RequestChanged(Difference):
    """A timer, a wait, a message, a tag or an answer isn't what it was."""

    means = "isn't what it was"


class StateChanged(Difference):
    """`ctx.state` changes in another way."""

    means = "changes in another way"


class SchemaChanged(Difference):
    """What is recorded doesn't fit the type that the code reads it as, or is another record by it."""

    means = "the record doesn't fit its type any more"

    def _meaning(self) -> str:
        # One that can be read fits; a default that was added makes another record of it when it is written again.
        return self.means if self.accepted is None else "its type writes it as another record now"


class PromptChanged(Difference):
    """A model is told something else: the system prompt, or messages of the conversation."""

    means = "the model is told something else"


class ToolsChanged(Difference):
    """A model is offered other tools, or the same with other descriptions or arguments."""

    means = "the model is offered other tools"


class ModelChanged(Difference):
    """Another model is asked, or with other settings, or for an answer of another form."""

    means = "another model, or other settings"


class CostChanged(Difference):
    """A call of a model costs something else by today's prices."""

    means = "costs something else"


class ExtraStep(Difference):
    """The code asks for something that isn't recorded: nobody knows how it would have ended."""

    means = "is new: nothing is recorded about it"


class MissingStep(Difference):
    """The code doesn't ask for something that is recorded."""

    means = "is recorded, and the code doesn't ask for it any more"


class NotReached(Difference):
    """What comes behind a difference could not be compared."""

    means = "couldn't be compared: the code waits for something that isn't recorded"


class OrderChanged(Difference):
    """The code asks for the same, at another point of the history."""

    means = "is asked for at another point"


class ResultChanged(Difference):
    """The run returns something else, or fails in another way."""

    means = "ends with something else"


class EndChanged(Difference):
    """The run ends in another way, or doesn't end."""

    means = "ends in another way"


class Diverged(Difference):
    """The engine would stop the run here, for a reason that fits no other type."""

    means = "can't go on with this history"


class RunDiffers(AssertionError):
    """
    The current code doesn't fit a recorded run. An example stands at `RecordedRun`.

    Attributes:
        where: the recording.
        differences: all that were found, in the order of the history.
    """

    def __init__(self, where: str, workflow: str, differences: Sequence[Difference]) -> None:
        """Take the recording, the workflow that it is compared with, and what was found."""
        self.where = where
        self.differences = tuple(differences)
        count = len(differences)
        text = [f"{workflow!r} differs from {where} in {count} place{'s' * (count != 1)}"]
        for number, (difference, *others) in enumerate(_by_reason(differences), start=1):
            first, *rest = difference.lines()
            text += ["", f"{number}. {first}", *rest]
            if others:
                names = ", ".join(named(other.kind, other.step) for other in others)
                text.append(f"    the same {'once' if len(others) == 1 else f'{len(others)} times'} more: {names}")
        text += ["", *_remedy(self.differences)]
        super().__init__("\n".join(text))


def _by_reason(differences: Sequence[Difference]) -> list[list[Difference]]:
    """Put those of one reason together, in the order of the first of each."""
    found: dict[object, list[Difference]] = {}
    for at, difference in enumerate(differences):
        found.setdefault((type(difference), difference.reason) if difference.reason else at, []).append(difference)
    return list(found.values())


def _remedy(differences: Sequence[Difference]) -> list[str]:
    left = [difference for difference in differences if difference.accepted is None]
    if not left:
        return ["If this is meant: `pytest --polos-accept` writes it into the recording."]
    kinds = ", ".join(dict.fromkeys(type(difference).__name__ for difference in left))
    return [
        "If this is meant, record it again, from a run of the new code: `polos test record RUN --out FILE`.",
        f"What has to be known for {kinds} isn't in the recording, so `--polos-accept` leaves it as it is.",
        "Runs that are under way when this code is deployed would stop here; `ctx.patched` keeps them going.",
    ]


def _diff(recorded: Json, asked: Json) -> list[str]:
    old, new = _pretty(recorded), _pretty(asked)
    if len(old) == 1 and len(new) == 1:
        return [f"- recorded  {old[0]}", f"+ now       {new[0]}"]
    return ["--- recorded", "+++ now", *list(difflib.unified_diff(old, new, lineterm="", n=2))[2:]]


def _pretty(value: Json) -> list[str]:
    if isinstance(value, str):
        return value.splitlines() or [""]
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode().splitlines()
