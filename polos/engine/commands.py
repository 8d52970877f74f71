"""
What may be asked of a run, in the imperative. `decide` answers each with events, or refuses.

`Activate` is special: it carries what the code asked for when it was run on one fact. Its requests
are proposed events (they already have `cause`), so that the driver compares the very same thing with
the log in replay that `decide` gets to see live.
"""

from __future__ import annotations

from dataclasses import field

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.json import Json
from polos.engine.messages import Message

__all__ = [
    "Activate",
    "AppendDeltas",
    "BeginAttempt",
    "BeginRun",
    "Command",
    "CompleteStep",
    "CreateRun",
    "Debounce",
    "Deliver",
    "Diverge",
    "ExpireWait",
    "FailStep",
    "FireTimer",
    "ForceCancel",
    "MarkUnknown",
    "Readmit",
    "ReceiveUpdate",
    "RefuseRun",
    "Reopen",
    "Request",
    "RequestCancel",
    "ResolveStep",
    "SatisfyTopicWait",
    "SetAside",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRun:
    """Let a run exist."""

    created: e.RunCreated


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginRun:
    """Start the attempt that is owed, or a direct body anew."""

    code: str | None = None
    python: str | None = None
    direct: bool = False
    state: Json = None
    counted: bool = False
    pinned: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseRun:
    """End a run that can't be begun, or whose code asks for what can't be recorded."""

    error: e.Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One thing the code asked for. `spec` is what the run to be started is created with."""

    event: e.Event
    spec: e.RunCreated | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """Take what the code asked for when it was run on the fact of version `cause`."""

    cause: int
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginAttempt:
    """Start an attempt of an `at_most_once` step."""

    name: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteStep:
    """Take a step's result."""

    name: str
    attempt: int
    value: Json
    type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendDeltas:
    """Take what a step's function sent to its readers while it runs."""

    name: str
    attempt: int
    deltas: tuple[Json, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailStep:
    """Take an attempt's failure; `delay_us` is None if no attempt follows."""

    name: str
    attempt: int
    error: e.Failure
    delay_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkUnknown:
    """Nobody knows whether this attempt had its effect."""

    name: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveStep:
    """Say what became of a step of unknown outcome: "completed", "failed" or "not_done"."""

    name: str
    outcome: str
    by: str
    value: Json = None
    type: str | None = None
    error: e.Failure | None = None
    attempt: int | None = None  # the one that this is about; whichever is open, if None


@dataclass(frozen=True, slots=True, kw_only=True)
class FireTimer:
    """A timer's moment came."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireWait:
    """A wait's time is over."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SatisfyTopicWait:
    """An event of the topic that is waited for was published."""

    name: str
    event: e.WaitSatisfied


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Take a message: "resume", "signal", "finished", "retry" or "cancel"."""

    message: Message
    grace_us: int = 120_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveUpdate:
    """Take an update that the validator let pass."""

    update_id: str
    name: str
    data: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCancel:
    """Ask the run to stop; asking twice forces it."""

    by: str
    grace_us: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForceCancel:
    """The grace is over. With `close` the code had its chance, or can't be run: end the run."""

    by: str
    close: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverge:
    """The code doesn't fit the history."""

    report: dict[str, Json] = field(default_factory=dict[str, Json])
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """Don't run it for now."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readmit:
    """What kept the run aside is over."""

    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopen:
    """Let a run that failed or was cancelled go on; what it finished isn't done again."""

    by: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Debounce:
    """Let a run that hasn't begun have another input, and begin later."""

    input: Json
    initial_state: Json
    delay_us: int


Command = (
    CreateRun
    | BeginRun
    | Activate
    | BeginAttempt
    | CompleteStep
    | AppendDeltas
    | FailStep
    | MarkUnknown
    | ResolveStep
    | FireTimer
    | ExpireWait
    | SatisfyTopicWait
    | Deliver
    | ReceiveUpdate
    | RequestCancel
    | ForceCancel
    | Diverge
    | SetAside
    | Readmit
    | RefuseRun
    | Reopen
    | Debounce
)
