"""
Admission against a model that is too simple to be wrong.

The model keeps plain lists and goes through all of them for every decision, in the words of the rules: who may go now,
and who of them goes first. `Admission` keeps heaps with stale entries; what it does has to be the same, always.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from polos.engine.admission import Admission, Limits, Rate, Ticket

from tests.campaign import scaled

QUEUES = st.sampled_from(["a", "b"])
KEYS = st.sampled_from(["", "x", "y"])
RATES = st.none() | st.none() | st.builds(Rate, st.integers(1, 2), st.sampled_from([10, 25]))
NUMBERS = st.none() | st.integers(1, 3)
LIMITS = st.builds(
    Limits,
    concurrency=NUMBERS,
    key_concurrency=NUMBERS,
    rate=RATES,
    key_rate=RATES,
    paused=st.sampled_from([False] * 5 + [True]),
)


@dataclass
class Model:
    """Lists, and rules as they are said."""

    limit: int
    limits: dict[str, Limits] = field(default_factory=dict)
    held: list[Ticket] = field(default_factory=list)
    waiting: list[Ticket] = field(default_factory=list)
    pending: list[Ticket] = field(default_factory=list)
    starts: list[tuple[str, int]] = field(default_factory=list)  # that the rate of their queue counts
    key_starts: list[tuple[str, str, int]] = field(default_factory=list)  # that the rate of their key counts

    def keeps_to(self, rate: Rate | None, starts: list[int], pending: int, now_us: int) -> bool:
        if rate is None:
            return True
        return sum(at > now_us - rate.period_us for at in starts) + pending < rate.limit

    def may_go(self, ticket: Ticket, now_us: int) -> bool:
        """Whether no count and no rate forbids it."""
        limits = self.limits.get(ticket.queue, Limits())
        of_queue = [other for other in self.held if other.queue == ticket.queue]
        of_key = [other for other in of_queue if other.key == ticket.key]
        if len(self.held) >= self.limit:
            return False
        if limits.concurrency is not None and len(of_queue) >= limits.concurrency:
            return False
        if limits.key_concurrency is not None and len(of_key) >= limits.key_concurrency:
            return False
        if ticket.begun:
            return True
        starts = [at for queue, at in self.starts if queue == ticket.queue]
        key_starts = [at for queue, key, at in self.key_starts if (queue, key) == (ticket.queue, ticket.key)]
        pending = [other for other in self.pending if other.queue == ticket.queue]
        of_key_pending = sum(other.key == ticket.key for other in pending)
        return (
            not limits.paused
            and self.keeps_to(limits.rate, starts, len(pending), now_us)
            and self.keeps_to(limits.key_rate, key_starts, of_key_pending, now_us)
        )

    def change(self, queue: str, limits: Limits, now_us: int) -> None:
        """A rate that is changed knows what the one before still had to know."""
        old = self.limits.get(queue, Limits())

        def known(at: int, rate: Rate | None, new: Rate | None) -> bool:
            return new is not None and rate is not None and at > now_us - rate.period_us

        self.starts = [one for one in self.starts if one[0] != queue or known(one[1], old.rate, limits.rate)]
        self.key_starts = [
            one for one in self.key_starts if one[0] != queue or known(one[2], old.key_rate, limits.key_rate)
        ]
        self.limits[queue] = limits

    def take(self, ticket: Ticket) -> None:
        self.held.append(ticket)
        limits = self.limits.get(ticket.queue, Limits())
        if not ticket.begun and (limits.rate or limits.key_rate):
            self.pending.append(ticket)


class AdmissionMachine(RuleBasedStateMachine):
    """Everything that can be asked, in any order; whoever gets a slot must be one of those whose turn it is."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Admission(4)
        self.model = Model(4)
        self.now_us = 1_000
        self.count = 0
        self.turns: dict[tuple[str, str], int] = {}
        self.clock = 0

    def granted(self, runs: list[str]) -> None:
        """Check that each one in turn may go, and that nobody goes before it by the rules."""
        for run in runs:
            ticket = next(found for found in self.model.waiting if found.run == run)
            free = [found for found in self.model.waiting if self.model.may_go(found, self.now_us)]
            assert ticket in free, f"{ticket} goes and must not"
            best = max(found.priority for found in free if found.queue == ticket.queue)
            assert best == ticket.priority, "priority comes first within a queue"
            rivals = [found for found in free if found.queue == ticket.queue and found.priority == best]
            assert ticket.begun or not any(found.begun for found in rivals), "what was begun goes on first"
            rivals = [found for found in rivals if found.begun == ticket.begun]
            own = [found for found in rivals if found.key == ticket.key]
            assert ticket == min(own, key=lambda found: (found.created_us, found.run)), "the oldest of a key goes first"
            turn = self.turns[ticket.queue, ticket.key]
            assert all(turn <= self.turns[found.queue, found.key] for found in rivals), "keys take turns"
            self.clock += 1
            self.turns[ticket.queue, ticket.key] = self.clock
            self.model.waiting.remove(ticket)
            self.model.take(ticket)
        assert not [found for found in self.model.waiting if self.model.may_go(found, self.now_us)], "nobody waits idly"

    @rule(queue=QUEUES, key=KEYS, priority=st.sampled_from([0, 0, 5]), begun=st.booleans())
    def join(self, queue: str, key: str, priority: int, *, begun: bool) -> None:
        self.granted(self.real.tick(self.now_us))
        self.count += 1
        ticket = Ticket(
            run=f"{self.count:04}", queue=queue, key=key, priority=priority, created_us=self.now_us, begun=begun
        )
        if not any((found.queue, found.key) == (queue, key) for found in self.model.waiting):
            self.clock += 1
            self.turns[queue, key] = self.clock
        self.model.waiting.append(ticket)
        self.granted(self.real.join(ticket, now_us=self.now_us))
        assert [] == self.real.join(ticket, now_us=self.now_us), "asking again changes nothing"

    @rule(pick=st.integers(0, 10))
    def started(self, pick: int) -> None:
        self.granted(self.real.tick(self.now_us))
        if not self.model.held:
            return
        ticket = self.model.held[pick % len(self.model.held)]
        if ticket in self.model.pending:
            self.model.pending.remove(ticket)
        if not ticket.begun:  # once more, if the first record was lost
            limits = self.model.limits.get(ticket.queue, Limits())
            if limits.rate is not None:
                self.model.starts.append((ticket.queue, self.now_us))
            if limits.key_rate is not None:
                self.model.key_starts.append((ticket.queue, ticket.key, self.now_us))
        self.granted(self.real.started(ticket.run, now_us=self.now_us))

    @rule(pick=st.integers(0, 10))
    def give_back(self, pick: int) -> None:
        self.granted(self.real.tick(self.now_us))
        if not self.model.held:
            return
        ticket = self.model.held.pop(pick % len(self.model.held))
        if ticket in self.model.pending:
            self.model.pending.remove(ticket)
        self.granted(self.real.give_back(ticket.run, now_us=self.now_us))

    @rule(times=st.integers(3, 12))
    def work_off(self, times: int) -> None:
        """Runs begin and end, one after another."""
        for _ in range(times):
            self.started(0)
            self.give_back(0)

    @rule(queue=QUEUES, count=st.integers(4, 12), keys=st.lists(KEYS, min_size=1, max_size=3, unique=True))
    def join_in_turn(self, queue: str, count: int, keys: list[str]) -> None:
        """Many come at once."""
        for number in range(count):
            self.join(queue, keys[number % len(keys)], 0, begun=False)

    @rule(pick=st.integers(0, 10))
    def leave(self, pick: int) -> None:
        self.granted(self.real.tick(self.now_us))
        if self.model.waiting:
            ticket = self.model.waiting.pop(pick % len(self.model.waiting))
            self.real.leave(ticket.run, now_us=self.now_us)
        self.granted([])

    @rule(queue=QUEUES, limits=LIMITS)
    def configure(self, queue: str, limits: Limits) -> None:
        self.granted(self.real.tick(self.now_us))
        self.model.change(queue, limits, self.now_us)
        self.granted(self.real.configure(queue, limits, now_us=self.now_us))

    @rule(by_us=st.sampled_from([1, 10, 25]))
    def time_passes(self, by_us: int) -> None:
        self.now_us += by_us
        self.granted(self.real.tick(self.now_us))

    @rule()
    def wait_for_what_is_due(self) -> None:
        """Nothing changes before the moment that `due_us` names."""
        due_us = self.real.due_us()
        if due_us is None:
            return
        if due_us - 1 > self.now_us:
            self.now_us = due_us - 1
            self.granted(self.real.tick(self.now_us))
        self.now_us = max(self.now_us, due_us)
        self.granted(self.real.tick(self.now_us))

    @invariant()
    def counts(self) -> None:
        assert (len(self.model.held), len(self.model.waiting)) == (self.real.held, self.real.waiting)
        for queue in ("a", "b"):
            fresh = sum(found.queue == queue and not found.begun for found in self.model.waiting)
            assert fresh == self.real.queued(queue)


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=scaled(150, 20_000), stateful_step_count=50)


def test_without_a_slot_nothing_runs() -> None:
    """A limit below 1 is refused."""
    with pytest.raises(ValueError, match="at least 1, it is 0"):
        Admission(0)
