"""
When the log refuses writes, or polos has a bug: back to what is on disk, with what happened kept.

Code that ran ahead of the disk is thrown away and every run it concerns is read again; facts are not:
outcomes of steps, fired timers, signals and commands stay in memory and are decided anew. No effect
starts in between.

A log that another engine has taken refuses for ever, so there is nothing to try again: this engine would read the
runs, and call for them what their new owner is calling. It starts nothing any more and takes no commands. Who waits
for the end of a run follows the log from then on, in which the new owner records it.

Everybody who waits here hangs on this being brought to an end. So whatever goes wrong in reading the runs again is
either tried once more, like an append, with all that is on its way kept until it has worked, or the engine is over.

A bug of ours is handled the same way, with one difference: deciding the same again would fail the same
way again, for ever, and hold up everybody. So the run whose code led to it is set aside
(`internal_error`), its facts are recorded, and it is tried again by the next engine or when somebody
readmits it.

The same goes for what a sound log refuses, be it over a limit or our bug: see `polos.runtime.suspects`. A log that is
damaged or closed takes nothing from anybody any more, so this engine is over, as if another one had taken it; and
nobody waits for what only an engine could bring about.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from polos.engine import commands as c
from polos.errors import (
    EngineNotRunning,
    ForkedStore,
    NotAPolosStore,
    PolosError,
    PolosStoreError,
    StoreClosed,
    StoreDamaged,
    StoreFenced,
    StoreReadOnly,
)
from polos.runtime.direct import DirectCode
from polos.runtime.suspects import Suspects, set_aside
from polos.runtime.unit import Resident, Unit, Work
from polos.store.log import Epoch
from polos.store.writer import check_owner

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["CANT_READ", "Recovery"]

_log = logging.getLogger("polos")

# What a log says that will never take anything again from this engine.
_FOR_GOOD: Final = (StoreFenced, StoreClosed, StoreDamaged, ForkedStore)
# What reading a log or opening it again meets while its disk is away or mounted for reading alone, and a process that
# has too many files open or no memory: some time that is over.
CANT_READ: Final = (PolosStoreError, StoreReadOnly, NotAPolosStore, OSError, MemoryError)
# An append is tried again many times a second, and who reads of it has read it: a full disk isn't filled by saying so.
_SAID_AGAIN_US: Final = 60_000_000
_LOOK_US: Final = 1_000_000


class Recovery:
    """Brings an engine back to what its log says."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine."""
        self._engine = engine
        self._under_way = False
        self._said: tuple[str, int] | None = None  # what was last told of the log, and when
        # Runs that meet a bug of ours, or ask for what can't be recorded, with what becomes of each; None if that
        # can't be recorded either.
        self.stuck: dict[str, c.SetAside | c.RefuseRun | None] = {}
        self.suspects = Suspects(engine, self.stuck)
        self.over: str | None = None  # why nothing is decided here any more
        self.owing: set[str] = set()  # runs with debts that became durable meanwhile, and weren't taken up
        self._epoch: Epoch | None = None
        self._looked_us = 0

    def owns(self, epoch: Epoch) -> None:
        """Take under which epoch the log is this engine's."""
        self._epoch, self._looked_us = epoch, self._engine.clock.monotonic_us()

    def look(self) -> None:
        """
        Look, once a second, whether the log is this engine's still.

        One that appends is told. But who waits here for the end of a run that waits for something, too, waited for ever
        if it came to another engine, and this one had nothing to append.
        """
        engine, now_us = self._engine, self._engine.clock.monotonic_us()
        if self._epoch is None or engine.broken is not None or now_us < self._looked_us + _LOOK_US:
            return
        self._looked_us = now_us
        try:
            with engine.store.log.reader() as reader:
                check_owner(reader.head(), self._epoch)
        except StoreFenced as error:
            engine.broken = error
            self.start()
        except CANT_READ:
            return  # whoever needs what is there meets this, too

    def start(self) -> None:
        """Throw away what ran ahead of the disk, keep what happened, and try again later."""
        self._engine.next_position = 0  # what is decided next stands behind whatever the disk has
        if self._under_way:
            return
        self._under_way = True
        engine = self._engine
        if isinstance(engine.broken, _FOR_GOOD):
            self._give_up(engine.broken)
            return
        if isinstance(engine.broken, PolosStoreError):
            self._say_refused(engine.broken)
        task = engine.loop.create_task(self._recover())
        engine.background.add(task)
        task.add_done_callback(engine.background.discard)

    def _say_refused(self, error: Exception) -> None:
        self._say(f"the log refuses writes: {error}; nothing new starts until it takes them")

    def _say(self, text: str) -> None:
        """Tell what goes wrong with the log, once a minute and for each reason."""
        now_us = self._engine.clock.monotonic_us()
        if self._said is not None and self._said[0] == text and now_us < self._said[1] + _SAID_AGAIN_US:
            return
        self._said = text, now_us
        _log.error("%s", text)

    def _give_up(self, error: Exception) -> None:
        """Another engine owns the store, or nobody can: refuse what waits, since nobody here will decide it."""
        engine = self._engine
        fenced = isinstance(error, StoreFenced)
        found = "another engine has taken the store" if fenced else "the log takes nothing any more"
        then = "; stop this engine, and ask that one" if fenced else f": {error}"
        self.over = found + then
        _log.error("%s, this one does nothing any more: %s", found, error)
        engine.timers.close()
        engine.refuse_rest("another engine took the store" if fenced else "the engine gave up", then)
        engine.in_flight.clear()
        engine.backlog.clear()
        engine.watchers.close(error if isinstance(error, StoreFenced) else EngineNotRunning(self.over))
        engine.turn_ends()  # who stops the engine waits for nothing more
        if engine.on_over is not None:
            engine.on_over(error if isinstance(error, PolosError) else StoreDamaged(self.over))

    def read_again(self, call: Callable[[], None], error: Exception) -> None:
        """Have something done later that couldn't read the log now; nobody waits for it who could be told."""
        if isinstance(error, _FOR_GOOD):
            raise error
        self._say(f"the log can't be read and is tried again: {error}")
        self._engine.clock.call_after(round(self._engine.settings.retry_append_seconds * 1e6), call)

    def postpone(self, unit: Unit, work: Work, error: PolosStoreError) -> None:
        """Decide work later: what it needs beside the log, a blob for one, can't be written now."""
        engine = self._engine
        engine.activations.running = None
        unit.failed = True
        unit.work.append((work, {}))
        engine.in_flight[id(unit)] = unit
        engine.broken = engine.broken or error
        self.start()

    def undo(self, unit: Unit, work: Work, error: Exception) -> None:
        """
        Go back to what the log says after a bug of ours.

        The runs of this unit are ahead of the log by events that will never be there, so they are read again.
        """
        engine = self._engine
        culprit = engine.activations.running or work.run
        engine.activations.running = None
        _log.error(
            "this is a bug in polos, please report it; run %s is set aside, the runs %s are read again",
            culprit,
            list(unit.residents),
            exc_info=error,
        )
        known = culprit is None or culprit in self.stuck
        if culprit is not None:
            self.stuck[culprit] = set_aside(error)
        unit.failed = True
        if known:
            # Deciding it fails without the run's code, too: it can't be recorded at all.
            if work.fail is not None:
                work.fail(error)
        else:
            unit.work.append((work, {}))
        engine.in_flight[id(unit)] = unit
        engine.broken = engine.broken or error
        self.start()

    async def _recover(self) -> None:
        engine, is_rebuilt = self._engine, False

        def rebuild() -> None:
            nonlocal is_rebuilt
            is_rebuilt = self._rebuild()

        while not is_rebuilt:
            await engine.pause(engine.settings.retry_append_seconds)
            try:
                await asyncio.to_thread(engine.writer.reset)
                await engine.in_callback(rebuild)
            except CANT_READ as error:
                engine.broken = error
                if engine.stopping and isinstance(error, StoreClosed):
                    return  # the engine has closed it itself, and refuses what is left
                if isinstance(error, _FOR_GOOD):
                    self._give_up(error)
                    return
                self._say_refused(error)
            except Exception as error:  # noqa: BLE001  # nobody else would ever hear of it, and everybody would wait
                engine.broken = error
                self._give_up(error)
                return

    def _rebuild(self) -> bool:
        """
        Read every run again that had a unit on its way, and decide the work of those units anew.

        Reading may fail at any place, and then all of this is done once more: so what is on its way is forgotten last.

        Returns:
            False if it is too early: a unit that stood in front of the failure may still be on its way to success.
        """
        engine = self._engine
        waiting = {id(unit) for unit in engine.backlog}
        if not all(unit.failed or id(unit) in waiting for unit in engine.in_flight.values()):
            return False
        units = list(engine.in_flight.values())
        for unit in units:
            self._put_out(unit)
        self.suspects.judge(units)
        engine.intake.forget_undurable()
        lost = dict.fromkeys(run for unit in units for run in unit.residents)
        for unit in units:
            engine.debts.begun.update(unit.begun)
        engine.lines.settle_again(lost)
        gone = [(run, name) for unit in units for run, name in unit.abandoned if self._is_given_up(run, name)]
        engine.archiving.look_again()

        # Nothing is read from here on.
        again = [work for unit in units for work in unit.waiting()]
        engine.in_flight.clear()
        engine.backlog.clear()
        engine.broken = None
        self._under_way = False
        for work in reversed(again):
            if work.wakes is None or work.wakes not in lost:  # those are woken below, each time once
                engine.work.appendleft(work)
        for run, name in gone:
            engine.performer.abandon(run, name)
        for run in lost:
            engine.wake(run, slot=True)
            # Its end may be in a commit of unknown outcome that turned out well; who waits looks for itself.
            engine.watchers.ended(run)
        engine.schedule()
        owing, self.owing = self.owing, set()
        for resident in [engine.residents[run] for run in sorted(owing) if run in engine.residents]:
            engine.debts.perform(resident)
        return True

    def _put_out(self, unit: Unit) -> None:
        """Take the runs of a unit out of memory: they are ahead of the disk."""
        engine = self._engine
        for resident in unit.residents.values():
            if engine.residents.get(resident.run) is not resident:
                continue
            if isinstance(resident.code, DirectCode) and resident.code.is_running:
                # It isn't ahead of the disk: it lives on while its run is read again. One that wasn't told
                # of its start yet has nothing to lose, and its start may never come to be: it is made anew.
                engine.bodies.keep(resident.code)
                resident.code = None
            # Its steps may be under way: nobody else may have its slot before it was read again.
            engine.discard(resident, keeps_slot=resident.has_slot)

    def find(self, run: str) -> Resident | None:
        """
        Read a run again, if it is alive; others go on, whatever is found.

        One whose code meets a bug of ours there, or whose history has lost a blob, is set aside; None if it can't be
        read then, either.
        """
        for _ in range(2):
            try:
                return self._engine.loader.find(run)
            except Exception as error:
                if _passes(error) or isinstance(error, _FOR_GOOD):
                    raise
                self._engine.residents.pop(run, None)
                if run not in self.stuck:
                    _log.error("run %s can't be read and is set aside: %s", run, error, exc_info=error)
                    self.stuck[run] = set_aside(error)
        return None

    def _is_given_up(self, run: str, name: str) -> bool:
        """Tell whether a commit of unknown outcome, in which a step was given up, turned out well."""
        resident = self.find(run)
        return self._engine.loader.exists(run) if resident is None else name not in resident.state.ops


def _passes(error: Exception) -> bool:
    """Tell whether what couldn't be read may be readable soon."""
    return error.retryable if isinstance(error, PolosStoreError) else isinstance(error, CANT_READ)
