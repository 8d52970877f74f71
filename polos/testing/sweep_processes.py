"""
Lives in child processes that are really killed.

A scenario's lives take turns between two interpreters that have different hash seeds, working directories, time zones
and environments, and that have imported the workflow's modules by themselves: whatever a run needs besides its log is
not there. The interpreters are started when they are first needed and serve every sweep of this process; a life has the
variables that its sweep began with, not what a step has set since.
"""

from __future__ import annotations

import atexit
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, final

from polos.definition import Workflow
from polos.errors import PolosUsageError
from polos.testing.lives import Task
from polos.testing.outside import take_away
from polos.testing.sweep_outcome import CrashOutcome
from polos.testing.sweep_points import CrashPoint
from polos.testing.sweep_template import ENDING, OUTSIDE, Answer, Load, Order, Ref, to_bytes
from polos.types import Completed, NotDone
from polos.values import encode

__all__ = ["Children", "LifeFailed"]

# What tells the two apart, beside their working directories. The first lives odd lives, the second even ones.
ENVIRONMENTS: Final[Sequence[Mapping[str, str]]] = (
    {"PYTHONHASHSEED": "101", "TZ": "America/Los_Angeles", "LC_ALL": "C.UTF-8", "POLOS_CRASH_LIVES": "odd"},
    {"PYTHONHASHSEED": "202", "TZ": "Pacific/Auckland", "LC_ALL": "C", "POLOS_CRASH_LIVES": "even"},
)

_BEGIN: Final = (
    "import json, os, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from polos.testing.sweep_template import main; main(int(sys.argv[1]))"
)


class LifeFailed(Exception):
    """A life in a child process ended in a way that no crash explains; the text says how."""


@final
class _Template:
    """One interpreter, seen from here."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._directory = Path(tempfile.mkdtemp(prefix="polos-lives-"))
        ours, theirs = socket.socketpair()
        with (self._directory / "output").open("wb") as output, theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter, our own code
                [sys.executable, "-c", _BEGIN, str(theirs.fileno()), json.dumps(_path())],
                env={**os.environ, **environment}, cwd=self._directory,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        self._connection = Connection(ours.detach())
        self._loaded: set[tuple[str, str]] = set()

    def load(self, modules: Sequence[tuple[str, str]]) -> str | None:
        """Have modules imported; gives a traceback, or None."""
        wanted = tuple(module for module in modules if module not in self._loaded)
        if not wanted:
            return None
        found: str | None = self._ask(Load(_path(), wanted))
        if found is None:
            self._loaded.update(wanted)
        return found

    def live(self, order: Order) -> int:
        """Have a life lived; gives its exit code."""
        code: int = self._ask(replace(order, environment={**order.environment, **self._environment}))
        return code

    def _ask(self, request: Load | Order) -> Any:
        try:
            self._connection.send_bytes(to_bytes(request))
            return json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise LifeFailed(f"the interpreter that lives are forked from has died:\n{self.said()}") from error

    def said(self) -> str:
        """Give the end of what its lives printed."""
        return (self._directory / "output").read_text("utf-8", "replace")[-4_000:]

    @property
    def alive(self) -> bool:
        """Whether lives can be asked of it."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it."""
        self._connection.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        take_away(self._directory)


def _path() -> tuple[str, ...]:
    return tuple(str(Path(entry).absolute()) for entry in sys.path)


@final
@dataclass
class _Interpreters:
    """The two of this process: started once, for an interpreter takes half a second."""

    both: tuple[_Template, ...] = ()
    process: int = 0

    def get(self) -> tuple[_Template, ...]:
        if self.process == os.getpid() and not all(template.alive for template in self.both):
            self.close()  # a life has taken its interpreter with it
        if not self.both or self.process != os.getpid():
            self.both, self.process = tuple(_Template(environment) for environment in ENVIRONMENTS), os.getpid()
            atexit.unregister(self.close)
            atexit.register(self.close)
        return self.both

    def close(self) -> None:
        both, self.both = self.both, ()
        if self.process == os.getpid():
            for template in both:
                template.close()


_interpreters = _Interpreters()


@final
class Children:
    """Lives the scenarios of one sweep in child processes."""

    def __init__(
        self,
        task: Task,
        *,
        workflows: Sequence[Workflow[Any]],
        setup: Callable[..., object] | None,
        patience_seconds: float,
        downtime_us: int,
        environment: Mapping[str, str],
    ) -> None:
        """
        Find out how another process finds what it needs.

        Args:
            task: what all lives have in common.
            workflows: those that the undisturbed run started.
            setup: the user's.
            patience_seconds: after which a life is taken for stuck.
            downtime_us: how much time passes between two lives.
            environment: of the lives, but for what tells them apart.

        Raises:
            PolosUsageError: it can't find something; the text says what, and what to do.
        """
        self._task = task
        self._patience_seconds = patience_seconds
        self._downtime_us = downtime_us
        self._environment = environment
        self._modules: dict[str, str] = {}
        known = {other.id: other for other in (*workflows, *task.workflows.values())}
        self._workflows = tuple(self._ref(other, f"workflow {other.id!r}") for other in known.values())
        self._setup = None if setup is None else self._ref(setup, "setup")
        self._answers = {key: self._answer(key, value) for key, value in task.answers.items()}

    def _answer(self, key: str, value: Any) -> Answer:
        if isinstance(value, NotDone) or value is NotDone:
            return Answer(kind="not_done")
        if isinstance(value, Completed):
            return Answer(data=encode(value.value, what=f"answer for {key!r}")[0].value, kind="completed")
        if callable(value):
            return Answer(ref=self._ref(value, f"the answer for {key!r}"))
        return Answer(data=encode(value, what=f"answer for {key!r}")[0].value)

    def _ref(self, wanted: Any, what: str) -> Ref:
        """Say how another process finds something: as a name of its module."""
        named: object = wanted
        func: Any = wanted.func if isinstance(wanted, Workflow) else wanted
        module = sys.modules.get(str(getattr(inspect.unwrap(func), "__module__", "")))
        names = _names(module, wanted) if module is not None else None
        if names is None and isinstance(wanted, Workflow):
            # An agent, or a tool that somebody makes for others: its function is at home elsewhere than its name.
            module, names = _holder(named) or (module, None)
        file = getattr(module, "__file__", None)
        if module is None or file is None or names is None or not Path(file).is_file():
            where = f"module {module.__name__!r}" if module is not None else "any module"
            raise PolosUsageError(
                f"{what} is no name of {where}, so that another process can't import it: define it at the top level "
                f"of a module that has a file, or sweep with processes=0, in this process alone"
            )
        self._modules[module.__name__] = str(Path(file).absolute())
        return Ref(module.__name__, names)

    def live(self, points: tuple[CrashPoint, ...], directory: Path, *, turn: int = 0) -> CrashOutcome:
        """
        Live a scenario.

        Args:
            points: where its lives are killed; the last one isn't.
            directory: for everything that outlives a process.
            turn: which interpreter has the first life.

        Raises:
            LifeFailed: a life ended otherwise.
        """
        templates = _interpreters.get()
        directory.mkdir(mode=0o700, parents=True)
        for number, crash_at in enumerate((*points, None), 1):
            template = templates[(number - 1 + turn) % len(templates)]
            failure = template.load(tuple(self._modules.items()))
            if failure is not None:
                raise PolosUsageError(f"another process can't import this (processes=0 does without):\n{failure}")
            order = Order(
                directory=directory, life=number, crash_at=crash_at, run=self._task.run, command=self._task.command,
                workflows=self._workflows, setup=self._setup, answers=self._answers, seed=self._task.seed,
                listening=self._task.listening,
                patience_seconds=self._patience_seconds, downtime_us=self._downtime_us, environment=self._environment,
            )  # fmt: skip
            code = template.live(order)
            if (directory / ENDING).exists():
                return self._ending(directory, number)
            if code != -signal.SIGKILL or crash_at is None:
                raise LifeFailed(f"life {number} {self._end(code)}; it printed:\n{template.said()}")
        raise AssertionError("the last life isn't killed")

    def _end(self, code: int) -> str:
        """Say how a life ended that nobody killed."""
        if code == -signal.SIGALRM:
            return f"took longer than {self._patience_seconds:g} s"
        if code < 0:
            return f"was ended by signal {-code} ({signal.strsignal(-code)})"
        return f"ended with exit code {code}"

    @staticmethod
    def _ending(directory: Path, life: int) -> CrashOutcome:
        ending: dict[str, Any] | str = json.loads((directory / ENDING).read_text("utf-8"))
        if isinstance(ending, str):
            raise LifeFailed(f"life {life} raised:\n{ending}")
        found = CrashOutcome.from_json(ending)
        found.directory = directory / OUTSIDE
        found.cuts = [int((directory / f"cut-{number}").read_text()) for number in range(2, life + 1)]
        return found


def _holder(wanted: object) -> tuple[types.ModuleType, tuple[str, ...]] | None:
    """Find the first module that has a workflow at its top level; None if there is none."""
    for module in list(sys.modules.values()):
        name = next((name for name, value in list(vars(module).items()) if value is wanted), None)
        if name is not None and getattr(module, "__file__", None):
            return module, (name,)
    return None


def _names(module: types.ModuleType, wanted: Any) -> tuple[str, ...] | None:
    """Give the names that lead from a module to something; None if there are none."""
    for name, value in vars(module).items():
        if value is wanted:
            return (name,)
    names = tuple(str(getattr(wanted, "__qualname__", "")).split("."))
    found: Any = module
    for name in names:
        found = getattr(found, name, None)
    return names if found is wanted and found is not None else None
