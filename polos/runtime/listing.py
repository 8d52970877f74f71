"""
Which runs somebody means: the keywords by which runs are listed, counted, and acted upon many at a time.

They are the same everywhere, so that what was looked at with `list_executions` and counted with `count_executions` is
what `cancel_many` then acts upon. Counting reads an index where there is one for what is asked; only what no index
holds is looked up in the row of each run.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, TypedDict, cast

from polos.checking import optional_text
from polos.errors import PolosUsageError
from polos.runtime import reads
from polos.store.inbox import Inbox
from polos.store.log import Log, Reader

__all__ = ["STATUSES", "ExecutionPage", "Wanted", "count_runs", "list_page", "run_filter"]

STATUSES: Final[tuple[str, ...]] = (
    "queued",
    "running",
    "waiting",
    "pending_cancel",
    "completed",
    "failed",
    "cancelled",
    "continued",
)


class Wanted(TypedDict, total=False):
    """
    Keywords that say which runs are meant; what isn't given asks for nothing.

    Attributes:
        status: a status, or a reason to wait such as "diverged".
        workflow_id: only runs of this workflow.
        parent: only children of this run.
        tag: only runs with this tag.
        since: created then or later.
        until: created before then.
        queue: only runs of this queue; that of a workflow that names none is the workflow's id. There is no index of
            it: given alone, or with times alone, each run is looked at until the page is full. With a status that few
            runs have, a workflow or `since` it is quick.
        session_id: only runs of this session.
        user_id: only runs of this user.
    """

    status: str | None
    workflow_id: str | None
    parent: str | None
    tag: str | None
    since: datetime | str | None
    until: datetime | str | None
    queue: str | None
    session_id: str | None
    user_id: str | None


class ExecutionPage(list[dict[str, Any]]):
    """
    Runs as dicts, the newest first.

    Attributes:
        cursor: pass it to get the next page; None after the last one.
    """

    def __init__(self, executions: list[dict[str, Any]], cursor: str | None) -> None:
        """Take the runs and the cursor."""
        super().__init__(executions)
        self.cursor = cursor


def run_filter(wanted: Wanted) -> reads.RunFilter:
    """
    Read the keywords.

    Raises:
        TypeError: one of them is unknown, or no text.
        ValueError: one is empty, or no instant.
        PolosUsageError: there is no such status.
    """
    if unknown := wanted.keys() - Wanted.__annotations__.keys():
        raise TypeError(f"runs can't be chosen by {', '.join(sorted(unknown))}")
    texts = {name: value for name, value in wanted.items() if name not in {"since", "until"}}
    for name, value in texts.items():
        optional_text(name, cast("str | None", value))
    status = wanted.get("status")
    if status is not None and status not in reads.STATUSES:
        raise PolosUsageError(f"status is one of {', '.join(reads.STATUSES)}; not {status!r}")
    return reads.RunFilter(
        status=status,
        workflow=wanted.get("workflow_id"),
        parent=wanted.get("parent"),
        tag=wanted.get("tag"),
        since_us=reads.microseconds(wanted.get("since"), "since"),
        until_us=reads.microseconds(wanted.get("until"), "until"),
        queue=wanted.get("queue"),
        session=wanted.get("session_id"),
        user=wanted.get("user_id"),
    )


def list_page(log: Log, inbox: Inbox, wanted: reads.RunFilter, *, limit: int, cursor: str | None) -> reads.RunPage:
    """Give a page of runs, with those that wait in the inbox."""
    pending = reads.pending_runs(inbox)  # looked at first: what leaves it meanwhile is in the log by then
    with log.reader() as reader:
        return reads.list_runs(reader, wanted, pending, limit=limit, cursor=cursor)


def count_runs(reader: Reader, wanted: reads.RunFilter, pending: Iterable[reads.PendingRun] = ()) -> dict[str, int]:
    """
    Count runs by status.

    Args:
        reader: the view.
        wanted: which runs.
        pending: runs that wait in the inbox; those that the log knows by now are left out.

    Returns:
        The number of runs of each status, those that have none as 0.
    """
    found: dict[str, int] = dict.fromkeys(STATUSES, 0)
    asked = wanted.status
    if wanted == reads.RunFilter(status=asked, since_us=wanted.since_us, until_us=wanted.until_us):
        # A status has an index; a reason to wait has one, too, and stands for "waiting".
        for status in STATUSES if asked is None else (asked,):
            name = status if status in found else "waiting"
            found[name] += _in_index(reader, status, wanted.since_us, wanted.until_us)
    else:
        for row in reads.runs_of(reader, wanted):
            found[row.status] = found.get(row.status, 0) + 1
    for waiting in pending:
        row = waiting.row
        if wanted.fits(row) and wanted.is_in_time(row) and reads.run_row(reader, row.run) is None:
            found["queued"] += 1
    return found


def _in_index(reader: Reader, status: str, since_us: int | None, until_us: int | None) -> int:
    after = None if since_us is None else ("status", status, max(since_us, 0))
    if until_us is None:
        return sum(1 for _ in reader.rows(("status", status), after=after))
    count = 0
    for key, _ in reader.rows(("status", status), after=after):
        if int(key[2]) >= until_us:
            break
        count += 1
    return count
