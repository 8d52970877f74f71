"""
Events into state. Total on legal histories (E1), blind to clocks, and it never says no.

`evolve` owns the state it is given and changes it in place: copying would make long histories
quadratic. An event that the transition tables don't allow isn't refused, it can't be: it is already
in the log. Finding one means damage or a bug of ours, and raises `IllegalHistory`.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush
from typing import Any

from polos.engine import events as e
from polos.engine.json import Json
from polos.engine.state import (
    ENDED,
    OP_TRANSITIONS,
    REOPENED,
    RUN_TRANSITIONS,
    Debt,
    DebtKind,
    KeptSignal,
    Op,
    OpKind,
    OpStatus,
    Past,
    Phase,
    RunState,
)
from polos.engine.usage import USAGE, count_usage
from polos.errors import PolosInternalError

__all__ = ["IllegalHistory", "asked_of", "evolve", "fold"]


class IllegalHistory(PolosInternalError):
    """A run's stream holds an event that can't happen there: the log is damaged, or polos has a bug."""


def evolve(state: RunState, event: e.Event, *, time_us: int) -> RunState:
    """
    Apply one event, the next one of the run's stream.

    Args:
        state: the fold of everything before; changed in place.
        event: what happened.
        time_us: the record's time.

    Returns:
        `state`.

    Raises:
        IllegalHistory: the event can't happen in this state.
    """
    after = RUN_TRANSITIONS[state.phase].get(type(event))
    if after is None:
        message = f"run {state.run}: {type(event).__name__} in phase {state.phase} at version {state.version + 1}"
        raise IllegalHistory(message)
    before = state.phase, state.fact_version, state.seen_version
    state.version += 1
    state.phase = after
    if type(event) in e.FACTS:
        state.fact_version = state.version
    cause: int | None = getattr(event, "cause", None)
    if cause is not None and cause > state.seen_version:
        state.seen_version = cause
    apply = _APPLY.get(type(event))
    if apply is not None:
        try:
            apply(state, event, time_us)
        except IllegalHistory:
            # It is found before anything else was changed.
            state.version -= 1
            state.phase, state.fact_version, state.seen_version = before
            raise
    state.last_time_us = time_us
    if after in ENDED and state.ended_us is None:
        _end(state, time_us)
    return state


def fold(run: str, events: list[tuple[e.Event, int]]) -> RunState:
    """Fold a whole stream, given as events with their times."""
    state = RunState(run=run)
    for event, time_us in events:
        evolve(state, event, time_us=time_us)
    return state


# --------------------------------------------------------------------------------------- helpers


def _owe(
    state: RunState, kind: DebtKind, name: str = "", *, due_us: int | None = None, attempt: int = 0, body: Json = None
) -> None:
    key = (kind, name)
    # Taken out first: the debts stay ordered by the version that made them.
    state.owed.pop(key, None)
    state.owed[key] = Debt(kind=kind, name=name, version=state.version, due_us=due_us, attempt=attempt, body=body)
    if due_us is not None:
        heappush(state.dues, (due_us, state.version, kind, name))


def _paid(state: RunState, kind: DebtKind, name: str = "") -> None:
    state.owed.pop((kind, name), None)


def _is_busy(op: Op) -> bool:
    return not op.parked and op.status is not OpStatus.UNKNOWN


def _move(state: RunState, name: str, kind: OpKind, event: Any, *, to: OpStatus | None = None) -> Op:
    """Move an open request along its table; a closed one leaves memory."""
    op = state.ops.get(name)
    after = OP_TRANSITIONS[kind][op.status].get(event.__class__) if op is not None and op.kind is kind else None
    if op is None or after is None:
        found = f"{op.kind} {op.status}" if op is not None else "nothing"
        message = f"run {state.run}: {type(event).__name__} of {name!r} at version {state.version}, found {found}"
        raise IllegalHistory(message)
    was_busy = _is_busy(op)
    state.unknown -= op.status is OpStatus.UNKNOWN
    op.status = to or after
    state.unknown += op.status is OpStatus.UNKNOWN
    if op.status is OpStatus.CLOSED:
        del state.ops[name]
        state.busy -= was_busy
    else:
        state.busy += _is_busy(op) - was_busy
    return op


def _open(state: RunState, name: str, op: Op) -> bool:
    """Open a request; False if it takes over one that an earlier attempt left open."""
    held = state.ops.get(name)
    if held is not None:
        if held.claimed or held.kind is not op.kind:
            message = f"run {state.run}: {name!r} asked for at version {state.version} is open already"
            raise IllegalHistory(message)
        held.claimed = True
        return False
    state.ops[name] = op
    state.busy += _is_busy(op)
    return True


_NO_CHILD = ("", "")
_MAY_HAVE_BEGUN = frozenset({OpStatus.STARTED, OpStatus.UNKNOWN})


def asked_of(workflow: str, digest: str | None) -> str:
    """Tell one request for a child from another: only for the same work is a child that failed taken up again."""
    return f"{workflow}:{digest or ''}"


def _finish(state: RunState, name: str) -> None:
    state.finished[name] = state.version
    state.failed.pop(name, None)


def _end(state: RunState, time_us: int) -> None:
    """Close the books: a run that ended owes nothing but messages that are under way (E4)."""
    state.ended_us = time_us
    state.owed = {key: debt for key, debt in state.owed.items() if debt.kind is DebtKind.DELIVER}
    state.ops.clear()
    state.dues.clear()
    state.busy = state.unknown = 0
    state.aside = None
    for leftover in (state.patches, state.signals, state.updates, state.again):
        leftover.clear()
    if state.phase in REOPENED:
        # A run that ended has nothing any more, but whoever takes it up doesn't do again what it had finished.
        state.past = Past(state.finished, state.children)
        state.finished, state.children = {}, {}
        return
    for kept in (state.finished, state.children, state.signals_seen, state.failed, state.unsure):
        kept.clear()


# ------------------------------------------------------------------------------------------ runs


def _run_created(state: RunState, event: e.RunCreated, time_us: int) -> None:
    for name in (
        "workflow", "kind", "root", "root_workflow", "parent", "step", "origin", "wanted", "detached",
        "session", "user", "tags", "queue", "queue_limit", "concurrency_key", "priority", "deployment", "continues",
        "chain", "run_timeout_us", "initial_state", "idempotency_key", "singleton", "listed",
        "debounce", "debounce_max_us",
    ):  # fmt: skip
        setattr(state, name, getattr(event, name))
    state.created_us = time_us
    state.children.update(dict.fromkeys(event.adopts, ""))
    if isinstance(event.initial_state, dict):
        state.state_value = dict(event.initial_state)
    _owe(state, DebtKind.START, due_us=event.start_after_us, attempt=1)
    if event.deadline_us is not None:
        # The time of its chain runs already, whether it is started or not.
        state.deadline_us = event.deadline_us
        _owe(state, DebtKind.DEADLINE, due_us=event.deadline_us)


def _run_started(state: RunState, event: e.RunStarted, time_us: int) -> None:
    _paid(state, DebtKind.START)
    state.attempt = event.attempt
    state.attempt_version = state.version
    state.attempt_us = time_us
    state.direct = event.direct
    state.code = event.code
    state.pinned = state.pinned or event.pinned
    state.python = event.python
    state.patches.clear()
    state.attempt_state = state.initial_state if event.state is None else event.state
    state.state_value = dict(state.attempt_state) if isinstance(state.attempt_state, dict) else None
    for op in state.ops.values():
        op.claimed = False
    if event.counted:
        state.counted_us = (*state.counted_us, time_us)
    if state.started_us is None:
        state.started_us = time_us
        if state.run_timeout_us is not None and state.deadline_us is None and state.phase is Phase.ACTIVE:
            state.deadline_us = time_us + state.run_timeout_us
            _owe(state, DebtKind.DEADLINE, due_us=state.deadline_us)


def _run_retried(state: RunState, event: e.RunRetried, _time_us: int) -> None:
    state.retries += 1
    _owe(state, DebtKind.START, due_us=event.due_us, attempt=event.attempt + 1)


def _run_reopened(state: RunState, event: e.RunReopened, _time_us: int) -> None:
    """Make the run one that waits to begin, with what it finished well; what went wrong is to be done again."""
    if event.origin is not None:
        state.signals_seen[event.origin] = None
    assert state.past is not None, "a run that can be reopened has ended"
    state.finished, state.children = state.past.finished, state.past.children
    state.past = None
    for name in state.failed:
        state.finished.pop(name, None)
    state.again = {name: (child, asked) for name, (child, asked) in state.failed.items() if child}
    state.failed.clear()
    state.started_us = state.ended_us = state.deadline_us = state.cancel_requested_us = None
    state.cancelled_by = None
    state.cancel_forced = False
    state.retries = 0  # its policy begins anew, too
    _owe(state, DebtKind.START, attempt=state.attempt + 1)


def _run_debounced(state: RunState, event: e.RunDebounced, _time_us: int) -> None:
    state.initial_state = event.initial_state
    state.state_value = dict(event.initial_state) if isinstance(event.initial_state, dict) else None
    _owe(state, DebtKind.START, due_us=event.start_after_us, attempt=1)


def _run_completed(state: RunState, event: e.RunCompleted, _time_us: int) -> None:
    state.result_type = event.result_type


def _run_continued(state: RunState, event: e.RunContinued, _time_us: int) -> None:
    state.successor = event.successor


def _run_cancelled(state: RunState, event: e.RunCancelled, _time_us: int) -> None:
    state.cancelled_by = event.by


def _cancel_requested(state: RunState, event: e.CancelRequested, time_us: int) -> None:
    state.cancel_requested_us = time_us
    state.cancelled_by = event.by
    _paid(state, DebtKind.DEADLINE)
    _paid(state, DebtKind.START)
    _owe(state, DebtKind.GRACE, due_us=event.grace_due_us)


def _cancel_forced(state: RunState, _event: e.CancelForced, _time_us: int) -> None:
    state.cancel_forced = True
    _paid(state, DebtKind.GRACE)


def _run_diverged(state: RunState, _event: e.RunDiverged, _time_us: int) -> None:
    state.aside = "diverged"


def _run_set_aside(state: RunState, event: e.RunSetAside, _time_us: int) -> None:
    state.aside = event.reason


def _run_readmitted(state: RunState, _event: e.RunReadmitted, _time_us: int) -> None:
    state.aside = None


# ----------------------------------------------------------------------------------------- steps


def _step_scheduled(state: RunState, event: e.StepScheduled, _time_us: int) -> None:
    op = Op(kind=OpKind.STEP, status=OpStatus.OPEN, version=state.version, effect=event.effect)
    state.unsure.pop(event.name, None)
    if _open(state, event.name, op):
        _owe(state, DebtKind.EXECUTE, event.name, attempt=1)
        return
    # Taken over from an earlier attempt: what is owed for it is owed anew, by code that has the function.
    for kind in (DebtKind.EXECUTE, DebtKind.BEGIN, DebtKind.RECONCILE):
        debt = state.owed.get((kind, event.name))
        if debt is not None:
            _owe(state, kind, event.name, due_us=debt.due_us, attempt=debt.attempt)


def _step_attempt_started(state: RunState, event: e.StepAttemptStarted, _time_us: int) -> None:
    op = _move(state, event.name, OpKind.STEP, event)
    op.attempt = event.attempt
    _paid(state, DebtKind.BEGIN, event.name)
    _owe(state, DebtKind.EXECUTE, event.name, attempt=event.attempt)


def _step_attempt_failed(state: RunState, event: e.StepAttemptFailed, _time_us: int) -> None:
    op = _move(state, event.name, OpKind.STEP, event)
    op.attempt = event.attempt + 1
    _paid(state, DebtKind.EXECUTE, event.name)
    kind = DebtKind.BEGIN if op.effect == "at_most_once" else DebtKind.EXECUTE
    _owe(state, kind, event.name, due_us=event.due_us, attempt=op.attempt)


def _step_closed(state: RunState, name: str) -> None:
    for kind in (DebtKind.EXECUTE, DebtKind.BEGIN, DebtKind.RECONCILE):
        _paid(state, kind, name)


def _step_ended(state: RunState, event: e.StepCompleted | e.StepFailed, _time_us: int) -> None:
    _move(state, event.name, OpKind.STEP, event)
    _step_closed(state, event.name)
    _finish(state, event.name)
    if isinstance(event, e.StepFailed):
        state.failed[event.name] = _NO_CHILD


def _stream_chunk(state: RunState, event: e.StreamChunk, _time_us: int) -> None:
    held = state.ops.get(event.name)
    if held is not None and event.first_index != held.streamed:
        message = f"run {state.run}: deltas of {event.name!r} from {event.first_index} on, after {held.streamed}"
        raise IllegalHistory(message)
    _move(state, event.name, OpKind.STEP, event).streamed += len(event.deltas) + event.pruned


def _step_abandoned(state: RunState, event: e.StepAbandoned, _time_us: int) -> None:
    op = state.ops.get(event.name)
    if op is not None and op.effect == "at_most_once" and op.status in _MAY_HAVE_BEGUN:
        state.unsure[event.name] = op.attempt
    _move(state, event.name, OpKind.STEP, event)
    _step_closed(state, event.name)


def _step_outcome_unknown(state: RunState, event: e.StepOutcomeUnknown, _time_us: int) -> None:
    _move(state, event.name, OpKind.STEP, event)
    _paid(state, DebtKind.EXECUTE, event.name)
    _owe(state, DebtKind.RECONCILE, event.name, attempt=event.attempt)


def _step_resolved(state: RunState, event: e.StepResolved, time_us: int) -> None:
    if event.outcome == "not_done":
        op = _move(state, event.name, OpKind.STEP, event, to=OpStatus.BACKOFF)
        _step_closed(state, event.name)
        op.attempt += 1
        _owe(state, DebtKind.BEGIN, event.name, due_us=time_us, attempt=op.attempt)
        return
    _move(state, event.name, OpKind.STEP, event)
    _step_closed(state, event.name)
    _finish(state, event.name)
    if event.outcome == "failed":
        state.failed[event.name] = _NO_CHILD


def _value_recorded(state: RunState, event: e.ValueRecorded, _time_us: int) -> None:
    if event.kind == USAGE and event.name not in state.finished:  # a later attempt of the run says it again
        count_usage(state.usage, event.value)
    _finish(state, event.name)


def _patch_marked(state: RunState, event: e.PatchMarked, _time_us: int) -> None:
    state.patches[event.name] = event.answer


# --------------------------------------------------------------------------------------- waiting


def _timer_started(state: RunState, event: e.TimerStarted, _time_us: int) -> None:
    op = Op(kind=OpKind.TIMER, status=OpStatus.OPEN, version=state.version, parked=not event.short)
    if _open(state, event.name, op):
        _owe(state, DebtKind.FIRE, event.name, due_us=event.due_us)


def _timer_ended(state: RunState, event: e.TimerFired | e.TimerCancelled, _time_us: int) -> None:
    _move(state, event.name, OpKind.TIMER, event)
    _paid(state, DebtKind.FIRE, event.name)
    if isinstance(event, e.TimerFired):
        _finish(state, event.name)


def _wait_started(state: RunState, event: e.WaitStarted, time_us: int) -> None:
    op = Op(
        kind=OpKind.WAIT,
        status=OpStatus.OPEN,
        version=state.version,
        wait_kind=event.kind,
        key=event.key,
        opened_us=time_us,
        parked=True,
        since=event.since,
    )
    if _open(state, event.name, op) and event.expires_us is not None:
        _owe(state, DebtKind.EXPIRE, event.name, due_us=event.expires_us)


def _wait_ended(state: RunState, event: e.WaitSatisfied | e.WaitExpired | e.WaitCancelled, _time_us: int) -> None:
    _move(state, event.name, OpKind.WAIT, event)
    _paid(state, DebtKind.EXPIRE, event.name)
    if isinstance(event, e.WaitCancelled):
        return
    _finish(state, event.name)
    if isinstance(event, e.WaitExpired):
        state.failed[event.name] = _NO_CHILD
    if isinstance(event, e.WaitSatisfied) and event.event_id:
        _consume(state, event.kind, event.key, event.event_id)


def _consume(state: RunState, kind: str, key: str, signal_id: str) -> None:
    """Take a signal out of those kept, if it was kept; remember that it was seen."""
    state.signals_seen[signal_id] = None
    kept = state.signals.get((kind, key))
    if kept is not None:
        kept[:] = [signal for signal in kept if signal.id != signal_id]
        if not kept:
            del state.signals[kind, key]


def _signal_received(state: RunState, event: e.SignalReceived, time_us: int) -> None:
    state.signals_seen[event.signal_id] = None
    kept = state.signals.setdefault((event.kind, event.key), [])
    kept.append(KeptSignal(event.signal_id, event.data, time_us))


def _signal_dropped(state: RunState, event: e.SignalDropped, _time_us: int) -> None:
    if state.phase not in ENDED:
        _consume(state, event.kind, event.key, event.signal_id)


def _update_received(state: RunState, event: e.UpdateReceived, _time_us: int) -> None:
    state.updates[event.update_id] = state.version
    state.signals_seen[event.update_id] = None


def _update_answered(state: RunState, event: e.UpdateAnswered, _time_us: int) -> None:
    state.updates.pop(event.update_id, None)


# ------------------------------------------------------------------------------------ other runs


def _child_started(state: RunState, event: e.ChildStarted, _time_us: int) -> None:
    if not event.detached:
        state.children[event.child] = event.name
    state.again.pop(event.name, None)
    if event.wanted:
        asked = asked_of(event.workflow, event.digest)
        op = Op(
            kind=OpKind.CHILD, status=OpStatus.OPEN, version=state.version, child=event.child, asked=asked, parked=True
        )
        _open(state, event.name, op)
    else:
        _finish(state, event.name)


def _child_ended(state: RunState, event: e.ChildFinished | e.ChildDetached, _time_us: int) -> None:
    op = _move(state, event.name, OpKind.CHILD, event)
    if isinstance(event, e.ChildFinished):
        _finish(state, event.name)
        state.children.pop(op.child, None)
        if event.status != "completed":
            state.failed[event.name] = (op.child, op.asked)
    else:
        state.failed[event.name] = (op.child, op.asked)
        if event.cancelled:
            state.children.pop(op.child, None)


def _message_sent(state: RunState, event: e.MessageSent, _time_us: int) -> None:
    if event.name:
        _finish(state, event.name)


def _message_owed(state: RunState, event: e.MessageOwed, _time_us: int) -> None:
    assert isinstance(event.message, dict), "a message is a JSON object"
    _owe(state, DebtKind.DELIVER, str(event.message["id"]), body=event.message)


def _message_delivered(state: RunState, event: e.MessageDelivered, _time_us: int) -> None:
    _paid(state, DebtKind.DELIVER, event.message_id)


def _state_changed(state: RunState, event: e.StateChanged, _time_us: int) -> None:
    value = state.state_value if state.state_value is not None else {}
    assert isinstance(event.changed, dict), "a patch is a JSON object"
    value.update(event.changed)
    for name in event.removed:
        value.pop(name, None)
    state.state_value = value


def _tags_changed(state: RunState, event: e.TagsChanged, _time_us: int) -> None:
    kept = tuple(tag for tag in state.tags if tag not in event.removed)
    state.tags = (*kept, *(tag for tag in event.added if tag not in kept))


_APPLY: dict[type[Any], Callable[[RunState, Any, int], None]] = {
    e.RunCreated: _run_created,
    e.RunStarted: _run_started,
    e.RunRetried: _run_retried,
    e.RunReopened: _run_reopened,
    e.RunDebounced: _run_debounced,
    e.RunCompleted: _run_completed,
    e.RunContinued: _run_continued,
    e.RunCancelled: _run_cancelled,
    e.CancelRequested: _cancel_requested,
    e.CancelForced: _cancel_forced,
    e.RunDiverged: _run_diverged,
    e.RunSetAside: _run_set_aside,
    e.RunReadmitted: _run_readmitted,
    e.StepScheduled: _step_scheduled,
    e.StepAttemptStarted: _step_attempt_started,
    e.StepAttemptFailed: _step_attempt_failed,
    e.StepCompleted: _step_ended,
    e.StepFailed: _step_ended,
    e.StepAbandoned: _step_abandoned,
    e.StreamChunk: _stream_chunk,
    e.StepOutcomeUnknown: _step_outcome_unknown,
    e.StepResolved: _step_resolved,
    e.ValueRecorded: _value_recorded,
    e.PatchMarked: _patch_marked,
    e.TimerStarted: _timer_started,
    e.TimerFired: _timer_ended,
    e.TimerCancelled: _timer_ended,
    e.WaitStarted: _wait_started,
    e.WaitSatisfied: _wait_ended,
    e.WaitExpired: _wait_ended,
    e.WaitCancelled: _wait_ended,
    e.SignalReceived: _signal_received,
    e.SignalDropped: _signal_dropped,
    e.UpdateReceived: _update_received,
    e.UpdateAnswered: _update_answered,
    e.ChildStarted: _child_started,
    e.ChildFinished: _child_ended,
    e.ChildDetached: _child_ended,
    e.MessageSent: _message_sent,
    e.MessageOwed: _message_owed,
    e.MessageDelivered: _message_delivered,
    e.StateChanged: _state_changed,
    e.TagsChanged: _tags_changed,
}
