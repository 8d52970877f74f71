"""
What is done to many runs at once; see polos/cli/app.py for what it takes, and polos/runtime/bulk.py for how.

A slip of the finger must not stop a thousand runs: without `--yes` only their number is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from polos.cli.options import Options, Runs
from polos.cli.outcomes import Exit
from polos.cli.printing import Printer, count
from polos.runtime import bulk
from polos.runtime.connection import StoreConnection
from polos.runtime.listing import Wanted
from polos.types.bulk import BulkResult

__all__ = ["cancel_runs", "retry_runs"]

_SHOWN_MAX = 20

Act = Callable[[StoreConnection, Wanted], Awaitable[BulkResult]]


def cancel_runs(options: Options, runs: Runs, *, by: str, reason: str | None, yes: bool) -> int:
    """Ask all runs to stop that are found, and give the exit code."""

    async def act(connection: StoreConnection, wanted: Wanted) -> BulkResult:
        return await bulk.cancel_many(connection, wanted, by=by, reason=reason, limit=None, everything=False)

    return _act(options, runs, act, "cancel", bulk.ALIVE, yes=yes, children=True)


def retry_runs(options: Options, runs: Runs, *, by: str, reason: str | None, yes: bool, children: bool) -> int:
    """Let all runs go on that are found and failed, and give the exit code."""

    async def act(connection: StoreConnection, wanted: Wanted) -> BulkResult:
        return await bulk.retry_many(
            connection, wanted, by=by, reason=reason, limit=None, everything=False, children=children
        )

    return _act(options, runs, act, "retry", bulk.FAILED, yes=yes, children=children)


def _act(
    options: Options, runs: Runs, act: Act, kind: str, statuses: tuple[str, ...], *, yes: bool, children: bool
) -> int:
    runs = runs.in_time(options)
    printer = Printer(json=options.json)
    with options.store() as store:
        wanted = runs.wanted(store, options)
        if not yes:
            with store.log.reader() as reader:
                number = bulk.count_meant(reader, wanted, statuses, children=children)
            if printer.json:
                printer.object({"kind": kind, "runs": number, "done": False})
            else:
                printer.line(f"{count(number, 'run')} to {kind}; nothing is done. With --yes it is")
            return Exit.REFUSED
        told = asyncio.run(_done(act, StoreConnection(store), wanted))
    if printer.json:
        printer.object({
            "kind": kind, "done": True, "accepted": told.accepted, "kept": told.kept,
            "refused": dict(told.refused), "refused_count": told.refused_count,
        })  # fmt: skip
    else:
        _say(printer, kind, told)
    return Exit.REFUSED if told.refused_count and not (told.accepted or told.kept) else Exit.OK


async def _done(act: Act, connection: StoreConnection, wanted: Wanted) -> BulkResult:
    return await act(connection, wanted)


def _say(printer: Printer, kind: str, told: BulkResult) -> None:
    printer.line(f"{kind}: {count(told.accepted, 'run')}")
    if told.kept:
        printer.line((f"{count(told.kept, 'command')} kept for the next engine, since none is running", "yellow"))
    if told.refused_count:
        printer.line((f"{count(told.refused_count, 'run')} refused:", "red"))
    for run, why in list(told.refused.items())[:_SHOWN_MAX]:
        printer.line(f"  {run}: {why}")
