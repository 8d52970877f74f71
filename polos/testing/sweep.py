"""
Crashing a workflow at every point, and looking whether anybody can tell.

One undisturbed run says which points there are and what is right. Then each point is a scenario: a new log, a new
outside world, a life that dies there, and lives that go on with what the log has, to the end. Whoever looks from
outside must find what the undisturbed run left: results, errors, states, children, rows that are the fold of the log, a
history that replays, and no call of an effect more than its class allows. Pairs of crashes are tried by a budget, the
second at a point of the recovery from the first.

Most scenarios are lived in this process, because that costs a millisecond and not a second. But what one process
remembers it can't forget: the order of its sets, its modules' variables, its caches. So a share of them is lived in
child processes that are killed, see `sweep_processes`.

A sweep runs on a thread of its own, since engines in it need a loop of their own and the program's is running; one at a
time, since the points of `polos.points` are the process's.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import inspect
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, final

from polos.definition import Workflow
from polos.engine.decide import created_to_json
from polos.engine.json import Json
from polos.errors import PolosUsageError
from polos.runtime.starting import root_run
from polos.testing.audit import Audit
from polos.testing.clock import START_US, VirtualClock
from polos.testing.lives import Life, RunChance, Task
from polos.testing.outside import Place
from polos.testing.store import MemoryStore
from polos.testing.sweep_calls import CallLedger
from polos.testing.sweep_outcome import CrashOutcome, differences, outcome_of, unsteady
from polos.testing.sweep_points import CrashPoint, Points
from polos.testing.sweep_report import POINT_VARIABLE, CrashReport, CrashSweepFailed, command_for

__all__ = ["PAIRS", "crash_sweep", "sweep"]

PAIRS: Final = 100
PROCESSES: Final = 0.05

SWEEPING = threading.Lock()  # the points and the place of a process are one sweep's at a time

Check = Callable[[CrashOutcome], object]
Setup = Callable[[Path], object]


async def crash_sweep(
    workflow: Workflow[Any], input: object = None, *, check: Check | None = None, setup: Setup | None = None,
    answers: Mapping[str, Any] | None = None, workflows: Sequence[Workflow[Any]] = (), real: bool = False,
    processes: float = PROCESSES, pairs: int = PAIRS, points: int | None = None, seed: int = 0,
    same: Callable[[Any, Any], object] | None = None,
) -> CrashReport:  # fmt: skip
    """
    Crash a workflow at every point, recover it, and compare with a run that nothing disturbed.

    ```python run
    import asyncio
    import polos
    from polos.testing import Outside, crash_sweep

    bank = Outside("bank")

    async def charge(cents: int) -> str:
        bank.note("charged", cents=cents)
        return "paid"

    @polos.workflow(id="pay")
    async def pay(ctx, payload: dict) -> str:
        return await ctx.step.run("charge", charge, payload["cents"], effect="at_most_once")

    def check(outcome) -> None:
        assert bank.count("charged") == 1

    async def main() -> None:
        report = await crash_sweep(pay, {"cents": 100}, check=check, answers={"charge": "paid"}, processes=0)
        print(len(report.points) > 10, report.singles == len(report.points))

    asyncio.run(main())
    ```

    Args:
        workflow: the workflow.
        input: its payload.
        check: called with a `CrashOutcome` after each scenario; what it raises is a failure of that scenario.
        setup: called with the scenario's directory when a life begins, in the process of that life: opens files, makes
            fakes anew. What steps act upon belongs into that directory, or into an `Outside`.
        answers: what suspends, signals, events and steps of unknown outcome are answered, by the key of the suspend,
            the name of the signal or step, or the topic. A callable is called with a `Waiting`.
        workflows: others that it starts, if they aren't registered.
        real: live every scenario in child processes, on a data directory, with SIGKILL.
        processes: share of the points that are lived so otherwise, and one at least; 0 for none.
        pairs: how many pairs of crashes are tried.
        points: how many points are tried at most, drawn by the seed; None for all.
        seed: from which everything is drawn.
        same: tells whether two results are the same, given the one found and the undisturbed one; ``==`` otherwise.

    Returns:
        What was done.

    Raises:
        CrashSweepFailed: a crash can be told from outside.
        PolosUsageError: the run waits for something nobody answers, or can't be lived in another process.
    """
    wanted = _Wanted(
        workflow=workflow, input=input, check=check, setup=setup, answers=dict(answers or {}),
        workflows=tuple(workflows), real=real, processes=processes, pairs=pairs, points=points, seed=seed, same=same,
    )  # fmt: skip
    wanted.look()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[CrashReport] = loop.create_future()
    stop = threading.Event()

    def settle(report: CrashReport | None, error: BaseException | None) -> None:
        if not done.done():
            if error is not None:
                done.set_exception(error)
            else:
                assert report is not None, "a sweep gives a report or an error"
                done.set_result(report)

    def work() -> None:
        report, error = None, None
        try:
            report = contextvars.Context().run(_swept, wanted, stop)
        except BaseException as raised:  # noqa: BLE001  # whoever awaits gets it
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, report, error)

    thread = threading.Thread(target=work, name="polos-sweep", daemon=True)
    thread.start()
    try:
        return await done
    finally:
        stop.set()


def sweep(workflow: Workflow[Any], input: object = None, **options: Any) -> CrashReport:
    """Do what `crash_sweep` does, for a test that isn't asynchronous; takes the same and blocks."""
    options["answers"] = dict(options.get("answers") or {})
    wanted = _Wanted(workflow=workflow, input=input, **options)
    wanted.look()
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(contextvars.Context().run(_swept, wanted, threading.Event()))
        except BaseException as raised:  # noqa: BLE001  # raised again below
            found.append(raised)

    # Not on the caller's thread: it may have a loop running.
    thread = threading.Thread(target=work, name="polos-sweep", daemon=True)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    report: CrashReport = found[0]
    return report


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the caller asked for; the names are those of `crash_sweep`."""

    workflow: Workflow[Any]
    input: object = None
    check: Check | None = None
    setup: Setup | None = None
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    workflows: Sequence[Workflow[Any]] = ()
    real: bool = False
    processes: float = PROCESSES
    pairs: int = PAIRS
    points: int | None = None
    seed: int = 0
    same: Callable[[Any, Any], object] | None = None

    def look(self) -> None:
        """Refuse what makes no sense, before anything is begun."""
        for name in ("check", "setup", "same"):
            value = getattr(self, name)
            if value is not None and (not callable(value) or inspect.iscoroutinefunction(value)):
                raise TypeError(f"{name} must be a plain function, it is {value!r}")
        if not 0 <= self.processes <= 1:
            raise ValueError(f"processes is a share from 0 to 1, it is {self.processes!r}")
        if self.pairs < 0 or (self.points is not None and self.points < 0):
            raise ValueError(f"pairs and points are numbers from 0, they are {self.pairs!r} and {self.points!r}")

    def task(self) -> Task:
        """Give what all lives have in common."""
        workflow = self.workflow
        created = root_run(
            workflow.id, workflow.encode_payload(self.input), clock=VirtualClock(seed=self.seed), deployment="sweep",
            seconds=workflow.run_timeout_seconds, queue=workflow.queue_name,
            queue_limit=workflow.queue_concurrency_limit, tags=workflow.tags,
        )  # fmt: skip
        runs: list[Json] = [{"run": created.root, "created": created_to_json(created)}]
        command: dict[str, Json] = {"kind": "create", "runs": runs}
        known = {other.id: other for other in (*self.workflows, workflow)}
        return Task(run=created.root, command=command, workflows=known, answers=self.answers, seed=self.seed)


def _swept(wanted: _Wanted, stop: threading.Event) -> CrashReport:
    with SWEEPING:
        return _Sweep(wanted, stop).run()


@final
class _Sweep:
    """One sweep, on its thread."""

    def __init__(self, wanted: _Wanted, stop: threading.Event) -> None:
        self._wanted = wanted
        self._stop = stop
        self._task = wanted.task()
        self._chance = Random(wanted.seed)
        self._report = CrashReport(workflow=wanted.workflow.id, seed=wanted.seed)
        self._expected: CrashOutcome | None = None
        self._leave_out: set[tuple[Any, ...]] = set()
        self._recoveries: dict[CrashPoint, list[CrashPoint]] = {}
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
                self._undisturbed()
                real, points = _parse_target(target)
                self._try(points, real=real)
                self._report.notes.append(f"only {POINT_VARIABLE}={target} was tried")
            else:
                self._report.notes.append(f"{POINT_VARIABLE} names another sweep")
        finally:
            Place.current = None
            shutil.rmtree(self._place, ignore_errors=True)
        self._report.seconds = time.monotonic() - began
        return self._report

    def _all(self) -> None:
        self._undisturbed()
        wanted, report = self._wanted, self._report
        singles = list(report.points)
        if wanted.points is not None and wanted.points < len(singles):
            drawn = sorted(self._chance.sample(range(len(singles)), wanted.points))
            singles = [singles[index] for index in drawn]
        for point in singles:
            self._try((point,), real=wanted.real)
            report.singles += 1
        for pair in self._pairs(singles):
            self._try(pair, real=wanted.real)
            report.pairs += 1

    def _pairs(self, singles: Sequence[CrashPoint]) -> list[tuple[CrashPoint, CrashPoint]]:
        every = [(first, second) for first in singles for second in self._recoveries.get(first, ())]
        drawn = sorted(self._chance.sample(range(len(every)), min(self._wanted.pairs, len(every))))
        return [every[index] for index in drawn]

    # ---------------------------------------------------------------------------------- undisturbed

    def _undisturbed(self) -> None:
        """Find the points and what is right, and look whether it is right a second time."""
        first = self._expected = self._scenario(())
        self._judge(first, (), "the undisturbed run")
        if first.status not in ("completed", "failed", "cancelled"):
            self._fail(first, (), [f"the undisturbed run ends as {first.status}"], "the undisturbed run doesn't end")
        counted: dict[str, int] = {}
        points: list[CrashPoint] = []
        for name in first.recovery:
            counted[name] = counted.get(name, 0) + 1
            points.append(CrashPoint(name, counted[name]))
        self._report.points = tuple(points)
        second = self._scenario(())
        self._leave_out = unsteady(first, second)
        self._report.left_out = tuple(sorted({"/".join(map(str, place[1:])) for place in self._leave_out}))
        self._judge(second, (), "a second undisturbed run (does setup begin anew?)")

    # ------------------------------------------------------------------------------------ scenarios

    def _try(self, points: tuple[CrashPoint, ...], *, real: bool) -> None:
        outcome = self._scenario(points, real=real)
        if len(points) == 1:
            counts: dict[str, int] = {}
            found: list[CrashPoint] = []
            for name in outcome.recovery:
                counts[name] = counts.get(name, 0) + 1
                found.append(CrashPoint(name, counts[name]))
            self._recoveries[points[0]] = found
        self._report.unknown += outcome.unknown
        where = " and then at ".join(map(str, points))
        self._judge(outcome, points, f"a crash at {where}")

    def _scenario(self, points: tuple[CrashPoint, ...], *, real: bool = False) -> CrashOutcome:
        if self._stop.is_set():
            raise PolosUsageError("the sweep was stopped: nobody waits for it any more")
        self._report.scenarios += 1
        directory = self._place / str(self._report.scenarios)
        assert not real, "not yet"
        outcome = self._in_process(points, directory)
        outcome.crashes = tuple(map(str, points))
        return outcome

    def _in_process(self, points: tuple[CrashPoint, ...], directory: Path) -> CrashOutcome:
        place = Place.current = Place(directory)
        store = MemoryStore()
        audit, ledger = Audit(store.log), CallLedger()
        cuts: list[int] = []
        outcome: CrashOutcome | None = None
        now_us = START_US
        for number, crash_at in enumerate((*points, None), 1):
            place.dead = False
            ledger.life = number
            chance = RunChance(self._wanted.seed, number, audit)
            clock = VirtualClock(start_us=now_us, chance=chance)
            if self._wanted.setup is not None:
                self._wanted.setup(place.path)
            life = Life(
                self._task, store=store, clock=clock, audit=audit, ledger=ledger, points=Points(crash_at), chance=chance
            )
            if number > 1:
                cuts.append(life.cut)
            try:
                life.live()
                outcome = None if life.points.dead else outcome_of(life)
            finally:
                place.dead = True
                life.close()
            now_us = clock.now_us()
            if outcome is not None:
                break
        assert outcome is not None, "the last life isn't crashed"
        place.dead = False
        outcome.directory = directory
        outcome.cuts = cuts
        return outcome

    # -------------------------------------------------------------------------------------- judging

    def _judge(self, outcome: CrashOutcome, points: tuple[CrashPoint, ...], what: str) -> None:
        assert self._expected is not None, "the undisturbed run comes first"
        told = differences(self._expected, outcome, leave_out=self._leave_out, same=self._wanted.same)
        if told:
            self._fail(outcome, points, told, what)
        check = self._wanted.check
        if check is None or outcome.unknown:
            return
        try:
            check(outcome)
        except Exception as error:  # noqa: BLE001  # whatever a check raises, it says no
            self._fail(outcome, points, [f"check: {type(error).__name__}: {error}"], what, error)

    def _fail(
        self, outcome: CrashOutcome, points: tuple[CrashPoint, ...], told: list[str], what: str,
        error: Exception | None = None,
    ) -> None:  # fmt: skip
        real = not outcome.in_process
        target = f"{self._name()}/{'real/' if real else ''}{'+'.join(map(str, points))}"
        cut = outcome.cuts[-1] if outcome.cuts else len(outcome.events)
        place = "child processes" if real else "this process"
        raise CrashSweepFailed(
            f"{self._wanted.workflow.id} doesn't survive {what} (seed {self._wanted.seed}, in {place})"
            if points else f"{self._wanted.workflow.id}: {what} is at fault, and no crash",
            points=points, differences=told, before=outcome.events[:cut], after=outcome.events[cut:],
            command=command_for(target) if points else "", real=real,
        ) from error  # fmt: skip

    # ----------------------------------------------------------------------------------- one point

    def _name(self) -> str:
        """Tell this sweep from others of the same test."""
        created = json.dumps(self._task.command, sort_keys=True, default=str)
        return f"{self._wanted.workflow.id}@{hashlib.sha256(created.encode()).hexdigest()[:6]}"

    def _target(self) -> str | None:
        """Give the one scenario that is wanted; "" if it is another sweep's, None if all are."""
        wanted = os.environ.get(POINT_VARIABLE)
        if not wanted:
            return None
        name, _, target = wanted.partition("/")
        return target if name == self._name() else ""


def _parse_target(target: str) -> tuple[bool, tuple[CrashPoint, ...]]:
    real = target.startswith("real/")
    points = target.removeprefix("real/").split("+")
    return real, tuple(CrashPoint.parse(point) for point in points)


def share_of(count: int, share: float) -> int:
    """Give how many of so many are lived in child processes: one at least, unless the share is 0."""
    return min(count, max(1, math.ceil(count * share))) if share > 0 else 0
