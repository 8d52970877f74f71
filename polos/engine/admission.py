"""
Who may run: one line for each queue, and in it one for each concurrency key.

A run needs a slot while its code is being run or its steps are in flight. A slot is one of the engine's, one of its
queue's and one of its key's at once, so there are three counts to keep and one decision: whose turn it is. The order
is: priority; then, between queues, age; within a queue the keys take turns, so that who has ten thousand runs waiting
holds up nobody who has one; and within a key, age. A run that was begun goes before one that wasn't, since it holds
what others wait for.

Nothing here is recorded. Who waits and who runs follows from the rows of runs and queues, so it is built anew with
each engine; and which run goes first isn't a promise that outlives a process. That no limit is exceeded is one, also
across a crash: runs that were running go on (`hold`), and starts within the period of a rate are told (`note_start`).

A rate counts starts, at the times that are recorded: in no window of `period_us` there are more than `limit`. A run
that may start but whose start isn't recorded yet counts as one that starts now, so a slow commit can't let one too
many through. A paused queue and a rate hold up runs that weren't begun, never one that was.

Every operation costs O(log n) in what waits. Heaps keep stale entries, which are told by their stamp and skipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import field
from heapq import heapify, heappop, heappush
from typing import Final, final

from polos.data_class import dataclass

__all__ = ["NO_LIMITS", "Admission", "Limits", "Rate", "Ticket"]


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `limit` starts in any window of `period_us` microseconds."""

    limit: int
    period_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What holds for a queue.

    Attributes:
        concurrency: runs that may hold a slot, of all keys together; None for any number.
        key_concurrency: those of one key; runs without a key are counted as a key of their own.
        rate: of the queue.
        key_rate: of each key.
        max_queued: runs that weren't begun and wait; kept here, and looked at by whoever creates runs.
        paused: nothing new begins.
    """

    concurrency: int | None = None
    key_concurrency: int | None = None
    rate: Rate | None = None
    key_rate: Rate | None = None
    max_queued: int | None = None
    paused: bool = False


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """
    What a run shows to get a slot.

    Attributes:
        run: its id.
        queue: the name of its queue.
        key: its concurrency key, "" without one.
        priority: the higher, the sooner.
        created_us: its age.
        begun: whether it was begun; it goes on then.
    """

    run: str
    queue: str
    key: str = ""
    priority: int = 0
    created_us: int = 0
    begun: bool = False


@final
@dataclass(slots=True, eq=False)
class _Starts:
    """The starts that a rate has to know of."""

    times: deque[int] = field(default_factory=deque[int])
    pending: int = 0  # may start, and aren't recorded yet

    def free_us(self, rate: Rate | None, now_us: int) -> int | None:
        """Tell from when on one more start keeps to the rate; None: not before a pending one is recorded."""
        if rate is None:
            return now_us
        while self.times and self.times[0] <= now_us - rate.period_us:
            self.times.popleft()
        if len(self.times) + self.pending < rate.limit:
            return now_us
        if self.pending >= rate.limit:
            return None
        return self.times[len(self.times) + self.pending - rate.limit] + rate.period_us


_Entry = tuple[int, int, str]  # -priority, created, run


@final
@dataclass(slots=True, eq=False)
class _Key:
    """The lines of one key: runs that were begun, and runs that weren't."""

    name: str
    held: int = 0
    begun: list[_Entry] = field(default_factory=list[_Entry])
    fresh: list[_Entry] = field(default_factory=list[_Entry])
    starts: _Starts = field(default_factory=_Starts)
    turn: int = 0  # when it was served or joined last: the lower, the sooner
    stamp: int = 0


_Open = tuple[int, int, int, str]  # -priority of the first in line, turn, stamp, key


@final
@dataclass(slots=True, eq=False)
class _Queue:
    """
    The lines of one queue.

    A key stands in `begun` and in `fresh`, under its stamp, with the first of that line, as far as the key's own
    limits let it go; in `timed` if its rate does so at a moment. What holds for the whole queue is looked at when
    somebody is picked.
    """

    name: str
    limits: Limits = NO_LIMITS
    held: int = 0
    waiting: int = 0
    waiting_fresh: int = 0
    keys: dict[str, _Key] = field(default_factory=dict[str, _Key])
    begun: list[_Open] = field(default_factory=list[_Open])
    fresh: list[_Open] = field(default_factory=list[_Open])
    timed: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])  # when, stamp, key
    starts: _Starts = field(default_factory=_Starts)
    stamp: int = 0
    keys_max: int = 64  # with more, those of which nothing is known any more are dropped

    def is_current(self, name: str, stamp: int) -> bool:
        """Tell whether what was noted of a key under a stamp still holds."""
        key = self.keys.get(name)
        return key is not None and key.stamp == stamp

    def first(self, heap: list[_Open]) -> _Open | None:
        """Give the first key of a heap that may go as far as it is concerned."""
        while heap:
            if self.is_current(heap[0][3], heap[0][2]):
                return heap[0]
            heappop(heap)
        return None

    def pick(self, now_us: int) -> tuple[_Key, list[_Entry]] | None:
        """Give whose turn it is: the first of this line of this key. None if it is nobody's."""
        if not _below(self.held, self.limits.concurrency):
            return None
        begun = self.first(self.begun)
        fresh = self.first(self.fresh) if self.opens_us(now_us) == now_us else None
        if begun is not None and (fresh is None or begun[0] <= fresh[0]):
            key = self.keys[begun[3]]
            return key, key.begun
        if fresh is not None:
            key = self.keys[fresh[3]]
            return key, key.fresh
        return None

    def opens_us(self, now_us: int) -> int | None:
        """Tell from when on something new may begin, as far as the queue goes; None: time alone doesn't help."""
        return None if self.limits.paused else self.starts.free_us(self.limits.rate, now_us)

    def due_us(self, now_us: int) -> int | None:
        """Tell when time alone changes who may go."""
        while self.timed and not self.is_current(self.timed[0][2], self.timed[0][1]):
            heappop(self.timed)
        due_us = self.timed[0][0] if self.timed else None
        opens_us = self.opens_us(now_us)
        if opens_us is not None and opens_us > now_us and self.first(self.fresh) is not None:
            due_us = opens_us if due_us is None else min(due_us, opens_us)
        return due_us

    def drop_stale(self) -> None:
        """Keep the heaps in proportion to the keys."""
        for heap in (self.begun, self.fresh):
            if len(heap) > 64 + 4 * len(self.keys):
                heap[:] = [entry for entry in heap if self.is_current(entry[3], entry[2])]
                heapify(heap)
        if len(self.timed) > 64 + 4 * len(self.keys):
            self.timed = [entry for entry in self.timed if self.is_current(entry[2], entry[1])]
            heapify(self.timed)

    def drop_keys(self, now_us: int) -> None:
        """Drop keys of which nothing is known any more: there are as many as users."""
        if len(self.keys) <= self.keys_max:
            return
        for key in list(self.keys.values()):
            key.starts.free_us(self.limits.key_rate, now_us)
            if not (key.held or key.begun or key.fresh or key.starts.pending or key.starts.times):
                del self.keys[key.name]
        self.keys_max = max(64, 2 * len(self.keys))


@final
class Admission:
    """
    Slots, and the lines for them.

    Example:
        >>> admission = Admission(10)
        >>> admission.configure("mail", Limits(concurrency=1), now_us=0)
        []
        >>> [admission.join(Ticket(run=run, queue="mail"), now_us=0) for run in ("a", "b")]
        [['a'], []]
        >>> admission.give_back("a", now_us=0)
        ['b']
    """

    def __init__(self, limit: int) -> None:
        """
        Make `limit` free slots.

        Raises:
            ValueError: the limit is below 1.
        """
        if limit < 1:
            message = f"max_concurrent_workflows must be at least 1, it is {limit}"
            raise ValueError(message)
        self._limit = limit
        self._queues: dict[str, _Queue] = {}
        self._holders: dict[str, Ticket] = {}
        self._waiting: dict[str, Ticket] = {}
        self._pending: set[str] = set()  # hold a slot for a start that isn't recorded yet
        self._open: list[tuple[int, int, int, str]] = []  # -priority, created, stamp, queue
        self._timed: list[tuple[int, int, str]] = []  # when, stamp, queue
        self._stamps = 0

    # ------------------------------------------------------------------------------------ looking

    @property
    def held(self) -> int:
        """Count the slots that are taken."""
        return len(self._holders)

    @property
    def waiting(self) -> int:
        """Count those who stand in line."""
        return len(self._waiting)

    @property
    def holders(self) -> tuple[str, ...]:
        """Give the runs that hold a slot."""
        return tuple(self._holders)

    def holds(self, run: str) -> bool:
        """Tell whether a run holds a slot."""
        return run in self._holders

    def knows(self, queue: str) -> bool:
        """Tell whether anything was said of a queue, or a run stands in it or is under way."""
        return queue in self._queues

    def queued(self, queue: str) -> int:
        """Count the runs of a queue that weren't begun and stand in line."""
        found = self._queues.get(queue)
        return 0 if found is None else found.waiting_fresh

    def free(self, queue: str) -> int:
        """Count the runs that could get a slot of a queue at once; 0 if others stand in line for it."""
        found = self._queues.get(queue)
        free = max(self._limit - len(self._holders), 0)
        if found is None:
            return free
        if found.waiting or found.limits.paused:
            return 0
        return free if found.limits.concurrency is None else min(free, max(found.limits.concurrency - found.held, 0))

    def limits(self, queue: str) -> Limits:
        """Give what holds for a queue."""
        found = self._queues.get(queue)
        return NO_LIMITS if found is None else found.limits

    def due_us(self) -> int | None:
        """Tell when time alone lets somebody go (`tick`), None if it doesn't."""
        while self._timed:
            due_us, stamp, name = self._timed[0]
            if self._is_current(name, stamp):
                return due_us
            heappop(self._timed)
        return None

    # ------------------------------------------------------------------------------------ changing

    def configure(
        self, queue: str, limits: Limits, *, now_us: int, starts: Iterable[tuple[str, int]] | None = None
    ) -> list[str]:
        """
        Change what holds for a queue. Nobody loses a slot.

        Args:
            queue: its name.
            limits: what holds from now on.
            now_us: the time.
            starts: keys and times of the starts that its rates have to know, in order of time, if what is known of them
                is wrong: a change was lost that forgot them.

        Returns:
            The runs that get a slot by it.
        """
        found = self._queue(queue)
        # What an old rate need not know any more is forgotten; a longer one counts from here on.
        for known, old, new in (
            (found.starts, found.limits.rate, limits.rate),
            *((key.starts, found.limits.key_rate, limits.key_rate) for key in found.keys.values()),
        ):
            known.free_us(old, now_us)
            if new is None:
                known.times.clear()
        found.limits = limits
        if starts is not None:
            for known in (found.starts, *(key.starts for key in found.keys.values())):
                known.times.clear()
            for name, started_us in starts:
                self.note_start(queue, name, started_us)
        for key in found.keys.values():
            self._settle_key(found, key, now_us)
        self._settle_queue(found, now_us)
        return self._grant(now_us)

    def close(self) -> None:
        """Give nobody a slot any more; who has one keeps it."""
        self._limit = 0

    def hold(self, ticket: Ticket) -> None:
        """Give a slot to a run that was running when an engine ended, whatever the limits are by now."""
        if ticket.run not in self._holders:
            self._take(ticket)

    def note_start(self, queue: str, key: str, started_us: int) -> None:
        """Note a start that is recorded; to be told in order of time, before anybody joins."""
        found = self._queue(queue)
        if found.limits.rate is not None:
            found.starts.times.append(started_us)
        if found.limits.key_rate is not None:
            _key(found, key).starts.times.append(started_us)

    def join(self, ticket: Ticket, *, now_us: int) -> list[str]:
        """
        Ask for a slot. Asking again changes nothing.

        Returns:
            The runs that get a slot by it: mostly the one that asks, or none. Who gets none stands in line.
        """
        if ticket.run in self._holders or ticket.run in self._waiting:
            return []
        queue = self._queue(ticket.queue)
        if not queue.waiting and queue.limits is NO_LIMITS and len(self._holders) < self._limit:
            self._take(ticket)  # the common case
            return [ticket.run]
        self._stand(queue, ticket, now_us)
        return self._grant(now_us)

    def stand_again(self, runs: Iterable[str], tickets: Iterable[Ticket], *, now_us: int) -> list[str]:
        """
        Take slots away, and let some stand in line for them again, all before anybody gets one by it.

        Args:
            runs: who loses its slot, if it has one.
            tickets: those of them that stand in line from now on.
            now_us: the time.

        Returns:
            The runs that get a slot by it.
        """
        for run in runs:
            ticket = self._free(run)
            if ticket is not None:
                self._settle(ticket, now_us)
        for ticket in tickets:
            if ticket.run not in self._holders and ticket.run not in self._waiting:
                self._stand(self._queue(ticket.queue), ticket, now_us)
        return self._grant(now_us)

    def started(self, run: str, *, now_us: int) -> list[str]:
        """
        Note that the start of a run that holds a slot is being recorded; gives who gets a slot by it.

        It may come once more, if the first record was lost with its commit; both count then, since the first may be
        there all the same.
        """
        ticket = self._holders.get(run)
        if ticket is None or ticket.begun:
            return []
        queue = self._queues[ticket.queue]
        if run not in self._pending:
            _note(queue, queue.keys[ticket.key], now_us)
            return []
        self._settle_start(ticket, now_us)
        return self._after(ticket, now_us)

    def give_back(self, run: str, *, now_us: int) -> list[str]:
        """
        Give a slot back.

        Returns:
            The runs whose turn it is: they hold a slot from now on, so that nobody gets in before them.
        """
        ticket = self._free(run)
        return [] if ticket is None else self._after(ticket, now_us)

    def leave(self, run: str, *, now_us: int) -> None:
        """Leave the line, for good. Who only leaves memory keeps its place: it is read again when its turn comes."""
        ticket = self._waiting.pop(run, None)
        if ticket is None:
            return
        queue = self._queues[ticket.queue]
        queue.waiting -= 1
        queue.waiting_fresh -= not ticket.begun
        self._settle_key(queue, queue.keys[ticket.key], now_us)
        self._settle_queue(queue, now_us)

    def tick(self, now_us: int) -> list[str]:
        """Let time count; gives who gets a slot by it."""
        while (due_us := self.due_us()) is not None and due_us <= now_us:
            queue = self._queues[heappop(self._timed)[2]]
            while queue.timed and queue.timed[0][0] <= now_us:
                _, stamp, name = heappop(queue.timed)
                if queue.is_current(name, stamp):
                    self._settle_key(queue, queue.keys[name], now_us)
            self._settle_queue(queue, now_us)
        return self._grant(now_us)

    # ------------------------------------------------------------------------------------ private

    def _next(self) -> int:
        self._stamps += 1
        return self._stamps

    def _queue(self, name: str) -> _Queue:
        found = self._queues.get(name)
        if found is None:
            found = self._queues[name] = _Queue(name)
        return found

    def _is_current(self, name: str, stamp: int) -> bool:
        queue = self._queues.get(name)
        return queue is not None and queue.stamp == stamp

    def _take(self, ticket: Ticket) -> None:
        queue = self._queue(ticket.queue)
        key = _key(queue, ticket.key)
        self._holders[ticket.run] = ticket
        queue.held += 1
        key.held += 1
        if not ticket.begun and (queue.limits.rate is not None or queue.limits.key_rate is not None):
            self._pending.add(ticket.run)
            queue.starts.pending += 1
            key.starts.pending += 1

    def _stand(self, queue: _Queue, ticket: Ticket, now_us: int) -> None:
        key = _key(queue, ticket.key)
        if not (key.begun or key.fresh):
            key.turn = self._next()  # at the end of the round: newcomers don't hold up who waits
        self._waiting[ticket.run] = ticket
        queue.waiting += 1
        queue.waiting_fresh += not ticket.begun
        heappush(key.begun if ticket.begun else key.fresh, (-ticket.priority, ticket.created_us, ticket.run))
        self._settle_key(queue, key, now_us)
        self._settle_queue(queue, now_us)

    def _free(self, run: str) -> Ticket | None:
        """Take a slot away; nobody gets it yet."""
        ticket = self._holders.pop(run, None)
        if ticket is not None:
            queue = self._queues[ticket.queue]
            queue.held -= 1
            queue.keys[ticket.key].held -= 1
            self._settle_start(ticket, None)
        return ticket

    def _settle_start(self, ticket: Ticket, now_us: int | None) -> None:
        """Let a pending start be one, or with None no start at all."""
        if ticket.run not in self._pending:
            return
        self._pending.discard(ticket.run)
        queue = self._queues[ticket.queue]
        key = queue.keys[ticket.key]
        queue.starts.pending -= 1
        key.starts.pending -= 1
        if now_us is not None:
            _note(queue, key, now_us)

    def _after(self, ticket: Ticket, now_us: int) -> list[str]:
        self._settle(ticket, now_us)
        return self._grant(now_us)

    def _settle(self, ticket: Ticket, now_us: int) -> None:
        """Note that a slot of this queue and key is free."""
        queue = self._queues[ticket.queue]
        if queue.waiting:
            self._settle_key(queue, queue.keys[ticket.key], now_us)
            self._settle_queue(queue, now_us)
        queue.drop_keys(now_us)
        if not (queue.held or queue.waiting) and queue.limits is NO_LIMITS:
            del self._queues[queue.name]

    def _settle_key(self, queue: _Queue, key: _Key, now_us: int) -> None:
        """Put a key where it belongs by now: among those that have somebody to go, or that wait for a moment."""
        for line in (key.begun, key.fresh):
            while line and line[0][2] not in self._waiting:
                heappop(line)
        key.stamp = self._next()
        if not _below(key.held, queue.limits.key_concurrency):
            return
        if key.begun:
            heappush(queue.begun, (key.begun[0][0], key.turn, key.stamp, key.name))
        if key.fresh:
            opens_us = key.starts.free_us(queue.limits.key_rate, now_us)
            if opens_us == now_us:
                heappush(queue.fresh, (key.fresh[0][0], key.turn, key.stamp, key.name))
            elif opens_us is not None:
                heappush(queue.timed, (opens_us, key.stamp, key.name))
        queue.drop_stale()

    def _settle_queue(self, queue: _Queue, now_us: int) -> None:
        """Put a queue where it belongs by now."""
        queue.stamp = self._next()
        picked = queue.pick(now_us)
        if picked is not None:
            first = picked[1][0]
            heappush(self._open, (first[0], first[1], queue.stamp, queue.name))
        due_us = queue.due_us(now_us)
        if due_us is not None:
            heappush(self._timed, (due_us, queue.stamp, queue.name))
        if len(self._open) > 64 + 4 * len(self._queues):
            self._open = [entry for entry in self._open if self._is_current(entry[3], entry[2])]
            heapify(self._open)
        if len(self._timed) > 64 + 4 * len(self._queues):
            self._timed = [entry for entry in self._timed if self._is_current(entry[2], entry[1])]
            heapify(self._timed)

    def _grant(self, now_us: int) -> list[str]:
        """Give free slots to those whose turn it is."""
        granted: list[str] = []
        while self._open and len(self._holders) < self._limit:
            _, _, stamp, name = heappop(self._open)
            if not self._is_current(name, stamp):
                continue
            queue = self._queues[name]
            picked = queue.pick(now_us)
            assert picked is not None, "what was open stays so until somebody takes it"
            key, line = picked
            ticket = self._waiting.pop(heappop(line)[2])
            queue.waiting -= 1
            queue.waiting_fresh -= not ticket.begun
            self._take(ticket)
            key.turn = self._next()
            self._settle_key(queue, key, now_us)
            self._settle_queue(queue, now_us)
            granted.append(ticket.run)
        return granted


def _key(queue: _Queue, name: str) -> _Key:
    found = queue.keys.get(name)
    if found is None:
        found = queue.keys[name] = _Key(name)
    return found


def _note(queue: _Queue, key: _Key, started_us: int) -> None:
    """Note a start, as far as there is a rate that has to know of it."""
    if queue.limits.rate is not None:
        queue.starts.times.append(started_us)
    if queue.limits.key_rate is not None:
        key.starts.times.append(started_us)


def _below(count: int, limit: int | None) -> bool:
    return limit is None or count < limit
