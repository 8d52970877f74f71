"""
What is held against a scenario, and how that is told.

What is right is said by undisturbed runs: one says it, a second one says what can't be compared, because it differs
although nothing happened. Child processes may see another directory or time zone than this one, so they have
undisturbed runs of their own, lived when they are needed first. Then the program's own `check` has its say.

What fails ends the sweep. Before that the same crash is tried the other way, in child processes or in this one, since
that tells the reader where to look: at what a process remembers, or at what it can't know of the one before it.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NoReturn, final

from polos.errors import PolosUsageError
from polos.testing.failing import Raised, says_no
from polos.testing.sweep_calls import Note, calls_of
from polos.testing.sweep_outcome import CrashOutcome, differences, handed_out, unsteady
from polos.testing.sweep_paths import called
from polos.testing.sweep_points import CrashPoint
from polos.testing.sweep_report import CrashReport, CrashSweepFailed
from polos.testing.sweep_scenario import Stage
from polos.testing.sweep_wanted import Wanted

__all__ = ["Doubtful", "Judge"]

__tracebackhide__ = True  # pytest shows the test's own lines, and the page


class Doubtful(Exception):  # no failure yet: it is to be looked at more closely
    """
    Something is wrong with a scenario whose first life was another's.

    Attributes:
        points: where it crashed.
    """

    def __init__(self, points: tuple[CrashPoint, ...]) -> None:
        """Say where it crashed."""
        super().__init__()
        self.points = points


@final
class Judge:
    """Says of scenarios of one sweep what is wrong with them."""

    def __init__(self, wanted: Wanted, stage: Stage, report: CrashReport) -> None:
        """
        Begin to judge; what is right isn't known yet.

        Args:
            wanted: what the caller asked for.
            stage: where a scenario is played once more.
            report: what isn't compared is noted there.
        """
        self._wanted = wanted
        self._stage = stage
        self._report = report
        self._expected: CrashOutcome | None = None
        self._leave_out: set[tuple[Any, ...]] = set()
        self._expected_real: CrashOutcome | None = None
        self._leave_out_real: set[tuple[Any, ...]] = set()

    # ---------------------------------------------------------------------------------- what is right

    def expect(self, first: CrashOutcome) -> None:
        """Take the undisturbed run as what is right, if it is right by itself."""
        self._expected = first
        what = "the undisturbed run"
        self.judge(first, (), what)
        if first.status not in ("completed", "failed", "cancelled"):
            self.fail(first, (), [f"the run doesn't end: it is {first.status}{_SAY_WHAT_BECAME}"], what)
        if first.status != "completed" and self._wanted.check is None:
            # It may be about just that; but a slip in a test would make a sweep of nothing, which survives anything.
            why = "" if first.error is None else f": {first.error[0]}: {first.error[1]}"
            self.fail(first, (), [f"the run {first.status}{why}{_SAY_SO}"], what)
        for run in first.executions if self._wanted.check is None else ():
            if run.triggered and run.status != "completed":  # nobody waits for it, and nobody would be told
                why = "" if run.error is None else f": {run.error[0]}: {run.error[1]}"
                self.fail(first, (), [f"{called(run.path)} {run.status}{why}{_SAY_SO_OF_OTHERS}"], what)

    def leave_out(self, second: CrashOutcome) -> None:
        """Leave out of all comparing what differs in a second undisturbed run."""
        assert self._expected is not None, "the undisturbed run comes first"
        self._leave_out = unsteady(self._expected, second)
        self._report.left_out = _places(self._leave_out)
        self.judge(second, (), "a second undisturbed run (does setup begin anew?)")

    def expect_replay(self) -> None:
        """Fail for an undisturbed run that can't be replayed; what a crash does with it says more, and comes first."""
        first = self._expected
        if first is not None and first.replayed:
            self.fail(first, (), first.replayed, "the undisturbed run")

    def expect_real(self) -> None:
        """Find what is right in child processes, which may see another time zone or directory than this one."""
        if self._expected_real is not None:
            return
        here, there = self._expected, self._stage.play((), real=True)
        assert here is not None, "the undisturbed run comes first"
        self._expected_real = there
        what = "the undisturbed run, in a child process,"
        self.judge(there, (), what)
        # What functions give may hang on the process: its number, its directory, its time zone.
        again = self._stage.play((), real=True, turn=1)
        if again.problems:
            self.fail(again, (), again.problems, "a second undisturbed run, in another child process,", again.raised)
        of_processes = unsteady(there, again) - self._leave_out
        self._leave_out_real = self._leave_out | of_processes
        if of_processes:
            places = ", ".join(_places(of_processes))
            self._report.notes.append(f"not compared in child processes, because each says otherwise: {places}")
        others = differences(here, there, leave_out=self._leave_out_real, same=self._wanted.same)
        shapes = [[(run.path, run.status) for run in outcome.executions] for outcome in (here, there)]
        if sorted(shapes[0]) != sorted(shapes[1]):
            self.fail(there, (), others, what)
        elif others:
            self._report.notes.append(f"in a child process it is otherwise without a crash, too: {others[0]}")

    # --------------------------------------------------------------------------------------- judging

    def judge(
        self,
        outcome: CrashOutcome,
        points: tuple[CrashPoint, ...],
        what: str,
        *,
        alike: tuple[CrashPoint, ...] = (),
    ) -> None:
        """
        Look whether a scenario ended as it should.

        Args:
            outcome: how it ended.
            points: where it crashed.
            what: the scenario in words.
            alike: points that this one was tried for.

        Raises:
            CrashSweepFailed: it didn't.
            Doubtful: it didn't, but it began with what another run left.
        """
        told, error = self._told(outcome)
        if told and self._stage.shared:
            raise Doubtful(points)
        if told:
            self.fail(outcome, points, told, what, error, alike=alike)

    def judge_others(self, outcome: CrashOutcome, others: Mapping[tuple[CrashPoint, ...], Counter[Note]]) -> None:
        """
        Look at a scenario once more, for crashes at which less had been called before, or had come back.

        What a `reconcile` said of calls may be untrue then, and the program's `check` may object.

        Args:
            outcome: how the scenario ended that was tried for them, and is right.
            others: these crashes, each with the notes of calls that there weren't yet.

        Raises:
            Doubtful: it isn't right for one of them.
        """
        for points, notes in others.items():
            untrue = [] if outcome.claims is None else outcome.claims.untrue(notes)
            if untrue and self._wanted.check is None:
                raise Doubtful(points)
            calls = calls_of(notes.elements())
            if self._wanted.check is None or outcome.unknown or (not calls and untrue == outcome.untrue):
                continue
            crashes = tuple(map(str, points))
            other = replace(outcome, crashes=crashes, calls=outcome.calls - calls, untrue=untrue)
            self._stage.check_begins()
            if self._checked(other)[0]:
                raise Doubtful(points)

    def _told(self, outcome: CrashOutcome) -> tuple[list[str], BaseException | None]:
        """Say what is wrong with a scenario, and what code of the user's raised to say so."""
        expected = self._expected if outcome.in_process else self._expected_real
        assert expected is not None, "the undisturbed run comes first"
        self._stage.check_begins()
        leave_out = self._leave_out if outcome.in_process else self._leave_out_real
        try:
            told = differences(expected, outcome, leave_out=leave_out, same=self._wanted.same)
        except Raised as raised:
            return [str(raised)], raised.error
        if self._wanted.check is None:  # a check knows better what an effect is
            told = told or outcome.untrue
        if told or self._wanted.check is None or outcome.unknown:
            return told, outcome.raised
        return self._checked(outcome)

    def _checked(self, outcome: CrashOutcome) -> tuple[list[str], BaseException | None]:
        """Say what the program's `check` says is wrong, and what it raised to say so."""
        assert self._wanted.check is not None, "there is one"
        try:
            said = self._wanted.check(handed_out(outcome))
        except BaseException as error:
            if not says_no(error):
                raise
            return [f"check: {type(error).__name__}: {error}"], error
        if said is False or inspect.isawaitable(said):
            if inspect.iscoroutine(said):
                said.close()
            raise TypeError(f"check is a plain function that raises where something is wrong, it returned {said!r}")
        return [], None

    # --------------------------------------------------------------------------------------- failing

    def fail(
        self,
        outcome: CrashOutcome,
        points: tuple[CrashPoint, ...],
        told: list[str],
        what: str,
        error: BaseException | None = None,
        *,
        alike: tuple[CrashPoint, ...] = (),
    ) -> NoReturn:
        """End the sweep with what is wrong with a scenario; `error` is what raised, all else as in `judge`."""
        real, name = not outcome.in_process, self._wanted.workflow.id
        by_check = error is not None and outcome.raised is None
        events, cut = outcome.events, outcome.cuts[-1] if outcome.cuts else len(outcome.events)
        refused = () if real else self._stage.refused
        if not points:
            raise CrashSweepFailed(
                f"{name}: {what} is wrong by itself, no crash is needed",
                points=(), differences=told, before=events, after=[], target="", real=real,
                notes=(*((_RUN_ONCE_MORE,) if by_check else ()), *refused),
            ) from error  # fmt: skip
        place = "child processes" if real else "this process"
        down = f", down for {self._wanted.downtime_seconds:g} s" if self._wanted.downtime_seconds else ""
        died = points if outcome.raised is None else points[: len(outcome.cuts)]
        headline = f"{name} doesn't survive {what}" if died == points else f"{name} fails before {what}"
        failed = self._stage.failed = CrashSweepFailed(
            f"{headline} (seed {self._wanted.seed}, in {place}{down})",
            points=died, differences=told, before=events[:cut], after=events[cut:], real=real,
            target=self._stage.targets.of(points, real=real), notes=(*_others(alike), *refused),
        )  # fmt: skip
        failed.__cause__ = error
        failed.add(*self._elsewhere(points, real=real, by_check=by_check))
        raise failed

    def _elsewhere(self, points: tuple[CrashPoint, ...], *, real: bool, by_check: bool) -> tuple[str, ...]:
        """Say what the same crash does in child processes if it failed in this one, and the other way round."""
        if not self._stage.has_children:
            return ()
        try:
            if not real:
                self.expect_real()
            self._stage.live_alone()
            told, _ = self._told(self._stage.play(points, real=not real))
        except (CrashSweepFailed, PolosUsageError):
            return ()
        if told:
            return ("The same crash does harm in this process, too." if real else
                    "The same crash does harm in child processes, too.",)  # fmt: skip
        return (_ONLY_REAL + (_IN_MEMORY if by_check else ""),) if real else (_ONLY_HERE,)


def _others(alike: tuple[CrashPoint, ...]) -> tuple[str, ...]:
    """Say which points this one was tried for."""
    if not alike:
        return ()
    return (f"A crash at {', '.join(map(str, alike))} leaves the same behind, so it wasn't tried by itself.",)


def _places(left_out: set[tuple[Any, ...]]) -> tuple[str, ...]:
    return tuple(sorted({"/".join(map(str, place[1:])) for place in left_out}))


_RUN_ONCE_MORE: Final = (
    "Before the check its code was run on its history once more, as after a crash: no function of a step is called "
    "then, but what a body does besides steps is done again."
)
_SAY_SO_OF_OTHERS: Final = "; if it is meant to, give a `check` that looks at the outcome's `executions`"
_SAY_WHAT_BECAME: Final = (
    "; what became of a call that nobody knows the outcome of is said by its `reconcile`, or in `answers`"
)
_SAY_SO: Final = "; if it is meant to, give a `check` that looks at the outcome's `status` and `error`"
_ONLY_HERE: Final = (
    "The same crash does no harm in child processes, where the process is really killed. Look for what this process "
    "remembers of scenarios before: a module's variable, a cache, a fake that is kept in memory and that setup doesn't "
    "make anew; or for a `finally` or `with` in a step's function that acts when the coroutine is closed."
)
_ONLY_REAL: Final = (
    "The same crash does no harm in this process. Look for what a process doesn't know of the one before it: the order "
    "of a set, a module's variable, a cache, the environment, the working directory, the time zone; or for a `finally` "
    "or `with` in a step's function that tidies up when its coroutine is closed here; in a killed process it isn't run."
)
_IN_MEMORY: Final = (
    " If what steps act upon is kept in memory, it is gone with the process: keep it in files of the directory that "
    "setup gets, in an Outside, or sweep with processes=0."
)
