"""
The course of a sweep: which scenarios are played, and what is held against each.

The undisturbed run comes first and twice: the first says what is right, the second what says nothing, because it
differs although nothing happened. Then come the points one by one, then those that are tried in child processes
besides, then pairs. Of points in this process at which a crash leaves the same behind, one is tried for all: recovery
is made of what is left, and of nothing else. Which one that is depends on the seed. What fails first ends the sweep;
before that the same crash is tried the other way, in child processes or in this one, since that tells the reader where
to look.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from types import CoroutineType
from typing import Any, Final, cast, final

from polos.definition import Workflow
from polos.engine.decide import created_to_json
from polos.engine.json import Json
from polos.errors import PolosUsageError
from polos.points import disarm
from polos.replay.stdlib import unawaited
from polos.runtime.starting import root_run
from polos.testing.audit import Audit
from polos.testing.clock import START_US, VirtualClock
from polos.testing.failing import says_no
from polos.testing.garbage import seldom_collected
from polos.testing.lives import Life, RunChance, Task
from polos.testing.outside import Place
from polos.testing.patience import PATIENCE_SECONDS, Hang, Patience, Turn, is_lost
from polos.testing.store import MemoryStore
from polos.testing.sweep_calls import CallLedger
from polos.testing.sweep_hanging import Scene, hangs
from polos.testing.sweep_outcome import CrashOutcome, differences, outcome_of, unsteady
from polos.testing.sweep_points import CrashPoint, Points, grouped, numbered
from polos.testing.sweep_processes import Children, LifeFailed
from polos.testing.sweep_report import POINT_VARIABLE, CrashReport, CrashSweepFailed
from polos.testing.sweep_template import OUTSIDE, is_serving

__all__ = ["PAIRS", "PROCESSES", "Check", "Setup", "Wanted", "swept"]

__tracebackhide__ = True  # pytest shows the test's own lines, and the page

PAIRS: Final = 100
PROCESSES: Final = 0.05
STRETCHES_MAX: Final = 8  # between commits: so many child processes are tried at least
_COMMIT: Final = "after_append_before_handback"

SWEEPING = Turn()  # the points and the place of a process are one sweep's at a time

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
    seed: int = 0
    same: Callable[[Any, Any], object] | None = None
    patience_seconds: float = PATIENCE_SECONDS

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
            if not isinstance(cast("object", workflow), Workflow):
                raise TypeError(f"a sweep is of what @workflow gives, this is {workflow!r}")
        if not isinstance(cast("object", self.answers), Mapping):
            raise TypeError(f"answers is a dict of what is answered, by key, it is {self.answers!r}")
        self._look_at_values()

    def _look_at_values(self) -> None:
        for name in ("check", "setup", "same"):
            value = getattr(self, name)
            if value is not None and (not callable(value) or inspect.iscoroutinefunction(value)):
                raise TypeError(f"{name} must be a plain function, it is {value!r}")
        if not _is(self.processes, int, float) or not 0 <= self.processes <= 1:
            raise ValueError(f"processes is a share from 0 to 1, it is {self.processes!r}")
        if not _is(self.pairs, int) or self.pairs < 0:
            raise ValueError(f"pairs is a whole number from 0, it is {self.pairs!r}")
        for name in ("every_point", "real"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is True or False, it is {getattr(self, name)!r}")
        if not _is(self.seed, int):
            raise TypeError(f"seed is a whole number, it is {self.seed!r}")
        if self.points is not None and (not _is(self.points, int) or self.points < 0):
            raise ValueError(f"points is a whole number from 0, or None for all, it is {self.points!r}")
        if not _is(self.patience_seconds, int, float) or not self.patience_seconds > 0:
            raise ValueError(f"patience_seconds is a time over 0, it is {self.patience_seconds!r}")

    def task(self) -> Task:
        """Give what all lives have in common."""
        workflow = self.workflow
        created = root_run(
            workflow.id, workflow.encode_payload(self.input), clock=VirtualClock(seed=self.seed), deployment="sweep",
            seconds=workflow.run_timeout_seconds, queue=workflow.queue_name,
            queue_limit=workflow.queue_concurrency_limit, tags=workflow.tags, initial_state=self.initial_state,
        )  # fmt: skip
        runs: list[Json] = [{"run": created.root, "created": created_to_json(created)}]
        command: dict[str, Json] = {"kind": "create", "runs": runs}
        known = {other.id: other for other in (*self.workflows, workflow)}
        return Task(run=created.root, command=command, workflows=known, answers=self.answers, seed=self.seed)


def _is(value: object, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def swept(wanted: Wanted, stop: threading.Event, patience: Patience) -> CrashReport:
    """Sweep, on this thread, until `stop` is set or patience with a scenario is over; one sweep at a time."""
    thread, log = threading.get_ident(), logging.getLogger("polos")

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread  # what an engine says of a run that diverged stands in the failure

    with SWEEPING.of(patience), seldom_collected():
        log.addFilter(elsewhere)
        try:
            return _Sweep(wanted, stop, patience).run()
        finally:
            log.removeFilter(elsewhere)


@final
class _Sweep:
    """One sweep, on its thread."""

    def __init__(self, wanted: Wanted, stop: threading.Event, patience: Patience) -> None:
        self._wanted = wanted
        self._stop = stop
        self._patience = patience
        self._scene = Scene(())
        patience.failure = self._hangs
        self._task = wanted.task()
        self._chance = Random(wanted.seed)
        self._report = CrashReport(workflow=wanted.workflow.id, seed=wanted.seed)
        self._expected: CrashOutcome | None = None
        self._left: list[object] = []
        self._leave_out: set[tuple[Any, ...]] = set()
        self._leave_out_real: set[tuple[Any, ...]] = set()
        self._children: Children | None = None
        self._expected_real: CrashOutcome | None = None
        self._recoveries: dict[CrashPoint, list[CrashPoint]] = {}  # points of the recovery, one of those alike
        self._alike: dict[CrashPoint, tuple[CrashPoint, ...]] = {}  # by the one that is tried for all
        self._place = Path()

    def run(self) -> CrashReport:
        """Sweep."""
        began = time.monotonic()
        self._place = Path(tempfile.mkdtemp(prefix="polos-sweep-"))
        try:
            target = self._target()
            if target is None:
                self._all()
            elif target:
                real, points = _parse_target(target)
                self._undisturbed(children=real)
                self._try(points, real=real)
                self._report.notes.append(f"only {POINT_VARIABLE}={target} was tried")
            else:
                self._report.notes.append(f"{POINT_VARIABLE} names another sweep")
        finally:
            self._leave()
        self._report.seconds = time.monotonic() - began
        return self._report

    def _leave(self) -> None:
        if not is_lost():  # else others have come since
            Place.current = None
        shutil.rmtree(self._place, ignore_errors=True)

    def _all(self) -> None:
        wanted, report = self._wanted, self._report
        self._undisturbed(children=wanted.real or wanted.processes > 0)
        singles = self._different(report.points, self._left)
        self._alike = {group[wanted.seed % len(group)]: group for group in singles}
        if wanted.points is not None and wanted.points < len(singles):
            drawn = set(self._chance.sample(list(self._alike), wanted.points))
            self._alike = {point: (point,) for point in self._alike if point in drawn}
        for point, group in self._alike.items():
            self._try((point,), real=wanted.real)
            report.singles += len(group)
            report.alike += len(group) - 1
        if not wanted.real:
            for point in self._drawn([point for group in self._alike.values() for point in group]):
                self._try((point,), real=True)
        first = self._expected
        if first is not None and first.replayed:
            self._fail(first, (), first.replayed, "the undisturbed run")
        for pair in self._pairs():
            self._try(pair, real=wanted.real)
            report.pairs += 1

    def _drawn(self, singles: Sequence[CrashPoint]) -> list[CrashPoint]:
        """
        Give the points that are tried in child processes besides.

        What one process remembers for the next step is missed by a kill between certain commits alone, so they are
        spread over all; the last point is one of them, for all of a history is replayed there.
        """
        if not self._wanted.processes or not singles:
            return []
        stretches = sum(point.name == _COMMIT for point in singles)
        share = math.ceil(len(singles) * self._wanted.processes)
        count = min(len(singles), max(2, share, min(stretches + 1, STRETCHES_MAX)))
        last = len(singles) - 1
        edges = [last * number // (count - 1) for number in range(count)] if count > 1 else []
        drawn = [self._chance.randrange(low, high) for low, high in pairwise(edges)]
        return [singles[index] for index in (*drawn, last)]

    def _different(self, points: Sequence[CrashPoint], left: Sequence[object]) -> list[tuple[CrashPoint, ...]]:
        """Give points in groups of which one is tried."""
        if self._wanted.real or self._wanted.every_point or not left:
            return [(point,) for point in points]
        return grouped(points, left)

    def _pairs(self) -> list[tuple[CrashPoint, CrashPoint]]:
        every = [(first, second) for first in self._alike for second in self._recoveries.get(first, ())]
        drawn = sorted(self._chance.sample(range(len(every)), min(self._wanted.pairs, len(every))))
        return [every[index] for index in drawn]

    # ---------------------------------------------------------------------------------- undisturbed

    def _undisturbed(self, *, children: bool) -> None:
        """Find the points and what is right, and look whether it is right a second time; then get child processes."""
        forgotten: set[str] = set()
        with unawaited(partial(_note_unawaited, forgotten)):
            first = self._expected = self._scenario(())
        first.problems += sorted(forgotten)
        self._judge(first, (), "the undisturbed run")
        if first.status not in ("completed", "failed", "cancelled"):
            self._fail(first, (), [f"the undisturbed run ends as {first.status}"], "the undisturbed run doesn't end")
        if first.status != "completed" and self._wanted.check is None:
            # It may be about just that; but a slip in a test would make a sweep of nothing, which survives anything.
            why = "" if first.error is None else f": {first.error[0]}: {first.error[1]}"
            self._fail(first, (), [f"the run {first.status}{why}{_SAY_SO}"], "the undisturbed run")
        self._report.points = tuple(numbered(first.recovery))
        second = self._scenario(())
        groups = [grouped(numbered(run.recovery), run.left) for run in (first, second)]
        if groups[0] == groups[1]:
            self._left = first.left  # else the next scenario may come to them by another way
        self._leave_out = unsteady(first, second)
        self._report.left_out = _places(self._leave_out)
        self._judge(second, (), "a second undisturbed run (does setup begin anew?)")
        if children:
            used = [self._task.find(execution.workflow) for execution in first.executions]
            self._children = Children(
                self._task,
                workflows=[workflow for workflow in used if workflow is not None],
                setup=self._wanted.setup,
                patience_seconds=self._wanted.patience_seconds,
            )

    # ------------------------------------------------------------------------------------ scenarios

    def _try(self, points: tuple[CrashPoint, ...], *, real: bool) -> None:
        if real:
            self._expect_real()
        outcome = self._scenario(points, real=real)
        if self._may_have_pairs(points) and points[0] not in self._recoveries:
            groups = self._different(numbered(outcome.recovery), outcome.left)
            self._recoveries[points[0]] = [group[self._wanted.seed % len(group)] for group in groups]
        self._report.unknown += outcome.unknown
        self._report.missed += len(outcome.cuts) < len(points)
        where = " and then at ".join(map(str, points))
        self._judge(outcome, points, f"a crash at {where}")

    def _may_have_pairs(self, points: tuple[CrashPoint, ...]) -> bool:
        """Tell whether it matters to what a crash leaves behind in the recovery from these."""
        return len(points) == 1 and self._wanted.pairs > 0

    def _expect_real(self) -> None:
        """Find what is right in child processes, which may see another time zone or directory than this one."""
        if self._expected_real is not None:
            return
        here, there = self._expected, self._scenario((), real=True)
        assert here is not None, "the undisturbed run comes first"
        self._expected_real = there
        what = "the undisturbed run, in a child process,"
        self._judge(there, (), what)
        # What functions give may hang on the process: its number, its directory, its time zone.
        of_processes = unsteady(there, self._scenario((), real=True, turn=1)) - self._leave_out
        self._leave_out_real = self._leave_out | of_processes
        if of_processes:
            places = ", ".join(_places(of_processes))
            self._report.notes.append(f"not compared in child processes, because each says otherwise: {places}")
        others = differences(here, there, leave_out=self._leave_out_real, same=self._wanted.same)
        shapes = [[(run.path, run.status) for run in outcome.executions] for outcome in (here, there)]
        if sorted(shapes[0]) != sorted(shapes[1]):
            self._fail(there, (), others, what)
        elif others:
            self._report.notes.append(f"in a child process it is otherwise without a crash, too: {others[0]}")

    def _scenario(self, points: tuple[CrashPoint, ...], *, real: bool = False, turn: int = 0) -> CrashOutcome:
        if self._stop.is_set():
            raise PolosUsageError("the sweep was stopped: nobody waits for it any more")
        self._report.scenarios += 1
        directory = self._place / str(self._report.scenarios)
        if real:
            assert self._children is not None, "there are child processes"
            self._report.processes += 1
            self._scene = Scene(points, number=len(points) + 1, real=True)
            self._patience.pause()  # they have their own
            try:
                outcome = self._children.live(points, directory, turn=turn)
            except LifeFailed as error:
                outcome = CrashOutcome(status="absent", in_process=False, problems=[str(error)])
            Place.current = Place(directory / OUTSIDE)
        else:
            outcome = self._in_process(points, directory / OUTSIDE)
        outcome.crashes = tuple(map(str, points))
        return outcome

    def _in_process(self, points: tuple[CrashPoint, ...], directory: Path) -> CrashOutcome:
        scene = self._scene = Scene(points)
        place = Place.current = Place(directory)
        store = MemoryStore()
        audit, ledger = Audit(store.log), CallLedger()
        cuts: list[int] = []
        outcome: CrashOutcome | None = None
        now_us = START_US
        compares = not points or self._may_have_pairs(points)
        for number, crash_at in enumerate((*points, None), 1):
            scene.number, scene.life = number, None
            self._patience.begin(scene.who)
            place.dead = False
            ledger.life = number
            chance = RunChance(self._wanted.seed, number, audit)
            clock = VirtualClock(start_us=now_us, chance=chance)
            if self._wanted.setup is not None:
                scene.doing = "setup"
                self._wanted.setup(place.path)
            life = scene.life = Life(
                self._task,
                store=store,
                clock=clock,
                audit=audit,
                ledger=ledger,
                points=Points(crash_at, die=place.close),
                chance=chance,
                changes=store.changes if compares and crash_at is None else None,
            )
            if number > 1:
                cuts.append(life.cut)
            scene.doing = "life"
            try:
                life.live()
                scene.doing = "replay"
                outcome = None if life.points.dead else outcome_of(life)
            finally:
                place.dead = True
                self._patience.spare()
                life.close()
            scene.doing = ""
            life.forget()
            now_us = clock.now_us()
            if outcome is not None:
                break
        assert outcome is not None, "the last life isn't crashed"
        audit.close()
        place.dead = False
        outcome.directory = directory
        outcome.cuts = cuts
        return outcome

    # -------------------------------------------------------------------------------------- judging

    def _judge(self, outcome: CrashOutcome, points: tuple[CrashPoint, ...], what: str) -> None:
        told, error = self._told(outcome)
        if told:
            self._fail(outcome, points, told, what, error)

    def _told(self, outcome: CrashOutcome) -> tuple[list[str], BaseException | None]:
        """Say what is wrong with a scenario, and what the user's check raised."""
        expected = self._expected if outcome.in_process else self._expected_real
        assert expected is not None, "the undisturbed run comes first"
        self._scene.doing = "check"
        self._patience.begin(self._scene.who)
        leave_out = self._leave_out if outcome.in_process else self._leave_out_real
        told = differences(expected, outcome, leave_out=leave_out, same=self._wanted.same)
        if told or self._wanted.check is None or outcome.unknown:
            return told, None
        try:
            said = self._wanted.check(outcome)
        except BaseException as error:
            if not says_no(error):
                raise
            return [f"check: {type(error).__name__}: {error}"], error
        if said is False or inspect.isawaitable(said):
            if inspect.iscoroutine(said):
                said.close()
            raise TypeError(f"check is a plain function that raises where something is wrong, it returned {said!r}")
        return [], None

    def _fail(
        self,
        outcome: CrashOutcome,
        points: tuple[CrashPoint, ...],
        told: list[str],
        what: str,
        error: BaseException | None = None,
    ) -> None:
        real, name = not outcome.in_process, self._wanted.workflow.id
        events, cut = outcome.events, outcome.cuts[-1] if outcome.cuts else len(outcome.events)
        if not points:
            raise CrashSweepFailed(
                f"{name}: {what} is wrong by itself, no crash is needed",
                points=(), differences=told, before=events, after=[], target="", real=real,
                notes=(_RUN_ONCE_MORE,) if error is not None else (),
            ) from error  # fmt: skip
        place = "child processes" if real else "this process"
        raise CrashSweepFailed(
            f"{name} doesn't survive {what} (seed {self._wanted.seed}, in {place})",
            points=points, differences=told, before=events[:cut], after=events[cut:], real=real,
            target=self._target_of(points, real=real),
            notes=(*self._others(points, real=real), *self._elsewhere(points, real=real, by_check=error is not None)),
        ) from error  # fmt: skip

    def _others(self, points: tuple[CrashPoint, ...], *, real: bool) -> tuple[str, ...]:
        """Say which points this one was tried for."""
        others = [str(point) for point in self._alike.get(points[0], ()) if point != points[0]]
        if real or len(points) > 1 or not others:
            return ()
        return (f"A crash at {', '.join(others)} leaves the same behind, so it wasn't tried by itself.",)

    def _hangs(self, hang: Hang) -> CrashSweepFailed:
        """Say that a scenario hung; on another thread, for this one has come to its end or is lost."""
        scene, lost = self._scene, self._patience.lost
        if lost:
            if scene.life is not None:
                disarm(scene.life.points)
            Place.current = None
            shutil.rmtree(self._place, ignore_errors=True)
            SWEEPING.give_back(self._patience)
        return hangs(
            self._wanted.workflow.id, scene, hang, lost=lost, target=self._target_of(scene.points, real=scene.real)
        )

    def _elsewhere(self, points: tuple[CrashPoint, ...], *, real: bool, by_check: bool) -> tuple[str, ...]:
        """Say what the same crash does in child processes if it failed in this one, and the other way round."""
        if self._children is None:
            return ()
        try:
            if not real:
                self._expect_real()
            told, _ = self._told(self._scenario(points, real=not real))
        except (CrashSweepFailed, PolosUsageError):
            return ()
        if told:
            return ("The same crash does harm in this process, too." if real else
                    "The same crash does harm in child processes, too.",)  # fmt: skip
        return (_ONLY_REAL + (_IN_MEMORY if by_check else ""),) if real else (_ONLY_HERE,)

    # ----------------------------------------------------------------------------------- one point

    def _name(self) -> str:
        """Tell this sweep from others of the same test."""
        created = json.dumps(self._task.command, sort_keys=True, default=str)
        return f"{self._wanted.workflow.id}@{hashlib.sha256(created.encode()).hexdigest()[:6]}"

    def _target_of(self, points: tuple[CrashPoint, ...], *, real: bool = False) -> str:
        return f"{self._name()}/{'real/' if real else ''}{'+'.join(map(str, points))}"

    def _target(self) -> str | None:
        """Give the one scenario that is wanted; "" if it is another sweep's, None if all are."""
        wanted = os.environ.get(POINT_VARIABLE)
        if not wanted:
            return None
        name = f"{self._name()}/"  # an id may hold a slash itself
        return wanted.removeprefix(name) if wanted.startswith(name) else ""


def _note_unawaited(forgotten: set[str], coroutine: CoroutineType[Any, Any, Any]) -> bool:
    """Note what code asks polos for and doesn't wait for; of anything else Python warns."""
    if not Path(coroutine.cr_code.co_filename).is_relative_to(_POLOS):
        return False
    file, line, _ = coroutine.cr_origin[0] if coroutine.cr_origin else ("?", 0, "")
    forgotten.add(f"{coroutine.__qualname__} is called at {file}:{line} and never awaited, so it does nothing")
    return True


def _places(left_out: set[tuple[Any, ...]]) -> tuple[str, ...]:
    return tuple(sorted({"/".join(map(str, place[1:])) for place in left_out}))


def _parse_target(target: str) -> tuple[bool, tuple[CrashPoint, ...]]:
    real = target.startswith("real/")
    points = target.removeprefix("real/").split("+")
    return real, tuple(CrashPoint.parse(point) for point in points)


_RUN_ONCE_MORE: Final = (
    "Before the check its code was run on its history once more, as after a crash: no function of a step is called "
    "then, but what a body does besides steps is done again."
)
_POLOS: Final = Path(__file__).parent.parent
_SAY_SO: Final = "; if it is meant to, give a `check` that looks at the outcome's `status` and `error`"
_ONLY_HERE: Final = (
    "The same crash does no harm in child processes, where the process is really killed. Look for what this process "
    "remembers of scenarios before: a module's variable, a cache, a fake that is kept in memory and that setup doesn't "
    "make anew; or for a `finally` or `with` in a step's function that acts when the coroutine is closed."
)
_ONLY_REAL: Final = (
    "The same crash does no harm in this process. Look for what a process doesn't know of the one before it: the order "
    "of a set, a module's variable, a cache, the environment, the working directory, the time zone."
)
_IN_MEMORY: Final = (
    " If what steps act upon is kept in memory, it is gone with the process: keep it in files of the directory that "
    "setup gets, in an Outside, or sweep with processes=0."
)
