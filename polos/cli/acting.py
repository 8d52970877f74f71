"""What the commands do that change something; see polos/cli/app.py for what they take."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from polos.cli.options import Options
from polos.cli.printing import Printer, count
from polos.engine.json import Json
from polos.errors import CommandRefused
from polos.runtime import reads
from polos.runtime.addressing import Told, address, resume_address, tell
from polos.runtime.connection import ClientStore, Command, StoreConnection
from polos.runtime.folding import FOLD, ROWS_VERSION
from polos.store.backup import backup
from polos.store.check import verify

__all__ = ["act", "back_up", "cancel_run", "check_store", "drain_engine", "resume_run", "who"]

_DAMAGED = 3


def who() -> str:
    """Give who is at the terminal, to be recorded with what they did."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "cli"


def act(options: Options, text: str, command: Command, done: str) -> None:
    """
    Have a command decided by the run that somebody means.

    Args:
        options: what every command takes.
        text: the run.
        command: the command, without its run.
        done: what to say when it was accepted.
    """
    _tell(options, text, address, command, done)


def resume_run(options: Options, text: str, key: str, data: Json, *, everywhere: bool) -> None:
    """Answer a suspend."""

    def find(store: ClientStore, run: str) -> str:
        return resume_address(store, run, key)

    _tell(options, text, find, {"kind": "resume", "key": key, "data": data, "all": everywhere}, f"{key} is answered")


def cancel_run(options: Options, text: str, *, by: str, reason: str | None) -> None:
    """
    Ask a run to stop.

    Raises:
        CommandRefused: it is over.
    """
    command: Command = {"kind": "cancel", "by": by, "reason": reason}
    _tell(options, text, address, command, "it was asked to stop; once more forces it")


def drain_engine(options: Options, seconds: float) -> None:
    """
    Ask the engine that runs now to come to rest and stop.

    Raises:
        EngineNotRunning: there is none.
        CommandRefused: it can't.
    """
    with options.store() as store:
        with store.log.reader() as reader:
            epoch = int(reader.head().epoch)
        command: Command = {"kind": "drain", "seconds": seconds, "epoch": epoch}
        answer = asyncio.run(StoreConnection(store).execute(command))
    printer = Printer(json=options.json)
    if printer.json:
        printer.object({"kind": "drain", "outcome": answer["outcome"], "seconds": seconds})
    else:
        printer.line("the engine begins nothing any more, and stops when what is under way has come to rest")


def _tell(options: Options, text: str, find: Callable[[ClientStore, str], str], command: Command, done: str) -> None:
    with options.store() as store:
        run = options.find(store, text)
        connection = StoreConnection(store)
        told = asyncio.run(
            tell(connection, lambda found: find(found, run), lambda addressed, _: {**command, "run": addressed})
        )
        if command["kind"] == "cancel":
            _check_cancelled(store, told)
    printer = Printer(json=options.json)
    outcome = str(told.answer["outcome"])
    if printer.json:
        said: dict[str, Json] = {"run": told.run, "kind": command["kind"], "command_id": told.command_id}
        printer.object({**said, "outcome": outcome, "detail": told.answer.get("detail")})
    elif outcome == "queued":
        printer.line(f"{told.run}: ", ("kept for the next engine", "yellow"), ", since none is running")
    else:
        printer.line(f"{told.run}: {done}")


def _check_cancelled(store: ClientStore, told: Told) -> None:
    """
    See that there was something to cancel.

    Raises:
        CommandRefused: the run is over.
    """
    with store.log.reader() as reader:
        row = reads.run_row(reader, told.run)
    detail = told.answer.get("detail")
    # Kept for the next engine, it can be told from the log already what that one will find.
    stops = bool(detail.get("cancelled")) if isinstance(detail, dict) else row is None or not row.ended
    if not stops:
        status = "ended" if row is None else row.status
        raise CommandRefused(f"run {told.run} is over: {status}. There is nothing to stop")


# ------------------------------------------------------------------------------------------ store


def check_store(options: Options) -> int:
    """Check everything in the data directory, and give the exit code."""
    printer = Printer(json=options.json)
    report = verify(options.directory, fold=FOLD)
    damage = report.damage
    if printer.json:
        found = None
        if damage is not None:
            found = {"place": damage.place, "position": damage.position, "message": damage.message}
        printer.object({
            "ok": report.ok, "records": report.records, "rows": report.rows, "blobs": report.blobs,
            "chain": report.chain, "damage": found, "rows_version": report.rows_version,
            "rows_compared": report.rows_compared,
        })  # fmt: skip
    else:
        whole = ", ".join((count(report.records, "record"), count(report.rows, "row"), count(report.blobs, "blob")))
        if damage is None:
            rows = "the rows are what the records fold to"
            if not report.rows_compared:
                rows = f"the rows are those of another polos (version {report.rows_version}, ours is {ROWS_VERSION})"
            printer.line(("whole", "green"), f": {whole} are what was written, and {rows}")
            printer.line(f"chain {report.chain}")
        else:
            where = f" at record {damage.position}" if damage.position else ""
            printer.line(("damaged", "bold red"), f", first in {damage.place}{where}: {damage.message}")
            printer.line(f"before that, {whole} are what was written")
            printer.line("next: restore a backup")
    return 0 if damage is None else _DAMAGED


def back_up(options: Options, target: str) -> None:
    """Copy the data directory while an engine may be at work on it."""
    printer = Printer(json=options.json)
    report = backup(options.directory, target)
    head = report.head
    if printer.json:
        printer.object({
            "target": target, "position": head.position, "chain": head.chain.hex(), "blobs": report.blobs,
            "commands": report.commands,
        })  # fmt: skip
        return
    copied = (count(head.position, "record"), count(report.blobs, "blob"), count(report.commands, "waiting command"))
    printer.line(f"{target}: {', '.join(copied)}")
    printer.line(f"chain {head.chain.hex()}")
