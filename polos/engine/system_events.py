"""
What is recorded of the things around runs: topics, triggers, queues, code, engines, commands.

They are events like all others and belong to `polos.engine.events`, from where they are used; they stand here because
each of them has a stream that is no run's, and none of them is a fact that code is run on.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from polos.data_class import dataclass
from polos.engine.json import Json

__all__ = [
    "CodeRegistered",
    "EngineStarted",
    "EventPublished",
    "InboxConsumed",
    "QueueConfigured",
    "RangeSealed",
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
class EventPublished:
    """An event of a topic."""

    topic: str
    data: Json = None
    event_type: str | None = None
    event_id: str = ""
    run: str | None = None  # the run that published it
    root: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfigured:
    """What holds for a queue from now on, as a whole; see `polos.engine.admission.Limits`."""

    queue: str
    by: str  # "code", "run" if a run names a queue of which nothing was said, or who asked for it
    declared: Json = None  # what the code said last, so that it is taken up again only when it says something else
    concurrency_limit: int | None = None
    key_concurrency_limit: int | None = None
    rate_limit: int | None = None  # starts
    rate_period_us: int | None = None  # in any window of this length
    key_rate_limit: int | None = None
    key_rate_period_us: int | None = None
    max_queued: int | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSet:
    """
    What holds for a schedule from now on, as a whole.

    `next_us` is its first occurrence from now on, and `due_us` when that is to come, jitter included. They are recorded
    here and in the events below, so that the rows of a log don't depend on who has which edition of the zones.
    """

    schedule: str
    workflow: str
    key: str
    by: str  # "code", or who asked for it
    cron: str
    timezone: str
    overlap: str  # "skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other" or "allow_all"
    next_us: int
    due_us: int
    catch_up_us: int | None = None  # missed occurrences this old are made up; None: the newest, however old
    jitter_us: int = 0
    declared: Json = None  # what the code said last, so that it is taken up again only when it says something else
    paused: bool = False
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFired:
    """A run was created for an occurrence, in the very unit that has this event."""

    schedule: str
    occurrence_us: int
    run: str
    why: str = "due"  # "due", "buffered", "trigger" or "backfill"
    others: tuple[str, ...] = ()  # runs of the schedule that are still under way
    next_us: int | None = None  # the occurrence that is to be decided next; None if this one doesn't change that
    due_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleBuffered:
    """An occurrence has come, and its run is created when those under way have ended."""

    schedule: str
    occurrence_us: int
    next_us: int
    due_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSkipped:
    """Occurrences for which there will be no run: one, or all from it on that come before a moment."""

    schedule: str
    occurrence_us: int
    # "missed", "overlap", "superseded", "buffer_full", "queue_full", "refused", "paused", "changed" or "deleted"
    reason: str
    before_us: int | None = None  # None: only this one
    next_us: int | None = None
    due_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRegistered:
    """What holds for a trigger from now on, as a whole; its id is that of the workflow that it starts."""

    trigger: str
    by: str  # "code", or who asked for it
    topic: str | None = None  # or a pattern; None if the workflow has no trigger any more
    cursor: int = 0  # position of the last event that counts as seen
    batch_size: int = 1
    batch_timeout_us: int | None = None
    filtered: bool = False
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerFired:
    """A trigger made a run of events; recorded together with the run's creation."""

    trigger: str
    run: str
    cursor: int  # position of the last event that is seen from now on
    events: int = 1  # how many of them the run got
    first: int = 0  # position of the first of those
    waited: bool = False  # the batch wasn't full, and its oldest event had waited long enough


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSkipped:
    """Many events were seen of which none counted: so the next engine needn't look at them again."""

    trigger: str
    cursor: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerFailed:
    """An event makes no run, since the filter of a trigger raised on it, or its run was refused for good."""

    trigger: str
    event_id: str
    position: int  # of the event
    topic: str
    error_type: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRegistered:
    """The code that a workflow has from now on."""

    workflow: str
    digest: str
    modules: Json = field(default_factory=dict[str, Any])  # module name → digest of its source
    blobs: Json = field(default_factory=dict[str, Any])  # module name → blob of its source; empty when switched off
    git_commit: str | None = None
    python: str = ""
    packages: Json = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStarted:
    """An engine took over the log. What was open at this record was cut off, so that a crash shows in every run."""

    epoch: int
    pid: int
    host: str
    clean: bool = True  # the engine before it closed the log; if not, its process was killed
    python: str = ""
    polos: str = ""
    deployment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxConsumed:
    """A command from the inbox was decided; never decided again."""

    command_id: str
    outcome: str  # "accepted", "refused", "existing", "published" or "answered"
    detail: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeSealed:
    """
    Runs that have ended were archived: this record stands for theirs, which may leave the log from now on.

    `runs` has an object for each of them: its `run`, the `root` of its tree, up to which `version` its stream was
    archived, and what a list shows of it. A root has `segments`, too: where its tree is.
    """

    segments: tuple[str, ...]  # blobs
    ranges: tuple[int, ...]  # first position and count, first position and count, ...
    runs: Json
    at_us: int
    reason: str = ""  # which part of the policy said so: "age" or "count"; "" if somebody asked for it
    pruned: int = 0  # chunks of which the segments have the number of deltas alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A fold of the stream up to the record before."""

    state: Json
