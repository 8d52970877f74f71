"""
What is recorded: every state change of a run, and of the things around runs, as a past-tense fact.

Events are immutable. A run's stream holds run, step, wait, child and state events; a topic's stream holds what was
published on it. Two kinds are told apart; one may be both, and the rest (`StepAttemptFailed`, ...) is bookkeeping:

* A *fact* is something that happened to a run (`FACTS`): a step ended, a timer fired, a signal came. The code is run
  on facts, one after another, in the order of their versions.
* A *request* is something the code asked for; its `cause` is the version of the fact on which the code was run when it
  asked. Replay expects after each fact exactly the requests it caused.

Times end in `_us`: microseconds since the epoch, UTC. What a name means is in docs/glossary.md. Names of fields are the
bytes on disk, their order is free. To change an event, raise its version in `codec.SCHEMA_VERSIONS`; add an upcaster.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from polos.data_class import dataclass
from polos.engine.again_events import RunDebounced, RunReopened
from polos.engine.json import Json
from polos.engine.system_events import (
    CodeRegistered,
    EngineStarted,
    EventPublished,
    InboxConsumed,
    QueueConfigured,
    RangeSealed,
    ScheduleBuffered,
    ScheduleFired,
    ScheduleSet,
    ScheduleSkipped,
    Snapshot,
    TriggerFailed,
    TriggerFired,
    TriggerRegistered,
    TriggerSkipped,
)

__all__ = [
    "EVENTS",
    "FACTS",
    "CodeRegistered",
    "EngineStarted",
    "Event",
    "EventPublished",
    "Failure",
    "InboxConsumed",
    "QueueConfigured",
    "RangeSealed",
    "RunDebounced",
    "RunReopened",
    "ScheduleBuffered",
    "ScheduleFired",
    "ScheduleSet",
    "ScheduleSkipped",
    "Snapshot",
    "TriggerFailed",
    "TriggerFired",
    "TriggerRegistered",
    "TriggerSkipped",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is kept of an exception: its type's name, its message, and its traceback as text."""

    type: str
    message: str
    traceback: str | None = None


# ------------------------------------------------------------------------------------------- runs
@dataclass(frozen=True, slots=True, kw_only=True)
class RunCreated:
    """A run exists; it isn't started yet."""

    workflow: str
    input: Json = None
    root: str  # run id of the tree's root; the run's own id for a root
    root_workflow: str
    parent: str | None = None
    step: str | None = None  # name of the parent's request
    origin: str | None = None  # id of the message or command that asked for it
    wanted: bool = False  # the parent waits for the end
    detached: bool = False  # not cancelled with its parent
    start_after_us: int | None = None
    run_timeout_us: int | None = None
    deadline_us: int | None = None  # of a run that goes on from another: the chain ends by then
    initial_state: Json = None
    queue: str | None = None
    queue_limit: int | None = None
    concurrency_key: str | None = None
    priority: int = 0  # the higher, the sooner
    session: str | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()
    deployment: str | None = None
    continues: str | None = None  # the run this one goes on from (continue_as_new)
    chain: str | None = None  # the first run of that chain: the one that callers and the parent know
    kind: str = "workflow"  # "workflow", "agent" or "tool"
    adopts: tuple[str, ...] = ()  # children of the run it goes on from: cancelled with it
    idempotency_key: str | None = None  # a later request with this key is the same one
    singleton: str | None = None  # of the runs of the workflow with this key one is begun at a time
    singleton_policy: str | None = None  # "skip", "cancel_old" or "queue"
    listed: bool = False  # by its session and its user: somebody has named them
    debounce: str | None = None  # until it begins, a later request with this key replaces its input and puts it off
    debounce_us: int | None = None  # by how much
    debounce_max_us: int | None = None  # but never further than this from its creation


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """An attempt of the run begins: the first fact its code sees."""

    attempt: int
    code: str | None = None  # digest under which `CodeRegistered` keeps the sources
    python: str | None = None
    direct: bool = False  # the body may do I/O itself; it isn't replayed but looks finished work up by name
    state: Json = None  # what `ctx.state` begins with, where the workflow says more than the run was created with
    counted: bool = False  # by a rate limit of its queue: whoever owns the log next has to know of it
    pinned: str | None = None  # the version of its workflow that alone may run it from now on


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRetried:
    """The attempt failed and another one follows."""

    cause: int
    attempt: int  # the one that failed
    error: Failure
    due_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContinued:
    """The run ended and its successor takes over its handle."""

    cause: int
    successor: str
    workflow: str
    input: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted:
    """The body returned."""

    cause: int
    result: Json = None
    result_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The body raised and no attempt follows."""

    cause: int
    error: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody asked the run to stop; the code gets a CancelledError in its place in the order."""

    by: str
    grace_due_us: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelForced:
    """The grace of a cancellation is over, or a second request came: step methods raise from here on."""

    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled:
    """The run ended by cancellation."""

    cause: int
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDiverged:
    """The code asked for something else than what is recorded; the run waits for code that fits."""

    report: Json
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSetAside:
    """The run isn't run for now: its workflow is unknown here, or its code kept killing the process."""

    reason: str  # "no_code", "pinned", "poisoned" or "internal_error"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReadmitted:
    """What kept the run aside is over."""

    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForked:
    """The stream up to here was taken from another run."""

    origin: str
    at: int


# ------------------------------------------------------------------------------------------ steps
@dataclass(frozen=True, slots=True, kw_only=True)
class StepScheduled:
    """The code asked for a step: the intent, durable before the call (effect class permitting)."""

    cause: int
    name: str
    function: str
    digest: str  # over the arguments
    effect: str = "idempotent"
    path: str | None = None  # task path of the caller


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAttemptStarted:
    """An attempt of an `at_most_once` step may have begun."""

    name: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAttemptFailed:
    """An attempt failed and another one is due."""

    name: str
    attempt: int
    error: Failure
    due_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted:
    """A step's result, once."""

    name: str
    attempt: int
    value: Json = None
    type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A step's last attempt failed."""

    name: str
    attempt: int
    error: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAbandoned:
    """The code stopped waiting for the step."""

    cause: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcomeUnknown:
    """An `at_most_once` attempt may or may not have had its effect."""

    name: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResolved:
    """What became of a step of unknown outcome: `completed`, `failed` or `not_done`."""

    name: str
    outcome: str
    by: str
    value: Json = None
    type: str | None = None
    error: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReused:
    """What an earlier attempt of the run finished answers a request of this one."""

    cause: int
    name: str
    version: int  # of the event that holds the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueRecorded:
    """A value the code may not compute itself: `uuid`, `now` or `random`."""

    cause: int
    name: str
    kind: str
    value: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchMarked:
    """The code asked `ctx.patched(id)` for the first time in this attempt."""

    cause: int
    name: str
    answer: bool = True


# ---------------------------------------------------------------------------------------- waiting
@dataclass(frozen=True, slots=True, kw_only=True)
class TimerStarted:
    """The code waits for a moment."""

    cause: int
    name: str
    due_us: int
    short: bool = False  # below the wait threshold: the run goes on showing `running`


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """The moment came."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerCancelled:
    """The code no longer waits for the moment."""

    cause: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitStarted:
    """The code waits for an answer (`suspend`), an event of a topic (`topic`) or a signal (`signal`)."""

    cause: int
    name: str
    kind: str
    key: str  # the step key, the topic or the signal's name
    data: Json = None
    expires_us: int | None = None
    since: int | None = None  # topic only: events behind this sequence id count too


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitSatisfied:
    """What was waited for came. `data` is what the sender gave."""

    name: str
    kind: str
    key: str
    data: Json = None
    event_id: str | None = None
    event_type: str | None = None
    back: int = 0  # topic only: the event stands so many positions before this record; 0 if `sequence_id` says it
    sequence_id: int | None = None
    created_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitExpired:
    """The wait's time is over."""

    name: str
    kind: str
    due_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitCancelled:
    """The code no longer waits."""

    cause: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReceived:
    """A signal or a resume that nobody waits for yet; kept for the first that does."""

    kind: str  # "signal" or "suspend"
    key: str
    signal_id: str
    data: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalDropped:
    """A signal that was kept found nobody: too many were kept, or the run ended."""

    kind: str
    key: str
    signal_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReceived:
    """An update that the workflow's validator let pass."""

    update_id: str
    name: str
    data: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateAnswered:
    """The update's handler ended."""

    cause: int
    update_id: str
    value: Json = None
    type: str | None = None
    error: Failure | None = None


# --------------------------------------------------------------------------------- other runs
@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted:
    """The code started another run."""

    cause: int
    name: str
    child: str
    workflow: str
    wanted: bool  # the code waits for its end
    detached: bool = False
    digest: str | None = None  # over the child's input


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFinished:
    """A child that was waited for ended."""

    name: str
    child: str
    status: str
    result: Json = None
    result_type: str | None = None
    error: Failure | None = None
    by: str | None = None  # who cancelled it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildDetached:
    """The code no longer waits for the child; `cancelled` tells whether it was asked to stop."""

    cause: int
    name: str
    cancelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSent:
    """The code sent something: published an event, resumed or signalled another run."""

    cause: int
    name: str
    kind: str  # "publish", "resume", "signal" or "cancel"
    target: str  # a topic or a run
    body: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageOwed:
    """A message whose receiver lives in another log; owed until `MessageDelivered`."""

    message: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDelivered:
    """The receiver's inbox keeps the message."""

    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """Fields of `ctx.state` that changed, and fields that went."""

    cause: int
    changed: Json = field(default_factory=dict[str, Any])
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TagsChanged:
    """Tags that the run has from now on, and tags that it hasn't any more."""

    cause: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamChunk:
    """Deltas that a step sent to its readers, batched; in the archive their number alone, if they weren't kept."""

    name: str
    attempt: int
    first_index: int
    deltas: tuple[Json, ...] = ()
    pruned: int = 0


Event = (
    RunCreated
    | RunStarted
    | RunRetried
    | RunContinued
    | RunCompleted
    | RunFailed
    | CancelRequested
    | CancelForced
    | RunCancelled
    | RunDiverged
    | RunSetAside
    | RunReadmitted
    | RunForked
    | RunReopened
    | RunDebounced
    | StepScheduled
    | StepAttemptStarted
    | StepAttemptFailed
    | StepCompleted
    | StepFailed
    | StepAbandoned
    | StepOutcomeUnknown
    | StepResolved
    | ResultReused
    | ValueRecorded
    | PatchMarked
    | TimerStarted
    | TimerFired
    | TimerCancelled
    | WaitStarted
    | WaitSatisfied
    | WaitExpired
    | WaitCancelled
    | SignalReceived
    | SignalDropped
    | UpdateReceived
    | UpdateAnswered
    | ChildStarted
    | ChildFinished
    | ChildDetached
    | MessageSent
    | MessageOwed
    | MessageDelivered
    | StateChanged
    | TagsChanged
    | StreamChunk
    | EventPublished
    | QueueConfigured
    | ScheduleSet
    | ScheduleFired
    | ScheduleBuffered
    | ScheduleSkipped
    | CodeRegistered
    | EngineStarted
    | InboxConsumed
    | TriggerRegistered
    | TriggerFired
    | TriggerSkipped
    | TriggerFailed
    | RangeSealed
    | Snapshot
)

EVENTS: dict[str, type[Any]] = {member.__name__: member for member in Event.__args__}  # name on disk → class

# What the code is run on.
FACTS: frozenset[type[Any]] = frozenset(
    {
        RunStarted, CancelRequested, CancelForced, StepCompleted, StepFailed, StepResolved, ResultReused, TimerFired,
        WaitSatisfied, WaitExpired, UpdateReceived, ChildFinished,
    }
)  # fmt: skip
