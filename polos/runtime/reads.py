"""
What a log says about runs, for clients, pages and the command line.

Everything here reads: it is handed a `Reader`, one consistent view, and never needs the engine. A
run's row answers most questions; its stream is opened only for what a row doesn't hold (input,
result, error, state, the data of a suspend). Commands that wait in the inbox are no part of the log,
but a run that somebody was promised must be seen: `pending_runs` shows it as `queued`.

A run that went on by `continue_as_new` keeps its handle. `execution` follows the successors, so that
the handle's id tells how things stand now; `list_runs` lists every run by itself.

Times are RFC 3339 in UTC, with microseconds, as programs written for Polos expect them.
"""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast, final

import orjson

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.json import Json
from polos.engine.projections import run_stream
from polos.errors import CommandRefused, PolosUsageError, StoreDamaged, UnknownRun
from polos.runtime.foreign import RUN_ID_BYTES_MAX, parse_command, runs_to_create
from polos.store.inbox import Inbox, InboxItem
from polos.store.log import STREAM_START, Key, Reader, Record, Version

__all__ = [
    "ENDED_STATUSES",
    "LIMIT_MAX",
    "STATUSES",
    "OpenSuspend",
    "PendingRun",
    "RunFilter",
    "RunPage",
    "RunRow",
    "events_of",
    "execution",
    "last_row",
    "list_runs",
    "microseconds",
    "open_suspends",
    "pending_execution",
    "pending_runs",
    "rfc3339",
    "row_from_json",
    "run_created",
    "run_input",
    "run_row",
    "run_state",
    "runs_of",
    "tree_runs",
]

ENDED_STATUSES: Final = frozenset({"completed", "failed", "cancelled"})
LIMIT_MAX: Final = 10_000
STATUSES: Final = (
    "queued", "running", "waiting", "pending_cancel", "completed", "failed", "cancelled", "continued",
    # why a run waits
    "timer", "suspend", "signal", "topic", "child", "step", "step_outcome_unknown", "diverged", "no_code", "pinned",
    "poisoned", "internal_error",
)  # fmt: skip
CURSOR_DIGITS_MAX: Final = 18  # of microseconds; a key of the log holds them
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """What the row of a run says; see `polos.engine.projections.summary`."""

    run: str
    workflow: str
    kind: str = "workflow"
    status: str = "queued"
    waiting_reason: str | None = None
    created_us: int = 0
    started_us: int | None = None
    ended_us: int | None = None
    end_version: int | None = None
    attempt: int = 0
    retries: int = 0
    parent: str | None = None
    step: str | None = None
    root: str = ""
    root_workflow: str = ""
    session: str | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()
    queue: str | None = None
    concurrency_key: str | None = None
    deployment: str | None = None
    run_timeout_us: int | None = None
    cancel_requested_us: int | None = None
    cancelled_by: str | None = None
    continues: str | None = None
    successor: str | None = None
    result_type: str | None = None
    archived_us: int | None = None

    @property
    def ended(self) -> bool:
        """Whether this run is over; a successor may go on under its handle."""
        return self.end_version is not None


_ROW_FIELDS: Final = frozenset(spec.name for spec in fields(RunRow))


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRun:
    """A run that waits in the inbox to be created."""

    command_id: str
    created: e.RunCreated
    row: RunRow


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSuspend:
    """A suspend that nobody has answered."""

    row: RunRow
    record: Record
    event: e.WaitStarted


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """
    Which runs are wanted; None asks for nothing.

    Attributes:
        status: a public status, or a reason to wait such as "diverged".
        workflow: only runs of this workflow.
        parent: only children of this run.
        tag: only runs with this tag.
        since_us: created then or later.
        until_us: created before then.
        queue: only runs of this queue.
        session: only runs of this session.
        user: only runs of this user.
    """

    status: str | None = None
    workflow: str | None = None
    parent: str | None = None
    tag: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    queue: str | None = None
    session: str | None = None
    user: str | None = None

    def fits(self, row: RunRow) -> bool:
        """Tell whether a run is wanted, its time aside."""
        return (
            (self.status is None or self.status in (row.status, row.waiting_reason))
            and (self.workflow is None or row.workflow == self.workflow)
            and (self.parent is None or row.parent == self.parent)
            and (self.tag is None or self.tag in row.tags)
            and (self.queue is None or (row.queue or row.workflow) == self.queue)
            and (self.session is None or row.session == self.session)
            and (self.user is None or row.user == self.user)
        )

    def is_in_time(self, row: RunRow) -> bool:
        """Tell whether a run was created in the time that is wanted."""
        return (self.since_us is None or row.created_us >= self.since_us) and (
            self.until_us is None or row.created_us < self.until_us
        )

    def index(self) -> Key:
        """
        Choose the index that leaves the fewest runs to look at, by what usually is.

        A queue has none. Runs that wait to begin have a row by queue, but those between two attempts haven't, and show
        `queued` as well; and a row of its own for every run of a queue would be written for a question that is asked
        seldom, and nearly always with a status or a time.
        """
        if self.parent is not None:
            return ("parent", self.parent)
        if self.session is not None:
            return ("session", self.session)
        if self.user is not None:
            return ("user", self.user)
        if self.tag is not None:
            return ("tag", self.tag)
        if self.status is not None and (self.workflow is None or self.status not in ENDED_STATUSES):
            return ("status", self.status)  # of a workflow's runs few live and many have ended
        if self.workflow is not None:
            return ("workflow", self.workflow)
        return ("time",)


@final
class RunPage:
    """A page of a list of runs, the newest first, and where the next one begins."""

    def __init__(self, rows: list[RunRow], cursor: str | None) -> None:
        """Take the rows and the cursor; None after the last page."""
        self.rows = rows
        self.cursor = cursor


# ------------------------------------------------------------------------------------------ times


def rfc3339(time_us: int | None) -> str | None:
    """Give an instant as RFC 3339 text."""
    if time_us is None:
        return None
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds")


def microseconds(moment: datetime | str | None, what: str) -> int | None:
    """
    Give an instant in microseconds; a naive one is UTC.

    Raises:
        ValueError: the text is no instant.
        TypeError: it is neither a datetime nor a text.
    """
    if moment is None:
        return None
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError as error:
            raise ValueError(f"{what} is an instant such as 2026-01-31T12:00:00+00:00, not {moment!r}") from error
    if not isinstance(cast("object", moment), datetime):
        raise TypeError(f"{what} must be a datetime or a text, it is {moment!r}")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


# ------------------------------------------------------------------------------------------- runs


def run_row(reader: Reader, run: str) -> RunRow | None:
    """Give what the row of a run says, None if there is no such run."""
    stored = reader.row(("run", run)) if run else None
    return None if stored is None else row_from_json(run, orjson.loads(stored))


def last_row(reader: Reader, run: str) -> RunRow | None:
    """Give the row of the run that goes on under a handle: the last of the successors."""
    row = run_row(reader, run)
    while row is not None and row.successor is not None:
        following = run_row(reader, row.successor)
        if following is None:
            break  # it lives in another log
        row = following
    return row


def events_of(
    reader: Reader, run: str, *, after: int = STREAM_START, limit: int | None = None, reverse: bool = False
) -> Iterator[tuple[Record, e.Event]]:
    """Give a run's records with their events, in order of version (from the last one down if `reverse`)."""
    for record in reader.stream(run_stream(run), after=Version(after), limit=limit, reverse=reverse):
        yield record, decode(record.type, record.schema_version, record.payload)


def run_created(reader: Reader, run: str) -> e.RunCreated | None:
    """Give what a run was created with; a fork's is its origin's."""
    first = next(events_of(reader, run, limit=1), None)
    if first is None:
        return None
    match first[1]:
        case e.RunCreated() as created:
            return created
        case e.RunForked() as forked:
            return run_created(reader, forked.origin)
        case _:
            return None


def run_input(reader: Reader, run: str) -> Json:
    """Give what a run was asked for with, which a later call of its key may have replaced; None without a run."""
    found: Json = None
    for _, event in events_of(reader, run):
        match event:
            case e.RunCreated() | e.RunDebounced():
                found = event.input
            case e.RunForked():
                found = run_input(reader, event.origin)
            case e.RunStarted():
                break
            case _:
                pass
    return found


def run_state(reader: Reader, run: str) -> Json:
    """Give `ctx.state` as of the last durable change, None if the run has no state; successors are followed."""
    row = last_row(reader, run)
    if row is None:
        return None
    initial: Json = None
    value: dict[str, Any] | None = None
    for _, event in events_of(reader, row.run):
        match event:
            case e.RunCreated():
                initial = event.initial_state
                value = dict(initial) if isinstance(initial, dict) else None
            case e.RunStarted():  # an attempt begins anew
                first = initial if event.state is None else event.state
                value = dict(first) if isinstance(first, dict) else None
            case e.StateChanged():
                value = {**(value or {}), **cast("dict[str, Any]", event.changed)}
                for name in event.removed:
                    value.pop(name, None)
            case _:
                pass
    return value


def tree_runs(reader: Reader, root: str) -> list[str]:
    """Give the runs of a tree, the root first, then the others in order of creation."""
    return [root, *(str(key[-1]) for key, _ in reader.rows(("root", root)))]


def open_suspends(reader: Reader, root: str) -> list[OpenSuspend]:
    """Give the unanswered suspends of a tree, in the order in which they were opened."""
    found: list[OpenSuspend] = []
    for key, value in reader.rows(("suspend", root)):
        run, name = str(key[4]), value.decode()
        row = run_row(reader, run)
        if row is None:
            raise StoreDamaged(f"L6: row {key!r} names a run that has no row")
        for record, event in events_of(reader, run, reverse=True):
            if isinstance(event, e.WaitStarted) and event.name == name:
                found.append(OpenSuspend(row=row, record=record, event=event))
                break
    return sorted(found, key=lambda suspend: suspend.record.position)


# -------------------------------------------------------------------------------------- execution


def execution(reader: Reader, run: str) -> dict[str, Any]:
    """
    Give all that is known of a run, as the JSON object that programs written for Polos know.

    Input and creation are those of the run that was asked for, everything else of its last successor.

    Raises:
        UnknownRun: there is no such run.
    """
    row = run_row(reader, run)
    last = last_row(reader, run)
    if row is None or last is None:
        raise UnknownRun(f"there is no run {run!r} in this data directory")
    result, error = _ending(reader, last)
    return {
        **listed(row),
        **_standing(last),
        "archived_at": _archived_at(reader, run),
        "payload": run_input(reader, run),
        "result": result,
        "error": error,
    }


def pending_execution(pending: PendingRun) -> dict[str, Any]:
    """Give a run that waits in the inbox in the shape of `execution`."""
    return {**listed(pending.row), "payload": pending.created.input, "result": None, "error": None}


def listed(row: RunRow) -> dict[str, Any]:
    """Give what a row knows of a run, in the shape of `execution`."""
    return {
        "id": row.run,
        "workflow_id": row.workflow,
        "created_at": rfc3339(row.created_us),
        "deployment_id": row.deployment,
        "assigned_to_worker": None,
        "parent_execution_id": row.parent,
        "root_execution_id": row.root,
        "step_key": row.step,
        "queue_name": row.queue,
        "concurrency_key": row.concurrency_key,
        "batch_id": None,
        "session_id": row.session,
        "user_id": row.user,
        "tags": list(row.tags),
        "archived_at": rfc3339(row.archived_us),
        **_standing(row),
    }


def _standing(row: RunRow) -> dict[str, Any]:
    """Give how things stand with a run: what its last successor tells for all of them."""
    cancelled = row.status == "cancelled"
    return {
        "status": row.status,
        "waiting_reason": row.waiting_reason,
        "started_at": rfc3339(row.started_us),
        "completed_at": None if cancelled else rfc3339(row.ended_us),
        "retry_count": row.retries,
        "output_schema_name": row.result_type,
        "cancel_requested_at": rfc3339(row.cancel_requested_us),
        "cancelled_at": rfc3339(row.ended_us) if cancelled else None,
        "cancelled_by": row.cancelled_by,
        "run_timeout_seconds": None if row.run_timeout_us is None else row.run_timeout_us / 1e6,
    }


def _archived_at(reader: Reader, run: str) -> str | None:
    """Tell when a run was archived; a reader that shows archived runs knows both its rows."""
    row = reader.row(("archived", run))
    return None if row is None else rfc3339(orjson.loads(row)["archived_us"])


def _ending(reader: Reader, row: RunRow) -> tuple[Json, str | None]:
    """Give result and error of a run that ended."""
    if row.end_version is None:
        return None, None
    for _, event in events_of(reader, row.run, after=row.end_version - 1, limit=1):
        match event:
            case e.RunCompleted():
                return event.result, None
            case e.RunFailed():
                return None, event.error.message
            case _:
                pass
    return None, None


# ------------------------------------------------------------------------------------------- list


def list_runs(
    reader: Reader,
    wanted: RunFilter | None = None,
    pending: Iterable[PendingRun] = (),
    *,
    limit: int = 100,
    cursor: str | None = None,
) -> RunPage:
    """
    Give runs, the newest first.

    Args:
        reader: the view.
        wanted: which runs; None for all.
        pending: runs that wait in the inbox; those that the log knows by now are left out.
        limit: runs on a page.
        cursor: where the page before ended.

    Raises:
        PolosUsageError: the limit is out of range, there is no such status, `until` is before 1970, or the cursor is
            none of ours.
    """
    if not isinstance(cast("object", limit), int) or not 1 <= limit <= LIMIT_MAX:
        raise PolosUsageError(f"limit is 1 to {LIMIT_MAX}, not {limit!r}")
    wanted = wanted or RunFilter()
    if wanted.status is not None and wanted.status not in STATUSES:
        raise PolosUsageError(f"status is one of {', '.join(STATUSES)}; not {wanted.status!r}")
    if wanted.until_us is not None and wanted.until_us < 0:
        raise PolosUsageError("until is an instant after 1970: no run was created before")
    before = _parse_cursor(cursor)
    if wanted.until_us is not None and (before is None or (wanted.until_us, "") < before):
        before = (wanted.until_us, "")
    promised = [
        waiting.row
        for waiting in pending
        if (before is None or _place(waiting.row) < before) and run_row(reader, waiting.row.run) is None
    ]
    promised.sort(key=_place, reverse=True)
    recorded = _newest(reader, wanted.index(), before)
    rows: list[RunRow] = []
    for row in heapq.merge(promised, recorded, key=_place, reverse=True):
        if wanted.since_us is not None and row.created_us < wanted.since_us:
            break
        if not wanted.fits(row):
            continue
        if len(rows) == limit:
            return RunPage(rows, "{}:{}".format(*_place(rows[-1])))
        rows.append(row)
    return RunPage(rows, None)


def runs_of(reader: Reader, wanted: RunFilter) -> Iterator[RunRow]:
    """Give all runs that are wanted and that the log has, the newest first."""
    before = None if wanted.until_us is None else (wanted.until_us, "")
    for row in _newest(reader, wanted.index(), before):
        if wanted.since_us is not None and row.created_us < wanted.since_us:
            return
        if wanted.fits(row):
            yield row


def pending_runs(inbox: Inbox) -> list[PendingRun]:
    """Give the runs that wait in the inbox, in the order in which they were asked for."""
    found: list[PendingRun] = []
    for item in inbox.pending():
        try:
            found += _promised(item)
        except (CommandRefused, ValueError):  # ValueError: a run whose id tells no time
            continue  # no command that an engine would take; it will say so to whoever put it
    return found


def _promised(item: InboxItem) -> list[PendingRun]:
    """Give the runs that one command creates."""
    command = parse_command(item.payload)
    return [
        PendingRun(command_id=item.command_id, created=created, row=_queued(run, created))
        for run, created in (runs_to_create(command) if command.get("kind") == "create" else ())
    ]


def _queued(run: str, created: e.RunCreated) -> RunRow:
    return RunRow(
        run=run,
        workflow=created.workflow,
        kind=created.kind,
        created_us=_made_us(run),
        parent=created.parent,
        step=created.step,
        root=created.root,
        root_workflow=created.root_workflow,
        session=created.session,
        user=created.user,
        tags=created.tags,
        queue=created.queue,
        concurrency_key=created.concurrency_key,
        deployment=created.deployment,
        run_timeout_us=created.run_timeout_us,
    )


def _made_us(run: str) -> int:
    """Give when a run's id was made: it is a UUIDv7, and no record says yet when the run was created."""
    return (uuid.UUID(run).int >> 80) * 1_000


def row_from_json(run: str, found: dict[str, Any]) -> RunRow:
    """Give what the JSON of a run's row says."""
    # A newer polos may say more in its rows; what this one doesn't know it doesn't show.
    known = {name: value for name, value in found.items() if name in _ROW_FIELDS}
    known["tags"] = tuple(known.get("tags", ()))
    return RunRow(run=run, **known)


def _place(row: RunRow) -> tuple[int, str]:
    return row.created_us, row.run


def _newest(reader: Reader, prefix: Key, before: tuple[int, str] | None) -> Iterator[RunRow]:
    if prefix[0] == "session":
        yield from _of_session(reader, str(prefix[1]), before)
    else:
        yield from _below(reader, prefix, before)


def _of_session(reader: Reader, session: str, before: tuple[int, str] | None) -> Iterator[RunRow]:
    """Give the runs of a session; one that nobody named has the id of a root, and is that tree beside what names it."""
    root = run_row(reader, session)
    tree: list[Iterator[RunRow]] = []
    if root is not None and root.session == session:
        tree = [
            _below(reader, ("root", session), before),
            iter([root] if before is None or _place(root) < before else []),
        ]
    last: RunRow | None = None
    for row in heapq.merge(_below(reader, ("session", session), before), *tree, key=_place, reverse=True):
        if row != last:
            yield row
        last = row


def _below(reader: Reader, prefix: Key, before: tuple[int, str] | None) -> Iterator[RunRow]:
    after = None if before is None else (*prefix, *before)
    for key, _ in reader.rows(prefix, after=after, reverse=True):
        row = run_row(reader, str(key[-1]))
        if row is None:
            raise StoreDamaged(f"L6: row {key!r} names a run that has no row")
        yield row


def _parse_cursor(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    created, _, run = cursor.partition(":")
    # A longer number than this is none of ours, and Python refuses to read a really long one.
    is_number = created.isascii() and created.isdigit() and len(created) <= CURSOR_DIGITS_MAX
    if not (is_number and 0 < len(run.encode("utf-8", "surrogatepass")) <= RUN_ID_BYTES_MAX):
        raise PolosUsageError(f"a cursor is what an earlier page gave, not {cursor[:200]!r}")
    return int(created), run
