"""
A run in memory, and the one table that says what may happen to it in which phase.

`RunState` is the fold of a run's stream. It is kept small: of a finished step only its name and the
version of the event that holds its result stay, of an open one only what is needed to perform it.
What the state *owes* (`RunState.owed`) is kept as events are applied, never searched for: a step to
execute, a timer to fire, a message to deliver. The shell performs what is owed and not yet in
flight, after a crash and in the middle of normal work alike.

`RUN_TRANSITIONS` and `OP_TRANSITIONS` are the whole automaton: `evolve` walks them, the diagram in
docs/state-machine.md is generated from them, and a test walks their full cross product. An event
that a table doesn't hold for a phase can't happen there; finding one in a log means the log is
damaged or polos has a bug. Two things the tables don't show: which *status* a caller sees (that
follows from phase and open requests, see `status`), and that a run that is set aside stays in its phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from heapq import heappop
from typing import Any

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.json import Json

__all__ = [
    "ENDED",
    "OP_TRANSITIONS",
    "REOPENED",
    "RUN_TRANSITIONS",
    "Debt",
    "DebtKind",
    "KeptSignal",
    "Op",
    "OpKind",
    "OpStatus",
    "Past",
    "Phase",
    "RunState",
    "is_running",
    "next_due_us",
    "status",
    "waiting_reason",
]


class Phase(StrEnum):
    """Where a run is in its life."""

    ABSENT = "absent"
    QUEUED = "queued"
    ACTIVE = "active"
    BACKOFF = "backoff"  # between two attempts
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CONTINUED = "continued"  # ended; a successor goes on


ENDED = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED, Phase.CONTINUED})

# From these ends a run can be taken up again.
REOPENED = frozenset({Phase.FAILED, Phase.CANCELLED})

# What leaves a living run's phase as it is: everything about its requests, signals, state.
_INNER: tuple[type[Any], ...] = (
    e.StepScheduled, e.StepAttemptStarted, e.StepAttemptFailed, e.StepCompleted, e.StepFailed,
    e.StepAbandoned, e.StepOutcomeUnknown, e.StepResolved, e.ResultReused, e.ValueRecorded,
    e.PatchMarked, e.TimerStarted, e.TimerFired, e.TimerCancelled, e.WaitStarted, e.WaitSatisfied,
    e.WaitExpired, e.WaitCancelled, e.UpdateReceived, e.UpdateAnswered, e.ChildStarted,
    e.ChildFinished, e.ChildDetached, e.MessageSent, e.StateChanged, e.TagsChanged, e.StreamChunk,
    e.RunDiverged,
)  # fmt: skip

# What can happen to a run that its code doesn't see at once.
_OUTER: tuple[type[Any], ...] = (
    e.SignalReceived, e.SignalDropped, e.RunSetAside, e.RunReadmitted, e.MessageOwed, e.MessageDelivered,
)  # fmt: skip

# What belongs to attempts that are over: their steps may still end, their children and waits too.
_LATE: tuple[type[Any], ...] = (
    e.StepAttemptFailed, e.StepCompleted, e.StepFailed, e.StepOutcomeUnknown, e.StepResolved,
    e.TimerFired, e.WaitSatisfied, e.WaitExpired, e.ChildFinished,
)  # fmt: skip

RUN_TRANSITIONS: Mapping[Phase, Mapping[type[Any], Phase]] = {
    Phase.ABSENT: {e.RunCreated: Phase.QUEUED, e.RunForked: Phase.QUEUED},
    Phase.QUEUED: {
        e.RunStarted: Phase.ACTIVE,
        e.CancelRequested: Phase.CANCELLING,
        e.RunFailed: Phase.FAILED,  # its queue was full
        e.RunDebounced: Phase.QUEUED,
        **dict.fromkeys(_OUTER, Phase.QUEUED),
    },
    Phase.ACTIVE: {
        e.RunStarted: Phase.ACTIVE,  # a direct body begins anew after a crash
        e.RunRetried: Phase.BACKOFF,
        e.CancelRequested: Phase.CANCELLING,
        e.RunCompleted: Phase.COMPLETED,
        e.RunFailed: Phase.FAILED,
        e.RunCancelled: Phase.CANCELLED,  # the body ended by a CancelledError of its own
        e.RunContinued: Phase.CONTINUED,
        **dict.fromkeys(_INNER + _OUTER, Phase.ACTIVE),
    },
    Phase.BACKOFF: {
        e.RunStarted: Phase.ACTIVE,
        e.CancelRequested: Phase.CANCELLING,
        e.RunFailed: Phase.FAILED,  # what the next attempt begins with can't be recorded
        **dict.fromkeys(_LATE + _OUTER, Phase.BACKOFF),
    },
    Phase.CANCELLING: {
        e.RunStarted: Phase.CANCELLING,
        e.CancelForced: Phase.CANCELLING,
        e.RunCompleted: Phase.COMPLETED,
        e.RunFailed: Phase.FAILED,
        e.RunCancelled: Phase.CANCELLED,
        e.RunContinued: Phase.CONTINUED,
        **dict.fromkeys(_INNER + _OUTER, Phase.CANCELLING),
    },
    **{
        phase: {
            e.MessageDelivered: phase,
            e.MessageOwed: phase,
            e.SignalDropped: phase,
            **({e.RunReopened: Phase.QUEUED} if phase in REOPENED else {}),
        }
        for phase in sorted(ENDED)
    },
}


class OpKind(StrEnum):
    """What kind of thing the code waits for."""

    STEP = "step"
    TIMER = "timer"
    WAIT = "wait"
    CHILD = "child"


class OpStatus(StrEnum):
    """Where a request that is answered later is."""

    NEW = "new"
    OPEN = "open"  # a step: to be executed or being executed
    STARTED = "started"  # an `at_most_once` attempt may be under way
    BACKOFF = "backoff"  # a step: between two attempts
    UNKNOWN = "unknown"  # a step: nobody knows whether its effect happened
    CLOSED = "closed"


_STEP_ENDS: Mapping[type[Any], OpStatus] = {
    e.StepCompleted: OpStatus.CLOSED,
    e.StepFailed: OpStatus.CLOSED,
    e.StepAbandoned: OpStatus.CLOSED,
}

OP_TRANSITIONS: Mapping[OpKind, Mapping[OpStatus, Mapping[type[Any], OpStatus]]] = {
    OpKind.STEP: {
        OpStatus.NEW: {e.StepScheduled: OpStatus.OPEN},
        OpStatus.OPEN: {
            e.StepAttemptStarted: OpStatus.STARTED,
            e.StreamChunk: OpStatus.OPEN,
            e.StepAttemptFailed: OpStatus.BACKOFF,
            **_STEP_ENDS,
        },
        OpStatus.STARTED: {
            e.StreamChunk: OpStatus.STARTED,
            e.StepAttemptFailed: OpStatus.BACKOFF,
            e.StepOutcomeUnknown: OpStatus.UNKNOWN,
            **_STEP_ENDS,
        },
        OpStatus.BACKOFF: {
            e.StepAttemptStarted: OpStatus.STARTED,
            e.StreamChunk: OpStatus.BACKOFF,  # a later attempt of one that isn't `at_most_once`
            e.StepAttemptFailed: OpStatus.BACKOFF,
            **_STEP_ENDS,
        },
        OpStatus.UNKNOWN: {e.StepResolved: OpStatus.CLOSED, **_STEP_ENDS},  # not_done: BACKOFF, see evolve
    },
    OpKind.TIMER: {
        OpStatus.NEW: {e.TimerStarted: OpStatus.OPEN},
        OpStatus.OPEN: {e.TimerFired: OpStatus.CLOSED, e.TimerCancelled: OpStatus.CLOSED},
    },
    OpKind.WAIT: {
        OpStatus.NEW: {e.WaitStarted: OpStatus.OPEN},
        OpStatus.OPEN: {
            e.WaitSatisfied: OpStatus.CLOSED,
            e.WaitExpired: OpStatus.CLOSED,
            e.WaitCancelled: OpStatus.CLOSED,
        },
    },
    OpKind.CHILD: {
        OpStatus.NEW: {e.ChildStarted: OpStatus.OPEN},
        OpStatus.OPEN: {e.ChildFinished: OpStatus.CLOSED, e.ChildDetached: OpStatus.CLOSED},
    },
}


class DebtKind(StrEnum):
    """What the shell has to do."""

    START = "start"  # begin an attempt of the run, at `due_us`
    EXECUTE = "execute"  # call a step's function, at `due_us`
    BEGIN = "begin"  # record that an `at_most_once` attempt starts, at `due_us`
    RECONCILE = "reconcile"  # ask a step's `reconcile` what became of it
    FIRE = "fire"  # fire a timer at `due_us`
    EXPIRE = "expire"  # let a wait expire at `due_us`
    DEADLINE = "deadline"  # cancel the run at `due_us`
    GRACE = "grace"  # force the cancellation at `due_us`
    DELIVER = "deliver"  # bring a message to another log


@dataclass(slots=True)
class Debt:
    """One thing owed. `version` is that of the event that made it so."""

    kind: DebtKind
    name: str
    version: int
    due_us: int | None = None
    attempt: int = 0
    body: Json = None


@dataclass(slots=True)
class Op:
    """A request of the code that is answered later."""

    kind: OpKind
    status: OpStatus
    version: int
    claimed: bool = True  # the current attempt asked for it
    attempt: int = 1  # of a step: the one that is open
    effect: str = "idempotent"
    wait_kind: str = ""
    key: str = ""
    child: str = ""
    asked: str = ""  # of a child: workflow and digest of its input
    opened_us: int = 0
    streamed: int = 0  # of a step: deltas that its attempts sent to readers
    parked: bool = False  # a run with nothing but these open shows `waiting`
    since: int | None = None


@dataclass(frozen=True, slots=True)
class KeptSignal:
    """A signal or resume that nobody waited for yet."""

    id: str
    data: Json
    at_us: int


@dataclass(frozen=True, slots=True)
class Past:
    """What a run that failed or was cancelled had finished, for whoever takes it up again."""

    finished: dict[str, int]
    children: dict[str, str]


# When, version, and key of a debt that waits for a moment.
Due = tuple[int, int, DebtKind, str]


@dataclass(slots=True)
class RunState:
    """A run, folded from its stream. `evolve` owns it and changes it in place."""

    run: str
    version: int = 0
    phase: Phase = Phase.ABSENT
    workflow: str = ""
    kind: str = "workflow"
    root: str = ""
    root_workflow: str = ""
    parent: str | None = None
    step: str | None = None
    origin: str | None = None
    wanted: bool = False
    detached: bool = False
    session: str | None = None
    user: str | None = None
    listed: bool = False  # by session and user
    tags: tuple[str, ...] = ()
    queue: str | None = None
    queue_limit: int | None = None
    concurrency_key: str | None = None
    priority: int = 0
    idempotency_key: str | None = None
    singleton: str | None = None
    debounce: str | None = None
    debounce_max_us: int | None = None
    counted_us: tuple[int, ...] = ()  # its starts that count against a rate of its queue
    deployment: str | None = None
    continues: str | None = None
    chain: str | None = None
    successor: str | None = None
    created_us: int = 0
    started_us: int | None = None
    ended_us: int | None = None
    deadline_us: int | None = None
    run_timeout_us: int | None = None
    attempt: int = 0
    attempt_version: int = 0  # of the current attempt's RunStarted
    attempt_us: int = 0  # its time: where the clock of the attempt's code begins, live and in replay
    retries: int = 0  # attempts that failed; a direct body that begins anew after a crash counts none
    direct: bool = False
    code: str | None = None
    pinned: str | None = None  # the version of its workflow that alone may run it
    python: str | None = None
    cancel_requested_us: int | None = None
    cancelled_by: str | None = None
    cancel_forced: bool = False
    aside: str | None = None
    last_time_us: int = 0
    fact_version: int = 0  # of the last fact
    seen_version: int = 0  # of the last fact on which the code asked for something: it has seen that one
    result_type: str | None = None
    initial_state: Json = None
    attempt_state: Json = None  # what `ctx.state` began with in this attempt
    state_value: dict[str, Any] | None = None
    ops: dict[str, Op] = field(default_factory=dict[str, Op])
    busy: int = 0  # open requests that keep the run `running`
    unknown: int = 0  # open steps of unknown outcome
    finished: dict[str, int] = field(default_factory=dict[str, int])  # name → version of the event with the answer
    failed: dict[str, tuple[str, str]] = field(
        default_factory=dict[str, tuple[str, str]]
    )  # names that ended otherwise than well, with the child and what it was asked for
    again: dict[str, tuple[str, str]] = field(
        default_factory=dict[str, tuple[str, str]]
    )  # of those, since the run was reopened: children to be taken up again
    unsure: dict[str, int] = field(
        default_factory=dict[str, int]
    )  # `at_most_once` steps that were given up when an attempt may have been under way
    past: Past | None = None
    usage: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])  # of models, by name
    patches: dict[str, bool] = field(default_factory=dict[str, bool])
    signals: dict[tuple[str, str], list[KeptSignal]] = field(default_factory=dict[tuple[str, str], list[KeptSignal]])
    signals_seen: dict[str, None] = field(default_factory=dict[str, None])
    updates: dict[str, int] = field(default_factory=dict[str, int])
    children: dict[str, str] = field(default_factory=dict[str, str])  # child run → name; cancelled with this run
    owed: dict[tuple[DebtKind, str], Debt] = field(
        default_factory=dict[tuple[DebtKind, str], Debt]
    )  # in order of version
    dues: list[tuple[int, int, DebtKind, str]] = field(
        default_factory=list[tuple[int, int, DebtKind, str]]
    )  # heap (due, version, debt), maybe stale
    rows: dict[tuple[str | int, ...], bytes] | None = field(default=None, compare=False, repr=False)  # see `advance`


def status(state: RunState) -> str:
    """
    Tell the public status.

    A living run shows `waiting` when all it has open is long: a person's answer, an event, a child,
    a timer above the threshold, a step of unknown outcome, or when it was set aside.
    """
    match state.phase:
        case Phase.QUEUED | Phase.BACKOFF:
            return "waiting" if state.aside else "queued"
        case Phase.ACTIVE:
            return "running" if is_running(state) else "waiting"
        case Phase.CANCELLING:
            return "pending_cancel"
        case _:
            return state.phase.value


def is_running(state: RunState) -> bool:
    """Tell whether `status` is `running`."""
    return state.phase is Phase.ACTIVE and not state.aside and (state.busy > 0 or not state.ops)


def next_due_us(state: RunState) -> int | None:
    """Tell when the next debt that waits for a moment is due; drops what is paid from the heap on its way."""
    while state.dues:
        due_us, version, kind, name = state.dues[0]
        debt = state.owed.get((kind, name))
        if debt is not None and debt.version == version:
            return due_us
        heappop(state.dues)
    return None


_REASONS = {OpKind.TIMER: "timer", OpKind.CHILD: "child"}


def waiting_reason(state: RunState) -> str | None:
    """Tell what a run that shows `waiting` waits for, None for any other run."""
    if state.phase in ENDED or status(state) != "waiting":
        return None
    if state.aside:
        return state.aside
    if state.unknown:
        return "step_outcome_unknown"
    first = next(iter(state.ops.values()))
    return _REASONS.get(first.kind) or first.wait_kind or "step"
