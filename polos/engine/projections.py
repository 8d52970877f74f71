"""
Rows that follow from events: how runs are found without reading their streams.

Each run's rows are a function of its state, so the change an event makes is the difference between
before and after, and the rows of a whole log are those of the folded states (L6). Rows hold what a
run-level row can hold and nothing per step: a step in the middle of a run writes none.

Keys (tuples; encoded by the store):

====================================================  ==========================================
``("run", run)``                                      summary, JSON
``("usage", run)``                                    what its calls of models used, by model, JSON
``("time", created_us, run)``                         all runs, by creation
``("status", status, created_us, run)``               runs of a status; also of a waiting reason
``("workflow", workflow, created_us, run)``           runs of a workflow
``("parent", parent, created_us, run)``               children
``("root", root, created_us, run)``                   the tree below a root
``("tag", tag, created_us, run)``                     runs with a tag
``("session", session, created_us, run)``             runs of a session that somebody named
``("user", user, created_us, run)``                   runs of a user
``("timer", due_us, run)``                            when a run that isn't running must be looked at
``("line", queue, created_us, run)``                  not begun: key, priority, when it may begin, if one at a time
``("start", queue, started_us, run)``                 a start that counts against a rate: the key
``("queue", queue)``                                  what holds for a queue, JSON
``("schedule", workflow, key)``                       a schedule, JSON
``("schedule_due", due_us, workflow, key)``           when its next occurrence is to be decided
``("schedule_buffer", workflow, key)``                a schedule with occurrences that wait for a run to end
``("schedule_code", workflow, key)``                  a schedule that the code said something of
``("trigger", trigger)``                              what holds for a trigger, JSON
``("trigger_cursor", trigger)``                       up to which position it has seen the events of its topics
``("trigger_failed", trigger, position)``             an event that makes no run: its filter raised, or that was refused
``("idempotency", key, created_us, run)``             a run that was asked for with a key; workflow and key in one text
``("singleton", key, created_us, run)``               a living run of which there is one at a time
``("debounce", key, created_us, run)``                a run that a later call may replace: when it is due
``("unseen", run)``                                   a waiting run whose code may not have seen a fact
``("topic_wait", topic, run, name)``                  who waits for events of a topic
``("suspend", root, key, opened_us, run, name)``      who waits for an answer, by tree
``("topic", topic)``                                  a topic that has events
``("outbox", run, message_id)``                       a message owed to another log
``("code", workflow)``                                digest of the code registered last
``("archived", run)``                                 a run that was archived, JSON; it has no other row any more
``("command", command_id)``                           outcome of a consumed inbox command
====================================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, cast

import orjson

from polos.engine import events as e
from polos.engine.evolve import evolve
from polos.engine.json import Json
from polos.engine.schedule_state import ScheduleEvent, ScheduleState, evolve_schedule, schedule_rows
from polos.engine.state import ENDED, DebtKind, OpKind, Phase, RunState, is_running, next_due_us, status, waiting_reason
from polos.engine.usage import USAGE

__all__ = [
    "ARCHIVE_STREAM",
    "CODE_PREFIX",
    "ENGINE_STREAM",
    "INBOX_STREAM",
    "QUEUE_PREFIX",
    "ROWS_VERSION",
    "RUN_PREFIX",
    "SCHEDULE_PREFIX",
    "TOPIC_PREFIX",
    "TRIGGER_PREFIX",
    "Changes",
    "Key",
    "Rows",
    "advance",
    "advance_schedule",
    "advance_sealed",
    "dedup_key",
    "fold_rows",
    "queue_of",
    "run_rows",
    "run_stream",
    "sealed",
    "sealed_runs",
    "summary",
    "system_rows",
    "topic_stream",
    "wait_rows",
]

Key = tuple[str | int, ...]
Rows = dict[Key, bytes]
Changes = dict[Key, bytes | None]
Shown = tuple[str, str | None, int | None, bool]

# To be raised by whoever changes what rows a log has that is written already: its next owner then computes them anew.
# Rows of events that no older log can hold change nothing in it.
ROWS_VERSION = 1

RUN_PREFIX = "run/"
TOPIC_PREFIX = "topic/"
CODE_PREFIX = "code/"
QUEUE_PREFIX = "queue/"
SCHEDULE_PREFIX = "schedule/"
TRIGGER_PREFIX = "trigger/"
INBOX_STREAM = "inbox"
ARCHIVE_STREAM = "archive"
ENGINE_STREAM = "engine"  # who owned the log, and when

# Events that can change a run-level row. All others leave the rows of `run_rows` as they are
# unless they change what `_shown` tells.
_ROW_EVENTS: frozenset[type[Any]] = frozenset(
    {
        e.RunCreated, e.RunStarted, e.RunRetried, e.RunCompleted, e.RunFailed, e.RunCancelled,
        e.RunContinued, e.RunDiverged, e.RunSetAside, e.RunReadmitted, e.CancelRequested, e.CancelForced,
        e.TagsChanged, e.RunReopened, e.RunDebounced,
    }
)  # fmt: skip

# Events that open or close a request, and so may move a run between `running` and `waiting`; and those after which
# there may be a fact that the code hasn't seen. A run that waits is read after a restart only if there is one.
_OP_EVENTS: frozenset[type[Any]] = frozenset(
    {
        e.StepScheduled, e.StepCompleted, e.StepFailed, e.StepAbandoned, e.StepOutcomeUnknown,
        e.StepResolved, e.TimerStarted, e.TimerFired, e.TimerCancelled, e.WaitStarted, e.WaitSatisfied,
        e.WaitExpired, e.WaitCancelled, e.ChildStarted, e.ChildFinished, e.ChildDetached,
        # These open and close nothing, but show that the code has seen a fact, or are one.
        e.ResultReused, e.ValueRecorded, e.PatchMarked, e.MessageSent, e.StateChanged, e.UpdateReceived,
        e.UpdateAnswered,
    }
)  # fmt: skip


# Those of them that also have rows of their own.
_WAIT_EVENTS: frozenset[type[Any]] = frozenset({e.WaitStarted, e.WaitSatisfied, e.WaitExpired, e.WaitCancelled})


# What a list shows of a run that was archived.
_SEALED = (
    "workflow", "kind", "status", "created_us", "started_us", "ended_us", "parent", "step", "root", "root_workflow",
    "session", "user", "tags", "continues", "successor",
)  # fmt: skip


def run_stream(run: str) -> str:
    """Name the stream of a run."""
    return RUN_PREFIX + run


def topic_stream(topic: str) -> str:
    """Name the stream of a topic."""
    return TOPIC_PREFIX + topic


def summary(state: RunState) -> dict[str, Json]:
    """Give what the row of a run says about it."""
    return _summary(state, _shown(state))


def _summary(state: RunState, shown: Shown) -> dict[str, Json]:
    return {
        "workflow": state.workflow,
        "kind": state.kind,
        "status": shown[0],
        "waiting_reason": shown[1],
        "created_us": state.created_us,
        "started_us": state.started_us,
        "ended_us": state.ended_us,
        "end_version": state.version if state.phase in ENDED else None,
        "attempt": state.attempt,
        "retries": state.retries,
        "parent": state.parent,
        "step": state.step,
        "root": state.root,
        "root_workflow": state.root_workflow,
        "session": state.session,
        "user": state.user,
        "tags": list(state.tags),
        "queue": state.queue,
        "concurrency_key": state.concurrency_key,
        "priority": state.priority,
        "deployment": state.deployment,
        "run_timeout_us": state.run_timeout_us,
        "cancel_requested_us": state.cancel_requested_us,
        "cancelled_by": state.cancelled_by,
        "continues": state.continues,
        "successor": state.successor,
        "result_type": state.result_type,
    }


# What `_shown` gives for a run that is running, as nearly all are at nearly every event.
_RUNNING: Shown = ("running", None, None, False)


def _shown(state: RunState) -> Shown:
    """Give what the rows of a run say that its requests can change: status, waiting reason, next due, unseen."""
    shown = status(state)
    if shown == "waiting":
        return shown, waiting_reason(state), next_due_us(state), state.fact_version > state.seen_version
    return shown, None, next_due_us(state) if shown == "queued" else None, False


def _shown_rows(state: RunState, shown: Shown) -> Rows:
    name, reason, due_us, unseen = shown
    rows: Rows = {("status", name, state.created_us, state.run): b""}
    if reason is not None:
        rows["status", reason, state.created_us, state.run] = b""
    if due_us is not None:
        rows["timer", due_us, state.run] = b""
    if unseen:
        rows["unseen", state.run] = b""
    return rows


def run_rows(state: RunState) -> Rows:
    """Give the rows of a run as a whole, those of its single waits left out."""
    if state.version == 0:
        return {}
    at, shown = state.created_us, _shown(state)
    rows: Rows = {
        ("run", state.run): orjson.dumps(_summary(state, shown)),
        ("time", at, state.run): b"",
        ("workflow", state.workflow, at, state.run): b"",
        **_shown_rows(state, shown),
    }
    for kind, value in _found_by(state):
        rows[kind, value, at, state.run] = b""
    if state.phase is Phase.QUEUED and not state.aside:
        debt = state.owed.get((DebtKind.START, ""))
        due_us = None if debt is None else debt.due_us
        place: list[Json] = [state.concurrency_key or "", state.priority, due_us]
        if state.singleton is not None:
            place.append(True)
        rows["line", queue_of(state), at, state.run] = orjson.dumps(place)
    if state.idempotency_key is not None:
        rows["idempotency", dedup_key(state.workflow, state.idempotency_key), at, state.run] = b""
    if state.singleton is not None and state.phase not in ENDED:
        rows["singleton", dedup_key(state.workflow, state.singleton), at, state.run] = b""
    if state.debounce is not None and state.phase is Phase.QUEUED and not state.aside:
        debt = state.owed.get((DebtKind.START, ""))
        if debt is not None and debt.due_us is not None:
            rows["debounce", dedup_key(state.workflow, state.debounce), at, state.run] = str(debt.due_us).encode()
    if state.usage:
        rows["usage", state.run] = orjson.dumps(state.usage)
    for started_us in state.counted_us:
        rows["start", queue_of(state), started_us, state.run] = orjson.dumps(state.concurrency_key or "")
    return rows


def _found_by(state: RunState) -> Iterator[tuple[str, str]]:
    """Give by what a run is found beside its workflow and its status."""
    if state.parent is not None:
        yield "parent", state.parent
    if state.root != state.run:
        yield "root", state.root
    if state.listed and state.session is not None:
        yield "session", state.session
    if state.listed and state.user is not None:
        yield "user", state.user
    for tag in state.tags:
        yield "tag", tag


def dedup_key(workflow: str, key: str) -> str:
    """Put a workflow and a key of its runs into one text, so that a row's key has room for both."""
    return f"{len(workflow)}:{workflow}:{key}"


def queue_of(state: RunState) -> str:
    """Name the queue that a run stands in: its own workflow's, if nothing else was said."""
    return state.queue or state.workflow


def wait_rows(state: RunState, name: str) -> Rows:
    """Give the rows of one open wait."""
    op = state.ops.get(name)
    if op is None or op.kind is not OpKind.WAIT:
        return {}
    if op.wait_kind == "topic":
        return {("topic_wait", op.key, state.run, name): name.encode()}
    if op.wait_kind == "suspend":
        return {("suspend", state.root, op.key, op.opened_us, state.run, name): name.encode()}
    return {}


def system_rows(event: e.Event) -> Rows:
    """Give the rows that an event of a stream that is no run's makes."""
    match event:
        case e.EventPublished():
            return {("topic", event.topic): b""}
        case e.QueueConfigured():
            return {("queue", event.queue): orjson.dumps(asdict(event))}
        case e.TriggerRegistered():
            at = str(event.cursor).encode()
            row = orjson.dumps(asdict(event))
            return {("trigger", event.trigger): row, ("trigger_cursor", event.trigger): at}
        case e.TriggerFired() | e.TriggerSkipped():
            return {("trigger_cursor", event.trigger): str(event.cursor).encode()}
        case e.TriggerFailed():
            return {("trigger_failed", event.trigger, event.position): event.event_id.encode()}
        case e.CodeRegistered():
            return {("code", event.workflow): event.digest.encode()}
        case e.RangeSealed():
            rows: Rows = {}
            for run in sealed_runs(event):
                rows["archived", run["run"]] = orjson.dumps({**run, "archived_us": event.at_us})
            return rows
        case e.InboxConsumed():
            return {("command", event.command_id): orjson.dumps({"outcome": event.outcome, "detail": event.detail})}
        case _:
            return {}


def sealed_runs(event: e.RangeSealed) -> list[dict[str, Any]]:
    """Give what an event says of each run that was archived."""
    return cast("list[dict[str, Any]]", event.runs)  # as `sealed` has made it


def sealed(state: RunState, segments: list[Json] | None) -> dict[str, Json]:
    """
    Give what stays of a run that is archived: what a list shows of it.

    Args:
        state: the run.
        segments: where its tree is, for the root of it; may be filled later.
    """
    said = summary(state)
    kept: dict[str, Json] = {"run": state.run, "version": state.version}
    kept |= {name: said[name] for name in _SEALED if said[name] not in (None, [])}
    if segments is not None:
        kept["segments"] = segments
    return kept


def advance_sealed(runs: dict[str, RunState], event: e.RangeSealed, *, rows: Changes) -> None:
    """
    Take runs that were archived out of a fold, and note how the rows change.

    Args:
        runs: those that were folded; whose records were sealed isn't among them.
        event: says which were archived.
        rows: takes the changes.
    """
    for run in sealed_runs(event):
        state = runs.pop(run["run"], None)
        if state is not None:
            rows.update(dict.fromkeys(run_rows(state)))
    rows.update(system_rows(event))


def _change(rows: Changes, before: Rows, after: Rows) -> None:
    for key in before:
        if key not in after:
            rows[key] = None
    for key, value in after.items():
        if before.get(key) != value:
            rows[key] = value


def advance(state: RunState, event: e.Event, *, time_us: int, rows: Changes) -> None:
    """
    Apply an event to a run and note how its rows change.

    Args:
        state: the run; changed in place, as by `evolve`.
        event: the next event of its stream.
        time_us: the record's time.
        rows: takes the changes; None stands for a row that is gone.
    """
    kind = type(event)
    if kind in _ROW_EVENTS:
        before = run_rows(state) if state.rows is None else state.rows
        waits = _all_wait_rows(state) if state.ops else {}
        evolve(state, event, time_us=time_us)
        after = run_rows(state)
        _change(rows, before, after)
        # Kept while the run is busy: one that waits may wait long, and takes as little memory as can be.
        state.rows = after if is_running(state) or state.phase is Phase.QUEUED else None
        if waits:
            _change(rows, waits, _all_wait_rows(state))
    elif kind in _OP_EVENTS:
        shown = _RUNNING if is_running(state) else _shown(state)
        if kind in _WAIT_EVENTS:
            name = str(getattr(event, "name", ""))
            waits = wait_rows(state, name)
            evolve(state, event, time_us=time_us)
            _change(rows, waits, wait_rows(state, name))
        else:
            evolve(state, event, time_us=time_us)
        now_shown = _RUNNING if is_running(state) else _shown(state)
        if now_shown != shown:
            # Of a run's rows its requests change only these.
            state.rows = None
            _change(rows, _shown_rows(state, shown), _shown_rows(state, now_shown))
            rows["run", state.run] = orjson.dumps(_summary(state, now_shown))
        if isinstance(event, e.ValueRecorded) and event.kind == USAGE:
            state.rows = None
            rows["usage", state.run] = orjson.dumps(state.usage)
    else:
        evolve(state, event, time_us=time_us)
        if isinstance(event, e.MessageOwed):
            assert isinstance(event.message, dict), "a message is a JSON object"
            rows["outbox", state.run, str(event.message["id"])] = b""
        elif isinstance(event, e.MessageDelivered):
            rows["outbox", state.run, event.message_id] = None


def advance_schedule(state: ScheduleState | None, event: ScheduleEvent, *, rows: Changes) -> ScheduleState:
    """
    Apply an event to a schedule and note how its rows change.

    Args:
        state: the schedule; None before its first event.
        event: the next event of its stream.
        rows: takes the changes.
    """
    after = evolve_schedule(state, event)
    _change(rows, schedule_rows(state), schedule_rows(after))
    return after


def _all_wait_rows(state: RunState) -> Rows:
    rows: Rows = {}
    for name, op in state.ops.items():
        if op.kind is OpKind.WAIT:
            rows |= wait_rows(state, name)
    return rows


def fold_rows(records: Iterable[tuple[str, e.Event, int]]) -> Rows:
    """
    Fold the rows of a whole log.

    Args:
        records: stream, event and time of each record, in order of position.

    Returns:
        The rows that the log must have (L6).
    """
    runs: dict[str, RunState] = {}
    schedules: dict[str, ScheduleState] = {}
    rows: Rows = {}
    for stream, event, time_us in records:
        changes: Changes = {}
        if stream.startswith(RUN_PREFIX):
            run = stream.removeprefix(RUN_PREFIX)
            advance(runs.setdefault(run, RunState(run=run)), event, time_us=time_us, rows=changes)
        elif isinstance(event, e.RangeSealed):
            advance_sealed(runs, event, rows=changes)
        elif isinstance(event, ScheduleEvent):
            schedules[stream] = advance_schedule(schedules.get(stream), event, rows=changes)
        else:
            changes.update(system_rows(event))
        for key, value in changes.items():
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
    return rows
