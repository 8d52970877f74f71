"""
A run as plain view data: what the command line, pages and notebooks print.

They all print these, so they can't disagree. A view is made from one `Reader`, one consistent look at the log, and
holds texts, numbers and JSON only; whoever shows it decides on columns and colours and on where to cut a value.

The timeline has one entry for each thing that took time (a step, a wait, a child, an attempt), not one for each
event: begun when it was asked for, ended when it was answered, with what happened in between as notes. A crash is
no event of a run; it shows because every engine records that it took over the log. Where that record lies between
two of a run's, the run was cut off, and a step that was open across it was called again.

Why a run doesn't move is another question: `polos.reasons`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, cast

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.json import Json
from polos.engine.projections import ENGINE_STREAM
from polos.errors import PolosUsageError, UnknownRun
from polos.runtime import reads
from polos.runtime.archived import archived_row
from polos.store.log import Reader

__all__ = [
    "Note",
    "RunView",
    "TimelineEntry",
    "TreeNode",
    "engine_starts",
    "find_run",
    "run_view",
    "timeline",
]

RUNS_NAMED_MAX = 5  # of those that an ambiguous beginning could mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that happened while an entry was open: an attempt failed, the process was killed."""

    at: str
    text: str


@dataclass(slots=True, kw_only=True)
class TimelineEntry:
    """
    One thing in the life of a run.

    Attributes:
        at: when it began, RFC 3339.
        until: when it ended; None if it is open, or had no length.
        seconds: how long it took.
        kind: "run", "attempt", "step", "timer", "wait", "child", "value", "message", "signal", "update", "state",
            "cancel", "aside", "engine" (another engine took over).
        name: of the request; empty for what has none.
        text: what it is.
        outcome: "open", "completed", "failed", "retried", "cut off", "reused", "abandoned", "unknown", "expired",
            "cancelled", "noted"; of engines that took over, "crash" if one before them was killed, else "stopped".
        asked: what a wait shows to whoever answers it, what an update brought.
        value: input, result or answer, as JSON.
        error: what went wrong.
        attempts: of a step, how many there were.
        notes: what happened meanwhile.
        run: the run it belongs to; differs from the one asked for behind a `continue_as_new`.
    """

    at: str
    kind: str
    name: str
    text: str
    run: str
    until: str | None = None
    seconds: float | None = None
    outcome: str = "noted"
    asked: Json = None
    value: Json = None
    error: str | None = None
    attempts: int = 0
    notes: list[Note] = field(default_factory=list[Note])


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeNode:
    """A run in the tree of a root; `depth` is 0 for the root, `step` is what its parent called it by."""

    id: str
    workflow: str
    status: str
    waiting_reason: str | None
    depth: int
    parent: str | None
    step: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """
    All there is to show of a run.

    Attributes:
        execution: what `PolosClient.get_execution` gives.
        state: `ctx.state` as of its last durable change, None if it has none.
        tree: the tree it belongs to, each parent before its children.
        timeline: what happened to it, successors included, in order.
    """

    execution: dict[str, Any]
    state: Json
    tree: list[TreeNode]
    timeline: list[TimelineEntry]

    def to_json(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        return {
            **self.execution,
            "state": self.state,
            "tree": [asdict(node) for node in self.tree],
            "timeline": [asdict(entry) for entry in self.timeline],
        }


# ---------------------------------------------------------------------------------------- runs


def find_run(reader: Reader, text: str, pending: list[reads.PendingRun] | None = None) -> str:
    """
    Give the run that somebody means by its id, or by the beginning or end of it.

    Raises:
        UnknownRun: there is none.
        PolosUsageError: there are several.
    """
    promised = [waiting.row.run for waiting in pending or ()]
    if reads.run_row(reader, text) is not None or text in promised or archived_row(reader, text) is not None:
        return text
    found: dict[str, None] = {}
    # A beginning is a range of the rows; an end has to be looked for, and people copy ends since ids begin alike.
    if text:
        for kind in ("run", "archived"):
            for key, _ in reader.rows((kind,), after=(kind, text), limit=RUNS_NAMED_MAX):
                if str(key[1]).startswith(text):
                    found[str(key[1])] = None
        known = (str(key[1]) for kind in ("run", "archived") for key, _ in reader.rows((kind,)))
        for run in promised if found else (*promised, *known):
            if run.startswith(text) or run.endswith(text):
                found[run] = None
    if not found:
        raise UnknownRun(f"there is no run {text!r}")
    if len(found) > 1:
        named = ", ".join(list(found)[:RUNS_NAMED_MAX])
        raise PolosUsageError(f"{text!r} could be any of {named}{', ...' if len(found) > RUNS_NAMED_MAX else ''}")
    return next(iter(found))


def run_view(reader: Reader, run: str) -> RunView:
    """
    Give all there is to show of a run.

    Raises:
        UnknownRun: there is none with that id.
    """
    execution = reads.execution(reader, run)
    return RunView(
        execution=execution,
        state=reads.run_state(reader, run),
        tree=_tree(reader, cast("str", execution["root_execution_id"])),
        timeline=timeline(reader, run),
    )


def _tree(reader: Reader, root: str) -> list[TreeNode]:
    """Give a tree, depth first, children in the order in which they were created."""
    rows = {run: row for run in reads.tree_runs(reader, root) if (row := reads.run_row(reader, run)) is not None}
    below: dict[str | None, list[reads.RunRow]] = {}
    for row in rows.values():
        # A successor hangs below the run it continues; a run whose parent lives in another log below the root.
        parent = row.continues or row.parent
        below.setdefault(None if row.run == root else parent if parent in rows else root, []).append(row)
    nodes: list[TreeNode] = []
    waiting = [(row, 0) for row in below.get(None, ())]
    while waiting:
        row, depth = waiting.pop()
        nodes.append(
            TreeNode(
                id=row.run, workflow=row.workflow, status=row.status, waiting_reason=row.waiting_reason,
                depth=depth, parent=row.parent, step=row.step,
            )
        )  # fmt: skip
        waiting += [(child, depth + 1) for child in reversed(below.get(row.run, []))]
    return nodes


# ------------------------------------------------------------------------------------ timeline


def engine_starts(reader: Reader) -> list[tuple[int, int, e.EngineStarted]]:
    """Give position, time and event of each time an engine took the log over."""
    found: list[tuple[int, int, e.EngineStarted]] = []
    for record in reader.stream(ENGINE_STREAM):
        event = decode(record.type, record.schema_version, record.payload)
        if isinstance(event, e.EngineStarted):
            found.append((record.position, record.time_us, event))
    return found


def timeline(reader: Reader, run: str) -> list[TimelineEntry]:
    """
    Give what happened to a run and its successors, in order.

    Raises:
        UnknownRun: there is none with that id.
    """
    starts = engine_starts(reader)
    entries: list[TimelineEntry] = []
    row = reads.run_row(reader, run)
    if row is None:
        raise UnknownRun(f"there is no run {run!r}")
    while row is not None:
        entries += _Timeline(row.run).read(reader, starts, ended=row.ended)
        row = reads.run_row(reader, row.successor) if row.successor is not None else None
    return entries


class _Timeline:
    """Turns a stream into entries, one event after another."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._entries: list[TimelineEntry] = []
        self._open: dict[str, tuple[TimelineEntry, int]] = {}  # by name, with its beginning
        self._attempt: tuple[TimelineEntry, int] | None = None
        self._last_us = 0
        self._seen: TimelineEntry | None = None  # of an engine, with nothing of the run behind it yet
        self._taken: list[e.EngineStarted] = []  # what that entry stands for
        self._answers: dict[int, TimelineEntry] = {}  # by the version of the event that gave them

    def read(
        self, reader: Reader, starts: list[tuple[int, int, e.EngineStarted]], *, ended: bool
    ) -> list[TimelineEntry]:
        waiting = list(reversed(starts))
        for record, event in reads.events_of(reader, self._run):
            while waiting and waiting[-1][0] < record.position:
                self._taken_over(*waiting.pop()[1:])
            self._add(event, record.version, record.time_us)
            self._last_us, self._seen = record.time_us, None
        while waiting and not ended:
            self._taken_over(*waiting.pop()[1:])
        return self._entries

    # -- entries

    def _begin(self, name: str, kind: str, text: str, at_us: int, *, asked: Json = None) -> TimelineEntry:
        held = self._open.get(name)
        if held is not None and held[0].kind == kind:
            # An earlier attempt of the run left it open; it was taken over, not begun again.
            held[0].notes.append(Note(at=_at(at_us), text="asked for again by the next attempt of the run"))
            return held[0]
        entry = self._point(kind, name, text, at_us, outcome="open")
        entry.asked = asked
        self._open[name] = (entry, at_us)
        return entry

    def _point(
        self, kind: str, name: str, text: str, at_us: int, *,
        outcome: str = "noted", value: Json = None, error: e.Failure | None = None,
    ) -> TimelineEntry:  # fmt: skip
        entry = TimelineEntry(
            at=_at(at_us), kind=kind, name=name, text=text, run=self._run, outcome=outcome, value=value,
            error=_error(error),
        )  # fmt: skip
        self._entries.append(entry)
        return entry

    def _end(
        self, name: str, at_us: int, outcome: str, version: int, *, value: Json = None, error: e.Failure | None = None
    ) -> None:
        held = self._open.pop(name, None)
        if held is None:
            return  # of an attempt whose entries were closed with it
        _close(held, at_us, outcome, value=value, error=error)
        self._answers[version] = held[0]

    def _note(self, name: str, at_us: int, text: str) -> None:
        held = self._open.get(name)
        if held is not None:
            held[0].notes.append(Note(at=_at(at_us), text=text))

    # -- events

    def _taken_over(self, time_us: int, event: e.EngineStarted) -> None:
        """
        Show that another engine went on with the run, if there was one before it.

        Engines that came and went while nothing happened to the run share an entry, at the moment of the last one: a
        run that waits for a month is deployed over many times, and its own story must not drown in that.
        """
        if not self._last_us:
            return
        how = "stopped" if event.clean else "was killed"
        if self._seen is None:
            self._seen, self._taken = self._point("engine", "", "", time_us), []
        self._taken.append(event)
        self._seen.at, self._seen.text = _at(time_us), _engines(self._taken)
        self._seen.outcome = "stopped" if all(one.clean for one in self._taken) else "crash"
        self._seen.seconds = max(time_us - self._last_us, 0) / 1e6
        for held, _ in self._open.values():
            if held.kind == "step" and held.outcome != "unknown":
                held.notes.append(Note(at=_at(time_us), text=f"cut off: the engine {how}"))

    def _add(self, event: e.Event, version: int, at_us: int) -> None:
        for handle in (self._of_run, self._of_step, self._of_wait, self._of_other):
            if handle(event, version, at_us):
                return

    def _of_run(self, event: e.Event, _version: int, at_us: int) -> bool:  # noqa: C901, PLR0912  # one case an event
        match event:
            case e.RunCreated():
                what = "created" if event.continues is None else f"continues {event.continues}"
                self._point("run", "", f"{event.workflow} {what}", at_us, value=event.input)
            case e.RunDebounced():
                text = f"another call replaced its input, it begins at {_at(event.start_after_us)}"
                self._point("run", "", text, at_us, value=event.input)
            case e.RunReopened():
                why = f": {event.reason}" if event.reason else ""
                self._point("run", "", f"retried by {event.by}{why}", at_us)
            case e.RunForked():
                self._point("run", "", f"forked from {event.origin} at version {event.at}", at_us)
            case e.RunStarted():
                if self._attempt is not None:  # a direct body that begins anew after a crash
                    _close(self._attempt, at_us, "cut off")
                entry = self._point("attempt", "", f"attempt {event.attempt} of the run", at_us, outcome="open")
                self._attempt = entry, at_us
            case e.RunRetried():
                text = f"attempt {event.attempt} failed, the next is due at {_at(event.due_us)}"
                self._end_attempt(at_us, "retried", text, error=event.error)
            case e.RunCompleted():
                self._end_attempt(at_us, "completed", "completed", value=event.result)
            case e.RunFailed():
                self._end_attempt(at_us, "failed", "failed", error=event.error)
            case e.RunCancelled():
                self._end_attempt(at_us, "cancelled", f"cancelled by {event.by}")
            case e.RunContinued():
                self._end_attempt(at_us, "completed", f"went on as {event.successor}", value=event.input)
            case e.CancelRequested():
                why = f": {event.reason}" if event.reason else ""
                self._point("cancel", "", f"cancelling was asked for by {event.by}{why}", at_us)
            case e.CancelForced():
                self._point("cancel", "", f"cancelling was forced by {event.by}", at_us)
            case e.RunDiverged():
                self._point("aside", "", f"diverged: {event.message}", at_us, value=event.report)
            case e.RunSetAside():
                self._point("aside", "", f"set aside, {event.reason}: {event.message}", at_us)
            case e.RunReadmitted():
                self._point("aside", "", f"goes on, let in by {event.by}", at_us)
            case _:
                return False
        return True

    def _end_attempt(
        self, at_us: int, outcome: str, text: str, *, value: Json = None, error: e.Failure | None = None
    ) -> None:
        if self._attempt is not None:
            _close(self._attempt, at_us, outcome, error=error)
            self._attempt = None
        self._point("run", "", text, at_us, outcome=outcome, value=value, error=error)

    def _of_step(self, event: e.Event, version: int, at_us: int) -> bool:  # noqa: C901, PLR0912  # one case an event
        match event:
            case e.StepScheduled():
                effect = "" if event.effect == "idempotent" else f" [{event.effect}]"
                entry = self._begin(event.name, "step", f"{event.function}{effect}", at_us)
                entry.attempts = max(entry.attempts, 1)
            case e.StepAttemptStarted():
                held = self._open.get(event.name)
                if held is not None:
                    held[0].attempts = event.attempt
            case e.StepAttemptFailed():
                text = f"attempt {event.attempt} failed: {_error(event.error)}; the next was due at {_at(event.due_us)}"
                self._note(event.name, at_us, text)
                held = self._open.get(event.name)
                if held is not None:
                    held[0].attempts = event.attempt + 1
            case e.StepCompleted():
                self._end(event.name, at_us, "completed", version, value=event.value)
            case e.StepFailed():
                self._end(event.name, at_us, "failed", version, error=event.error)
            case e.StepAbandoned():
                self._end(event.name, at_us, "abandoned", version)
            case e.StepOutcomeUnknown():
                self._note(event.name, at_us, f"attempt {event.attempt}: nobody knows its outcome: {event.reason}")
                held = self._open.get(event.name)
                if held is not None:
                    held[0].outcome = "unknown"
            case e.StepResolved():
                self._note(event.name, at_us, f"resolved as {event.outcome} by {event.by}")
                if event.outcome == "not_done":
                    self._open[event.name][0].outcome = "open"
                else:
                    self._end(event.name, at_us, event.outcome, version, value=event.value, error=event.error)
            case _:
                return False
        return True

    def _of_wait(self, event: e.Event, version: int, at_us: int) -> bool:
        match event:
            case e.TimerStarted():
                self._begin(event.name, "timer", f"until {_at(event.due_us)}", at_us)
            case e.TimerFired():
                self._end(event.name, at_us, "completed", version)
            case e.WaitStarted():
                what = {"topic": "an event of", "signal": "the signal", "suspend": "an answer to"}[event.kind]
                limit = "" if event.expires_us is None else f", at most until {_at(event.expires_us)}"
                self._begin(event.name, "wait", f"for {what} {event.key}{limit}", at_us, asked=event.data)
            case e.WaitSatisfied():
                self._end(event.name, at_us, "completed", version, value=event.data)
            case e.WaitExpired():
                self._end(event.name, at_us, "expired", version)
            case e.TimerCancelled() | e.WaitCancelled():
                self._end(event.name, at_us, "abandoned", version)
            case e.ChildStarted(wanted=True):
                self._begin(event.name, "child", f"{event.workflow} {event.child}", at_us)
            case e.ChildStarted():
                self._point("child", event.name, f"started {event.workflow} {event.child}", at_us)
            case e.ChildFinished():
                self._end(event.name, at_us, event.status, version, value=event.result, error=event.error)
            case e.ChildDetached():
                self._end(event.name, at_us, "cancelled" if event.cancelled else "abandoned", version)
            case _:
                return False
        return True

    def _of_other(self, event: e.Event, version: int, at_us: int) -> bool:
        match event:
            case e.ResultReused():
                self._reused(event, at_us)
            case e.ValueRecorded():
                self._answers[version] = self._point("value", event.name, event.kind, at_us, value=event.value)
            case e.MessageSent():
                self._point("message", event.name, f"{event.kind} to {event.target}", at_us, value=event.body)
            case e.SignalReceived():
                text = f"{event.kind} {event.key} came before anybody waited for it"
                self._point("signal", event.key, text, at_us, value=event.data)
            case e.SignalDropped():
                self._point("signal", event.key, f"{event.kind} {event.key} found nobody: {event.reason}", at_us)
            case e.UpdateReceived():
                self._begin(f"update {event.update_id}", "update", event.name, at_us, asked=event.data)
            case e.UpdateAnswered():
                outcome = "failed" if event.error else "completed"
                self._end(f"update {event.update_id}", at_us, outcome, version, value=event.value, error=event.error)
            case e.StateChanged():
                self._point("state", "", "ctx.state changed", at_us, value=event.changed)
            case e.TagsChanged():
                said = [*(f"+{tag}" for tag in event.added), *(f"-{tag}" for tag in event.removed)]
                self._point("state", "", f"tags changed: {', '.join(said)}", at_us)
            case _:
                return False
        return True

    def _reused(self, event: e.ResultReused, at_us: int) -> None:
        """Show what an earlier attempt's answer was."""
        answer = self._answers.get(event.version)
        text = "answered by what an earlier attempt had finished"
        entry = self._point("step" if answer is None else answer.kind, event.name, text, at_us, outcome="reused")
        if answer is not None:
            entry.value, entry.error = answer.value, answer.error


def _engines(taken: list[e.EngineStarted]) -> str:
    """Say which engines took over one after the other, and how those before them had ended."""
    last, killed = taken[-1], sum(not one.clean for one in taken)
    if len(taken) == 1:
        how = "the engine was killed" if killed else "the engine stopped"
    else:
        how = f"the engine ended {len(taken)} times" + (f", {killed} of them killed" if killed else "")
    return f"{how}; process {last.pid} on {last.host} took over"


def _close(
    held: tuple[TimelineEntry, int], at_us: int, outcome: str, *, value: Json = None, error: e.Failure | None = None
) -> None:
    entry, began_us = held
    entry.until, entry.seconds, entry.outcome = _at(at_us), (at_us - began_us) / 1e6, outcome
    entry.error, entry.value = _error(error), value


def _error(error: e.Failure | None) -> str | None:
    return None if error is None else f"{error.type}: {error.message}"


def _at(time_us: int) -> str:
    text = reads.rfc3339(time_us)
    assert text is not None, "an instant has a text"
    return text
