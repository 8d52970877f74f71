"""
Slots and queues, as the engine uses them: `Admission`, with the engine's clock, its log and its runs.

What holds for a queue is an event of the queue's stream. It is said by the code, which names queues where it defines
workflows, and by whoever changes it while the engine runs; the later word counts. What the code says is taken up when
it isn't what the code said the last time, so a change made by hand outlives a restart, but not a new version of the
code that says something new. Of a queue that only a run names, that it exists is recorded with the first such run, so
that it can be held up also when nobody is in it. There may be one for each tenant, so these aren't kept in memory.

A run whose turn it is holds its slot from that moment on, also while it is still being read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from polos.engine import events as e
from polos.engine.admission import NO_LIMITS, Admission, Limits, Rate, Ticket
from polos.engine.json import Json
from polos.engine.projections import QUEUE_PREFIX, queue_of
from polos.engine.state import Phase, RunState
from polos.errors import QueueFull, UnknownQueue
from polos.runtime.unit import Resident, Unit, Work

if TYPE_CHECKING:
    from polos.runtime.engine import Engine
    from polos.store.log import Reader

__all__ = ["Lines", "limits_of"]

NAMED_KEPT: Final = 10_000  # queues of which is known by heart that a run has named them


def limits_of(event: e.QueueConfigured) -> Limits:
    """Give what an event says of a queue."""
    rate = None
    if event.rate_limit is not None and event.rate_period_us is not None:
        rate = Rate(event.rate_limit, event.rate_period_us)
    key_rate = None
    if event.key_rate_limit is not None and event.key_rate_period_us is not None:
        key_rate = Rate(event.key_rate_limit, event.key_rate_period_us)
    return Limits(
        concurrency=event.concurrency_limit,
        key_concurrency=event.key_concurrency_limit,
        rate=rate,
        key_rate=key_rate,
        max_queued=event.max_queued,
        paused=event.paused,
    )


def _ticket(state: RunState) -> Ticket:
    return Ticket(
        run=state.run,
        queue=queue_of(state),
        key=state.concurrency_key or "",
        priority=state.priority,
        created_us=state.created_us,
        begun=state.phase is not Phase.QUEUED,
    )


class Lines:
    """Who holds a slot, and who stands in line for one."""

    def __init__(self, engine: Engine, limit: int) -> None:
        """
        Make `limit` free slots.

        Args:
            engine: whose runs they are for.
            limit: `max_concurrent_workflows`.
        """
        self._engine = engine
        self._admission = Admission(limit)
        self._configured: dict[str, e.QueueConfigured] = {}
        self._declared: dict[str, Json] = {}  # what the code of this process said, and is recorded or on its way
        self._named: set[str] = set()  # of which a run's naming them is recorded, or on its way; not all of them
        self._wanting: dict[str, list[Callable[[], None]]] = {}  # who waits until a queue takes more
        self._when_quiet: list[Callable[[], None]] = []  # whom to tell that nobody has a slot any more
        self._alarm: Any = None
        self._alarm_us: int | None = None

    # ------------------------------------------------------------------------------------ slots

    @property
    def held(self) -> int:
        """Count the slots that are taken."""
        return self._admission.held

    def holds(self, run: str) -> bool:
        """Tell whether a run has a slot, in memory or not."""
        return self._admission.holds(run)

    def queued(self, queue: str) -> int:
        """Count the runs of a queue that stand in line and weren't begun."""
        return self._admission.queued(queue)

    def take(self, resident: Resident) -> bool:
        """Take a slot for a run; a run that gets none stands in line."""
        if resident.state.singleton is not None and not self._engine.intake.dedup.may_stand_in_line(resident.state):
            self.give_back(resident)  # one that it got before a failed commit made another one the first
            return False
        if not resident.has_slot:
            if not self._admission.holds(resident.run):
                self._wake(self._admission.join(_ticket(resident.state), now_us=self._now_us()), but=resident.run)
            resident.has_slot = self._admission.holds(resident.run)
        return resident.has_slot

    def counts(self, state: RunState) -> bool:
        """Tell whether the start of a run counts against a rate."""
        limits = self._admission.limits(queue_of(state))
        return limits.rate is not None or limits.key_rate is not None

    def started(self, run: str, *, now_us: int) -> None:
        """The start of a run is being recorded, at this time."""
        self._wake(self._admission.started(run, now_us=now_us))

    def give_back(self, resident: Resident) -> None:
        """Give a run's slot back."""
        if resident.has_slot:
            resident.has_slot = False
            self.pass_on(resident.run)

    def pass_on(self, run: str) -> None:
        """Give back the slot of a run that isn't in memory."""
        self._wake(self._admission.give_back(run, now_us=self._now_us()))
        self._tell_quiet()

    def settle_again(self, lost: Iterable[str]) -> None:
        """
        Let those have slots who had them by what is on disk: commits failed, and with them what freed and took slots.

        A run whose end was lost has its steps under way still, so it has its slot again, whatever the limits are by
        now. Who got that slot, or another one, and hasn't anything under way stands in line once more: what holds for
        its queue may be another thing now, too.

        Args:
            lost: runs that had a unit on its way.
        """
        lost = list(lost)
        found = {run: self._engine.recovery.find(run) for run in lost if self._engine.loader.was_begun(run)}
        for resident in found.values():
            if resident is not None and resident.state.busy and not resident.has_slot:
                self._hold(resident)
        loses: list[str] = []
        stands: list[Ticket] = []
        for run in dict.fromkeys([*self._admission.holders, *lost]):
            resident = found.get(run) or self._engine.residents.get(run)
            if resident is None and self._engine.loader.was_begun(run):
                continue  # it was evicted, with something under way
            resident = resident or self._engine.recovery.find(run)
            if resident is not None:
                state = resident.state
                if state.busy or (state.direct and state.phase is not Phase.QUEUED):
                    continue
                if resident.has_slot and self._engine.intake.dedup.may_stand_in_line(state):
                    stands.append(_ticket(state))
                resident.has_slot = False
            loses.append(run)
        self._wake(self._admission.stand_again(loses, stands, now_us=self._now_us()))
        for run in loses:
            self._engine.wake(run)

    def _hold(self, resident: Resident) -> None:
        """Give a run a slot beyond all limits: it has something under way."""
        self._admission.leave(resident.run, now_us=self._now_us())
        self._admission.hold(_ticket(resident.state))
        resident.has_slot = True

    def holders(self) -> tuple[str, ...]:
        """Give the runs that have a slot."""
        return self._admission.holders

    def close_door(self, quiet: Callable[[], None]) -> None:
        """Give nobody a slot any more; `quiet` is called when nobody has one."""
        self._admission.close()
        self._when_quiet.append(quiet)
        self._tell_quiet()

    def _tell_quiet(self) -> None:
        if self._when_quiet and not self._admission.held:
            for quiet in self._when_quiet:
                quiet()

    def leave(self, run: str) -> None:
        """A run ended: it waits for nothing any more."""
        self._admission.leave(run, now_us=self._now_us())
        self._engine.intake.dedup.ended(run)
        if self._wanting:
            self._tell_room()

    def _wake(self, granted: list[str], *, but: str = "") -> None:
        for run in granted:
            if run != but:
                self._engine.wake(run, slot=True)
        if self._wanting:
            self._tell_room()
        self._arm()

    def when_room(self, queue: str, call: Callable[[], None]) -> None:
        """Call back, once, when a queue that is full takes a run again."""
        self._wanting.setdefault(queue, []).append(call)

    def _tell_room(self) -> None:
        for queue in [name for name in self._wanting if self._has_room(name)]:
            for call in self._wanting.pop(queue):
                call()

    def _has_room(self, queue: str) -> bool:
        try:
            self.room(queue, 1)
        except QueueFull:
            return False
        return True

    def _now_us(self) -> int:
        return self._engine.now_us()

    def _arm(self) -> None:
        due_us = self._admission.due_us()
        if due_us == self._alarm_us:
            return
        self.close()
        if due_us is not None and not self._engine.stopping:
            self._alarm_us = due_us
            self._alarm = self._engine.clock.call_at(due_us, self._due)

    def _due(self) -> None:
        self._alarm = self._alarm_us = None
        if not self._engine.stopping:
            self._wake(self._admission.tick(self._now_us()))

    def close(self) -> None:
        """Wait for no moment any more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._alarm_us = None

    # ------------------------------------------------------------------------------------ queues

    def room(self, queue: str, coming: int) -> None:
        """
        Look whether runs may be added to a queue.

        Raises:
            QueueFull: so many would wait that the queue takes no more.
        """
        most = self._admission.limits(queue).max_queued
        waiting = self._admission.queued(queue)
        if most is not None and waiting + coming > most + self._admission.free(queue):
            message = (
                f"the queue {queue!r} is full: {waiting} runs wait in it, {coming} more were asked for, and "
                f"max_queued is {most}; try again later"
            )
            raise QueueFull(message)

    def is_configured(self, queue: str) -> bool:
        """Tell whether anything was ever said of a queue."""
        return queue in self._configured

    def look_known(self, queue: str) -> None:
        """
        Look whether a queue is one that somebody means: a misspelt one would hold nobody up, and nobody would notice.

        It is if something was said of it, if a workflow names it or has it to itself, or if a run ever named it, stands
        in it or is under way. Workflows whose code isn't here count if they ever ran.

        Raises:
            UnknownQueue: it is none of these.
        """
        if queue in self._configured or self._admission.knows(queue) or self._engine.bodies.find(queue) is not None:
            return
        named = self._engine.bodies.queues()
        if queue in named or queue in self._named:
            return
        with self._engine.store.log.reader() as reader:
            if reader.row(("code", queue)) is not None or reader.row(("queue", queue)) is not None:
                return
        close = get_close_matches(queue, sorted(named | self._configured.keys()), n=1)
        message = (
            f"there is no queue {queue!r}: no workflow or run names it, and nothing was said of it"
            f"{f'; is it {close[0]!r}?' if close else ''}"
        )
        raise UnknownQueue(message)

    def configured(self, queue: str) -> e.QueueConfigured:
        """Give what holds for a queue, as it is recorded or about to be."""
        return self._configured.get(queue) or e.QueueConfigured(queue=queue, by="code")

    def declare(self, unit: Unit, queue: str, wanted: dict[str, Json]) -> None:
        """Take up what the code says of a queue, if it didn't say so before."""
        if self._declared.get(queue) == wanted:
            return
        self._declared[queue] = wanted
        before = self.configured(queue)
        if before.declared != wanted:
            given: dict[str, Any] = dict(wanted)
            self.change(unit, e.QueueConfigured(queue=queue, by="code", declared=wanted, paused=before.paused, **given))

    def name(self, unit: Unit, queue: str) -> None:
        """Take up that a run names a queue, if nothing is recorded of it."""
        if queue in self._configured or queue in self._named:
            return
        with self._engine.store.log.reader() as reader:
            known = reader.row(("queue", queue)) is not None
        if not known:
            unit.append_system(QUEUE_PREFIX + queue, e.QueueConfigured(queue=queue, by="run"))
        if len(self._named) >= NAMED_KEPT:
            self._named.clear()  # one on its way may be recorded twice, which says the same
        self._named.add(queue)

    def change(self, unit: Unit, event: e.QueueConfigured) -> None:
        """Record what holds for a queue from now on. What begins because of it is recorded behind it."""
        unit.append_system(QUEUE_PREFIX + event.queue, event)
        self._apply(event)

    def rate_periods_us(self) -> dict[str, int]:
        """Give, for each queue with a rate, how long a start counts against it."""
        found: dict[str, int] = {}
        for queue, event in self._configured.items():
            limits = limits_of(event)
            periods = [rate.period_us for rate in (limits.rate, limits.key_rate) if rate is not None]
            if periods:
                found[queue] = max(periods)
        return found

    def amend(self, unit: Unit, queue: str, by: str, changes: dict[str, Any]) -> e.QueueConfigured:
        """Change some of what holds for a queue."""
        event = replace(self.configured(queue), by=by, **changes)
        self.change(unit, event)
        return event

    def _apply(self, event: e.QueueConfigured, starts: Iterable[tuple[str, int]] | None = None) -> None:
        self._configured[event.queue] = event
        self._wake(self._admission.configure(event.queue, limits_of(event), now_us=self._now_us(), starts=starts))

    def _starts(self, reader: Reader, event: e.QueueConfigured) -> Iterator[tuple[str, int]]:
        """Give the recorded starts that the rates of a queue have to know: keys and times, by time."""
        period_us = self.rate_periods_us().get(event.queue)
        if period_us is not None:
            after = ("start", event.queue, max(self._now_us() - period_us, 0))
            for key, row in reader.rows(("start", event.queue), after=after):
                yield orjson.loads(row), int(key[2])

    def forget_undurable(self, reader: Reader) -> None:
        """Units on their way were lost: what is recorded of queues counts."""
        self._declared.clear()
        self._named.clear()
        lost = set(self._configured)
        for _, row in reader.rows(("queue",)):
            event = e.QueueConfigured(**orjson.loads(row))
            if event == e.QueueConfigured(queue=event.queue, by="run"):
                continue
            lost.discard(event.queue)
            if self._configured.get(event.queue) != event:
                self._apply(event, self._starts(reader, event))
        for queue in lost:
            del self._configured[queue]
            self._wake(self._admission.configure(queue, NO_LIMITS, now_us=self._now_us()))

    # ------------------------------------------------------------------------------------ start-up

    def recover(self, reader: Reader) -> None:
        """Take up what is recorded: limits, starts within the period of a rate, who was running, who waits."""
        now_us = self._now_us()
        self.forget_undurable(reader)
        fresh: list[Ticket] = []
        for key, row in reader.rows(("line",)):
            name, priority, due_us, *single = orjson.loads(row)
            if not single and (due_us is None or due_us <= now_us):
                ticket = Ticket(run=str(key[3]), queue=str(key[1]), key=name, priority=priority, created_us=int(key[2]))
                fresh.append(ticket)
        resumed: list[str] = []
        for key, _ in reader.rows(("status", "running")):
            self._engine.post(Work(partial(self._take_up, str(key[-1]), resumed)))
        self._engine.post(Work(partial(self._open, resumed, fresh)))
        self._engine.intake.dedup.recover(reader)

    def _take_up(self, run: str, resumed: list[str], unit: Unit) -> None:
        """
        Read a run that was running, and let it keep the slot that it had.

        One that has nothing under way had none: it was waiting, what it waited for came, and nobody ran its code yet.
        """
        resident = self._engine.loader.find(run)
        if resident is None:
            return
        if resident.state.busy == 0:
            resumed.append(run)
            return
        self._hold(resident)
        unit.residents[run] = resident
        unit.ready.append(resident)

    def _open(self, resumed: list[str], fresh: list[Ticket], _unit: Unit) -> None:
        """Let the others come, when all who had a slot have it again."""
        for run in resumed:
            self._engine.wake(run)
        for ticket in fresh:
            self._wake(self._admission.join(ticket, now_us=self._now_us()))
