"""
What could come next, at each point of a course of events.

A `Course` is the inner side of `polos.testing.explorer`: it holds one simulated world, knows what is held at its gates,
which commands wait to be sent and how much trouble is left, and lists all of that as options, the natural course first.
In the natural course commits end at once, functions return in the order in which they were called, clients are quick,
time passes only when nothing else can happen, what merely may happen doesn't, and there is no trouble.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, TypedDict, final

import orjson

from polos.definition import Workflow
from polos.engine.json import Json
from polos.engine.retry import next_delay_us, retryable
from polos.errors import CommandRefused
from polos.runtime.settings import Settings
from polos.store.faults import Fault
from polos.testing.clock import Alarm
from polos.testing.explored import Sent
from polos.testing.gates import Gates, HeldAppend, HeldCall
from polos.testing.schedules import Option
from polos.testing.simulation import Call, Simulation

__all__ = ["Course", "Disturbances", "HowMany", "InjectedFailure"]


class InjectedFailure(ConnectionError):
    """What the function of a step raises when a schedule has it fail: the kind of error that is tried again."""


class HowMany(TypedDict, total=False):
    """
    How much trouble there may be in one schedule, of each kind.

    Attributes:
        crashes: how often the process may die.
        evictions: how often an idle run may leave memory.
        failures: how often a call may fail that is tried again.
        repeats: how often a client may send a command a second time.
        inbox: how many commands may come from another process, through the inbox.
        hurries: how often the next thing may come before the engine is done with the last one.
        takeovers: how often another engine may take the store while the first one lives on.
        faults: how many commits may fail: refused, or with an unknown outcome.
    """

    crashes: int
    evictions: int
    failures: int
    repeats: int
    inbox: int
    hurries: int
    takeovers: int
    faults: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbances:
    """The numbers of `HowMany`, with what they are if nobody says."""

    crashes: int = 1
    evictions: int = 2
    failures: int = 1
    repeats: int = 1
    inbox: int = 1
    hurries: int = 1
    takeovers: int = 0
    faults: int = 0

    @property
    def total(self) -> int:
        """How many there may be in all."""
        return sum(getattr(self, one.name) for one in fields(self))


@dataclass(slots=True)
class _MayFail:
    """A step whose calls may fail."""

    step: str
    error: Exception
    left: int


@final
class Course:
    """
    One world, and what could happen in it.

    Attributes:
        sim: the engine's world.
        gates: what is held back in it.
        sent: the commands of clients, sent or not.
    """

    def __init__(self, workflows: Iterable[Workflow[Any]], disturbances: Disturbances, settings: Settings) -> None:
        """Begin with an engine on an empty store."""
        self.gates = Gates()
        self.sim = Simulation(workflows, settings=settings, held=self.gates)
        self.gates.audit = self.sim.audit
        self.sent: list[Sent] = []
        self._left = Counter(
            crash=disturbances.crashes,
            evict=disturbances.evictions,
            fail=disturbances.failures,
            repeat=disturbances.repeats,
            inbox=disturbances.inbox,
            hurry=disturbances.hurries,
            takeover=disturbances.takeovers,
            fault=disturbances.faults,
        )
        self._failing: list[_MayFail] = []
        self.called: set[str] = set()  # names and keys of the steps that were
        self._answers: dict[str, Json] = {}
        self._answered: set[tuple[str, str, int]] = set()
        self._names: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._unheard: set[Call] = set()
        self._hurried_on = False  # whether the engine was not at rest after the last thing
        self._turns = 0  # of the loop until the next thing happens; 0 lets the engine come to rest
        self._looked: set[str] = set()  # command ids in the inbox that the engine has been told to look at
        self._birth()

    def name(self, run: str, workflow: str | None = None) -> str:
        """Give a run's name in labels: its workflow and which of that workflow's runs it is."""
        if run not in self._names:
            if workflow is None:
                state = self.sim.audit.states.get(run)
                workflow = "run" if state is None else state.workflow
            self._counts[workflow] += 1
            self._names[run] = f"{workflow}#{self._counts[workflow]}"
        return self._names[run]

    def add(self, label: str, call: Call, *, after: Sent | None, sure: bool = True) -> Sent:
        """Take a command that is to be sent, or may be."""
        sent = Sent(label, call, sure, after)
        self.sent.append(sent)
        return sent

    def answer(self, key: str, data: Json) -> None:
        """Answer every suspend of this key from now on."""
        self._answers[key] = data

    def may_fail(self, step: str, error: Exception, times: int) -> None:
        """Let calls of a step fail."""
        self._failing.append(_MayFail(step, error, times))

    @property
    def may_fail_steps(self) -> set[str]:
        """Names or keys of the steps of which somebody said that they may fail."""
        return {rule.step for rule in self._failing}

    def _do(self, action: Callable[[], object]) -> None:
        """Do something on the engine's loop, and let the engine come to rest."""
        self.sim.loop.call_soon(action)
        self._rest()

    def _rest(self) -> None:
        if self._turns:
            self.sim.run_turns(self._turns)
        else:
            self.sim.run_ready()

    # ------------------------------------------------------------------------- what could come next

    def usual(self) -> list[Option]:
        """Give what is under way, in its natural order: commits, calls, alarms, commands, and time if nothing else."""
        options = self._under_way()
        if not options and self._hurried_on:
            # Nothing follows at once, so what was left undone is done first.
            self._hurried_on = False
            self.sim.run_ready()
            options = self._under_way()
        return options

    def _under_way(self) -> list[Option]:
        self._answer_suspends()
        self._hear_of_inbox()
        options = [self._append(held) for held in self.gates.first_appends()]
        options += [self._call(held) for held in self.gates.calls]
        options += [self._alarm(alarm) for alarm in self.gates.ringing()]
        options += [self._command(sent) for sent in self.sent if sent.sure and sent.possible]
        options += [self._command(sent, "once more") for sent in self.sent if sent.call in self._unheard]
        items = () if self.sim.engine.broken is not None else self.sim.store.inbox.pending()
        if any(item.command_id not in self._looked for item in items):
            options.append(Option("the engine looks into its inbox", "inbox", self._look))
        if self.sim.loop.has_moment():
            options.append(Option("time passes", "time", self.sim.run_to_moment))
        return options

    def possible(self) -> list[Option]:
        """Give the commands that may be sent, and needn't."""
        return [self._command(sent) for sent in self.sent if not sent.sure and sent.possible]

    def _append(self, held: HeldAppend) -> Option:
        former = held.engine != self.gates.life
        label = "the commit is made" if held.what == "append" else "the engine hears of the commit"
        if former:
            label = f"by the engine that lost the store: {label}"
        return Option(label, f"log {held.engine}", lambda: self._do(lambda: self.gates.let_append(held)))

    def _alarm(self, alarm: Alarm) -> Option:
        return Option("an alarm rings", f"alarm {alarm.due_us}", lambda: self._do(lambda: self.gates.ring(alarm)))

    def _call(self, held: HeldCall, error: Exception | None = None) -> Option:
        what = f"{held.name} of {self.name(held.run)}"
        if error is not None:
            when = "after its effect" if held.begun else "before it begins"
            label = f"{what} fails {when}: {type(error).__name__}"
        elif not held.begun:
            label = f"{what} is called" + (f", attempt {held.number}" if held.number > 1 else "")
        else:
            label = f"{what} returns" if held.error is None else f"{what} raises {type(held.error).__name__}"
        source = f"{held.run}/{held.name}"
        disturbs = "" if error is None else "fail"
        return Option(label, source, lambda: self._do(lambda: self.gates.let_call(held, error)), disturbs)

    def _command(self, sent: Sent, again: str = "", disturbs: str = "") -> Option:
        def send() -> None:
            self._left[disturbs] -= 1
            self._unheard.discard(sent.call)
            sent.sent = True
            self.sim.send_again(sent.call)
            self._rest()

        return Option(f"{sent.label} {again}".rstrip(), sent.call.id, send, disturbs)

    def _put(self, sent: Sent, again: str = "", disturbs: str = "inbox") -> Option:
        def put() -> None:
            self._left[disturbs] -= 1
            sent.sent = sent.by_inbox = True
            self._looked.discard(sent.call.id)
            self.sim.store.inbox.put(sent.call.id, orjson.dumps({"command": sent.call.command}))

        return Option(f"{sent.label} {again}".rstrip() + ", into the inbox", sent.call.id, put, disturbs)

    def _look(self) -> None:
        self._looked |= {item.command_id for item in self.sim.store.inbox.pending()}
        self._do(self.sim.engine.intake.look)

    def _hear_of_inbox(self) -> None:
        """Let clients in other processes find the outcomes of what they put into the inbox, in the log."""
        waiting = [sent for sent in self.sent if sent.by_inbox and not sent.call.answered]
        if not waiting:
            return
        with self.sim.store.log.reader() as reader:
            for sent in waiting:
                row = reader.row(("command", sent.call.id))
                if row is not None:
                    found = orjson.loads(row)
                    if found["outcome"] == "refused":
                        sent.call.error = CommandRefused(str(found["detail"]))
                    else:
                        sent.call.reply = found

    def _answer_suspends(self) -> None:
        """Have clients answer what is asked, as the rows of the log say, so only when it is durable."""
        if not self._answers:
            return
        with self.sim.store.log.reader() as reader:
            rows = [(key, value.decode()) for key, value in reader.rows(("suspend",))]
        for (_, _, key, opened_us, run, *_), name in rows:
            asked = (str(run), name, int(opened_us))
            if key in self._answers and asked not in self._answered:
                self._answered.add(asked)
                call = self.sim.draft("resume", run=str(run), key=name, data=self._answers[str(key)])
                self.add(f"answer {name!r} of {self.name(str(run))}", call, after=None)

    # --------------------------------------------------------------------------------- disturbances

    def disturbing(self, usual: list[Option]) -> list[Option]:
        """Give the trouble that could come; also that something usual is followed by the next thing at once."""
        options = self._failures()
        if self._left["hurry"] > 0:
            options += [self._hurried(option, turns) for option in usual for turns in (1, 2, 3)]
        if self._left["repeat"] > 0:
            again = ("a second time", "repeat")
            options += [
                (self._put if sent.by_inbox else self._command)(sent, *again) for sent in self.sent if sent.sent
            ]
        if self._left["inbox"] > 0:
            options += [self._put(sent) for sent in self.sent if sent.possible and sent.call.command["kind"] != "query"]
        if self._left["evict"] > 0:
            options += [self._eviction(run) for run in self._evictable()]
        if self._left["crash"] > 0:
            options.append(Option("the process dies, and another one goes on", "process", self._crash, "crash"))
            if self.sim.loop.has_moment():
                label = "the process dies, and another one goes on much later"
                options.append(Option(label, "process", self._crash_for_long, "crash"))
        if self._left["takeover"] > 0:
            label = "another engine takes the store, and this one doesn't know"
            options.append(Option(label, "process", self._take_over, "takeover"))
        if self._left["fault"] > 0:
            options += [
                self._fault(fault) for fault in Fault if any(one.what == "append" for one in self.gates.appends)
            ]
        return options

    def _hurried(self, option: Option, turns: int) -> Option:
        def hurry() -> None:
            self._left["hurry"] -= 1
            self._turns, self._hurried_on = turns, True
            try:
                option.happen()
            finally:
                self._turns = 0

        return Option(f"{option.label}, and {turns} turns later", option.source, hurry, "hurry")

    def _failures(self) -> list[Option]:
        options: list[Option] = []
        for held in self.gates.calls:
            self.called |= {held.name, held.call.key}
            if held.error is not None:
                continue
            options += [
                self._using(self._call(held, rule.error), rule)
                for rule in self._failing
                if rule.left > 0 and rule.step in {held.name, held.call.key}
            ]
            if self._left["fail"] > 0 and _tried_again(held):
                options.append(self._using(self._call(held, InjectedFailure("the schedule has this call fail"))))
        return options

    def _using(self, option: Option, rule: _MayFail | None = None) -> Option:
        def use() -> None:
            if rule is None:
                self._left["fail"] -= 1
            else:
                rule.left -= 1
            option.happen()

        return Option(option.label, option.source, use, option.disturbs)

    def _evictable(self) -> list[str]:
        engine = self.sim.engine
        return [
            run
            for run, resident in engine.residents.items()
            if resident.idle
            and resident.code is not None
            and not resident.code.direct
            and not engine.performer.running(run)
        ]

    def _eviction(self, run: str) -> Option:
        def evict() -> None:
            self._left["evict"] -= 1
            self._do(lambda: self.sim.engine.evict(run))

        return Option(f"{self.name(run)} leaves memory", run, evict, "evict")

    def _fault(self, fault: Fault) -> Option:
        def fail() -> None:
            self._left["fault"] -= 1
            self.sim.plan.next(fault)

        return Option(f"the next commit fails, {fault.name.lower()}", "process", fail, "fault")

    def _take_over(self) -> None:
        self._left["takeover"] -= 1
        self._begin(self.sim.take_over)

    def _crash(self) -> None:
        self._left["crash"] -= 1
        self.sim.crash()
        self._birth()

    def _crash_for_long(self) -> None:
        next_us = self.sim.clock.next_us() or 0
        self._left["crash"] -= 1
        self.sim.crash()
        self.sim.clock.advance(next_us + 1_000_000)
        self._birth()

    def _birth(self) -> None:
        self.gates.clear()
        self._begin(self.sim.start)

    def _begin(self, start: Callable[[], None]) -> None:
        """Begin the next life; clients that have no answer ask again."""
        self.gates.life += 1
        self._looked.clear()
        self._unheard = {sent.call for sent in self.sent if sent.sent and not (sent.answered or sent.by_inbox)}
        start()


def _tried_again(held: HeldCall) -> bool:
    """Tell whether the workflow wouldn't hear of an injected failure, because the step is tried again."""
    policy, error = held.call.policy, InjectedFailure()
    if held.call.effect == "at_most_once" and policy.retry_on is None:
        return False
    return retryable(policy, error) and next_delay_us(policy, failed_attempts=held.number, chance=0.0) is not None
