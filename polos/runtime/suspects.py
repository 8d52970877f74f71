"""
Whose work a sound log refuses, and what becomes of it.

A disk that is full, or fails, has room again some time, and then everything that waited is recorded. But a log also
refuses what it can never take: a key that is too long, a commit that doesn't fit, a version that a bug of ours got
wrong. Trying that again would go on for ever, and hold up everybody: a failure fails everything that waits.

Who is to blame can't be seen from the error, since a commit holds the work of many, and a unit what the code of many
runs asked for. So from the first such refusal on the engine is *careful* for a while. It decides one piece of work,
and the next when that one is durable; the code of a run is run in a unit of its own, apart from the fact that woke it,
and apart from other runs. What is refused then has one owner: a run, whose code asked for it, or whoever had the work
decided. The work itself is refused, with the log's own error. A run that asked for what is over a limit fails with
that error, since it would ask for the same again; one that met our bug is set aside. Everybody else goes on, and after
two rounds without a refusal the engine is as quick as before.

The outcome of a step is kept although it was refused, because the step must not be called again: it is recorded when
somebody readmits the run, or lost with the process. What has neither an owner nor anybody who waits for it is told to
the program's log and dropped.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from polos.engine import commands as c
from polos.errors import (
    EngineNotRunning,
    PolosError,
    PolosInternalError,
    PolosStoreError,
    PolosUsageError,
    StoreReadOnly,
)
from polos.runtime.performer import failure_of
from polos.runtime.unit import Unit, Work
from polos.store.writer import Committed, Outcome

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Suspects", "set_aside"]

_log = logging.getLogger("polos")

# The world's: a disk, or a machine that is short of memory.
_WORLD: Final = (PolosStoreError, StoreReadOnly, OSError, MemoryError)
_LAPS: Final = 2  # what a refused unit held comes in two steps: its facts, then the code that they wake


def set_aside(error: Exception) -> c.SetAside:
    """Give what becomes of a run that meets a bug of ours."""
    message = f"a bug in polos kept it from going on: {type(error).__name__}: {error!a}"
    return c.SetAside(reason="internal_error", message=message)


class Suspects:
    """
    Finds out whose work a log refuses.

    Attributes:
        careful: whether each piece of work is decided by itself.
    """

    def __init__(self, engine: Engine, stuck: dict[str, c.SetAside | c.RefuseRun | None]) -> None:
        """Take the engine, and where it is noted what becomes of a run."""
        self._engine = engine
        self._stuck = stuck
        self._refusal: Exception | None = None
        self._laps = 0
        self._kept: dict[str, list[Work]] = {}  # outcomes of steps, by run
        self.careful = False

    def note(self, outcome: Outcome) -> None:
        """Note how a unit came to be refused, if that is nothing that passes."""
        if isinstance(outcome, Committed) or getattr(outcome, "following", False):
            return
        if not isinstance(outcome.error, _WORLD):
            self._refusal = outcome.error

    def judge(self, units: list[Unit]) -> None:
        """
        Find out which work is to blame for a refusal, if that can be known, refuse it, and take it from its unit.

        Args:
            units: those on their way that will be decided anew; the log is open again.

        Raises:
            PolosStoreError: the log can't be read; nothing was judged, and may be later.
        """
        error = self._refusal
        if error is None:
            return
        known = self.careful and len(units) == 1
        is_there = known and self._is_there(units[0])
        self._refusal = None
        self._laps = _LAPS
        if not known:
            _log.error("the log refuses something that it will never take (%s); it is looked for", error)
            if not self.careful:
                self.careful = True
                self._go_round()
        elif not is_there:
            unit = units[0]
            work, _ = unit.work.pop(0)
            self._blame(unit, work, error)

    def _blame(self, unit: Unit, work: Work, error: Exception) -> None:
        """Let a run fail or be set aside, or let those know who wait for the work."""
        run = work.wakes or work.run
        if work.fail is None and run is None:
            run = next(iter(unit.residents), None)
        _log.error(
            "the log can't take what %s led to, that is given up: %s",
            "some work of the engine" if run is None else f"run {run}", error,
            exc_info=None if isinstance(error, PolosUsageError) else error,
        )  # fmt: skip
        if run is not None:
            usage = isinstance(error, PolosUsageError) and work.run is None
            verdict = c.RefuseRun(error=failure_of(error)) if usage else set_aside(error)
            self._stuck[run] = None if run in self._stuck else verdict
        if work.run is not None:
            self._kept.setdefault(work.run, []).append(work)
        elif work.fail is not None:
            work.fail(
                error if isinstance(error, PolosError) else PolosInternalError(f"the log refused this: {error!r}")
            )

    def try_again(self, run: str) -> None:
        """Decide once more what was refused of a run that is let in again."""
        self._stuck.pop(run, None)
        for work in self._kept.pop(run, ()):
            self._engine.post(work)

    def let_go(self) -> None:
        """Give up what was kept: the engine stops."""
        for work in [work for works in self._kept.values() for work in works]:
            if work.fail is not None:
                work.fail(EngineNotRunning("the engine was stopped before this could be recorded"))
        self._kept.clear()

    def _is_there(self, unit: Unit) -> bool:
        """Tell whether a unit was written all the same: who appended it came to grief afterwards."""
        with self._engine.store.log.reader() as reader:
            return any(reader.version(stream) > version for stream, version in unit.expected.items())

    def _go_round(self) -> None:
        """Come to the end of what waits, and be careful no more once nothing was refused for long enough."""

        def done(_told: object) -> None:
            self._laps -= 1
            if self._laps > 0:
                self._go_round()
            else:
                self.careful = False

        self._engine.post(Work(lambda _unit: None, done=done))
