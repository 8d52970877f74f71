"""
Short lives of engines on one directory, and a client beside them.

A victim is forked from a process that has everything imported and nothing opened, so a life costs milliseconds. It
starts runs, notes what it is told, and lives until everything has ended or until it is killed: at a named point of
the commit path (`polos.points`), or at a moment that has nothing to do with any. The client is a process of its own
that outlives the victims. It answers suspends and says what became of steps of unknown outcome, by way of the inbox.

What is left out of a forked life is checked elsewhere and is the same each time: looking at a store that wasn't
closed cleanly in a fresh interpreter, and reading the sources of the workflows. `fresh_life` leaves out nothing.
"""

from __future__ import annotations

import asyncio
import functools
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polos import Polos, PolosClient
from polos.definition import Workflow
from polos.errors import CommandRefused, RunArchived
from polos.points import arm
from polos.runtime import app, bodies
from polos.runtime.code import describe_code
from polos.runtime.reads import ENDED_STATUSES
from polos.store.directory import open_store

from tests.crash.children import fork
from tests.crash.ledger import Ledger
from tests.crash.load import WORKFLOWS, answer_to, mixed, witness

__all__ = [
    "PATIENCE_SECONDS",
    "Plan",
    "client",
    "described",
    "die_at",
    "forked",
    "fresh_life",
    "killed_life",
    "light",
    "main",
    "warm",
]

PATIENCE_SECONDS = 60.0
_RUNS_A_LIFE = 2
_described = functools.cache(describe_code)


@dataclass(frozen=True, slots=True)
class Plan:
    """
    How a life ends.

    Attributes:
        number: of the life; names what it makes.
        point: the point at which it is killed, None for a moment.
        nth: at which time it comes there.
        seconds: after which time it is killed; None for not at all.
        runs: how many runs it starts.
    """

    number: int
    point: str | None = None
    nth: int = 1
    seconds: float | None = None
    runs: int = _RUNS_A_LIFE


def warm() -> None:
    """Read the sources of the workflows once, in the process that victims are forked from."""
    for workflow in WORKFLOWS:
        described(workflow)


def described(workflow: Workflow) -> None:
    """Read the sources of a workflow once, for all lives that are forked from this process."""
    _described(workflow.func, name=workflow.id)


def die_at(point: str, nth: int) -> Callable[[str], None]:
    """Make a hook that kills the process when it comes to a point for the `nth` time."""
    lock = threading.Lock()
    left = nth

    def hook(reached: str) -> None:
        nonlocal left
        if reached == point:
            with lock:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    return hook


# ------------------------------------------------------------------------------------------ a victim's life


async def live(directory: Path, plan: Plan) -> None:
    """Own the directory, start runs, and wait until everything in it has ended."""
    async with Polos(data_dir=directory / "data", inbox_poll_seconds=0.002) as polos:
        ledger = witness.use(directory, str(plan.number), polos.engine.store.log)
        for index in range(plan.runs):
            # Not known before it is answered: a run that nobody was told of may be lost.
            handle = await mixed.invoke(polos, {"number": plan.number + index})
            ledger.note("created", handle.id)
        await _until_ended(polos, lambda run, found: ledger.note("ended", run, found["result"]))


async def _until_ended(polos: PolosClient, told: Callable[[str, dict[str, Any]], None]) -> None:
    seen: set[str] = set()
    store = polos._connection().store
    moves = polos._connection().moves()
    while True:
        head = moves.head()
        everything = await polos.list_executions(limit=10_000)
        for row in everything:
            if row["status"] in ENDED_STATUSES and row["id"] not in seen:
                seen.add(row["id"])
                told(row["id"], await polos.get_execution(row["id"]))
        if len(seen) == len(everything) and not store.inbox.pending():
            return
        await moves.behind(head)


def light() -> None:
    """Leave out of this process what each life would do in the same way, and what takes longer than a life."""
    vars(app)["open_store"] = functools.partial(open_store, check=False)
    vars(bodies)["describe_code"] = _described


def _run_life(directory: Path, plan: Plan) -> None:
    if plan.point is not None:
        arm(die_at(plan.point, plan.nth))
    light()
    asyncio.run(live(directory, plan))


def killed_life(directory: Path, plan: Plan) -> int:
    """
    Live a life in a forked child; gives its exit code, negative for the signal that ended it.

    Raises:
        AssertionError: it neither ended nor was killed in time.
    """
    return forked(lambda: _run_life(directory, plan), kill_after_seconds=plan.seconds)


def fresh_life(directory: Path, plan: Plan) -> int:
    """Live a life in an interpreter of its own, with all that belongs to one; gives its exit code."""
    arguments = [str(directory), str(plan.number), plan.point or "", str(plan.nth), str(plan.runs)]
    code = "from tests.crash.engine_lives import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], timeout=PATIENCE_SECONDS, check=False)
    return done.returncode


def main() -> None:
    """Live a life as the arguments say."""
    directory, number, point, nth, runs = sys.argv[1:]
    plan = Plan(int(number), point or None, int(nth), runs=int(runs))
    if plan.point is not None:
        arm(die_at(plan.point, plan.nth))
    asyncio.run(live(Path(directory), plan))


def forked(function: Callable[[], object], *, kill_after_seconds: float | None = None) -> int:
    """
    Run a function in a forked child; gives its exit code, negative for the signal that ended it.

    Args:
        function: what it does.
        kill_after_seconds: when it is killed; without, it has to end by itself.

    Raises:
        AssertionError: it didn't.
    """
    process = _fork_and_run(function)
    pidfd = os.pidfd_open(process)
    try:
        patience = PATIENCE_SECONDS if kill_after_seconds is None else kill_after_seconds
        over, _, _ = select.select([pidfd], [], [], patience)
        if not over:
            os.kill(process, signal.SIGKILL)
    finally:
        os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert over or kill_after_seconds is not None, f"the life neither ended nor came to its point: {process}"
    return code


def _fork_and_run(function: Callable[[], object]) -> int:
    process = fork()
    if process == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


# ------------------------------------------------------------------------------------------------ the client


@contextmanager
def client(directory: Path, attend: Callable[[Path], Coroutine[Any, Any, None]] | None = None) -> Generator[int]:
    """Have a process beside that answers, resolves and readmits, or does what `attend` says; gives its pid."""
    process = _fork_and_run(lambda: asyncio.run((attend or _attend)(directory)))
    try:
        yield process
    finally:
        ended, status = os.waitpid(process, os.WNOHANG)
        if not ended:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        assert not ended, f"the client died of {os.waitstatus_to_exitcode(status)}"


async def _attend(directory: Path) -> None:
    ledger = Ledger(directory)
    polos = PolosClient(data_dir=directory / "data", client_timeout_seconds=PATIENCE_SECONDS)
    moves = polos._connection().moves()
    answered: set[str] = set()
    while True:
        head = moves.head()
        for row in await polos.list_executions(status="suspend", limit=10_000):
            run = row["id"]
            if run not in answered:
                await _say(polos.resume("mixed", run, "ask", answer_to(run)))
                answered.add(run)
                ledger.note("answered", run, answer_to(run))
        for row in await polos.list_executions(status="step_outcome_unknown", limit=10_000):
            await _resolve(polos, ledger, row["id"])
        for row in await polos.list_executions(status="poisoned", limit=10_000):
            await _say(polos.readmit(row["id"]))
        await moves.behind(head)


async def _resolve(polos: PolosClient, ledger: Ledger, run: str) -> None:
    """Say what became of the step that may be called once: who has the ledger knows."""
    key = f"{run}/once"
    done = [line.more for line in ledger.lines("done") if line.key == key]
    if done:
        said = await _say(polos.resolve(run, "once", "completed", done[0]))
    elif ledger.calls(key):
        said = await _say(polos.resolve(run, "once", "completed", "called, and killed inside"))
    else:
        said = await _say(polos.resolve(run, "once", "not_done"))
    if said:
        ledger.note("resolved", key)


async def _say(command: Awaitable[None]) -> bool:
    """
    Give a command; False if it came too late.

    An earlier one was only kept and is decided now, and the run may even have ended and been archived since.
    """
    try:
        await command
    except (CommandRefused, RunArchived):
        return False
    return True
