"""Following what happens, on a terminal or into a pipe."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

from polos.cli.options import Options
from polos.cli.printing import CUT_AT, Printer, coloured, value_text
from polos.runtime import reads
from polos.runtime.connection import StoreConnection, api_url_of
from polos.runtime.streams import follow_all, follow_workflow
from polos.store.directory import Store
from polos.types.events import StreamEvent

__all__ = ["tail"]

_SHOWN_APART = frozenset({"_metadata", "_approval_url", "step_key", "step_type"})


def tail(options: Options, text: str | None, *, after: int | None, full: bool) -> None:
    """
    Print what happens to a run, or to all of them, until the run has ended.

    Args:
        options: what every command takes.
        text: the run; None for all.
        after: a sequence id to go on behind; None for from now on.
        full: print values whole.
    """
    with options.store() as store:
        run = None if text is None else options.find(store, text)
        if store.owner() is None and not options.json and not _is_over(store, run):
            sys.stderr.write("polos: no engine is running; what one does is shown when there is one\n")
        asyncio.run(_follow(StoreConnection(store), Printer(json=options.json), run, after=after, full=full))


def _is_over(store: Store, run: str | None) -> bool:
    """Tell whether nothing more will come."""
    with store.log.reader() as reader:
        row = None if run is None else reads.last_row(reader, run)
    return row is not None and row.ended


async def _follow(
    connection: StoreConnection, printer: Printer, run: str | None, *, after: int | None, full: bool
) -> None:
    events: AsyncIterator[StreamEvent]
    pages = api_url_of(None)  # a suspend names the page that answers it, here as in a program's stream
    if run is None:
        events = follow_all(connection, after=after, api_url=pages)
    else:
        workflow = _workflow(connection, run)
        events = follow_workflow(connection, run, workflow=workflow, after=after, api_url=pages)
    async for event in events:
        if printer.json:
            printer.object(event.model_dump(mode="json"))
        else:
            _print(printer, event, CUT_AT if not full else None)


def _workflow(connection: StoreConnection, run: str) -> str:
    """Give the workflow of a run that no engine may have seen yet."""
    for pending in reads.pending_runs(connection.store.inbox):
        if pending.row.run == run:
            return pending.row.workflow
    return ""


def _print(printer: Printer, event: StreamEvent, length: int | None) -> None:
    data: Any = event.data
    where, what = event.topic, event.event_type or ""
    if isinstance(data, dict) and "_metadata" in data:
        known = cast("dict[str, Any]", data)
        metadata = cast("dict[str, Any]", known["_metadata"])
        where = f"{metadata.get('workflow_id')} {metadata.get('execution_id')}"
        what = f"{what} {known.get('step_key', '')}".rstrip()
        data = {name: value for name, value in known.items() if name not in _SHOWN_APART}
    ending = (event.event_type or "").rpartition("_")[2]
    style = {"failed": "failed", "finish": "completed", "cancelled": "cancelled"}.get(ending, "running")
    shown = value_text(data, length)
    printer.line((event.created_at or "", "dim"), "  ", where, "  ", coloured(style, what), "  ", shown)
