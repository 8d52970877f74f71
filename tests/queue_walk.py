"""
Walks a log from its first record to its last, and counts what queues promise at each single one.

It knows nothing of admission, lines or slots. It reads what holds for each queue from the events that say so, folds
the runs, and looks at each record whether it may stand there: whether a run may begin or go on beside those that are
under way, whether a start keeps to the rate, whether a second run of a singleton began. What is wrong is kept as a
text with the position, so that a test can print all of it.

What of a limit a log can show, and what not:

* A run goes in when it begins, and when its code asks for something; it needs room at that very record. One that woke
  isn't in yet, although it shows `running`: what woke it is recorded before anybody knows whether there is a slot.
* It is out when it ended or shows that it waits. If what happened last may make its code ask for more, that is no new
  going in: it holds its slot until its code has been told.
* A body that isn't replayed asks when asyncio lets it: only its start and its steps count, and not its cleaning up.
* An engine that dies takes slots with it, but not those of runs that have something under way.
* Who is in when a limit is lowered stays in; nobody new goes in until there is room again.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from polos.engine import events as e
from polos.engine.admission import Limits, Rate
from polos.engine.codec import decode
from polos.engine.evolve import evolve
from polos.engine.projections import RUN_PREFIX, queue_of
from polos.engine.state import ENDED, DebtKind, Phase, RunState, status
from polos.runtime.lines import limits_of
from polos.store.log import Log

__all__ = ["QueueWalk", "walk"]

Key = tuple[str, str]  # queue and concurrency key; or workflow and a key of its own


@dataclass(slots=True)
class _Waiting:
    """A run that could begin, and how often each other key of its queue went before it."""

    state: RunState
    since_us: int = 0  # when it was due, if it was put off
    passed: dict[str, int] = field(default_factory=dict[str, int])
    younger: int = 0  # runs of its own key that went before it; one may have got its slot in the same moment


@final
class QueueWalk:
    """
    Counts, record by record.

    Attributes:
        wrong: what must not be, as text.
        looked: how many times something was checked that could have been wrong; a test that saw none shows nothing.
    """

    def __init__(
        self,
        *,
        slots: int | None = None,
        idempotency_us: int = 86_400_000_000,
        turns: bool = True,
    ) -> None:
        """
        Begin before the first record.

        Args:
            slots: of each engine (`max_concurrent_workflows`); None for as many as there are runs.
            idempotency_us: how long an idempotency key counts.
            turns: whether keys must take turns.
        """
        self.wrong: list[str] = []
        self.looked: dict[str, int] = defaultdict(int)
        self.states: dict[str, RunState] = {}
        self._slots = slots
        self._idempotency_us = idempotency_us
        self._turns = turns
        self._limits: dict[str, Limits] = defaultdict(Limits)
        self._inside: dict[str, RunState] = {}  # by queue and by key they are counted anew when asked: there are few
        self._lingering: dict[str, int] = {}  # went out by a fact of this version, which its code may see yet
        self._starts: dict[str, deque[int]] = defaultdict(deque)
        self._key_starts: dict[Key, deque[int]] = defaultdict(deque)
        self._begun: dict[Key, set[str]] = defaultdict(set)  # of a singleton
        self._asked: dict[Key, int] = {}  # when a run was created for an idempotency key
        self._line: dict[str, _Waiting] = {}
        self._delayed: dict[str, RunState] = {}
        self._changed_us: dict[str, int] = {}  # when what holds for a queue was changed last
        self._now_us = self._before_us = 0  # of the record, and of the last one of another time
        self._position = 0

    # ------------------------------------------------------------------------------------ reading

    def interrupted(self) -> None:
        """The engine died, or its log refused: what it knew beside the log is gone."""
        self._forget_turns()
        # The body of one that isn't replayed may live on, if only the log refused.
        direct = {run: state.attempt_version for run, state in self._inside.items() if state.direct and not state.busy}
        self._lingering = direct
        self._inside = {run: state for run, state in self._inside.items() if state.busy}

    def _forget_turns(self) -> None:
        for waiting in self._line.values():
            waiting.passed.clear()

    def take(self, stream: str, event: e.Event, time_us: int, position: int) -> None:
        """Read the next record."""
        if time_us != self._now_us:
            self._before_us = self._now_us
        self._now_us, self._position = time_us, position
        for run in [run for run, state in self._delayed.items() if self._is_due(state)]:
            delayed = self._delayed.pop(run)
            self._line[run] = _Waiting(delayed, since_us=delayed.owed[DebtKind.START, ""].due_us or 0)
        if isinstance(event, e.QueueConfigured):
            self._configure(event)
        elif isinstance(event, e.EngineStarted):
            self.interrupted()
        elif stream.startswith(RUN_PREFIX):
            run = stream.removeprefix(RUN_PREFIX)
            self._run(self.states.setdefault(run, RunState(run=run)), event, time_us)

    def _run(self, state: RunState, event: e.Event, time_us: int) -> None:
        fresh = isinstance(event, e.RunStarted) and state.phase is Phase.QUEUED
        ran, cause = _shows_code(state, event), int(getattr(event, "cause", 0))
        if ran and state.run not in self._inside and self._lingering.get(state.run) != cause:
            self._goes_in(state)
        if fresh:
            assert isinstance(event, e.RunStarted)
            self._begins(state, event)
        evolve(state, event, time_us=time_us)
        if isinstance(event, e.RunCreated):
            self._created(state, event)
        if ran:
            self._inside[state.run] = state
            self._lingering.pop(state.run, None)
        if state.run in self._inside and not _is_inside(state):
            del self._inside[state.run]
            if type(event) in e.FACTS:
                self._lingering[state.run] = state.version
            elif ran:
                self._lingering[state.run] = cause  # more may be asked for on the same fact
        if state.phase is not Phase.QUEUED or state.aside:
            self._line.pop(state.run, None)
            self._delayed.pop(state.run, None)
        if state.phase in ENDED and state.singleton is not None:
            self._begun[state.workflow, state.singleton].discard(state.run)

    def _is_due(self, state: RunState) -> bool:
        debt = state.owed.get((DebtKind.START, ""))
        return debt is not None and (debt.due_us is None or debt.due_us < self._now_us)

    # ------------------------------------------------------------------------------------ looking

    def _expect(self, what: str, holds: bool, text: str) -> None:
        self.looked[what] += 1
        if not holds:
            self.wrong.append(f"{what}, at position {self._position}: {text}")

    def _goes_in(self, state: RunState) -> None:
        """A run's code is run, and it had nothing under way: there has to be room."""
        name, key = queue_of(state), state.concurrency_key or ""
        others = [other for other in self._inside.values() if queue_of(other) == name]
        of_key = [other for other in others if (other.concurrency_key or "") == key]
        for waiting in self._line.values():
            if queue_of(waiting.state) == name and (waiting.state.concurrency_key or "") == key:
                waiting.passed.clear()  # its key has its turn
        if self._changed_us.get(name) == self._now_us:
            return  # its turn may have been decided just before
        limits = self._limits[name]
        rooms = (
            ("slots of the engine", self._slots, "all queues", list(self._inside.values())),
            ("limit of a queue", limits.concurrency, repr(name), others),
            ("limit of a key", limits.key_concurrency, f"{name!r}/{key!r}", of_key),
        )
        for what, limit, where, beside in rooms:
            if limit is not None:
                text = f"{state.run} goes in beside {[other.run for other in beside]}, of {limit} in {where}"
                self._expect(what, len(beside) < limit, text)

    def _begins(self, state: RunState, event: e.RunStarted) -> None:
        """A run begins that never did before."""
        name, key, now_us = queue_of(state), state.concurrency_key or "", self._now_us
        limits = self._limits[name]
        if self._changed_us.get(name) == now_us:
            return  # its turn may have been decided just before
        self._expect("pause", not limits.paused, f"{state.run} begins in {name!r}, which is paused")
        rates = ((limits.rate, self._starts[name], "queue"), (limits.key_rate, self._key_starts[name, key], "key"))
        for rate, starts, whose in rates:
            if rate is None:
                continue
            self._expect("rate is recorded", event.counted, f"{state.run} begins in {name!r} and isn't counted")
            starts.append(now_us)
            _forget(starts, rate, now_us)
            text = f"{state.run} is start {len(starts)} of {name!r}/{key!r} within {rate.period_us} µs, of {rate.limit}"
            self._expect(f"rate of a {whose}", len(starts) <= rate.limit, text)
        if state.singleton is not None:
            begun = self._begun[state.workflow, state.singleton]
            text = f"{state.run} begins beside {sorted(begun)}, singletons of {state.singleton!r}"
            # A successor goes on for the run that it continues, which ends in the same commit.
            self._expect("singleton", not (begun - {state.continues}), text)
            begun.add(state.run)
        if self._turns:
            self._takes_turn(state)

    def _takes_turn(self, state: RunState) -> None:
        """Whoever could have begun and was passed over by this key once already mustn't be again."""
        name, key = queue_of(state), state.concurrency_key or ""
        limits = self._limits[name]
        mine = self._line.get(state.run)
        for waiting in self._line.values():
            other = waiting.state.concurrency_key or ""
            if queue_of(waiting.state) != name or waiting is mine:
                continue
            if other == key:
                if waiting.state.singleton is None and _rank(waiting.state) < _rank(state):
                    waiting.younger += 1
                text = f"{state.run} begins, and {waiting.state.run} of the same key has waited longer"
                self._expect("age within a key", waiting.younger <= 1, text)
                continue
            count = sum(queue_of(one) == name and (one.concurrency_key or "") == other for one in self._inside.values())
            held_up = limits.key_rate is not None or not _below(count, limits.key_concurrency)
            if held_up or waiting.state.singleton is not None or waiting.state.priority < state.priority:
                waiting.passed.clear()
                continue
            passed = waiting.passed[key] = waiting.passed.get(key, 0) + 1
            text = f"{state.run} of {key!r} begins in {name!r}, and {waiting.state.run} of {other!r} was passed over"
            # Once is its right; once more may have been decided before the other came, and recorded only now.
            self._expect("turns of keys", passed <= 2, f"{text} by it {passed} times")

    def _created(self, state: RunState, event: e.RunCreated) -> None:
        name = queue_of(state)
        if event.idempotency_key is not None:
            asked = (event.workflow, event.idempotency_key)
            before = self._asked.get(asked)
            text = f"{state.run} is created for {event.idempotency_key!r}, as one was at {before}"
            self._expect("idempotency key", before is None or self._now_us - before >= self._idempotency_us, text)
            self._asked[asked] = self._now_us
        if not self._is_due(state):
            self._delayed[state.run] = state
            return
        self._line[state.run] = _Waiting(state)
        most, limits = self._limits[name].max_queued, self._limits[name]
        if most is None or state.parent is not None:
            return  # a child finds out by failing, one record later
        # One that was put off waits from when its alarm rang, which need not be before what else the moment brought.
        queued = sum(
            queue_of(one.state) == name and one.state.singleton is None and one.since_us <= self._before_us
            for one in self._line.values()
        )
        under_way = sum(queue_of(one) == name for one in self._inside.values())
        free = len(self.states) if limits.concurrency is None else max(limits.concurrency - under_way, 0)
        free = free if self._slots is None else min(free, self._slots)
        text = f"{state.run} is created in {name!r} as waiting run {queued}, of {most} and {free} that could begin"
        self._expect("max_queued", queued <= most + free, text)

    def _configure(self, event: e.QueueConfigured) -> None:
        """Another rate knows what the one before still had to know; one that is new begins with nothing."""
        name, now_us = event.queue, self._now_us
        old, new = self._limits[name], limits_of(event)
        keyed = [starts for (queue, _), starts in self._key_starts.items() if queue == name]
        for was, becomes, all_starts in (
            (old.rate, new.rate, [self._starts[name]]),
            (old.key_rate, new.key_rate, keyed),
        ):
            for starts in all_starts:
                if was is None or becomes is None:
                    starts.clear()
                else:
                    _forget(starts, was, now_us)
        self._limits[name] = new
        if old != new:
            self._changed_us[name] = now_us
            self._forget_turns()


def _shows_code(state: RunState, event: e.Event) -> bool:
    """Tell whether an event shows that a run's code is being run."""
    if state.direct:
        return state.phase is not Phase.CANCELLING and isinstance(event, e.RunStarted | e.StepScheduled)
    if isinstance(event, e.RunStarted | e.RunCompleted):
        return True
    return getattr(event, "cause", 0) > 0 and not isinstance(event, e.RunCancelled | e.RunFailed)


def _is_inside(state: RunState) -> bool:
    """Tell whether a run that was in still is."""
    if not state.busy and state.fact_version > state.seen_version:
        return False  # whether its code is told of that before anything else happens, nobody knows yet
    shown = status(state)
    cleans_up = shown == "pending_cancel" and not state.direct and (state.busy > 0 or not state.ops)
    return shown == "running" or cleans_up


def _rank(state: RunState) -> tuple[int, int]:
    return -state.priority, state.created_us


def _forget(starts: deque[int], rate: Rate, now_us: int) -> None:
    while starts and starts[0] <= now_us - rate.period_us:
        starts.popleft()


def _below(count: int, limit: int | None) -> bool:
    return limit is None or count < limit


def walk(log: Log, made: QueueWalk, *, cuts: Iterable[int] = ()) -> QueueWalk:
    """
    Walk a log.

    Args:
        log: from its first record to its last.
        made: what counts.
        cuts: positions behind which an engine died, or its log refused.
    """
    interrupted = set(cuts)
    with log.reader() as reader:
        for record in reader.records():
            event = decode(record.type, record.schema_version, record.payload)
            made.take(record.stream, event, record.time_us, record.position)
            if record.position in interrupted:
                made.interrupted()
    return made
