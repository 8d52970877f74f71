"""
The course of a sweep: which scenarios are played, in which order.

The undisturbed run comes first and twice: the first says what is right, the second what says nothing, because it
differs although nothing happened. Then come the points one by one, then those that are tried in child processes
besides, then pairs. Of points in this process at which a crash leaves the same behind, one is tried for all: recovery
is made of what is left, and of nothing else. Which one that is depends on the seed. What fails first ends the sweep.

Up to its first crash every scenario is the undisturbed run. So if the caller says that nobody misses what that run kept
in memory, what it leaves at each point is kept, and scenarios begin with that. Such a scenario is believed only if
nothing is wrong with it: else all of them are lived again, each from its beginning. If nothing is wrong then, that may
be because something is kept in memory, or because in one process the dead clean up after themselves, which what is left
at a point knows nothing of: then a killed process has the last word.

Where the dead would clean up is known beforehand (`cleaning`). One point of each such place is among those that are
tried in child processes, and among the sample, if only some are tried.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from random import Random
from types import CoroutineType
from typing import Any, Final, final

from polos.errors import PolosUsageError
from polos.garbage import seldom_collected
from polos.replay.stdlib import unawaited
from polos.testing.loop import ended_processes
from polos.testing.patience import Patience
from polos.testing.program_memory import Memory
from polos.testing.sweep_answers import Unused
from polos.testing.sweep_calls import Note
from polos.testing.sweep_effects import Effect, first_of
from polos.testing.sweep_judging import Doubtful, Judge
from polos.testing.sweep_outcome import CrashOutcome
from polos.testing.sweep_points import Alike, CrashPoint, Left, grouped, numbered, spoken_for, with_fewer
from polos.testing.sweep_report import POINT_VARIABLE, CrashReport
from polos.testing.sweep_scenario import SWEEPING, Stage
from polos.testing.sweep_target import parse_target
from polos.testing.sweep_wanted import Wanted

__all__ = ["swept"]

__tracebackhide__ = True  # pytest shows the test's own lines, and the page

STRETCHES_MAX: Final = 8  # between commits: so many child processes are tried at least
FIRST_MAX: Final = 4  # of the places where the dead would clean up: so many are tried in child processes
SHARE_OF_FIRST: Final = 4  # of a sample, one in so many is of such a place, if there are any
_COMMIT: Final = "after_append_before_handback"
_POLOS: Final = Path(__file__).parent.parent
_MORE_THAN_REMAINS: Final = (
    "something was wrong where scenarios began with what another run left, and isn't where they are lived from their "
    "beginning, as all were then: "
    "so something is kept in memory, or elsewhere than in the directory, or a `finally` or `with` of a function that "
    "is under way in a crash cleans up, which it does in one process alone"
)
_SETUP: Final = "setup may open files, and write anywhere"
_UNSEEN: Final = "something that the program's code doesn't show"
_KILLED_AS_WELL: Final = "; the same crash does no harm where the process is killed, either"
_NOT_KILLED: Final = "; try real=True for that, or processes over 0"


def swept(wanted: Wanted, stop: threading.Event, patience: Patience) -> CrashReport:
    """Sweep, on this thread, until `stop` is set or patience with a scenario is over; one sweep at a time."""
    thread, log, loops = threading.get_ident(), logging.getLogger("polos"), logging.getLogger("asyncio")

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread  # what an engine says of a run that diverged stands in the failure

    def of_the_living(record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        return not any(isinstance(number, int) and number in ended_processes for number in args)

    with SWEEPING.of(patience), seldom_collected():
        log.addFilter(elsewhere)
        loops.addFilter(of_the_living)  # a process that ended with the life that began it is missed by its watcher
        try:
            return _Sweep(wanted, stop, patience).run()
        finally:
            log.removeFilter(elsewhere)
            loops.removeFilter(of_the_living)
            ended_processes.clear()


@final
class _Sweep:
    """One sweep, on its thread."""

    def __init__(self, wanted: Wanted, stop: threading.Event, patience: Patience) -> None:
        self._wanted = wanted
        self._report = CrashReport(
            workflow=wanted.workflow.id, seed=wanted.seed, downtime_seconds=wanted.downtime_seconds
        )
        self._stage = Stage(wanted, self._report, stop, patience)
        self._judge = Judge(wanted, self._stage, self._report)
        self._chance = Random(wanted.seed)
        self._left: list[Left] = []
        self._alike: dict[CrashPoint, Alike] = {}  # by the point that is tried for all
        self._sampled = False  # whether not all of those are
        self._recoveries: dict[CrashPoint, dict[CrashPoint, Alike]] = {}  # points of the recovery from it, likewise
        self._cleaning: dict[CrashPoint, object] = {}  # what would be cleaned up there
        self._effects: dict[CrashPoint, Effect] = {}  # what has happened there and isn't recorded
        self._noted: Sequence[Note] = ()  # calls of the undisturbed run, and what came back
        self._first: list[CrashPoint] = []  # one of each place where something would be
        self._memory: Memory | None = None  # if it is for the sweep to find out whether the program keeps any

    def run(self) -> CrashReport:
        """Sweep."""
        began = time.monotonic()
        with self._stage:
            target = self._stage.targets.wanted()
            if target is None:
                self._all()
            elif target:
                self._once_more(target)
                self._report.notes.append(f"only {POINT_VARIABLE}={target} was tried")
            else:
                self._report.notes.append(f"nothing was tried, {POINT_VARIABLE} names another sweep")
        self._report.seconds = time.monotonic() - began
        return self._report

    def _once_more(self, target: str) -> None:
        """Try a single scenario that somebody has asked for."""
        real, points = parse_target(target)
        self._stage.live_alone()
        self._undisturbed(children=real, keeps=False)
        outcome = self._try(points, real=real)
        reached = len(outcome.cuts)
        if reached == len(points):
            return
        point = points[reached]
        names = outcome.recovery if reached else [point.name for point in self._report.points]
        often = names.count(point.name)
        passed = f"it comes past {point.name} {often} times" if often else f"it never comes past {point.name}"
        after = f" after a crash at {' and then at '.join(map(str, points[:reached]))}" if reached else ""
        raise PolosUsageError(
            f"{POINT_VARIABLE} wants a crash at {point}{after}, and the run doesn't come there: {passed}. If the code "
            f"has changed since, unset {POINT_VARIABLE}, run the test, and take the command that it prints now; if "
            f"nothing has, the run takes another course each time."
        )

    def _all(self) -> None:
        wanted = self._wanted
        if wanted.from_remains is None and wanted.may_share:
            self._memory = wanted.memory()
            self._report.memory = _SETUP if wanted.setup is not None else self._memory.kept
            self._stage.shares = not self._report.memory
        self._undisturbed(children=wanted.real or wanted.processes > 0, keeps=self._stage.shares)
        doubtful = self._doubtful()
        if doubtful:
            self._report.memory = _UNSEEN if self._memory is not None else ""
            self._stage.live_alone()
            self._choose(self._left)
            self._try(doubtful, real=False)  # what is drawn from here on may be others
            self._crashes()
            if self._stage.has_children:
                self._try(doubtful, real=True)
            said = _KILLED_AS_WELL if self._stage.has_children else _NOT_KILLED
            self._report.notes.append(f"{_MORE_THAN_REMAINS}{said}")
        self._look_at_answers()

    def _look_at_answers(self) -> None:
        """Look whether there are some that nothing has asked for."""
        report = self._report
        everywhere = report.singles == len(report.points) and not (self._wanted.real or report.missed)
        said = Unused(self._stage.task, [note.name for note in self._noted]).look(every_point=everywhere)
        report.notes += [said] if said else []

    def _doubtful(self) -> tuple[CrashPoint, ...]:
        """Try it all, and give the crash with whose remains something was wrong; what is without any is raised."""
        try:
            self._crashes()
        except Doubtful as doubtful:
            return doubtful.points
        return ()

    def _look_again(self, undisturbed: CrashOutcome) -> None:
        """Live all lives if the program is another now, or if code was run that nobody has looked through."""
        memory = self._memory
        if memory is None or not self._stage.shares:
            return
        # What a recovery alone runs is told by the comparison, and then all lives are lived, too.
        unseen = sorted({run.workflow for run in undisturbed.executions} - memory.workflows)
        if unseen:
            self._report.memory = f"workflow {unseen[0]!r} is named by no code"
        elif not memory.is_as(self._wanted.memory()):
            self._report.memory = "what the program's code can reach was changed by running it"
        if self._report.memory:
            self._stage.live_alone()

    def _crashes(self) -> None:
        """Try every point, and then pairs."""
        wanted, report = self._wanted, self._report
        report.singles = report.alike = report.pairs = report.unknown = report.missed = 0
        self._recoveries.clear()
        self._choose(self._left)
        for point, alike in self._alike.items():
            report.singles += len(alike.points)
            report.alike += len(alike.points)
            if not self._sampled and self._stage.is_undisturbed(point):  # as the second undisturbed run was
                self._recoveries[point] = self._spoken_for(report.points, self._left, self._noted)
            else:
                self._try((point,), real=wanted.real)
                report.alike -= 1
        if not wanted.real:
            for point in self._drawn([point for alike in self._alike.values() for point in alike.points]):
                self._try((point,), real=True)
        self._judge.expect_replay()
        for first, seconds in groupby(self._pairs(), key=itemgetter(0)):
            self._two_crashes(first, [second for _, second in seconds])

    def _choose(self, left: Sequence[Left]) -> None:
        """Choose which points are tried, and for which others each of them."""
        wanted = self._wanted
        self._chance = Random(wanted.seed)
        self._alike = self._spoken_for(self._report.points, left, self._noted)
        places: dict[object, list[CrashPoint]] = {}
        for tried, alike in self._alike.items():
            for what in dict.fromkeys(self._cleaning[point] for point in alike.points if point in self._cleaning):
                places.setdefault(what, []).append(tried)
        self._first = [found[wanted.seed % len(found)] for found in places.values()]
        self._sampled = wanted.points is not None and wanted.points < len(self._alike)
        if wanted.points is not None and self._sampled:
            self._alike = self._sample(wanted.points, _calls(self._report.points, left))

    def _sample(self, count: int, calls: Mapping[CrashPoint, int]) -> dict[CrashPoint, Alike]:
        """Draw so many points: of functions that have had an effect one each, of places of cleaning up, and others."""
        first = self._first[: count // SHARE_OF_FIRST]
        tried_for = {point: one for one, alike in self._alike.items() for point in alike.points}
        effects = {tried_for[point]: point for point in first_of(self._effects, count - len(first), self._chance)}
        sample = self._chance.sample(list(self._alike), count)
        drawn = set(list(dict.fromkeys([*first, *effects, *sample]))[:count])
        sampled = [(effects.get(one, one), self._alike[one].points) for one in self._alike if one in drawn]
        return {point: Alike((point,), with_fewer(point, group, calls, self._noted)) for point, group in sampled}

    def _two_crashes(self, first: CrashPoint, seconds: Sequence[CrashPoint]) -> None:
        """Try a crash and, in the recovery from it, another one at each of some points."""
        if len(seconds) > 1 and self._stage.keeps:
            self._stage.play((first,), keep=seconds)
        for second in seconds:
            self._try((first, second), real=self._wanted.real)
            self._report.pairs += 1
        self._stage.forget((first,))

    def _drawn(self, singles: Sequence[CrashPoint]) -> list[CrashPoint]:
        """
        Give the points that are tried in child processes besides.

        What one process remembers for the next step is missed by a kill between certain commits alone, so they are
        spread over all; the last point is one of them, for all of a history is replayed there. First of all come some
        at which it would make a difference that this process isn't killed.
        """
        if not self._wanted.processes or not singles:
            return []
        stretches = sum(point.name == _COMMIT for point in singles)
        share = math.ceil(len(singles) * self._wanted.processes)
        count = min(len(singles), max(2, share, min(stretches + 1, STRETCHES_MAX)))
        last = len(singles) - 1
        edges = [last * number // (count - 1) for number in range(count)] if count > 1 else []
        drawn = [self._chance.randrange(low, high) for low, high in pairwise(edges)]
        first = [point for point in self._first if point in singles][:FIRST_MAX]
        return [*first, *(singles[index] for index in (*drawn, last) if singles[index] not in first)]

    def _spoken_for(
        self, points: Sequence[CrashPoint], left: Sequence[Left], noted: Sequence[Note]
    ) -> dict[CrashPoint, Alike]:
        """Give the points that are tried for others; `noted` is all that is of the life that comes past them."""
        return spoken_for(self._different(points, left), _calls(points, left), noted, seed=self._wanted.seed)

    def _different(self, points: Sequence[CrashPoint], left: Sequence[Left]) -> list[tuple[CrashPoint, ...]]:
        """Give points in groups of which one is tried."""
        if self._wanted.real or self._wanted.every_point or not left:
            return [(point,) for point in points]
        return grouped(points, [one.kept if self._stage.shares else one.lived for one in left])

    def _pairs(self) -> list[tuple[CrashPoint, CrashPoint]]:
        every = [(first, second) for first in self._alike for second in self._recoveries.get(first, ())]
        drawn = sorted(self._chance.sample(range(len(every)), min(self._wanted.pairs, len(every))))
        return [every[index] for index in drawn]

    def _undisturbed(self, *, children: bool, keeps: bool) -> None:
        """
        Find the points and what is right, and look whether it is right a second time.

        Args:
            children: whether child processes will be needed.
            keeps: whether scenarios are to begin with what the second run leaves.
        """
        forgotten: set[str] = set()
        with unawaited(partial(_note_unawaited, forgotten)):
            first = self._stage.play(())
        first.problems += sorted(forgotten)
        self._noted = self._stage.noted
        if self._stage.waits:
            first.problems += filter(None, [Unused(self._stage.task, self._stage.called).said()])
        self._judge.expect(first)
        self._report.points = tuple(numbered(first.recovery))
        self._cleaning, self._effects = self._stage.cleaning, self._stage.effects
        self._choose(first.left)
        second = self._stage.play((), keep=self._alike if keeps else ())
        if _steady(first, second) and self._noted == self._stage.noted:
            self._left = first.left
        else:
            self._stage.live_alone()  # each scenario may come to its points by another way
        self._look_again(second)
        self._judge.leave_out(second)
        if children:
            self._stage.use_children(execution.workflow for execution in first.executions)

    def _try(self, points: tuple[CrashPoint, ...], *, real: bool) -> CrashOutcome:
        if real:
            self._judge.expect_real()
        outcome = self._stage.play(points, real=real)
        if self._stage.may_have_pairs(points) and points[0] not in self._recoveries:
            reached = numbered(outcome.recovery)
            self._recoveries[points[0]] = self._spoken_for(reached, outcome.left, self._stage.noted)
        self._report.unknown += outcome.unknown
        self._report.missed += len(outcome.cuts) < len(points)
        where = " and then at ".join(map(str, points))
        self._judge.judge(outcome, points, f"a crash at {where}", alike=() if real else self._others(points))
        if not real:
            self._judge.judge_others(outcome, self._with_fewer_calls(points))
        return outcome

    def _others(self, points: tuple[CrashPoint, ...]) -> tuple[CrashPoint, ...]:
        """Give the points that this one is tried for."""
        tried, *more = points
        if more:
            return ()
        alike = self._alike.get(tried) or next((one for one in self._alike.values() if tried in one.points), None)
        return () if alike is None else tuple(point for point in alike.points if point != tried)

    def _with_fewer_calls(self, points: tuple[CrashPoint, ...]) -> dict[tuple[CrashPoint, ...], Counter[Note]]:
        """Give the crashes that these are tried for and had fewer calls behind them, with what these were."""
        first, *second = points
        known = [self._alike.get(first), *(self._recoveries.get(first, {}).get(point) for point in second)]
        found: dict[tuple[CrashPoint, ...], Counter[Note]] = {(): Counter()}
        for point, alike in zip(points, known, strict=True):
            fewer = {point: Counter[Note](), **({} if alike is None else alike.fewer)}
            found = {(*others, one): had + calls for others, had in found.items() for one, calls in fewer.items()}
        del found[points]
        return found


def _calls(points: Sequence[CrashPoint], left: Sequence[Left]) -> dict[CrashPoint, int]:
    """Give how many notes of calls there were at each point, where that is known."""
    return {point: one.calls for point, one in zip(points, left, strict=False)}


def _steady(first: CrashOutcome, second: CrashOutcome) -> bool:
    """Tell whether the same points leave the same in two runs, by either account."""
    by_lives, by_remains = (
        [grouped(numbered(run.recovery), [getattr(one, side) for one in run.left]) for run in (first, second)]
        for side in ("lived", "kept")
    )
    calls = [[one.calls for one in run.left] for run in (first, second)]
    return by_lives[0] == by_lives[1] and by_remains[0] == by_remains[1] and calls[0] == calls[1]


def _note_unawaited(forgotten: set[str], coroutine: CoroutineType[Any, Any, Any]) -> bool:
    """Note what code asks polos for and doesn't wait for; of anything else Python warns."""
    if not Path(coroutine.cr_code.co_filename).is_relative_to(_POLOS):
        return False
    file, line, _ = coroutine.cr_origin[0] if coroutine.cr_origin else ("?", 0, "")
    forgotten.add(f"{coroutine.__qualname__} is called at {file}:{line} and never awaited, so it does nothing")
    return True
