"""
`@explore`: one test, played in hundreds of orders.

The body of the test is called once for each schedule, each time with a new world. First come the schedules that
failed once and were saved, then the natural course of things, then schedules drawn from a seed. The first that fails
is shrunk, saved beside the test, and told as a list of what happened, with what is out of the natural order marked.

Which schedules are drawn follows from the seed and their number alone, and the seed is the same unless somebody says
otherwise: a test that is red is red again on the next machine.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from random import Random
from typing import Any, Final, Unpack, cast, overload

from polos.definition import Workflow
from polos.errors import PolosUsageError
from polos.garbage import seldom_collected
from polos.runtime.settings import Settings
from polos.testing.asked import is_one_of, look_at_patience
from polos.testing.courses import Disturbances, HowMany
from polos.testing.explored import Happened
from polos.testing.explorer import ExploredWorld
from polos.testing.failing import says_no
from polos.testing.patience import PATIENCE_SECONDS, Interrupted, Patience, TookTooLong, over_this
from polos.testing.saved import FOLDER, SavedSchedule, load_all, save
from polos.testing.schedules import WAYS, Chooser, Scripted, Strategy, Taken, drawn
from polos.testing.shrinking import Shrunk, shrink
from polos.testing.simulation import QUIET

__all__ = ["StaleSchedule", "explore"]

__tracebackhide__ = True  # pytest shows the test's own lines, and what this says of them

_log = logging.getLogger("polos")

SHRINK_TRIES_MAX: Final = 400
FIRST_LENGTH: Final = 20
LINES_MAX: Final = 80


class StaleSchedule(UserWarning):
    """A saved schedule doesn't fit its test any more; an example stands at `ExploredWorld`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be explored, and how."""

    test: Callable[..., None]
    runs: int
    seed: int
    disturbances: Disturbances
    points_max: int
    workflows: tuple[Workflow[Any], ...] | None
    settings: Settings
    way: str | None
    folder: Path
    patience_seconds: float


@dataclass(slots=True)
class _Played:
    """One playing of a schedule."""

    chooser: Chooser
    happened: list[Happened]
    error: BaseException | None = None

    @property
    def kind(self) -> tuple[str, str]:
        """What tells one failure from another: the class of the error, and the line that raised it."""
        assert self.error is not None, "it failed"
        frames = traceback.extract_tb(self.error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        return type(self.error).__name__, where


@overload
def explore(test: Callable[..., None], /) -> Callable[..., None]: ...


@overload
def explore(
    *,
    runs: int = 500,
    seed: int | None = None,
    points_max: int = 2_000,
    workflows: Iterable[Workflow[Any]] | None = None,
    settings: Settings = QUIET,
    way: str | None = None,
    folder: Path | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    **disturbances: Unpack[HowMany],
) -> Callable[[Callable[..., None]], Callable[..., None]]: ...


def explore(
    test: Callable[..., None] | None = None,
    /,
    *,
    runs: int = 500,
    seed: int | None = None,
    points_max: int = 2_000,
    workflows: Iterable[Workflow[Any]] | None = None,
    settings: Settings = QUIET,
    way: str | None = None,
    folder: Path | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    **disturbances: Unpack[HowMany],
) -> Any:
    """
    Play a test in many orders: what arrives when, what fails, where the process dies.

    An example stands at `ExploredWorld`.

    Args:
        test: a plain function; its first argument is an `ExploredWorld`, others are fixtures as usual.
        runs: how many schedules are drawn, 0 for the natural course alone; `POLOS_EXPLORE_RUNS` in the environment
            says otherwise.
        seed: from which they are drawn; `POLOS_EXPLORE_SEED` if it isn't said, else 0.
        points_max: a schedule in which more happens is an error.
        workflows: what the engine knows, and nothing else: with a workflow those that it starts have to be named, too.
            All that are registered if it isn't said.
        settings: of the engine.
        way: one of `schedules.WAYS`, to draw all schedules in one way; None for a mixture.
        folder: where schedules that failed are kept; `explored`, beside the test's file, if it isn't said.
        patience_seconds: how long a schedule may take, in real time.
        disturbances: how many of each kind a schedule may hold; see `courses.HowMany`.

    Returns:
        The test, for pytest to call, without its first argument.

    Raises:
        TypeError: the test is a coroutine function, or takes no argument; there is no such disturbance; an argument
            isn't what it must be.
        ValueError: a number, or a way, makes no sense.
    """
    known = None if workflows is None else _workflows(workflows)
    _look(seed, points_max, settings, way, folder, patience_seconds)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        plan = _Plan(
            test=test,
            runs=_number("runs", runs, "POLOS_EXPLORE_RUNS"),
            seed=_number("seed", 0, "POLOS_EXPLORE_SEED", least=None) if seed is None else seed,
            disturbances=_disturbances(disturbances),
            points_max=points_max,
            workflows=known,
            settings=settings,
            way=way,
            folder=Path(inspect.getfile(test)).parent / FOLDER if folder is None else Path(folder),
            patience_seconds=patience_seconds,
        )
        return _explored(plan)

    return decorate if test is None else decorate(test)


def _number(name: str, given: int, variable: str, *, least: int | None = 0) -> int:
    """Give a number, the environment's if it has one; a test that plays nothing would show nothing."""
    text = os.environ.get(variable)
    try:
        number = given if text is None else int(text)
    except ValueError:
        raise ValueError(f"{variable} must be a whole number, it is {text!r}") from None
    if isinstance(number, bool) or not isinstance(number, int):  # pyright: ignore[reportUnnecessaryIsInstance]  # as given
        raise TypeError(f"{name} must be a whole number, it is {number!r}")
    if least is not None and number < least:
        raise ValueError(f"{name if text is None else variable} must be {least} or more, it is {number}")
    return number


def _workflows(given: object) -> tuple[Workflow[Any], ...]:
    """Give the workflows that the engine knows; a name in their place would come out as an error of ours."""
    if isinstance(given, str | Workflow) or not isinstance(given, Iterable):
        raise TypeError(f"workflows is a list of workflows, it is {given!r}")
    found = tuple(cast("Iterable[Workflow[Any]]", given))
    for one in found:
        if not isinstance(cast("object", one), Workflow):
            raise TypeError(f"an exploration is of what @workflow gives, workflows has {one!r} in it")
    return found


def _look(seed: object, points_max: object, settings: object, way: object, folder: object, patience: object) -> None:
    """Refuse what makes no sense, before anything is played: a limit that is none would be told as a failure."""
    if seed is not None and not is_one_of(seed, int):
        raise TypeError(f"seed is a whole number, it is {seed!r}")
    if not is_one_of(points_max, int) or cast("int", points_max) < 1:
        raise ValueError(f"points_max is a whole number from 1, it is {points_max!r}")
    if not isinstance(settings, Settings):
        raise TypeError(f"settings is a Settings of the engine, it is {settings!r}")
    if way is not None and way not in list(WAYS):
        raise ValueError(f"way is one of {', '.join(WAYS)}, or None for a mixture, it is {way!r}")
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder is a Path, it is {folder!r}")
    look_at_patience(patience)


def _disturbances(given: HowMany) -> Disturbances:
    known = [field.name for field in fields(Disturbances)]
    for name, number in given.items():
        if name not in known:
            raise TypeError(f"explore() knows no {name!r}; a schedule may hold {', '.join(known)}")
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"{name} must be a whole number, 0 or more, it is {number!r}")
    return Disturbances(**given)


def _explored(plan: _Plan) -> Callable[..., None]:
    """Give what pytest calls."""
    test = plan.test
    if inspect.iscoroutinefunction(test):
        raise TypeError(f"{test.__qualname__} must be a plain function: the world it explores has a loop of its own")
    parameters = list(inspect.signature(test).parameters.values())
    at = 1 if parameters and parameters[0].name == "self" else 0
    if len(parameters) <= at:
        raise TypeError(f"{test.__qualname__} must take the world as its first argument")
    del parameters[at]

    @functools.wraps(test)
    def explored(*args: Any, **kwargs: Any) -> None:
        with seldom_collected():
            _Exploration(plan, lambda world: test(*args[:at], world, *args[at:], **kwargs)).run()

    # pytest asks for the arguments, and takes what isn't the world for fixtures.
    cast("Any", explored).__signature__ = inspect.Signature(parameters)
    return explored


def _test_id(test: Callable[..., None]) -> str:
    """Give the test's name, with its parameters if pytest is running it."""
    current = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    name = test.__qualname__.replace(".<locals>", "")
    called, bracket, parameters = current.partition("[")  # there may be anything in a parameter, "::" too
    if called.rpartition("::")[2] == test.__name__:
        name += bracket + parameters
    return f"{test.__module__.rpartition('.')[2]}.{name}"


@dataclass(slots=True)
class _Exploration:
    """One call of an explored test."""

    plan: _Plan
    body: Callable[[ExploredWorld], None]
    length: int = FIRST_LENGTH
    called: set[str] = field(default_factory=set[str])
    may_fail: set[str] = field(default_factory=set[str])
    patience: Patience = field(init=False)

    def run(self) -> None:
        """Play what was saved, the natural course, and what is drawn; on the test's thread, and not for ever."""
        self.patience = Patience(self.plan.patience_seconds, gives_up=False)
        with over_this(self.patience):
            self._run()

    def _run(self) -> None:
        for path, schedule in load_all(self.plan.folder, self._id):
            self._play_saved(path, schedule)
        for number in range(self.plan.runs + 1):
            played = self._play(self._strategy(number))
            self.length = max(self.length, len(played.chooser.taken))
            if played.error is not None:
                self._report(number, played)
        never = self.may_fail - self.called
        if never:
            # Most likely a slip of the pen, and the test would show less than it says.
            raise PolosUsageError(
                f"{self._id} lets steps fail that were called in none of its {self.plan.runs + 1} schedules: "
                f"{', '.join(map(repr, sorted(never)))}; called were {', '.join(map(repr, sorted(self.called)))}"
            )

    @property
    def _id(self) -> str:
        return _test_id(self.plan.test)

    def _strategy(self, number: int) -> Strategy:
        if number == 0:
            return Scripted()  # the natural course comes first: what fails by itself needs no schedule
        chance = Random(f"{self.plan.seed}/{number}")
        return drawn(chance, length=self.length, disturbances=self.plan.disturbances.total, way=self.plan.way)

    def _play(self, strategy: Strategy, *, aloud: bool = False) -> _Played:
        """Play a schedule; `aloud` lets the engine write to the log what trouble it has with it."""
        chooser = Chooser(strategy)
        world = ExploredWorld(
            chooser,
            workflows=self.plan.workflows,
            disturbances=self.plan.disturbances,
            points_max=self.plan.points_max,
            settings=self.plan.settings,
        )
        played = _Played(chooser, world.happened)
        level = _log.level
        if not aloud:
            _log.setLevel(logging.CRITICAL + 1)
        try:
            self.patience.begin(world.under_way)
            self._play_in(world, played)
            self.patience.pause()
        except Interrupted:
            played.error = self.patience.over()  # in its place, for it isn't played again
        finally:
            _log.setLevel(level)
        return played

    def _play_in(self, world: ExploredWorld, played: _Played) -> None:
        try:
            self.body(world)
            if not world.finished:
                world.finish()
            if not world.sim.audit.states:
                raise PolosUsageError("this explores nothing: it starts no run (world.start(workflow, payload))")
        except BaseException as error:
            if not says_no(error):
                raise
            played.error = error  # the outcome of this schedule, and told
        finally:
            called, may_fail = world.steps
            self.called |= called
            self.may_fail |= may_fail
            self.patience.spare()
            world.close()

    # -------------------------------------------------------------------------------------- failures

    def _play_saved(self, path: Path, schedule: SavedSchedule) -> None:
        played = self._play(Scripted(schedule.decisions), aloud=True)
        if played.error is not None:
            text = [f"this schedule failed before and was saved in {path}; how it came to that:"]
            played.error.add_note("\n".join([*text, *_story(played.happened)]))
            raise played.error
        misfit = schedule.misfit(played.chooser.taken)
        if misfit is not None:
            message = f"{path} doesn't fit {schedule.test} any more, and shows nothing: {misfit}. Delete it."
            warnings.warn(message, StaleSchedule, stacklevel=4)

    def _report(self, number: int, failed: _Played) -> None:
        if isinstance(failed.error, TookTooLong):
            # Each time that it is played again it takes as long, so it is told as it is.
            failed.error.add_note("\n".join(self._explanation(number, failed.chooser.decisions, failed)))
            raise failed.error
        kind = failed.kind

        def fails(strategy: Strategy) -> list[Taken] | None:
            again = self._play(strategy)
            return again.chooser.taken if again.error is not None and again.kind == kind else None

        first = failed.chooser.decisions
        short = shrink(failed.chooser.taken, fails, tries_max=SHRINK_TRIES_MAX)
        played = self._play(Scripted(short.decisions), aloud=True)
        if played.error is None or played.kind != kind:
            assert failed.error is not None, "it failed"
            failed.error.add_note(
                f"schedule {number} (seed {self.plan.seed}) failed, and didn't when it was played again: "
                "something in the test, its workflows or its steps is neither in the schedule nor in the world"
            )
            raise failed.error
        played.error.add_note("\n".join(self._explanation(number, first, played, short)))
        raise played.error

    def _explanation(self, number: int, first: list[int], played: _Played, short: Shrunk | None = None) -> list[str]:
        taken = played.chooser.taken
        error = cast("BaseException", played.error)
        schedule = SavedSchedule(
            test=self._id,
            decisions=played.chooser.decisions,
            departures={at: choice.label for at, choice in enumerate(taken) if choice.index},
            failure=f"{type(error).__name__}: {str(error).partition(chr(10))[0][:500]}",
            seed=f"{self.plan.seed}/{number}",
            happened=_story(played.happened),
        )
        departures = sum(1 for index in first if index)
        left = len(schedule.departures)
        these = "this one matters" if left == 1 else f"these {left} matter"
        matter = f"of {departures} things out of the natural order {these} (>):"
        if short is not None and not short.done:
            matter = (
                f"of {departures} things out of the natural order these {left} are left (>) after "
                f"{short.tries} tries to do with fewer, which was the limit, so not all of them may matter:"
            )
        if isinstance(error, TookTooLong):
            matter = f"with {departures} things out of the natural order (>) it isn't over:"
        if not departures:
            matter = "it fails in the natural course of things:"
        lines = [f"schedule {number} of {self.plan.runs}, seed {self.plan.seed}; {matter}", *schedule.happened]
        if not schedule.departures:
            return lines  # the natural course is played whenever the test is run: there is nothing to keep
        try:
            path = save(self.plan.folder, schedule)
        except OSError as problem:
            return [*lines, f"it couldn't be saved ({problem}); repeat it with POLOS_EXPLORE_SEED={self.plan.seed}"]
        return [*lines, f"saved as {path}: whenever this test is run it is played first. Commit it."]


def _story(happened: list[Happened]) -> list[str]:
    lines = [f"{'>' if one.departs else ' '} {one.seconds:10.3f} s  {one.label}" for one in happened]
    if len(lines) > LINES_MAX:
        left_out = f"  … {len(lines) - LINES_MAX} more before …"
        lines = [left_out, *lines[-LINES_MAX:]]
    return lines
