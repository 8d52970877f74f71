"""
The interpreter that lives in child processes are forked from.

How sets are ordered is fixed when an interpreter starts, and so are its environment and what its modules found when
they were imported. So there is more than one of these, each with its own, and the lives of a scenario take turns. A
life is forked from one that has everything imported and nothing opened: it costs milliseconds, and a killed one takes
nothing with it.

What a life gets of the lives before it are the files of the scenario: the log, what `setup` put there, and the ledger
of calls. What is asked and what comes back is JSON.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, final

from polos import registry
from polos.definition import Workflow
from polos.engine.json import Json
from polos.runtime.bodies import Bodies, Described
from polos.store.directory import open_store
from polos.testing.audit import Audit
from polos.testing.clock import START_US, VirtualClock
from polos.testing.failing import Raised, said_by
from polos.testing.lives import Life, Task
from polos.testing.outside import Place
from polos.testing.patience import PATIENCE_SECONDS
from polos.testing.program_threads import ProgramThreads
from polos.testing.run_chance import RunChance
from polos.testing.sweep_calls import CallLedger
from polos.testing.sweep_outcome import CrashOutcome, cut_short, outcome_of
from polos.testing.sweep_points import CrashPoint, Points
from polos.testing.sweep_room import put_in_place
from polos.types import Completed, NotDone

__all__ = ["ENDING", "OUTSIDE", "Answer", "Load", "Order", "Ref", "is_serving", "main", "to_bytes"]

DYING_SECONDS: Final = 1.0
OUTSIDE: Final = "outside"  # the user's part of a scenario's directory
ENDING: Final = "ending"
_DIED: Final = "died"


@final
@dataclass(frozen=True, slots=True)
class Ref:
    """What another process finds something by: a module, and the names that lead to it there."""

    module: str
    names: tuple[str, ...]

    def find(self) -> Any:
        """Give what it stands for."""
        found: Any = sys.modules[self.module]
        for name in self.names:
            found = getattr(found, name)
        return found


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """An answer on its way to another process: data, or a function to ask."""

    data: Json = None
    ref: Ref | None = None
    kind: str = "data"  # or "completed", "not_done": of a step

    def value(self) -> Any:
        """Give what `Task.answers` holds."""
        if self.ref is not None:
            return self.ref.find()
        return {"completed": Completed(self.data), "not_done": NotDone()}.get(self.kind, self.data)


@final
@dataclass(frozen=True, slots=True)
class Load:
    """Import these: names and files of modules, found on this path."""

    path: tuple[str, ...]
    modules: tuple[tuple[str, str], ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    A life to be lived.

    Attributes:
        directory: of the scenario.
        life: which one, from 1.
        crash_at: where it is killed.
        run: id of the root run.
        command: the command that creates it.
        workflows: the definitions.
        setup: the user's `setup`.
        answers: the user's `answers`.
        seed: of the sweep.
        listening: ids of the workflows whose triggers fire.
        patience_seconds: after which it is taken for stuck.
        downtime_us: how much time passes until the next one, if it is killed.
        environment: its variables.
    """

    directory: Path
    life: int
    crash_at: CrashPoint | None
    run: str
    command: dict[str, Json]
    workflows: tuple[Ref, ...]
    setup: Ref | None
    answers: Mapping[str, Answer] = field(default_factory=dict[str, Answer])
    seed: int = 0
    listening: Sequence[str] = ()
    patience_seconds: float = PATIENCE_SECONDS
    downtime_us: int = 0
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def to_bytes(request: Load | Order) -> bytes:
    """Write a request down for another process."""
    return json.dumps({"kind": type(request).__name__, **asdict(request)}, default=str).encode()


def _from_bytes(data: bytes) -> Load | Order:
    """Read what `to_bytes` wrote."""
    fields: dict[str, Any] = json.loads(data)
    if fields.pop("kind") == Load.__name__:
        return Load(tuple(fields["path"]), tuple((name, file) for name, file in fields["modules"]))
    fields["directory"] = Path(fields["directory"])
    fields["crash_at"] = fields["crash_at"] and CrashPoint(**fields["crash_at"])
    fields["workflows"] = tuple(map(_ref, fields["workflows"]))
    fields["setup"] = fields["setup"] and _ref(fields["setup"])
    fields["answers"] = {
        key: Answer(answer["data"], answer["ref"] and _ref(answer["ref"]), answer["kind"])
        for key, answer in fields["answers"].items()
    }
    return Order(**fields)


def _ref(fields: dict[str, Any]) -> Ref:
    return Ref(fields["module"], tuple(fields["names"]))


_described: dict[int, Described] = {}  # of this interpreter's workflows: their sources are read before lives are forked


_serving = False


def is_serving() -> bool:
    """Tell whether this is a process for the lives of others, which mustn't begin a sweep of its own."""
    return _serving


def main(descriptor: int) -> None:
    """Do what is asked on a connection, until it is closed."""
    global _serving  # noqa: PLW0603  # it is about the process
    _serving = True
    asked = Connection(descriptor)
    while True:
        try:
            request = _from_bytes(asked.recv_bytes())
        except EOFError:
            return
        answer = _load(request) if isinstance(request, Load) else _forked(request, asked)
        asked.send_bytes(json.dumps(answer).encode())


def _load(request: Load) -> str | None:
    """Import modules; gives a traceback, or None."""
    sys.path[:] = request.path
    try:
        for name, file in request.modules:
            _import(name, file)
    except BaseException:  # noqa: BLE001  # a module may raise anything; who asked is told
        return traceback.format_exc()
    known = registry.get_all_workflows()
    bodies = Bodies(known.get, described=_described)
    for workflow in known.values():
        bodies.describe_workflow(workflow)
    return None


def _import(name: str, file: str) -> None:
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == file:
        return
    try:
        found = None if name == "__main__" else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is not None and found.origin is not None and Path(found.origin).resolve() == Path(file).resolve():
        importlib.import_module(name)
        return
    # A program, which must not run as one here, or a test module that isn't on the path.
    own = "__mp_main__" if name == "__main__" else name
    loader = importlib.machinery.SourceFileLoader(own, file)  # said, for a program's name may have no .py at its end
    spec = importlib.util.spec_from_file_location(own, file, loader=loader)
    assert spec is not None, "it has a loader"
    assert spec.loader is not None, "which can be run"
    module = sys.modules[own] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module


def _forked(order: Order, asked: Connection) -> int:
    """Live a life in a fork; gives its exit code, negative for the signal that ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that the user's modules may have started
        process = os.fork()
    if process == 0:
        gc.freeze()
        code = 1
        try:
            asked.close()
            faulthandler.register(signal.SIGALRM, all_threads=False, chain=True)  # says where it is, and dies
            _live(order)
            code = 0
        except BaseException:  # noqa: BLE001  # the parent is told
            text = traceback.format_exc()
            (order.directory / ENDING).write_text(json.dumps(text), "utf-8")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    pidfd = os.pidfd_open(process)
    try:
        late = not _is_over(pidfd, order.patience_seconds)
        if late:
            os.kill(process, signal.SIGALRM)
            if not _is_over(pidfd, DYING_SECONDS):
                os.kill(process, signal.SIGKILL)  # it has a use of its own for that signal
    finally:
        os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return -signal.SIGALRM if late else code


def _is_over(pidfd: int, seconds: float) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


def _live(order: Order) -> None:
    put_in_place(order.environment)
    place = Place.current = Place(order.directory / OUTSIDE)
    known: dict[str, Workflow[Any]] = {}
    for ref in order.workflows:
        workflow: Workflow[Any] = ref.find()
        known[workflow.id] = workflow
    answers = {key: answer.value() for key, answer in order.answers.items()}
    task = Task(
        run=order.run, command=order.command, workflows=known, answers=answers, seed=order.seed, described=_described,
        listening=order.listening,
    )  # fmt: skip
    store = open_store(order.directory / "data", sync="off", check=False)  # a killed process loses nothing by it
    with store.log.reader() as reader:
        start_us = max(START_US, reader.head().time_us)
    died = order.directory / _DIED
    if died.exists():
        start_us = max(start_us, int(died.read_text()))
    audit, threads = Audit(store.log), ProgramThreads()
    ledger = CallLedger(order.directory / "calls.jsonl")
    ledger.life = order.life
    chance = RunChance(order.seed, audit)
    (order.directory / f"cut-{order.life}").write_text(str(audit.count()))
    clock = VirtualClock(start_us=start_us, chance=chance)
    points = Points(order.crash_at, die=partial(_die, clock, died, order.downtime_us))
    outcome: CrashOutcome
    try:
        if order.setup is not None:
            with said_by("setup"):
                order.setup.find()(place.path)
        life = Life(task, store=store, clock=clock, audit=audit, ledger=ledger, points=points, chance=chance)
        life.live()
        outcome = outcome_of(life)
        threads.wait()
    except Raised as raised:
        outcome = cut_short(audit, order.run, raised)
    (order.directory / ENDING).write_text(json.dumps(outcome.to_json()), "utf-8")


def _die(clock: VirtualClock, note: Path, downtime_us: int) -> None:
    note.write_text(str(clock.now_us() + downtime_us))  # time doesn't go back for the next life
    os.kill(os.getpid(), signal.SIGKILL)
