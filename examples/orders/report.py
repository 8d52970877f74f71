"""The end of the demo: tables from both sources, and the story of one run that a kill cut in two."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from examples.orders.audit import Audit, Entry
from polos.engine import events as e

_TEXT_MAX = 80  # characters of a value


def print_report(console: Console, audit: Audit) -> bool:
    """Print everything, and tell whether all of it holds."""
    checks = audit.checks()
    _outcomes(console, audit)
    _recoveries(console, audit)
    story = _story(console, audit)
    table = _table("What was promised, from two sources", "promise", "polos's log says", "the provider says", "")
    for check in checks:
        table.add_row(check.promise, check.log, check.provider, _mark(holds=check.holds))
    if audit.kills_wanted:
        found = "see above" if story else "no run does"
        table.add_row("a run shows the crash it went through", found, "", _mark(holds=story))
    console.print(table)
    return (story or not audit.kills_wanted) and all(check.holds for check in checks)


def _mark(*, holds: bool) -> str:
    return "[green]holds[/]" if holds else "[bold red]BROKEN[/]"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def _outcomes(console: Console, audit: Audit) -> None:
    table = _table("Orders by what became of them", "outcome", "orders.csv wants", "polos's log", "the provider")
    for name, *numbers in audit.outcomes():
        table.add_row(name, *map(str, numbers))
    console.print(table)


def _recoveries(console: Console, audit: Audit) -> None:
    table = _table(
        "Recoveries (new process included)", "kill", "at position", "orders under way", "first new event after",
        "first step done after",
    )  # fmt: skip
    for number, kill in enumerate(audit.kills, start=1):
        found = audit.recovery(kill)
        table.add_row(
            str(number),
            f"{kill.position:,}",
            str(audit.under_way(kill)),
            _seconds(found.first_event),
            _seconds(found.first_step),
        )
    console.print(table)


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"


# --------------------------------------------------------------------------------- the story of one run


def _story(console: Console, audit: Audit) -> bool:
    """Print the timeline of the run that shows most; False if no kill hit any run."""
    order_id = _hit(audit)
    if order_id is None:
        return False
    family = _family(audit, audit.runs_of[order_id][0])
    entries = [entry for run in family for entry in audit.runs[run]]
    keys = {f"{run}/" for run in family}
    begin, end = min(one.record.time_us for one in entries), max(one.record.time_us for one in entries)

    lines: list[tuple[int, int, str, str, str]]
    lines = [(one.record.time_us, one.record.position, "log", _workflow(audit, one.run), _what(one)) for one in entries]
    for key, calls in audit.calls_of.items():
        if any(key.startswith(start) for start in keys):
            for number, call in enumerate(calls, start=1):
                again = "" if number == 1 else f", call {number} with the same key"
                lines.append((call.at_us, 0, "provider", call.kind, f"asked by process {call.process}{again}"))
    for number, kill in enumerate(audit.kills, start=1):
        if begin < kill.at_us < end:
            lines.append((kill.at_us, 0, "", "", f"[bold red]kill {number}: SIGKILL, the worker is gone[/]"))
            back = audit.recovery(kill).first_event
            if back is not None:
                lines.append((kill.at_us + int(back * 1e6) - 1, 0, "", "", "[bold green]the log goes on[/]"))

    table = _table(f"Order {order_id}, as recorded", "after", "source", "of", "what")
    for at_us, _, *cells in sorted(lines):
        table.add_row(f"{(at_us - begin) / 1e6:.3f} s", *cells)
    console.print(table)
    return True


def _hit(audit: Audit) -> str | None:
    """Choose an order with a step that a kill cut short, else one that lived through a kill."""
    best: tuple[int, int, str] | None = None
    cut = {calls[0].order_id for calls in audit.calls_of.values() if len({call.process for call in calls}) > 1}
    for order_id, (run, *_) in audit.runs_of.items():
        entries = audit.runs[run]
        begin, end = entries[0].record.time_us, entries[-1].record.time_us
        if any(begin < kill.at_us < end for kill in audit.kills):
            shown = (order_id in cut, len(entries), order_id)
            best = shown if best is None else max(best, shown)
    return None if best is None else best[2]


def _family(audit: Audit, run: str) -> list[str]:
    """Give a run and the runs that it started."""
    children = [entry.event.child for entry in audit.runs[run] if isinstance(entry.event, e.ChildStarted)]
    return [run, *children]


def _workflow(audit: Audit, run: str) -> str:
    created = audit.runs[run][0].event
    assert isinstance(created, e.RunCreated), "a run begins with its creation"
    return created.workflow


def _what(entry: Entry) -> str:
    """Say what an event is about, in a line."""
    event: Any = entry.event
    about = [type(event).__name__]
    if name := getattr(event, "name", None):
        about.append(f"[cyan]{name}[/]")
    match event:
        case e.StepCompleted(value=value) | e.RunCompleted(result=value) | e.WaitSatisfied(data=value):
            about.append(f"→ {_short(value)}")
        case e.StepAttemptFailed(error=error) | e.StepFailed(error=error) | e.RunFailed(error=error):
            about.append(f"→ {error.type}: {_short(error.message)}")
        case e.RunStarted(attempt=attempt):
            about.append(f"attempt {attempt}")
        case e.ChildFinished(status=status):
            about.append(f"→ {status}")
        case _:
            pass
    return " ".join(about)


def _short(value: Any) -> str:
    text = str(value).replace("[", "(").replace("]", ")")  # brackets are markup to rich
    return text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 1] + "…"
