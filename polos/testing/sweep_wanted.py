"""
What a sweep is asked for, and what is refused.

A sweep takes long, lives on another thread and runs code of the program hundreds of times: a slip in its arguments
that came out there would be told late, and as a failure of the workflow. So everything is looked at first, on the
caller's own line, by the names that the caller used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast, final

from polos.definition import Workflow
from polos.engine.decide import created_to_json
from polos.engine.json import Json
from polos.errors import PolosUsageError
from polos.runtime.starting import root_run
from polos.testing.asked import is_one_of, look_at_agent, look_at_patience, payload_for
from polos.testing.clock import VirtualClock
from polos.testing.lives import Task
from polos.testing.patience import PATIENCE_SECONDS
from polos.testing.program_memory import Memory
from polos.testing.sweep_outcome import CrashOutcome
from polos.testing.sweep_template import is_serving

__all__ = ["PAIRS", "PROCESSES", "Check", "Setup", "Wanted"]

__tracebackhide__ = True  # pytest shows the test's own lines, and the page

PAIRS: Final = 100
PROCESSES: Final = 0.05
DOWNTIME_SECONDS_MAX: Final = 3_200_000_000  # a century; times after the year 9999 can't be told

Check = Callable[[CrashOutcome], object]
Setup = Callable[[Path], object]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the caller asked for; the names are those of `crash_sweep`."""

    workflow: Workflow[Any]
    input: object = None
    initial_state: object = None
    check: Check | None = None
    setup: Setup | None = None
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    workflows: Sequence[Workflow[Any]] = ()
    real: bool = False
    processes: float = PROCESSES
    pairs: int = PAIRS
    points: int | None = None
    every_point: bool = False
    from_remains: bool | None = None
    seed: int = 0
    same: Callable[[Any, Any], object] | None = None
    patience_seconds: float = PATIENCE_SECONDS
    downtime_seconds: float = 0

    def look(self) -> None:
        """Refuse what makes no sense, before anything is begun."""
        if is_serving():
            raise PolosUsageError(
                "this module sweeps while it is imported, by a process that is to live a scenario of that very sweep; "
                "sweep in a test function, or under if __name__ == '__main__'"
            )
        if not isinstance(cast("object", self.workflows), Sequence):
            raise TypeError(f"workflows is a list of workflows, it is {self.workflows!r}")
        for workflow in (self.workflow, *self.workflows):
            look_at_agent(workflow)
            if not isinstance(cast("object", workflow), Workflow):
                raise TypeError(f"a sweep is of what @workflow gives, this is {workflow!r}")
        if not isinstance(cast("object", self.answers), Mapping):
            raise TypeError(f"answers is a dict of what is answered, by key, it is {self.answers!r}")
        payload_for(self.workflow, self.input)
        self._look_at_functions()
        self._look_at_values()

    def _look_at_functions(self) -> None:
        for name in ("check", "setup", "same"):
            value = getattr(self, name)
            if value is not None and (not callable(value) or inspect.iscoroutinefunction(value)):
                raise TypeError(f"{name} must be a plain function, it is {value!r}")
            if value is not None:
                _look_at_arguments(name, value, _GIVEN[name])
        for key, answer in self.answers.items():
            if callable(answer) and not isinstance(answer, type):
                _look_at_arguments(f"the function in answers for {key!r}", answer, ("a Waiting",))

    def _look_at_values(self) -> None:
        if not is_one_of(self.processes, int, float) or not 0 <= self.processes <= 1:
            raise ValueError(f"processes is a share from 0 to 1, it is {self.processes!r}")
        if not is_one_of(self.pairs, int) or self.pairs < 0:
            raise ValueError(f"pairs is a whole number from 0, it is {self.pairs!r}")
        for name in ("every_point", "from_remains", "real"):
            value, or_none = getattr(self, name), name == "from_remains"
            if not isinstance(value, bool) and not (or_none and value is None):
                raise TypeError(f"{name} is True or False{', or None' if or_none else ''}, it is {value!r}")
        if self.from_remains and (self.every_point or self.real):
            raise ValueError("from_remains lives fewer lives in this process; every_point and real ask for all of them")
        if not is_one_of(self.seed, int):
            raise TypeError(f"seed is a whole number, it is {self.seed!r}")
        if self.points is not None and (not is_one_of(self.points, int) or self.points < 1):
            raise ValueError(
                f"points is a whole number from 1, or None for all, it is {self.points!r}; a sweep without any shows "
                "nothing"
            )
        look_at_patience(self.patience_seconds)
        if not is_one_of(self.downtime_seconds, int, float) or not 0 <= self.downtime_seconds <= DOWNTIME_SECONDS_MAX:
            raise ValueError(
                f"downtime_seconds is a time from 0 to {DOWNTIME_SECONDS_MAX:,}, it is {self.downtime_seconds!r}"
            )

    @property
    def downtime_us(self) -> int:
        """How much time passes between a crash and the recovery."""
        return round(self.downtime_seconds * 1e6)

    @property
    def may_share(self) -> bool:
        """Whether scenarios in this process may begin with what another run left, if nothing is kept in memory."""
        return self.from_remains is not False and not (self.every_point or self.real)

    def memory(self) -> Memory:
        """Look what of the program may be kept in memory."""
        asked = [(f"the function in answers for {key!r}", answer) for key, answer in self.answers.items()]
        begins = [(f"workflow {one.id!r}", one) for one in (self.workflow, *self.workflows)]
        called: list[tuple[str, object]] = [(who, what) for who, what in asked if callable(what)]
        if type(self.answers) is not dict:
            called.append(("answers", self.answers))
        return Memory([*begins, *called], {one.id: one for one in (*self.workflows, self.workflow)})

    def task(self) -> Task:
        """Give what all lives have in common."""
        workflow = self.workflow
        payload = workflow.encode_payload(payload_for(workflow, self.input))
        created = root_run(
            workflow.id, payload, clock=VirtualClock(seed=self.seed), deployment="sweep",
            seconds=workflow.run_timeout_seconds, queue=workflow.queue_name,
            queue_limit=workflow.queue_concurrency_limit, tags=workflow.tags, initial_state=self.initial_state,
        )  # fmt: skip
        runs: list[Json] = [{"run": created.root, "created": created_to_json(created)}]
        command: dict[str, Json] = {"kind": "create", "runs": runs}
        known = {other.id: other for other in (*self.workflows, workflow)}
        return Task(
            run=created.root, command=command, workflows=known, answers=self.answers, seed=self.seed,
            listening=[other.id for other in known.values() if other.trigger is not None],
        )  # fmt: skip


_GIVEN: Final = {
    "check": ("the outcome",),
    "setup": ("the scenario's directory",),
    "same": ("the result found", "the undisturbed one"),
}


def _look_at_arguments(who: str, function: Callable[..., object], given: Sequence[str]) -> None:
    """Refuse a function that can't be called with what it will be given."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a function of C's, nobody knows
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        code = getattr(inspect.unwrap(function), "__code__", None)
        at = "" if code is None else f", defined at {code.co_filename}:{code.co_firstlineno}"
        raise TypeError(
            f"{who} is called with {' and '.join(given)}; it is {function!r}{at}, which takes {signature}: {error}"
        ) from None
