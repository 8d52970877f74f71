"""
Why a run doesn't move: what it waits for, and what would move it on.

A run's row says `waiting` and one word. The answer people need is in its stream: which timer, which answer, which
step and since when. So the stream is folded once, and what is open at its end is told, each with the thing that
would end it and, where somebody has to do that, the command to type. Two reasons lie outside every run and hold up
all of them: that no engine is running, and that no slot is free.

A run that waits for a child waits for what the child waits for, so a child's own reasons stand below it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from polos.engine import events as e
from polos.engine.evolve import evolve
from polos.engine.json import Json
from polos.engine.state import DebtKind, Op, OpKind, OpStatus, Phase, RunState
from polos.errors import UnknownRun
from polos.runtime import reads
from polos.store.log import Reader

__all__ = ["Reason", "Why", "count_runs", "why"]

CHILDREN_EXPLAINED_MAX: Final = 10  # reasons of more children than that are left to `why CHILD`
DEPTH_MAX: Final = 8
COUNTED_MAX: Final = 10_000


class Owner(Protocol):
    """The engine that owns the data directory."""

    @property
    def started_us(self) -> int:
        """When it took the directory over; 0 if that isn't known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """
    One thing that a run waits for.

    Attributes:
        kind: "timer", "suspend", "signal", "topic", "child", "step", "thread", "retry", "step_outcome_unknown",
            "run_retry", "start", "slot", "inbox", "code", "cancel", "diverged", "no_code", "pinned", "poisoned",
            "internal_error", "no_engine" or "ended".
        text: what it waits for.
        moves_on: what would move it on; goes on from "it moves on when".
        command: what to type for that, if it is somebody's turn.
        name: of the request: the step, wait or timer.
        since: since when, RFC 3339.
        due: until when, if that is known.
        detail: what there is to know: the data of a suspend, the report of a divergence.
        run: the child, of a reason that is one.
        because: the child's own reasons.
    """

    kind: str
    text: str
    moves_on: str
    command: str | None = None
    name: str | None = None
    since: str | None = None
    due: str | None = None
    detail: Json = None
    run: str | None = None
    because: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """
    Why a run is where it is.

    Attributes:
        run: the run; the last of its successors.
        workflow: its workflow.
        status: its status.
        waiting_reason: the one word that its row has for it.
        reasons: what it waits for; the first thing to look at comes first.
        deadline: when its run timeout will cancel it.
    """

    run: str
    workflow: str
    status: str
    waiting_reason: str | None
    reasons: tuple[Reason, ...]
    deadline: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        return asdict(self)


def why(
    reader: Reader,
    run: str,
    *,
    owner: Owner | None,
    now_us: int,
    pending: Iterable[reads.PendingRun] = (),
    waits_for_thread: Callable[[str, str, int], bool] | None = None,
) -> Why:
    """
    Tell why a run is where it is.

    Args:
        reader: the view.
        run: the run; its last successor is told about.
        owner: the engine that owns the directory, None if there is none.
        now_us: the time, by which what is due is told from what isn't yet.
        pending: runs that wait in the inbox.
        waits_for_thread: tells of a run, a step and an attempt under way whether its function wasn't called yet for
            want of a thread; only the engine knows.

    Raises:
        UnknownRun: neither the log nor the inbox has it.
    """
    row = reads.last_row(reader, run)
    if row is None:
        for waiting in pending:
            if waiting.row.run == run:
                return _in_inbox(waiting.row, owner)
        raise UnknownRun(f"there is no run {run!r}")
    return _why(_View(reader, owner, now_us, waits_for_thread), row, depth=0)


def count_runs(reader: Reader, status: str) -> int:
    """Count the runs of a status, or with a reason to wait; at most 10,000."""
    return sum(1 for _ in reader.rows(("status", status), limit=COUNTED_MAX))


def _in_inbox(row: reads.RunRow, owner: Owner | None) -> Why:
    since = reads.rfc3339(row.created_us)
    reason = Reason(
        kind="inbox", text="it was asked for, and no engine has seen it yet", since=since,
        moves_on="an engine takes it out of the inbox within a moment",
    )  # fmt: skip
    reasons = (reason,) if owner is not None else (_no_engine(), reason)
    return Why(run=row.run, workflow=row.workflow, status=row.status, waiting_reason="inbox", reasons=reasons)


@dataclass(frozen=True, slots=True)
class _View:
    """What it is told from."""

    reader: Reader
    owner: Owner | None
    now_us: int
    waits_for_thread: Callable[[str, str, int], bool] | None


def _why(view: _View, row: reads.RunRow, *, depth: int) -> Why:
    if row.ended:
        reasons: tuple[Reason, ...] = (_ended(view.reader, row),)
        deadline = None
    else:
        found = _Open(view, row, depth)
        reasons = found.reasons()
        if view.owner is None and depth == 0:
            reasons = (_no_engine(), *reasons)
        deadline = reads.rfc3339(found.state.deadline_us)
    return Why(
        run=row.run, workflow=row.workflow, status=row.status, waiting_reason=row.waiting_reason,
        reasons=reasons, deadline=deadline,
    )  # fmt: skip


def _no_engine() -> Reason:
    return Reason(
        kind="no_engine",
        text="no engine is running on this data directory",
        moves_on="a program opens it with `async with Polos(...)`; everything that is due happens then",
    )


def _ended(reader: Reader, row: reads.RunRow) -> Reason:
    error = reads.execution(reader, row.run)["error"]
    return Reason(
        kind="ended",
        text=f"it is over: {row.status}" + (f", {error}" if error else ""),
        moves_on="never",
        command=f"polos show {row.run}",
        since=reads.rfc3339(row.ended_us),
        detail=error,
    )


# ------------------------------------------------------------------------------- what is open


@dataclass(slots=True)
class _Story:
    """What is remembered of an open request: its opening, and what happened to it last."""

    opened: e.Event | None = None
    opened_us: int = 0
    failed: e.StepAttemptFailed | None = None
    unknown: e.StepOutcomeUnknown | None = None
    unknown_us: int = 0
    started_us: int = 0


@dataclass(slots=True)
class _RunStory:
    """What is remembered of the run itself."""

    retried: e.RunRetried | None = None
    cancel: e.CancelRequested | None = None
    aside: e.RunDiverged | e.RunSetAside | None = None
    at_us: dict[str, int] = field(default_factory=dict[str, int])


class _Open:
    """A living run, folded, with what is needed to tell of what it has open."""

    def __init__(self, view: _View, row: reads.RunRow, depth: int) -> None:
        self.state = RunState(run=row.run)
        self._view = view
        self._depth = depth
        self._run = _RunStory()
        self._stories: dict[str, _Story] = {}
        for record, event in reads.events_of(view.reader, row.run):
            evolve(self.state, event, time_us=record.time_us)
            self._remember(event, record.time_us)

    def _remember(self, event: e.Event, time_us: int) -> None:
        self._run.at_us[type(event).__name__] = time_us
        match event:
            case e.RunRetried():
                self._run.retried = event
            case e.CancelRequested():
                self._run.cancel = event
            case e.RunDiverged() | e.RunSetAside():
                self._run.aside = event
            case e.StepScheduled() | e.TimerStarted() | e.WaitStarted() | e.ChildStarted():
                # A next attempt takes over what is open: it is open since the first one asked.
                self._stories.setdefault(event.name, _Story(opened=event, opened_us=time_us))
            case e.StepAttemptFailed():
                self._stories[event.name].failed = event
            case e.StepAttemptStarted():
                self._stories[event.name].started_us = time_us
            case e.StepOutcomeUnknown():
                self._stories[event.name].unknown = event
                self._stories[event.name].unknown_us = time_us
            case _:
                pass
        name = getattr(event, "name", None)
        if name is not None and name not in self.state.ops:
            self._stories.pop(name, None)

    def reasons(self) -> tuple[Reason, ...]:
        """Give what it waits for: what keeps the whole run first, then each open request."""
        state = self.state
        found: list[Reason] = []
        if state.aside is not None:
            found.append(self._aside(state.aside))
        if state.phase is Phase.CANCELLING:
            found.append(self._cancelling())
        if state.phase in (Phase.QUEUED, Phase.BACKOFF) and state.aside is None:
            found.append(self._queued())
        children = 0
        for name, op in state.ops.items():
            children += op.kind is OpKind.CHILD
            found.append(self._op(name, op, explain=children <= CHILDREN_EXPLAINED_MAX))
        if not found:
            found.append(self._code())
        return tuple(found)

    def _code(self) -> Reason:
        since = reads.rfc3339(self.state.last_time_us)
        if self.state.direct:
            text = "its code is running; it may do I/O itself, so what it waits for isn't recorded"
        else:
            text = "it has asked for nothing since its last fact; its code is about to be run on it"
        return Reason(kind="code", text=text, moves_on="its code asks for something or ends", since=since)

    # -- the run as a whole

    def _aside(self, aside: str) -> Reason:
        event = self._run.aside
        message = "" if event is None else event.message
        since = reads.rfc3339(self._run.at_us.get("RunDiverged" if aside == "diverged" else "RunSetAside"))
        run, workflow = self.state.run, self.state.workflow
        if aside == "diverged":
            report = event.report if isinstance(event, e.RunDiverged) else None
            return Reason(
                kind=aside, text=f"its code doesn't fit its history: {message}", since=since, detail=report,
                moves_on="its program is restarted with code that fits (`ctx.patched` helps); nothing is lost",
                command=f"polos readmit {run}",
            )  # fmt: skip
        if aside == "no_code":
            return Reason(
                kind=aside, text=f"the engine doesn't know its workflow: {message}", since=since,
                moves_on=f"a program is started that defines the workflow {workflow!r} before its `Polos(...)`",
            )  # fmt: skip
        if aside == "pinned":
            return Reason(
                kind=aside, text=f"its version isn't here: {message}", since=since,
                moves_on=f"a program is started that defines that version of {workflow!r}, beside newer ones or alone",
            )  # fmt: skip
        return Reason(
            kind=aside, text=f"it is set aside: {message}", since=since,
            moves_on="its code is mended and somebody lets it in again", command=f"polos readmit {run}",
        )  # fmt: skip

    def _cancelling(self) -> Reason:
        cancel = self._run.cancel
        forced = self.state.cancel_forced
        by = "somebody" if cancel is None else cancel.by
        return Reason(
            kind="cancel",
            text=f"it was asked to stop by {by} and is cleaning up" + ("; its grace is over" if forced else ""),
            moves_on="its clean-up ends" + ("" if forced else ", or its grace does; cancelling once more forces it"),
            command=None if forced else f"polos cancel {self.state.run}",
            since=reads.rfc3339(self.state.cancel_requested_us),
            due=None if forced or cancel is None else reads.rfc3339(cancel.grace_due_us),
        )

    def _queued(self) -> Reason:
        state = self.state
        start = state.owed.get((DebtKind.START, ""))
        due_us = None if start is None else start.due_us
        retried = self._run.retried
        if state.phase is Phase.BACKOFF and retried is not None:
            return Reason(
                kind="run_retry", moves_on="the moment comes", due=reads.rfc3339(due_us),
                text=f"attempt {retried.attempt} of the run failed ({_failure(retried.error)}); the next one is due",
                since=reads.rfc3339(self._run.at_us.get("RunRetried")), detail=_failure(retried.error),
            )  # fmt: skip
        since = reads.rfc3339(state.created_us)
        if due_us is not None:
            return Reason(
                kind="start", text="it is to start later", moves_on="the moment comes", since=since,
                due=reads.rfc3339(due_us),
            )  # fmt: skip
        running = count_runs(self._view.reader, "running")
        return Reason(
            kind="slot",
            text=f"it is queued; {running} other {'run is' if running == 1 else 'runs are'} under way",
            moves_on="a slot gets free (max_concurrent_workflows); who asked first goes first",
            since=since,
        )

    # -- requests

    def _op(self, name: str, op: Op, *, explain: bool) -> Reason:
        story = self._stories.get(name) or _Story(opened_us=op.opened_us)
        match op.kind:
            case OpKind.STEP:
                return self._step(name, op, story)
            case OpKind.TIMER:
                return Reason(
                    kind="timer", name=name, text=f"the timer {name}", moves_on="the moment comes",
                    since=reads.rfc3339(story.opened_us),
                    due=self._due(DebtKind.FIRE, name),
                )  # fmt: skip
            case OpKind.WAIT:
                return self._wait(name, op, story)
            case OpKind.CHILD:
                return self._child(name, op, story, explain=explain)

    def _due(self, kind: DebtKind, name: str) -> str | None:
        debt = self.state.owed.get((kind, name))
        return None if debt is None else reads.rfc3339(debt.due_us)

    def _step(self, name: str, op: Op, story: _Story) -> Reason:
        run = self.state.run
        if op.status is OpStatus.UNKNOWN:
            said = "" if story.unknown is None else f": {story.unknown.reason}"
            return Reason(
                kind="step_outcome_unknown", name=name, since=reads.rfc3339(story.unknown_us),
                text=f"nobody knows whether attempt {op.attempt} of the step {name} happened{said}",
                moves_on="somebody finds out and says so: completed, failed, or not_done, which has it called again",
                command=f"polos resolve {run} {shlex.quote(name)} completed --value RESULT",
            )  # fmt: skip
        function = story.opened.function if isinstance(story.opened, e.StepScheduled) else name
        what = name if function == name else f"{name} ({function})"
        if story.failed is not None and op.status is OpStatus.BACKOFF and story.failed.due_us > self._view.now_us:
            return Reason(
                kind="retry", name=name, since=reads.rfc3339(story.opened_us), due=reads.rfc3339(story.failed.due_us),
                text=f"attempt {story.failed.attempt} of the step {what} failed ({_failure(story.failed.error)})",
                moves_on=f"attempt {op.attempt} is made when it is due", detail=_failure(story.failed.error),
            )  # fmt: skip
        waits = self._view.waits_for_thread
        if self._view.owner is not None and waits is not None and waits(run, name, op.attempt):
            return Reason(
                kind="thread", name=name, since=reads.rfc3339(story.opened_us),
                text=f"attempt {op.attempt} of the step {what} waits for a thread; other steps hold them all",
                moves_on="one of those returns or is out of time, or the engine is given more (step_threads_max)",
            )  # fmt: skip
        called_us = max(story.started_us, 0 if story.failed is None else story.failed.due_us, story.opened_us)
        owner = self._view.owner
        if owner is None:
            again = "its outcome is unknown" if op.status is OpStatus.STARTED else "the next one calls it again"
            text = f"attempt {op.attempt} of the step {what} was under way when the engine ended; {again}"
        else:
            if op.status is not OpStatus.STARTED:
                called_us = max(called_us, owner.started_us)  # a new engine calls again what was cut off
            text = f"attempt {op.attempt} of the step {what} is under way"
        return Reason(
            kind="step", name=name, text=text, moves_on="its function returns or raises",
            since=reads.rfc3339(called_us),
        )  # fmt: skip

    def _wait(self, name: str, op: Op, story: _Story) -> Reason:
        run = self.state.run
        data = story.opened.data if isinstance(story.opened, e.WaitStarted) else None
        # Its own name says which of several waits of a key is meant.
        key = shlex.quote(name if op.wait_kind == "suspend" else op.key)
        command: str | None = None
        match op.wait_kind:
            case "suspend":
                text, moves_on = f"an answer to {op.key}", "somebody answers"
                command = f"polos resume {run} {key} DATA"
            case "signal":
                text, moves_on = f"the signal {op.key}", "somebody sends it"
                command = f"polos signal {run} {key} DATA"
            case _:
                text = f"an event of the topic {op.key}"
                moves_on = f"a program publishes one: `events.publish(client, {op.key!r}, ...)`"
        return Reason(
            kind=op.wait_kind, name=name, text=text, moves_on=moves_on, command=command, detail=data,
            since=reads.rfc3339(op.opened_us), due=self._due(DebtKind.EXPIRE, name),
        )  # fmt: skip

    def _child(self, name: str, op: Op, story: _Story, *, explain: bool) -> Reason:
        row = reads.last_row(self._view.reader, op.child)
        workflow = row.workflow if row is not None else getattr(story.opened, "workflow", "?")
        status = "not started yet" if row is None else row.status
        because: tuple[Reason, ...] = ()
        if row is not None and explain and self._depth < DEPTH_MAX and not row.ended:
            because = _why(self._view, row, depth=self._depth + 1).reasons
        return Reason(
            kind="child", name=name, run=op.child, because=because, since=reads.rfc3339(story.opened_us),
            text=f"its child {op.child} ({workflow}), which is {status}", moves_on="the child ends",
            command=f"polos why {op.child}",
        )  # fmt: skip


def _failure(error: e.Failure) -> str:
    return f"{error.type}: {error.message}"
