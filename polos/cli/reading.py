"""What the reading commands print; see polos/cli/app.py for what they take."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from polos.cli.options import Options, Runs
from polos.cli.outcomes import BadCommandLine
from polos.cli.printing import Printer, ago, coloured, count, cut, duration, plain, value_text
from polos.errors import PolosUsageError
from polos.reasons import Reason, Why, why
from polos.reasons import count_runs as count_status
from polos.runtime import reads
from polos.runtime.archived import archived_row, reader_of
from polos.runtime.crowd import waits_for_thread
from polos.runtime.listing import count_runs as counted
from polos.runtime.listing import list_page, run_filter
from polos.store.directory import Store
from polos.store.environment import OwnerInfo
from polos.views import RunView, TimelineEntry, run_view

__all__ = ["count_runs", "list_runs", "show_run", "show_running", "tell_why"]

_LIVING = ("running", "waiting", "queued", "pending_cancel")
_STATUSES = (*_LIVING, "completed", "failed", "cancelled", "continued")
_TREE_LINES_MAX = 40
_TIMELINE_LINES_MAX = 200
_HEADS = ("run", "workflow", "status", "created", "took", "attempt", "tags")


# ----------------------------------------------------------------------------------------- lists


def show_running(options: Options) -> None:
    """Print who owns the directory, how many runs there are of each status, and which are alive."""
    printer = Printer(json=options.json)
    with options.store() as store:
        owner = store.owner()
        pending = reads.pending_runs(store.inbox)
        commands = sum(1 for _ in store.inbox.pending())
        with store.log.reader() as reader:
            counts = {status: count_status(reader, status) for status in _STATUSES}
            living: list[reads.RunRow] = []
            for status in _LIVING:
                promised = pending if status == "queued" else ()
                living += reads.list_runs(reader, reads.RunFilter(status=status), promised, limit=20).rows
    living.sort(key=lambda row: (row.created_us, row.run), reverse=True)
    if printer.json:
        engine = None if owner is None else _engine(owner)
        printer.object({"data_dir": str(store.path), "engine": engine, "counts": counts, "commands_waiting": commands})
        for row in living:
            printer.object(reads.listed(row))
        return
    now_us = options.now_us()
    _say_owner(printer, store, owner, now_us)
    told = [f"{number:,} {status}" for status, number in counts.items() if number]
    printer.line(", ".join(told) or "no runs yet")
    if commands and owner is None:
        printer.line((f"{count(commands, 'command')} kept for the next engine", "yellow"))
    if living:
        printer.line()
        printer.table(_HEADS, [_cells(row, now_us) for row in living])
        shown, there = len(living), sum(counts[status] for status in _LIVING)
        if there > shown:
            printer.line((f"{there - shown:,} more: {options.command('polos ls --status waiting')}", "dim"))


def _engine(owner: OwnerInfo) -> dict[str, Any]:
    return {"pid": owner.pid, "host": owner.host, "started_at": reads.rfc3339(owner.started_us)}


def _say_owner(printer: Printer, store: Store, owner: OwnerInfo | None, now_us: int) -> None:
    if owner is None:
        printer.line(f"{store.path}: ", ("no engine is running", "yellow"))
    else:
        since = f", started {ago(owner.started_us, now_us)}" if owner.started_us else ""
        printer.line(f"{store.path}: ", ("an engine is running", "green"), f", {owner}{since}")


def list_runs(options: Options, runs: Runs, *, limit: int, cursor: str | None) -> None:
    """Print runs, the newest first."""
    runs = runs.in_time(options)
    printer = Printer(json=options.json)
    with options.store() as store:
        wanted = run_filter(runs.wanted(store, options))
        page = _page(store, wanted, limit, cursor)
        owner = store.owner()
    if printer.json:
        for row in page.rows:
            printer.object(reads.listed(row))
        return
    if not page.rows:
        printer.line("no such run" if wanted != reads.RunFilter() else "no runs yet")
        return
    now_us = options.now_us()
    printer.table(_HEADS, [_cells(row, now_us) for row in page.rows])
    if owner is None and any(row.status in ("running", "queued") for row in page.rows):
        printer.line(("no engine is running: what is running or queued goes on with the next one", "yellow"))
    if page.cursor is not None:
        printer.line((f"more: {options.command(f'polos ls --cursor {page.cursor}')} (and the same filters)", "dim"))


def count_runs(options: Options, runs: Runs) -> None:
    """Print how many runs there are of each status."""
    runs = runs.in_time(options)
    printer = Printer(json=options.json)
    with options.store() as store:
        wanted = run_filter(runs.wanted(store, options))
        pending = reads.pending_runs(store.inbox)
        with store.log.reader() as reader:
            counts = counted(reader, wanted, pending)
    if printer.json:
        printer.object({"counts": counts})
        return
    told = [f"{number:,} {status}" for status, number in counts.items() if number]
    printer.line(", ".join(told) or "no such run")


def _page(store: Store, wanted: reads.RunFilter, limit: int, cursor: str | None) -> reads.RunPage:
    """
    Give a page of the list.

    Raises:
        BadCommandLine: there is no page of that size, or the cursor is none of ours.
    """
    try:
        return list_page(store.log, store.inbox, wanted, limit=limit, cursor=cursor)
    except PolosUsageError as error:
        raise BadCommandLine(str(error), "polos ls --help") from None


def _cells(row: reads.RunRow, now_us: int) -> list[str | tuple[str, str]]:
    status = row.status if row.waiting_reason is None else f"{row.status} ({row.waiting_reason})"
    took = "" if row.started_us is None else duration(((row.ended_us or now_us) - row.started_us) / 1e6)
    return [
        row.run, row.workflow, coloured(row.status, status), ago(row.created_us, now_us), took,
        str(row.attempt or ""), ", ".join(row.tags),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ show


def show_run(options: Options, text: str, *, full: bool) -> None:
    """Print all there is to show of a run."""
    printer = Printer(json=options.json)
    with options.store() as store:
        run = options.find(store, text)
        pending = reads.pending_runs(store.inbox)
        with store.log.reader() as reader:
            is_pending = reads.run_row(reader, run) is None and archived_row(reader, run) is None
        if is_pending:
            execution = next(reads.pending_execution(found) for found in pending if found.row.run == run)
            view = RunView(execution=execution, state=None, tree=[], timeline=[])
        else:
            with reader_of(store, run) as reader:
                view = run_view(reader, run)
    if printer.json:
        printer.object(view.to_json())
        return
    _Shown(printer, options, view, full=full).print()


class _Shown:
    """A run on a terminal."""

    def __init__(self, printer: Printer, options: Options, view: RunView, *, full: bool) -> None:
        self._printer = printer
        self._options = options
        self._view = view
        self._full = full
        self._cut = None if full else 120

    def print(self) -> None:
        self._head()
        if len(self._view.tree) > 1:
            self._tree()
        if self._view.timeline:
            self._timeline()

    def _head(self) -> None:
        found, say = self._view.execution, self._printer.line
        reason = found["waiting_reason"]
        status = found["status"] if reason is None else f"{found['status']} ({reason})"
        say((found["id"], "bold"), "  ", found["workflow_id"], "  ", coloured(found["status"], status))
        facts = [f"created {found['created_at']}"]
        facts += [f"{word} {found[name]}" for word, name in _FACTS if found[name]]
        if found["tags"]:
            facts.append("tags " + ", ".join(found["tags"]))
        say("  " + ", ".join(facts))
        say("  input   ", value_text(found["payload"], self._cut))
        if self._view.state is not None:
            say("  state   ", value_text(self._view.state, self._cut))
        if found["status"] == "completed":
            say("  result  ", value_text(found["result"], self._cut))
        if found["error"]:
            say("  error   ", (cut(plain(found["error"]), self._cut), "red"))
        if found["status"] not in reads.ENDED_STATUSES:
            say("  why     ", (self._options.command(f"polos why {found['id']}"), "dim"))

    def _tree(self) -> None:
        say, nodes = self._printer.line, self._view.tree
        say()
        say(("tree", "bold"))
        shown = nodes if self._full else nodes[:_TREE_LINES_MAX]
        for node in shown:
            called = f"  as {node.step}" if node.step else ""
            here = "  ◀" if node.id == self._view.execution["id"] else ""
            say("  " + "  " * node.depth, node.workflow, "  ", node.id, "  ", coloured(node.status), called, here)
        if len(shown) < len(nodes):
            say((f"  {len(nodes) - len(shown):,} more with --full", "dim"))

    def _timeline(self) -> None:
        say, entries = self._printer.line, self._view.timeline
        say()
        say(("timeline", "bold"))
        shown = entries if self._full else entries[-_TIMELINE_LINES_MAX:]
        if len(shown) < len(entries):
            say((f"  {len(entries) - len(shown):,} earlier with --full", "dim"))
        began = reads.microseconds(entries[0].at, "at") or 0
        for entry in shown:
            self._entry(entry, began)

    def _entry(self, entry: TimelineEntry, began_us: int) -> None:
        say = self._printer.line
        after = ((reads.microseconds(entry.at, "at") or 0) - began_us) / 1e6
        took = "" if entry.seconds is None else duration(entry.seconds)
        place = f"  {f'+{after:.3f} s':>12}  {took:>8}  "
        if entry.kind == "engine":
            say(place, coloured(entry.outcome, f"━━ {entry.text}; nothing was recorded for {took} ━━"))
            return
        name = f"{entry.name}  " if entry.name else ""
        times = f", {entry.attempts} attempts" if entry.attempts > 1 else ""
        ending = "" if entry.outcome in ("noted", "completed", "reused") else f"  {entry.outcome}"
        value = "" if entry.value is None else f"  → {value_text(entry.value, self._cut)}"
        if entry.asked is not None:
            value = f"  {value_text(entry.asked, self._cut)}{value}"
        say(place, (f"{entry.kind:<8}", "dim"), name, entry.text, times, coloured(entry.outcome, ending), value)
        if entry.error:
            say(" " * 26, (cut(plain(entry.error), self._cut), "red"))
        for note in entry.notes:
            say(" " * 26, ("· " + cut(plain(note.text), self._cut), "yellow"))


_FACTS = (
    ("started", "started_at"), ("ended", "completed_at"), ("cancelled", "cancelled_at"), ("by", "cancelled_by"),
    ("archived", "archived_at"), ("child of", "parent_execution_id"), ("session", "session_id"), ("user", "user_id"),
)  # fmt: skip


# ------------------------------------------------------------------------------------------- why


def tell_why(options: Options, text: str) -> None:
    """Print what a run waits for and what would move it on."""
    printer = Printer(json=options.json)
    with options.store() as store:
        run = options.find(store, text)
        pending = reads.pending_runs(store.inbox)
        owner = store.owner()
        with reader_of(store, run) as reader:
            found = why(
                reader, run, owner=owner, now_us=options.now_us(), pending=pending,
                waits_for_thread=partial(waits_for_thread, store.path),
            )  # fmt: skip
    if printer.json:
        printer.object({**asdict(found), "reasons": [_completed(asdict(reason), options) for reason in found.reasons]})
        return
    _print_why(printer, options, found)


def _completed(reason: dict[str, Any], options: Options) -> dict[str, Any]:
    """Let the commands of a reason mean the same directory."""
    command = reason["command"]
    return {
        **reason,
        "command": None if command is None else options.command(command),
        "because": [_completed(below, options) for below in reason["because"]],
    }


def _print_why(printer: Printer, options: Options, found: Why) -> None:
    status = found.status if found.waiting_reason is None else f"{found.status} ({found.waiting_reason})"
    printer.line((found.run, "bold"), "  ", found.workflow, "  ", coloured(found.status, status))
    for reason in found.reasons:
        _print_reason(printer, options, reason, "  ")
    if found.deadline is not None:
        printer.line("  its run timeout cancels it at ", found.deadline)


def _print_reason(printer: Printer, options: Options, reason: Reason, indent: str) -> None:
    say, now_us = printer.line, options.now_us()
    say(indent, ("• ", "magenta"), reason.text)
    inner = indent + "    "
    for word, moment in (("since", reason.since), ("due", reason.due)):
        at_us = reads.microseconds(moment, word)
        if at_us is not None:
            say(inner, f"{word:<8}", f"{ago(at_us, now_us)}, {moment}")
    if reason.detail is not None and reason.kind not in ("ended", "retry", "run_retry"):
        say(inner, f"{'shows':<8}", value_text(reason.detail, None if reason.kind == "diverged" else 400))
    if reason.kind != "ended":
        say(inner, f"{'moves on':<8}", " when ", reason.moves_on)
    if reason.command is not None:
        say(inner, f"{'type':<8}", (options.command(reason.command), "bold"))
    for below in reason.because:
        _print_reason(printer, options, below, inner)
