"""
Commands into events: the only place that says no.

`decide` is a function of a run's state, a command and the time. It changes nothing. What it gives
back is accepted by `evolve` (E2): the events of the run, in order, and the messages for others.

Reports that come late or twice are not errors: an acknowledgement may have been lost with the process
that waited for it. They decide to nothing. A *refusal* is for a caller who has to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.ending import NOT_CODE, Decision, Ending
from polos.engine.evolve import asked_of
from polos.engine.json import Json
from polos.engine.messages import Message, body_text
from polos.engine.reopening import UNSURE, asked_again, debounced, reopened
from polos.engine.state import ENDED, Op, OpKind, OpStatus, Phase, RunState
from polos.errors import CommandRefused

__all__ = ["SIGNALS_KEPT_MAX", "Decision", "created_to_json", "decide"]

# How many resumes or signals of one key a run keeps while nobody waits for them (polos-api D30).
SIGNALS_KEPT_MAX = 100


def decide(state: RunState, command: c.Command, *, now_us: int) -> Decision:
    """
    Decide a command.

    Args:
        state: the run; not changed.
        command: what is asked.
        now_us: the time, never before the run's last record.

    Returns:
        The events, possibly none, and the messages.

    Raises:
        CommandRefused: the caller has to know that this can't be.
    """
    return _DECIDE[type(command)](state, command, now_us)


def _nothing() -> Decision:
    return Decision()


def _alive(state: RunState) -> bool:
    return state.phase is not Phase.ABSENT and state.phase not in ENDED


def _open_op(state: RunState, name: str, kind: OpKind) -> Op | None:
    op = state.ops.get(name)
    return op if op is not None and op.kind is kind else None


# ------------------------------------------------------------------------------------------ runs


def _create(state: RunState, command: c.CreateRun, _now_us: int) -> Decision:
    if state.phase is not Phase.ABSENT:
        return _nothing()
    return Decision([command.created])


def _begin(state: RunState, command: c.BeginRun, _now_us: int) -> Decision:
    if state.phase in (Phase.QUEUED, Phase.BACKOFF):
        attempt = state.attempt + 1
    elif state.phase in (Phase.ACTIVE, Phase.CANCELLING) and state.direct:
        # A direct body isn't replayed: after a crash it begins anew and looks up what is finished.
        attempt = state.attempt + 1
    else:
        return _nothing()
    started = e.RunStarted(
        attempt=attempt,
        code=command.code,
        python=command.python,
        direct=command.direct,
        state=command.state,
        counted=command.counted and state.started_us is None,
        pinned=command.pinned,
    )
    return Decision([started])


def _refuse_run(state: RunState, command: c.RefuseRun, _now_us: int) -> Decision:
    if not _alive(state):
        return _nothing()
    ending = Ending(state, Decision(), cause=NOT_CODE)
    ending.close_everything(set(), set(), cancel_children=False)
    ending.finish(e.RunFailed(cause=NOT_CODE, error=command.error))
    return ending.decision


def _set_aside(state: RunState, command: c.SetAside, _now_us: int) -> Decision:
    if not _alive(state) or state.aside == command.reason:
        return _nothing()
    return Decision([e.RunSetAside(reason=command.reason, message=command.message)])


def _diverge(state: RunState, command: c.Diverge, _now_us: int) -> Decision:
    if state.phase not in (Phase.ACTIVE, Phase.CANCELLING) or state.aside == "diverged":
        return _nothing()
    return Decision([e.RunDiverged(report=command.report, message=command.message)])


def _readmit(state: RunState, command: c.Readmit, _now_us: int) -> Decision:
    if not _alive(state) or state.aside is None:
        return _nothing()
    return Decision([e.RunReadmitted(by=command.by)])


# ---------------------------------------------------------------------------------------- ending


def created_to_json(created: e.RunCreated) -> dict[str, Json]:
    """Give what a run is created with as a JSON object."""
    found: dict[str, Json] = {spec.name: getattr(created, spec.name) for spec in fields(created)}
    found["tags"], found["adopts"] = list(created.tags), list(created.adopts)
    return found


def _cancelled(state: RunState, decision: Decision, *, by: str) -> Decision:
    """Close a run whose code isn't asked: nothing of it is caused by a fact that replay would have to deliver."""
    ending = Ending(state, decision, cause=NOT_CODE)
    ending.close_everything(set(), set(), cancel_children=True)
    ending.finish(e.RunCancelled(cause=NOT_CODE, by=by))
    return decision


def _request_cancel(state: RunState, command: c.RequestCancel, now_us: int) -> Decision:
    if not _alive(state):
        return _nothing()
    if state.phase is Phase.CANCELLING:
        return _force_cancel(state, c.ForceCancel(by=command.by), now_us)
    decision = Decision([
        e.CancelRequested(by=command.by, grace_due_us=now_us + command.grace_us, reason=command.reason)
    ])  # fmt: skip
    if state.phase in (Phase.QUEUED, Phase.BACKOFF):
        return _cancelled(state, decision, by=command.by)
    # Children that the code awaits are cancelled when it stops awaiting them; the others now.
    awaited = {op.child for op in state.ops.values() if op.kind is OpKind.CHILD}
    ending = Ending(state, decision, cause=NOT_CODE)
    for child in state.children:
        if child not in awaited:
            ending.message("cancel", child, {"by": "parent"})
    return decision


def _force_cancel(state: RunState, command: c.ForceCancel, _now_us: int) -> Decision:
    if state.phase is not Phase.CANCELLING:
        return _nothing()
    if command.close:
        return _cancelled(state, Decision(), by=state.cancelled_by or command.by)
    return _nothing() if state.cancel_forced else Decision([e.CancelForced(by=command.by)])


# ----------------------------------------------------------------------------------- activations


def _activate(state: RunState, command: c.Activate, now_us: int) -> Decision:
    if state.phase not in (Phase.ACTIVE, Phase.CANCELLING):
        return _nothing()
    return _Activation(state, command.cause, now_us).decide(command.requests)


class _Activation:
    """Turns the requests of one activation into events; answers that exist already come behind them."""

    def __init__(self, state: RunState, cause: int, now_us: int) -> None:
        self.state = state
        self.now_us = now_us
        self.decision = Decision()
        self.ending = Ending(state, self.decision, cause=cause)
        self.answers: list[e.Event] = []
        self.closed: set[str] = set()  # names of requests
        self.heard: set[str] = set()  # ids of updates and signals, which anybody may choose
        self.opened: dict[str, Op] = {}
        self.started: list[str] = []  # children that nobody awaits

    def decide(self, requests: tuple[c.Request, ...]) -> Decision:
        for request in requests:
            self._one(request)
        self.decision.events.extend(self.answers)
        return self.decision

    def _one(self, request: c.Request) -> None:
        match request.event:
            case e.StepScheduled() as event:
                self._step(event)
            case e.TimerStarted() as event:
                self._ask(event, OpKind.TIMER)
            case e.WaitStarted() as event:
                self._wait(event)
            case e.ChildStarted() as event:
                self._child(event, request.spec)
            case e.StepAbandoned() | e.TimerCancelled() | e.WaitCancelled() | e.ChildDetached() as event:
                self._abandon(event.name)
            case e.MessageSent() as event:
                self._send(event)
            case e.UpdateAnswered() as event:
                self.heard.add(event.update_id)
                self.decision.events.append(event)
            case e.RunCompleted() | e.RunFailed() | e.RunCancelled() as event:
                self._end(cancel_children=isinstance(event, e.RunCancelled))
                self.ending.finish(event)
            case e.RunRetried() as event:
                self.decision.events.append(event)
            case e.RunContinued() as event:
                assert request.spec is not None, "a successor has a spec"
                self._continue(event, request.spec)
            case event:
                self.decision.events.append(event)

    def _continue(self, event: e.RunContinued, spec: e.RunCreated) -> None:
        """End the run and start its successor, which inherits the answers that nobody has waited for yet."""
        kept = [
            (kind, key, signal)
            for (kind, key), signals in self.state.signals.items()
            for signal in signals
            if signal.id not in self.heard
        ]
        self.heard.update(signal.id for _, _, signal in kept)
        self._end(cancel_children=False)
        self.decision.events.append(event)
        # Children that were started and not awaited belong to the successor: they are cancelled with it.
        spec = replace(spec, adopts=(*spec.adopts, *self.started))
        self.ending.message("start", event.successor, created_to_json(spec))
        for kind, key, signal in kept:
            message = Message(
                id=signal.id,
                kind="resume" if kind == "suspend" else kind,
                target=event.successor,
                body={"key": key, "data": signal.data},
            )
            self.decision.messages.append(message)

    def _ask(self, event: Any, kind: OpKind) -> bool:
        """Open a request, unless an earlier attempt already has the answer."""
        state = self.state
        if event.name in state.finished:
            reused = e.ResultReused(cause=event.cause, name=event.name, version=state.finished[event.name])
            self.answers.append(reused)
            return False
        held = state.ops.get(event.name)
        if held is not None and not held.claimed and held.kind is not kind:
            # An earlier attempt used this name for something else: that is over.
            self.ending.abandon(event.name, held)
            held = None
        if held is not None and held.kind is OpKind.CHILD:
            event = replace(event, child=held.child)  # the one that an earlier attempt started
        self.decision.events.append(event)
        if held is None and (kind is not OpKind.CHILD or event.wanted):
            # Version 0 marks a request of this very activation; a detached child has no one to stop it.
            child = event.child if kind is OpKind.CHILD and not event.detached else ""
            self.opened[event.name] = Op(kind=kind, status=OpStatus.OPEN, version=0, child=child)
        return held is None

    def _step(self, event: e.StepScheduled) -> None:
        if self._ask(event, OpKind.STEP) and event.effect == "at_most_once":
            # Given up by an earlier attempt of the run while it was under way, it may have had its effect.
            unsure = self.state.unsure.get(event.name)
            self.decision.events.append(e.StepAttemptStarted(name=event.name, attempt=unsure or 1))
            if unsure is not None:
                unknown = e.StepOutcomeUnknown(name=event.name, attempt=unsure, reason=UNSURE)
                self.decision.events.append(unknown)

    def _wait(self, event: e.WaitStarted) -> None:
        if not self._ask(event, OpKind.WAIT) or event.kind == "topic":
            return
        for key in (event.name, event.key):
            for signal in self.state.signals.get((event.kind, key), ()):
                if signal.id not in self.heard:
                    self.heard.add(signal.id)
                    self.answers.append(_answer_wait(event.name, event.kind, key, signal.id, signal.data, signal.at_us))
                    return

    def _child(self, event: e.ChildStarted, spec: e.RunCreated | None) -> None:
        child, asked = self.state.again.get(event.name, ("", ""))
        if asked == asked_of(event.workflow, event.digest):
            # The run was reopened: the child that it had is taken up, and what that one finished stays finished.
            if self._ask(replace(event, child=child), OpKind.CHILD):
                self.ending.message("retry", child, {"name": event.name, "parent": self.state.run})
            return
        if self._ask(event, OpKind.CHILD):
            assert spec is not None, "a child has a spec"
            self.ending.message("start", event.child, created_to_json(spec))
            if not (event.wanted or event.detached):
                self.started.append(event.child)

    def _abandon(self, name: str) -> None:
        op = self.opened.pop(name, None) or self.state.ops.get(name)
        if op is None or name in self.closed:
            return  # an earlier attempt's answer was on its way; there is nothing to give up
        self.closed.add(name)
        self.ending.abandon(name, op)
        for answer in self.answers:
            if isinstance(answer, e.WaitSatisfied) and answer.name == name:
                # What was kept for this wait is kept for the next one. No code asks so today: the driver takes back
                # what is asked for and given up in one activation, and a direct body asks for one thing at a time.
                self.answers.remove(answer)
                self.heard.discard(answer.event_id or "")
                break

    def _send(self, event: e.MessageSent) -> None:
        if event.name and event.name in self.state.finished:
            reused = e.ResultReused(cause=event.cause, name=event.name, version=self.state.finished[event.name])
            self.answers.append(reused)
            return
        self.decision.events.append(event)
        assert isinstance(event.body, dict), "a message's body is a JSON object"
        self.ending.message(event.kind, event.target, event.body)

    def _end(self, *, cancel_children: bool) -> None:
        for name, op in self.opened.items():
            if name not in self.closed and name not in self.state.ops:
                self.ending.abandon(name, op)
        self.answers.clear()
        self.ending.close_everything(self.closed, self.heard, cancel_children=cancel_children)
        for child in self.started if cancel_children else ():
            self.ending.message("cancel", child, {"by": "parent"})


def _answer_wait(name: str, kind: str, key: str, signal_id: str, data: Json, created_us: int) -> e.WaitSatisfied:
    event_type = f"resume_{key}" if kind == "suspend" else key
    return e.WaitSatisfied(
        name=name, kind=kind, key=key, data=data, event_id=signal_id, event_type=event_type, created_us=created_us
    )


# ----------------------------------------------------------------------------------------- steps


def _begin_attempt(state: RunState, command: c.BeginAttempt, _now_us: int) -> Decision:
    op = _open_op(state, command.name, OpKind.STEP)
    if op is None or op.status is not OpStatus.BACKOFF or op.attempt != command.attempt:
        return _nothing()
    return Decision([e.StepAttemptStarted(name=command.name, attempt=command.attempt)])


def _complete_step(state: RunState, command: c.CompleteStep, _now_us: int) -> Decision:
    # A late result of an earlier attempt completes a step that is still undecided.
    if _open_op(state, command.name, OpKind.STEP) is None:
        return _nothing()
    return Decision([
        e.StepCompleted(name=command.name, attempt=command.attempt, value=command.value, type=command.type)
    ])  # fmt: skip


def _append_deltas(state: RunState, command: c.AppendDeltas, _now_us: int) -> Decision:
    op = _open_op(state, command.name, OpKind.STEP)
    if op is None or op.attempt != command.attempt or op.status is OpStatus.UNKNOWN:
        return _nothing()
    if state.phase not in (Phase.ACTIVE, Phase.CANCELLING):
        return _nothing()  # between two attempts of the run nobody streams
    chunk = e.StreamChunk(
        name=command.name, attempt=command.attempt, first_index=op.streamed, deltas=command.deltas
    )  # fmt: skip
    return Decision([chunk])


def _fail_step(state: RunState, command: c.FailStep, now_us: int) -> Decision:
    op = _open_op(state, command.name, OpKind.STEP)
    if op is None or op.attempt != command.attempt or op.status is OpStatus.UNKNOWN:
        return _nothing()
    if command.delay_us is None:
        return Decision([e.StepFailed(name=command.name, attempt=command.attempt, error=command.error)])
    due_us = now_us + command.delay_us
    return Decision([
        e.StepAttemptFailed(name=command.name, attempt=command.attempt, error=command.error, due_us=due_us)
    ])  # fmt: skip


def _mark_unknown(state: RunState, command: c.MarkUnknown, _now_us: int) -> Decision:
    op = _open_op(state, command.name, OpKind.STEP)
    if op is None or op.status is not OpStatus.STARTED or op.attempt != command.attempt:
        return _nothing()
    return Decision([e.StepOutcomeUnknown(name=command.name, attempt=command.attempt, reason=command.reason)])


def _resolve_step(state: RunState, command: c.ResolveStep, _now_us: int) -> Decision:
    op = _open_op(state, command.name, OpKind.STEP)
    if op is None or op.status is not OpStatus.UNKNOWN or command.attempt not in (None, op.attempt):
        message = f"run {state.run} has no step {command.name!r} of unknown outcome"
        raise CommandRefused(message)
    return Decision([
        e.StepResolved(
            name=command.name,
            outcome=command.outcome,
            by=command.by,
            value=command.value,
            type=command.type,
            error=command.error,
        )
    ])  # fmt: skip


# --------------------------------------------------------------------------------------- waiting


def _fire_timer(state: RunState, command: c.FireTimer, _now_us: int) -> Decision:
    if _open_op(state, command.name, OpKind.TIMER) is None:
        return _nothing()
    return Decision([e.TimerFired(name=command.name)])


def _expire_wait(state: RunState, command: c.ExpireWait, now_us: int) -> Decision:
    op = _open_op(state, command.name, OpKind.WAIT)
    if op is None:
        return _nothing()
    return Decision([e.WaitExpired(name=command.name, kind=op.wait_kind, due_us=now_us)])


def _satisfy_topic_wait(state: RunState, command: c.SatisfyTopicWait, _now_us: int) -> Decision:
    if _open_op(state, command.name, OpKind.WAIT) is None:
        return _nothing()
    return Decision([command.event])


def _deliver(state: RunState, command: c.Deliver, now_us: int) -> Decision:
    message = command.message
    match message.kind:
        case "finished":
            return _child_finished(state, message)
        case "retry":
            return Decision(asked_again(state, message))
        case "cancel":
            by = str(message.body.get("by", "parent"))
            if state.phase is Phase.CANCELLING:
                return _nothing()  # a parent asks once; only a person's second request forces
            return _request_cancel(state, c.RequestCancel(by=by, grace_us=command.grace_us), now_us)
        case "resume":
            return _signal(state, "suspend", body_text(message, "key"), message, now_us)
        case "signal":
            return _signal(state, "signal", body_text(message, "key"), message, now_us)
        case _:
            text = f"a run can't take a message of kind {message.kind!r}"
            raise CommandRefused(text)


_CHILD_ENDS = frozenset({"completed", "failed", "cancelled"})


def _child_finished(state: RunState, message: Message) -> Decision:
    name = body_text(message, "name")
    op = _open_op(state, name, OpKind.CHILD)
    child = body_text(message, "child")
    if op is None or op.child != child:
        return _nothing()
    error = message.body.get("error")
    result_type, by = message.body.get("result_type"), message.body.get("by")
    failure = None
    if isinstance(error, dict):
        traceback = error.get("traceback")
        text = None if traceback is None else str(traceback)
        failure = e.Failure(type=str(error.get("type")), message=str(error.get("message")), traceback=text)
    status = body_text(message, "status")
    if status not in _CHILD_ENDS or (status == "failed") != (failure is not None):
        what = f"a child of run {state.run} can't have ended as {status!r} with the error {error!r}"
        raise CommandRefused(what)
    return Decision([
        e.ChildFinished(
            name=name,
            child=child,
            status=status,
            result=message.body.get("result"),
            result_type=None if result_type is None else str(result_type),
            error=failure,
            by=None if by is None else str(by),
        )
    ])  # fmt: skip


def _signal(state: RunState, kind: str, key: str, message: Message, now_us: int) -> Decision:
    if message.id in state.signals_seen:
        return _nothing()
    if not _alive(state):
        text = f"run {state.run} has {'ended' if state.phase in ENDED else 'not begun'}; nothing waits for {key!r}"
        raise CommandRefused(text)
    data = message.body.get("data")
    open_waits = [(name, op) for name, op in state.ops.items() if op.kind is OpKind.WAIT and op.wait_kind == kind]
    exact = any(name == key for name, _ in open_waits)
    for name, op in open_waits:
        if name == key if exact else op.key == key:
            return Decision([_answer_wait(name, kind, op.key, message.id, data, now_us)])
    if len(state.signals.get((kind, key), ())) >= SIGNALS_KEPT_MAX:
        text = f"run {state.run} already keeps {SIGNALS_KEPT_MAX} answers for {key!r} that nobody waits for"
        raise CommandRefused(text)
    return Decision([e.SignalReceived(kind=kind, key=key, signal_id=message.id, data=data)])


def _receive_update(state: RunState, command: c.ReceiveUpdate, _now_us: int) -> Decision:
    if command.update_id in state.signals_seen:
        return _nothing()
    if state.phase not in (Phase.ACTIVE, Phase.CANCELLING):
        message = f"run {state.run} isn't running; it can't take the update {command.name!r}"
        raise CommandRefused(message)
    return Decision([e.UpdateReceived(update_id=command.update_id, name=command.name, data=command.data)])


_DECIDE: dict[type[Any], Callable[[RunState, Any, int], Decision]] = {
    c.CreateRun: _create,
    c.BeginRun: _begin,
    c.Activate: _activate,
    c.BeginAttempt: _begin_attempt,
    c.CompleteStep: _complete_step,
    c.AppendDeltas: _append_deltas,
    c.FailStep: _fail_step,
    c.MarkUnknown: _mark_unknown,
    c.ResolveStep: _resolve_step,
    c.FireTimer: _fire_timer,
    c.ExpireWait: _expire_wait,
    c.SatisfyTopicWait: _satisfy_topic_wait,
    c.Deliver: _deliver,
    c.ReceiveUpdate: _receive_update,
    c.RequestCancel: _request_cancel,
    c.ForceCancel: _force_cancel,
    c.Diverge: _diverge,
    c.RefuseRun: _refuse_run,
    c.SetAside: _set_aside,
    c.Readmit: _readmit,
    c.Reopen: lambda state, command, _now_us: Decision(reopened(state, command)),
    c.Debounce: lambda state, command, now_us: Decision(debounced(state, command, now_us)),
}
