"""What `polos test` does; see polos/cli/app.py for what it takes, and polos/testing/recorded.py for the file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from polos.cli.options import Options
from polos.cli.printing import Printer, count, plain
from polos.errors import PolosUsageError
from polos.testing.recorded import BadRecording, RecordedRun, record_run

__all__ = ["write_recording"]


def write_recording(options: Options, text: str, *, out: str | None, tree: bool, shared: bool) -> None:
    """
    Write a run to a file.

    Args:
        options: what every command takes.
        text: the run.
        out: the file; `-` is standard output.
        tree: whether the runs below it are taken as a whole.
        shared: whether others may read the file; one that is replaced keeps its mode otherwise.

    Raises:
        UnknownRun: there is no such run, or no engine has seen it yet.
        PolosUsageError: the run's body isn't deterministic, or the file can't be written, or is something else than a
            recorded run.
    """
    with options.store() as store:
        run = options.find(store, text)
        with store.log.reader() as reader:
            recorded = record_run(reader, run, tree=tree)
    if out == "-":
        sys.stdout.write(recorded.to_bytes().decode())
        return
    path = Path(out or f"{_file_name(recorded.workflow)}-{run[-8:]}.json")
    _check(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recorded.save(path, shared=shared or None)
    except OSError as error:
        raise PolosUsageError(f"{path} can't be written: {error.strerror}") from error
    printer = Printer(json=options.json)
    left_out = recorded.direct_runs()
    if printer.json:
        printer.object({
            "file": str(path), "run": run, "workflow": recorded.workflow, "records": len(recorded.records),
            "not_replayed": list(left_out), "goes_on_as": recorded.goes_on_as(),
        })  # fmt: skip
        return
    runs = dict.fromkeys(record.run for record in recorded.records)
    printer.line(f"{plain(str(path))}: {count(len(recorded.records), 'record')} of {count(len(runs), 'run')}")
    for one, workflow in left_out.items():
        printer.line(f"{one} of {plain(workflow)} won't be replayed: its body isn't deterministic")
    for one in recorded.goes_on_as():
        printer.line(f"it goes on as run {one}, which isn't in the file; --tree takes that, too")
    printer.line(("it holds what went in and came out; look through it before you share it", "yellow"))


def _file_name(workflow: str) -> str:
    """Make a part of a file's name; an id may hold anything."""
    return re.sub(r"[^\w.-]+", "_", workflow)[:100].lstrip(".") or "run"


def _check(path: Path) -> None:
    """Refuse to replace what isn't an older recording: a mistyped name must cost nobody a file."""
    if not path.exists():
        return
    try:
        RecordedRun.load(path)
    except BadRecording as error:
        raise PolosUsageError(f"{path} is there and isn't a recorded run, so it isn't replaced ({error})") from error
    except OSError as error:
        raise PolosUsageError(f"{path} is there and can't be read: {error.strerror}") from error
