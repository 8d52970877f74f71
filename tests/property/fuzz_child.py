"""
Where damaged files are read: in processes that may die of it, and are watched.

LMDB trusts its pages, so reading a damaged file may end a process, or never end. To try that thousands of times a
process that has imported everything stands ready and forks a child for each try (`Nursery`). What a child may do is
named here; it says how it went in one line. One that is silent for too long is killed, and that is a finding.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from polos.errors import PolosError
from polos.runtime.folding import FOLD
from polos.store.check import verify
from polos.store.directory import open_store
from polos.store.walk import NOTE, _Walk

__all__ = ["Nursery", "Outcome"]

PATIENCE_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    How a try went.

    Attributes:
        how: "returned", "refused" (an error of polos), "raised" (any other), "died" or "hung".
        what: what it returned, the class of the error, or the name of the signal.
        text: the error's message, or the traceback of one that isn't ours.
    """

    how: str
    what: Any = None
    text: str = ""


# ------------------------------------------------------------------------------------- what may be tried


def walk(directory: str) -> dict[str, Any]:
    """Do what the child process of `verify` does."""
    with tempfile.TemporaryFile() as shared:
        shared.write(bytes(NOTE.size))
        shared.flush()
        walked = _Walk(Path(directory), shared.fileno())
        try:
            walked.run("all", FOLD)
        except PolosError as error:
            return {"ok": False, "error": type(error).__name__, "message": str(error), "records": walked.records}
        report = walked.report()
        return {"ok": True, "records": report.records, "chain": report.chain}


def verified(directory: str) -> dict[str, Any]:
    """Verify, with a child process of its own."""
    report = verify(directory, fold=FOLD)
    return {"ok": report.ok, "records": report.records, "message": report.damage and report.damage.message}


def opened(directory: str) -> str:
    """Open a store as an engine does that finds it not closed cleanly."""
    with open_store(directory) as store:
        store.acquire_ownership()
        store.release_ownership(clean=False)
    return "opened"


def read(directory: str) -> int:
    """Read everything through a store that is opened without a check, read-only."""
    count = 0
    with open_store(directory, read_only=True, check=False) as store, store.log.reader() as reader:
        for record in reader.records():
            count += 1
            for _ in reader.stream(record.stream, limit=3):
                pass
        for key, _ in reader.rows():
            reader.row(key)
    return count


JOBS = {job.__name__: job for job in (walk, verified, opened, read)}


# --------------------------------------------------------------------------------------- in the nursery


def _child(job: str, argument: str) -> Outcome:
    try:
        return Outcome(how="returned", what=JOBS[job](argument))
    except PolosError as error:
        return Outcome(how="refused", what=type(error).__name__, text=str(error))
    except BaseException as error:
        return Outcome(how="raised", what=type(error).__name__, text=traceback.format_exc())


def _watched(job: str, argument: str) -> Outcome:
    """Fork, try, and wait for so long."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        outcome = _child(job, argument)
        os.write(writing, json.dumps([outcome.how, outcome.what, outcome.text[-3000:]]).encode())
        os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], PATIENCE_SECONDS)
        said = os.read(reading, 1 << 16) if ready else b""
        if not ready:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(reading)
    if not ready:
        return Outcome(how="hung")
    if said:
        how, what, text = json.loads(said)
        return Outcome(how=how, what=what, text=text)
    return Outcome(how="died", what=signal.Signals(os.WTERMSIG(status)).name)


class Nursery:
    """A process that forks a child for each try."""

    def __enter__(self) -> Self:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.property.fuzz_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self._process.communicate(timeout=PATIENCE_SECONDS)
        assert self._process.returncode == 0

    def attempt(self, job: str, directory: Path) -> Outcome:
        """Try something in a fresh process; gives how it went."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([job, str(directory)]) + "\n")
        self._process.stdin.flush()
        how, what, text = json.loads(self._process.stdout.readline())
        return Outcome(how=how, what=what, text=text)


if __name__ == "__main__":
    for line in sys.stdin:
        tried = _watched(*json.loads(line))
        print(json.dumps([tried.how, tried.what, tried.text]), flush=True)
