"""
The shell around the core: one owner, one scheduler, one path for everything.

Work is decided in the order it comes, on the program's own event loop, in a plain callback (`_drain`),
and becomes append units. The writer commits them in groups and hands the outcomes back in one wake-up
(`_committed`); only then does anything leave: effects start, callers get answers. What is owed follows
from the folded state, so work in the middle of a run and after a crash go the same way.

When a commit fails, every run with a unit on its way is thrown away, its work is kept, and no effect
starts until the log takes writes again (`_recover`); then the runs are read and the work decided anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from polos.clock import Clock
from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.decide import decide
from polos.engine.json import Json
from polos.engine.messages import Message
from polos.engine.state import DebtKind
from polos.errors import EngineNotRunning, PolosError, PolosStoreError, PolosUsageError, StoreClosed, StoreFailed
from polos.garbage import Seldom
from polos.points import reach
from polos.runtime.activations import Activations
from polos.runtime.archiving import Archiving
from polos.runtime.bodies import Bodies
from polos.runtime.crowd import Crowd
from polos.runtime.debts import Debts
from polos.runtime.deltas import Previews
from polos.runtime.folding import rows_are_old, update_rows
from polos.runtime.intake import Intake
from polos.runtime.lines import Lines
from polos.runtime.loading import Loader
from polos.runtime.performer import Performer
from polos.runtime.ports import Appender, MakesAppender, MakesPerformer, Mark, OwnedStore
from polos.runtime.recovery import Recovery
from polos.runtime.replying import refuse, refuse_all, reply, reply_when_durable
from polos.runtime.schedules import Schedules
from polos.runtime.settings import TURN_US, Settings
from polos.runtime.steady import SteadyClock
from polos.runtime.timers import Timers
from polos.runtime.unit import Reply, Resident, Unit, Work, settle
from polos.runtime.watch import Watchers, end_of
from polos.store.log import Receipt
from polos.store.writer import Committed, Outcome, Writer, WriterFailed, WriterFull

__all__ = ["Engine"]

_log = logging.getLogger("polos")


class Engine:
    """The owner of a store: decides, records and performs."""

    def __init__(
        self,
        store: OwnedStore,
        *,
        clock: Clock,
        settings: Settings,
        bodies: Bodies,
        appender: MakesAppender = Writer,
        performer: MakesPerformer = Performer,
    ) -> None:
        """
        Prepare an engine; `start` takes the store.

        Args:
            store: an opened store that nobody else owns.
            clock: where time comes from.
            settings: limits and defaults.
            bodies: knows the workflows and makes their code.
            appender: makes what appends.
            performer: makes what calls the functions of steps.
        """
        self.store = store
        self._make_appender = appender
        self._make_performer = performer
        self.clock: SteadyClock = SteadyClock(clock)
        self.settings = settings
        self.bodies = bodies
        self.stopping: bool = False
        self.background: set[asyncio.Task[Any]] = set()
        self.residents: dict[str, Resident] = {}
        self.loader: Loader = Loader(self)
        self.lines: Lines = Lines(self, settings.max_concurrent_workflows)
        self.schedules: Schedules = Schedules(self)
        self.watchers: Watchers = Watchers(self.schedules.ended)
        self.timers: Timers = Timers(self.clock, self._due)
        self.debts: Debts = Debts(self)
        self.activations: Activations = Activations(self)
        self.recovery = Recovery(self)
        self.suspects = self.recovery.suspects
        self.intake: Intake = Intake(self)
        self.archiving: Archiving = Archiving(self)
        self.broken: Exception | None = None
        self.marks: list[Mark] = []
        self.crowd = Crowd()
        self.on_drain: Callable[[float], None] | None = None  # drains and stops it, for who asks from outside
        self.on_over: Callable[[PolosError], None] | None = None  # told that the log takes nothing from it any more
        self.previews: Previews = Previews()
        self.poisoned: set[str] = set()  # to be set aside before their code is run
        self.is_local: Callable[[str], bool] = lambda _run: True  # unless the log is one of several
        self.carry: Callable[[Message, Callable[[], None]], None] | None = None
        self.work: deque[Work] = deque()
        self.backlog: deque[Unit] = deque()  # built, and refused by a full queue
        self.in_flight: dict[int, Unit] = {}
        self.next_position = 0  # of the next record that is handed over; 0 while that isn't known
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Appender | None = None
        self._performer: Performer | None = None
        self._flushed: asyncio.Future[None] | None = None
        self.garbage = Seldom()

    # ------------------------------------------------------------------------------ start and stop

    async def start(self, owned: Callable[[], None] | None = None) -> None:
        """
        Take the store and go on with everything that is owed.

        Args:
            owned: called when the store is ours and before any code is run.

        Raises:
            StoreInUse: another engine owns it.
            StoreDamaged: it can't be read.
            StoreFormatTooNew: a newer polos computed its rows.
        """
        self._loop = asyncio.get_running_loop()
        log = self.store.log
        with log.reader() as reader:
            rows_are_old(reader)  # a newer polos's aren't touched, not even by an epoch
        epoch = self.store.acquire_ownership()
        reach("owned_before_recovery")
        with log.reader() as reader:
            head, old = reader.head(), rows_are_old(reader)
        if old and head.position:
            await asyncio.to_thread(update_rows, log, epoch)
        elif old:
            update_rows(log, epoch)  # there are none, which takes no thread
        if owned is not None:
            owned()
        self.clock.not_before(head.time_us)
        self.next_position = head.position + 1
        self._writer = self._make_appender(
            self.store.log, epoch, self.store.blobs, on_commit=self._from_writer, on_room=self._room_from_writer
        )
        self._performer = self._make_performer(self, self._loop)
        self.loader.recover()
        reach("recovered")
        self.intake.start()
        self.store.owner_engine = self
        self.archiving.start(epoch)
        self.recovery.owns(epoch)
        self.schedule()  # what was posted before there was a loop to decide it on

    def close_marks(self) -> None:
        """Let go of what watches over activations."""
        for mark in self.marks:
            mark.close()
        self.marks.clear()
        self.crowd.close()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The program's loop."""
        assert self._loop is not None, "the engine was started"
        return self._loop

    @property
    def performer(self) -> Performer:
        """What calls step functions."""
        assert self._performer is not None, "the engine was started"
        return self._performer

    @property
    def writer(self) -> Appender:
        """What appends."""
        assert self._writer is not None, "the engine was started"
        return self._writer

    async def stop(self) -> None:
        """
        Stop: take nothing new, let running steps end within the grace, record what ended, close.

        Steps that are still running then stay owed and are called again by the next engine.
        """
        if self.stopping or self._writer is None:
            return
        self.stopping = True
        self.store.owner_engine = None
        await self.intake.stop()
        self.timers.close()
        self.lines.close()
        self.schedules.close()
        await self.archiving.stop()
        self.suspects.let_go()
        due_us = self.clock.now_us() + round(self.settings.stop_grace_seconds * 1e6)
        await self.performer.drain(due_us)
        await self._flush(due_us)
        await self.performer.close()
        for task in list(self.background):
            task.cancel()
        await self.in_callback(self._discard_all)
        reach("drained_before_close")
        await asyncio.to_thread(self._writer.close)
        self.refuse_rest("the engine was stopped")
        self.watchers.close()
        self.store.release_ownership()

    async def _flush(self, due_us: int) -> None:
        """Wait until what is decided is durable; a log that refuses writes is given up on at `due_us`."""
        if not (self.work or self.in_flight or self.backlog):
            return
        self._flushed = self.loop.create_future()
        flushed = self._flushed
        alarm: Any = self.clock.call_at(due_us, lambda: settle(flushed))
        try:
            await flushed
        finally:
            alarm.cancel()

    def refuse_rest(self, why: str, then: str = "") -> None:
        """Refuse what waits, since nobody will decide it any more; `then` says what its callers may do."""
        under_way = [work for unit in self.in_flight.values() for work in unit.waiting()]
        refuse_all(under_way, StoreFailed(f"{why} while the log refused this{then}", maybe_happened=True))
        refuse_all(self.work, EngineNotRunning(f"{why} before this could be recorded{then}"))
        self.work.clear()

    # -------------------------------------------------------------------------------------- work

    def post(self, work: Work) -> None:
        """Decide something soon, in its turn."""
        refusal = self._refusal() if work.outside or self.recovery.over is not None else None
        if refusal is not None:
            if work.fail is not None:
                work.fail(refusal)
            return
        self.work.append(work)
        self.schedule()

    def _refusal(self) -> PolosError | None:
        """Say why nothing is taken from outside now, None if it is."""
        if self.stopping:
            return EngineNotRunning("the engine is stopping")
        if self.recovery.over is not None:
            return EngineNotRunning(self.recovery.over)
        if len(self.work) >= self.settings.work_queue_max:
            state = f"the log refuses writes ({self.broken})" if self.broken is not None else "the engine is busy"
            text = f"{len(self.work)} commands wait (work_queue_max) and {state}; try again later"
            return StoreFailed(text, maybe_happened=False)
        return None

    def schedule(self) -> None:
        """Have what waits decided soon."""
        if not self._scheduled and self.broken is None and self._loop is not None and not self._loop.is_closed():
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Decide what waits; then the program's own callbacks get their turn."""
        self._scheduled = False
        most = self.settings.drain_work_max
        if self.suspects.careful:
            most = 0 if self.in_flight else 1
        until_us = self.clock.monotonic_us() + TURN_US
        try:
            for _ in range(most):
                if not self.work or self.backlog or self.broken is not None:
                    break
                self._decide(self.work.popleft())
                if self.clock.monotonic_us() >= until_us:
                    break
            self.loader.make_room()
        finally:
            # Also when Ctrl-C goes through here: who stops the engine then waits for the rest.
            if self.work and not self.backlog and not (self.suspects.careful and self.in_flight):
                self.schedule()
            self.turn_ends()

    def _decide(self, work: Work) -> None:
        unit = Unit(self.now_us(), self.next_position)
        try:
            told = work.apply(unit) or {}
            if self.suspects.careful:
                self.activations.run_code_of(unit, work.wakes)
            else:
                self.activations.run_code(unit)
        except Exception as error:  # noqa: BLE001  # either a refusal, or a bug of ours that must not go on
            if isinstance(error, PolosUsageError) and not unit.records:
                refuse(unit, work, error)
            elif isinstance(error, PolosStoreError) and error.retryable:
                self.recovery.postpone(unit, work, error)
            else:
                self.recovery.undo(unit, work, error)
            return
        except BaseException:
            # Ctrl-C in a body: the runs are ahead of the log by what will never be there, so they are read again.
            self.activations.running = None
            for resident in unit.residents.values():
                self.discard(resident)
            if work.fail is not None:
                work.fail(EngineNotRunning("the program was interrupted before this could be recorded"))
            raise
        unit.work.append((work, told))
        self._submit(unit)

    def now_us(self) -> int:
        """Give the time for records: it never goes back, whatever the clock does."""
        return self.clock.now_us()

    def _submit(self, unit: Unit) -> None:
        if not unit.records:
            reply_when_durable(unit)
            return
        if len(unit.versions) < len(unit.residents):
            unit.stay_behind(self.residents)
        for resident in unit.residents.values():
            resident.in_flight += 1
            resident.last_unit = unit
        self.in_flight[id(unit)] = unit
        if self.next_position:
            self.next_position += len(unit.records)
        if unit.rows:
            self.intake.note(unit)
        if not unit.plain:
            for run, name in unit.pure:
                self.debts.start_pure(run, name)
        if self.backlog:
            self.backlog.append(unit)
            return
        self._hand_over(unit)

    def _hand_over(self, unit: Unit) -> bool:
        reach("decided_before_submit")
        try:
            self.writer.submit(unit.sealed(), unit)
        except WriterFull:
            self.backlog.append(unit)
            return False
        except (WriterFailed, StoreClosed):
            # A group failed while we decided; its outcome brings us to `_recover`, which takes up this one too.
            # Or the engine is stopping, and refuses what is left.
            unit.failed = True
        return True

    # ---------------------------------------------------------------------------------- deciding

    def grace_us(self, resident: Resident) -> int:
        """Tell how long a run may clean up after a cancellation."""
        seconds = self.bodies.cancel_grace_seconds(resident.state.workflow)
        return round((self.settings.cancel_grace_seconds if seconds is None else seconds) * 1e6)

    def force_cancel(self, unit: Unit, resident: Resident) -> None:
        """The grace is over: step methods raise from here on, and the run is closed."""
        close = resident.code is None
        self.decide_on(unit, resident, c.ForceCancel(by="grace", close=close))

    def decide_on(self, unit: Unit, resident: Resident, command: c.Command) -> bool:
        """Decide a command of a run into a unit, and what follows in others; tells whether anything did."""
        unit.residents.setdefault(resident.run, resident)  # what is refused rests on this run, too
        decision = decide(resident.state, command, now_us=unit.now_us)
        self.intake.take(unit, resident, decision)
        return bool(decision.events)

    def outcome(self, run: str, command: c.Command, settled: Callable[[object], None]) -> None:
        """Take what became of a step: kept until it is durable, whatever the disk does; `settled` is called then."""
        self.post(Work(partial(self._take_outcome, run, command), done=settled, fail=settled, run=run))

    def _take_outcome(self, run: str, command: c.Command, unit: Unit) -> None:
        self.decide_on(unit, self.loader.get(run), command)

    def wake(self, run: str, *, slot: bool = False) -> None:
        """Look at a run soon: start it, deliver its facts; with `slot` it was given one, and may need it no more."""

        def apply(unit: Unit) -> None:
            self.debts.waking = run
            try:
                resident = self.loader.find(run)
            finally:
                self.debts.waking = None
            if resident is None:
                if slot:
                    self.lines.pass_on(run)
                return
            # Decided anew after a failed commit, it may be another's by now.
            resident.has_slot = resident.has_slot or (slot and self.lines.holds(run))
            unit.residents[run] = resident
            debt = resident.state.owed.get((DebtKind.START, ""))
            if debt is not None and (debt.due_us is None or debt.due_us <= self.now_us()):
                self.activations.begin(unit, resident)
            elif slot:
                self.loader.begin_anew(unit, resident)
            unit.ready.append(resident)

        self.post(Work(apply, wakes=run))

    # ------------------------------------------------------------------------------------ commits

    def _from_writer(self, outcomes: list[tuple[Unit, Outcome]]) -> None:
        """Take the outcomes of a group, on the writer's thread: one wake-up for all of them."""
        try:
            self.loop.call_soon_threadsafe(self._committed, outcomes)
        except RuntimeError:
            # The program's loop is closed without `stop`: like a crash, the next engine goes on.
            _log.debug("%d outcomes came after the loop was closed", len(outcomes))

    def _room_from_writer(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._room)
        except RuntimeError:
            _log.debug("room came after the loop was closed")

    def _room(self) -> None:
        while self.backlog and self.broken is None:  # else they are decided anew
            if not self._hand_over(self.backlog.popleft()):
                # It was put back at the end: one unit alone is refused only while others wait.
                self.backlog.rotate(1)
                return
        self.schedule()

    def _committed(self, outcomes: list[tuple[Unit, Outcome]]) -> None:
        reach("committed_before_answer")
        touched: dict[str, Resident] = {}
        done: list[Unit] = []
        for unit, outcome in outcomes:
            if isinstance(outcome, Committed):
                self._landed(unit, outcome.receipt, touched)
                done.append(unit)
            else:
                unit.failed = True
                self.broken = self.broken or outcome.error
                self.suspects.note(outcome)
        for unit in done:
            if not unit.plain:
                self._follow_up(unit)
            reply(unit)
        reach("committed_before_effect")
        for run, resident in touched.items():
            if self.residents.get(run) is resident:
                self._after(resident)
        if self.broken is not None:
            self.recovery.start()
        elif self.suspects.careful:
            self.schedule()
        self.loader.make_room()
        self.turn_ends()

    def _landed(self, unit: Unit, receipt: Receipt, touched: dict[str, Resident]) -> None:
        """Take that a unit is in the log; `touched` gets its runs."""
        self.in_flight.pop(id(unit), None)
        if not self.in_flight and self.broken is None:
            self.next_position = receipt.first + receipt.count  # nothing was handed over behind it
        if not unit.plain:
            for fact, index in unit.placed:
                fact.position = receipt.first + index
        for run, resident in unit.residents.items():
            resident.landed(unit.versions.get(run, 0))
            touched[run] = resident
        self.intake.durable(unit, receipt.first)

    def _follow_up(self, unit: Unit) -> None:
        """What a unit, which is durable now, began and ended outside of the log."""
        self.debts.begun.update(unit.begun)
        for run, name in unit.timers_gone:
            self.timers.drop((run, DebtKind.FIRE, name))
        for run, name in unit.abandoned:
            self.performer.abandon(run, name)
        for run, wait in unit.look_back:
            assert wait.since is not None
            self.intake.topics.look_back(run, wait.name, wait.key, wait.since)

    def _after(self, resident: Resident) -> None:
        """What follows when a run's events are durable."""
        if resident.ended:
            if resident.in_flight:
                return  # its end may be on its way still; what brings it to the disk comes here, too
            self.timers.drop_run(resident.run)
            self.debts.perform(resident)  # messages to other logs outlive their sender
            resident.facts = ()  # of one that was cancelled before it began: no code will ever see that
            if resident.idle:
                self.discard(resident)
            self.watchers.ended(resident.run, end_of(resident.end))
            self.archiving.ended(resident.state)
            return
        if self.broken is None:
            self.debts.perform(resident)
        else:
            self.recovery.owing.add(resident.run)
        if resident.facts and resident.code is not None and self.activations.may_deliver(resident):
            self.wake(resident.run)

    def turn_ends(self) -> None:
        """Look after memory, and tell who waits for all to be durable, when nothing is on its way any more."""
        self.garbage.look(len(self.work) + len(self.in_flight))
        waiting = self._flushed
        if waiting is not None and not waiting.done() and not (self.work or self.in_flight or self.backlog):
            waiting.set_result(None)

    async def in_callback(self, work: Callable[[], None]) -> None:
        """Do something in a plain callback of the loop: workflow code can't be entered from a task."""
        done: asyncio.Future[None] = self.loop.create_future()

        def call() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  # whoever waits gets it
                done.set_exception(error)
            finally:
                settle(done)  # also when Ctrl-C goes through here

        self.loop.call_soon(call)
        await done

    def _discard_all(self) -> None:
        for resident in list(self.residents.values()):
            self.discard(resident)

    async def pause(self, seconds: float) -> None:
        """Wait by the engine's clock; how it is set makes no difference."""
        waited = self.loop.create_future()
        self.clock.call_after(round(seconds * 1e6), lambda: settle(waited))
        await waited

    # ------------------------------------------------------------------------------------- memory

    def discard(self, resident: Resident, *, keeps_slot: bool = False) -> None:
        """Take a run out of memory; its code is closed, nothing is recorded. One that keeps its slot is read again."""
        self.residents.pop(resident.run, None)
        if resident.code is not None:
            resident.code.discard()
            resident.code = None
        if resident.ended:
            self.lines.leave(resident.run)
        if not keeps_slot:
            self.lines.give_back(resident)

    def reread(self, resident: Resident) -> None:
        """Throw a run out and read it again."""
        if self.residents.get(resident.run) is resident:
            self.discard(resident)
        self.wake(resident.run)

    def evict(self, run: str) -> bool:
        """Take an idle run out of memory; False if it isn't there or has something under way."""
        return self.loader.evict(run)

    def perform_again(self, run: str) -> None:
        """Take up all debts of a run once more."""
        resident = None if self.recovery.over is not None else self.residents.get(run)
        if resident is not None:
            resident.performed = 0
            self.debts.perform(resident)

    # ----------------------------------------------------------------------------------- due, asked

    def _due(self, wanted: tuple[str, str, str]) -> None:
        self.debts.due(wanted)

    async def execute(self, command_id: str, command: dict[str, Json]) -> Reply:
        """
        Decide a client's command; returns when its outcome is durable.

        Raises:
            CommandRefused: and other usage errors, when it can't be.
            EngineNotRunning: the engine is stopping.
        """
        return await self.intake.execute(command_id, command)

    async def create(self, runs: Sequence[e.RunCreated]) -> Reply:
        """
        Create root runs that this process has described, all or none; returns when they are durable.

        Raises:
            QueueFull: as many runs wait in a queue as may.
            EngineNotRunning: the engine is stopping.
        """
        return await self.intake.create(runs)

    def is_under_way(self, run: str) -> bool:
        """Tell whether a run is in memory, and its end will still be told to who watches it."""
        resident = None if self.recovery.over is not None else self.residents.get(run)
        return resident is not None and (not resident.ended or resident.in_flight > 0)

    def new_run_id(self) -> str:
        """Make an id for a run."""
        return self.clock.run_ids.new()
