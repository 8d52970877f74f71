"""
Counting the calls of effects, across the deaths of processes.

How often the function of a step may be called follows from its effect class and from what the log held at the moment
of the call, so each call is looked at when it is made. `Audit` knows the log; the ledger knows the calls, those of
earlier lives included. For lives in processes of their own it is a file, one line a call, written before the call is
made: a killed process can't take a line back, and can't have made a call without it. That a call has come back with a
result is noted as well, for a `reconcile` that says it wasn't done (`polos.testing.sweep_claims`).

The function of a tool is no step's: the engine begins the tool's run, and the run calls it. So where the effect class
has something to say about it, for tools that are called at most once, a sweep doesn't run the tool but one like it,
whose function has its calls noted (`NotingBodies`).
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from polos.context import WorkflowContext
from polos.definition import Workflow
from polos.runtime.bodies import Bodies, Described
from polos.testing.audit import Audit
from polos.testing.outside import whole_lines
from polos.testing.sweep_points import Points
from polos.tools.tool import Tool

__all__ = ["TOOL", "CallLedger", "Note", "NotingBodies", "calls_of"]

TOOL: Final = ""  # no step has that name: a run that is a tool's call has one function of its own
_BACK: Final = "back"  # at the end of a line: the call has come back


class Note(NamedTuple):
    """
    That a function was called, or that it has come back with a result.

    Attributes:
        run: the run.
        name: the step; "" for a tool's function.
        attempt: which attempt of the step; of a tool, which of the records that its function is called next.
        back: whether it has come back.
    """

    run: str
    name: str
    attempt: int
    back: bool


def calls_of(notes: Iterable[Note]) -> Counter[str]:
    """Count the calls of steps by name, all runs together."""
    return Counter(note.name for note in notes if not note.back and note.name != TOOL)


@final
class CallLedger:
    """
    Every call of every step's function in a scenario, and of those tools' that are called at most once.

    Attributes:
        counts: calls by run and step.
        attempts: calls by run, step, attempt and life.
        notes: of all calls and of what came back, in order.
        life: which life is living, from 1.
        points: of that life: what a dead one's functions do is no part of the scenario.
    """

    def __init__(self, file: Path | None = None) -> None:
        """
        Begin, or go on with what earlier lives wrote.

        Args:
            file: where calls are written; None to keep them in memory.
        """
        self.counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.attempts: defaultdict[tuple[str, str, int, int], int] = defaultdict(int)
        self.notes: list[Note] = []
        self.life = 0
        self.points: Points | None = None
        self._file = file
        if file is not None and file.exists():
            for line in whole_lines(file.read_bytes()):
                run, name, attempt, life, *back = json.loads(line)
                if back:
                    self.notes.append(Note(run, name, attempt, back=True))
                else:
                    self._count(run, name, attempt, life)

    @property
    def steps(self) -> list[str]:
        """The steps that were called, in the order of the calls."""
        return [note.name for note in self.notes if not note.back and note.name != TOOL]

    def copy(self) -> CallLedger:
        """Give another one with the same calls, for lives that go on from here in memory."""
        other = CallLedger()
        other.counts, other.attempts = self.counts.copy(), self.attempts.copy()
        other.notes, other.life = self.notes.copy(), self.life
        return other

    def _count(self, run: str, name: str, attempt: int, life: int) -> int:
        self.attempts[run, name, attempt, life] += 1
        self.counts[run, name] += 1
        self.notes.append(Note(run, name, attempt, back=False))
        return self.counts[run, name]

    def call(self, audit: Audit, run: str, name: str, attempt: int, effect: str) -> None:
        """
        Note a call that is about to be made; what is wrong with it is kept in `audit.violations`.

        Args:
            audit: what the log holds now.
            run: the run.
            name: the step.
            attempt: which attempt of it.
            effect: its effect class.
        """
        number = self._note(run, name, attempt)
        audit.may_call(run, name, number, pure=effect == "pure")
        if self.attempts[run, name, attempt, self.life] > 1:
            audit.violations.append(f"attempt {attempt} of step {name} of run {run} is called twice in one life")

    def come_back(self, run: str, name: str, attempt: int) -> None:
        """Note that a call of a step has come back with a result; arguments as above."""
        if self.points is None or not self.points.dead:
            self._write([run, name, attempt, self.life, _BACK])
            self.notes.append(Note(run, name, attempt, back=True))

    def call_tool(self, audit: Audit, run: str, tool: str) -> Callable[[], None]:
        """
        Note that the function of a tool is about to be called that may be called once.

        Args:
            audit: what the log holds now.
            run: the run that is a call of the tool.
            tool: its id there.

        Returns:
            What is to be called when it has come back with a result.
        """
        attempt = audit.tool_calls(run)
        audit.may_call_tool(run, tool, self._note(run, TOOL, attempt))
        return partial(self.come_back, run, TOOL, attempt)

    def _note(self, run: str, name: str, attempt: int) -> int:
        self._write([run, name, attempt, self.life])
        return self._count(run, name, attempt, self.life)

    def _write(self, note: list[str | int]) -> None:
        if self._file is None:
            return
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"\n{json.dumps(note)}\n".encode())
        finally:
            os.close(descriptor)

    def by_step(self) -> Counter[str]:
        """Give the number of calls of each step, all runs together."""
        return calls_of(self.notes)


NoteTool = Callable[[str, str], Callable[[], None]]


@final
class NotingBodies(Bodies):
    """The workflows of a life, in which tools that are called at most once have their calls noted."""

    def __init__(self, find: Callable[[str], Workflow[Any] | None], note: NoteTool, **options: Any) -> None:
        """
        Take the way to look a workflow up.

        Args:
            find: gives a workflow by id, None if there is none.
            note: is told of a call that is about to be made, by the run and the tool's id; gives what is to be told
                when it has come back.
            **options: as for `Bodies`.
        """
        self._noted = _NotedTools(find, note)
        super().__init__(self._noted.find, **options)

    def describe_workflow(self, found: Workflow[Any]) -> Described:
        """Give what is recorded of a workflow's code: the program's, not ours."""
        return super().describe_workflow(self._noted.original(found))


@final
class _NotedTools:
    """Looks workflows up; of a tool that is called at most once it gives one like it."""

    def __init__(self, find: Callable[[str], Workflow[Any] | None], note: NoteTool) -> None:
        self._find = find
        self._note = note
        self._made: dict[str, tuple[Tool, Tool]] = {}  # by id: the program's, and the one that is run

    def find(self, workflow: str) -> Workflow[Any] | None:
        """Give a workflow by its id, None if there is none."""
        found = self._find(workflow)
        if not isinstance(found, Tool) or found.effect != "at_most_once":
            return found
        made = self._made.get(workflow)
        if made is None or made[0] is not found:
            made = self._made[workflow] = found, _noting(found, self._note)
        return made[1]

    def original(self, found: Workflow[Any]) -> Workflow[Any]:
        """Give the program's own definition."""
        made = self._made.get(found.id)
        return made[0] if made is not None and made[1] is found else found


def _noting(tool: Tool, note: NoteTool) -> Tool:
    """Give a tool that is like this one, and has each call of its function noted."""
    called = tool.func

    def noted(context: WorkflowContext, *arguments: Any) -> Any:
        come_back = note(context.execution_id, tool.id)
        outcome = called(context, *arguments)
        if inspect.isawaitable(outcome):
            return _awaited(outcome, come_back)
        come_back()
        return outcome

    other = copy.copy(tool)
    vars(other)["result_hint"] = tool.result_hint  # read off the function
    other.func = noted
    return other


async def _awaited(outcome: Awaitable[Any], come_back: Callable[[], None]) -> Any:
    value = await outcome
    come_back()
    return value
