"""
Gates: what nobody can foresee the moment of is held until somebody lets it go.

A function takes as long as it likes, a disk too, an alarm rings late on a busy machine. In a simulation all of that is
quick and in order, and so it would always be the same order. Behind a `Gates` each call of a function stops twice,
before it begins and when it is over, each append stops before it is made and before its outcome is handed back, and
each alarm stops when its moment has come. What is held can be let go in any order; a call can also be made to fail.

The functions themselves run where they always run: asynchronous ones as tasks, which can be cancelled at a gate as
anywhere else; others as jobs of a thread, done at once when their gate opens, and cancelled by nobody.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

from polos.replay.facts import StepCall
from polos.runtime.engine import Engine
from polos.runtime.performer import Attempt, Performer, is_async
from polos.runtime.threads import Job
from polos.testing.audit import Audit
from polos.testing.clock import Alarm
from polos.testing.loop import SimulatedLoop
from polos.testing.threads import SimulatedThreads

__all__ = ["Gates", "HeldAppend", "HeldCall"]


@dataclass(slots=True, eq=False)
class HeldAppend:
    """An append, or its outcome, on its way. `what` says which."""

    what: str
    go: Callable[[], None]
    engine: int  # whose it is: the number of the life


@dataclass(slots=True, eq=False)
class HeldCall:
    """
    A call of a step's function, before it begins or when it is over.

    Attributes:
        run: its run.
        name: its step.
        number: which attempt.
        call: how the step is to be performed.
        begun: whether the function has been called.
        error: what it raised, if it did.
        go: lets it go on.
        fail: makes it fail instead, as if the function had raised this.
    """

    run: str
    name: str
    number: int
    call: StepCall
    begun: bool
    error: BaseException | None
    go: Callable[[], None]
    fail: Callable[[BaseException], None]


@final
class Gates:
    """
    What is held, of all engines of a simulation.

    Attributes:
        appends: appends and outcomes, in order.
        calls: calls of functions, in order.
        alarms: alarms whose moment has come, in order.
        counts: how often each step's function was called, by run and name.
        audit: what the log says; each call is compared with it.
        life: which engine it is now.
        fenced: engines that have appended since another one took the store.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.appends: list[HeldAppend] = []
        self.calls: list[HeldCall] = []
        self.alarms: list[Alarm] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.audit: Audit | None = None
        self.life = 0
        self.fenced: set[int] = set()

    def append(self, engine: int, what: str, go_on: Callable[[], None]) -> None:
        """Hold an append of an engine, or the handing back of its outcome."""
        self.appends.append(HeldAppend(what, go_on, engine))

    def due(self, alarms: list[Alarm]) -> None:
        """Hold alarms whose moment has come."""
        self.alarms += alarms

    def performer(self, engine: Engine, loop: asyncio.AbstractEventLoop, /) -> Performer:
        """Make what calls the functions of steps, held back."""
        return _HeldPerformer(engine, loop, self)

    def begin(self, run: str, name: str, life: int) -> None:
        """Note that an engine takes it upon itself to have a function called."""
        told = all(held.engine != life for held in self.appends)
        if life in self.fenced and told and self.audit is not None:
            self.audit.violations.append(f"L7: an engine that has lost the store calls step {name} of run {run}")

    def called(self, run: str, name: str, call: StepCall, *, life: int, sure: bool) -> None:
        """Note that a function is about to be called; `sure` unless its engine doesn't know what the log holds."""
        self.counts[run, name] += 1
        if self.audit is not None and life == self.life:  # what one has begun that has lost the store can't be helped
            told = sure and all(held.what == "append" for held in self.appends)
            self.audit.may_call(run, name, self.counts[run, name], pure=call.effect == "pure", told=told)

    def clear(self) -> None:
        """Forget what is held: the process is gone."""
        self.appends.clear()
        self.calls.clear()
        self.alarms.clear()

    # -------------------------------------------------------------------------------- letting go

    def first_appends(self) -> list[HeldAppend]:
        """Give what can happen next with appends: outcomes are handed back one after another."""
        found: list[HeldAppend] = []
        for held in self.appends:
            if all((held.what, held.engine) != (other.what, other.engine) for other in found):
                found.append(held)
        return found

    def let_append(self, held: HeldAppend) -> None:
        """Let an append, or its outcome, go on."""
        self.appends.remove(held)
        if held.what == "append" and held.engine != self.life:
            self.fenced.add(held.engine)
        held.go()

    def ringing(self) -> list[Alarm]:
        """Give the alarms that can ring."""
        self.alarms = [alarm for alarm in self.alarms if not alarm.cancelled]
        return self.alarms

    def ring(self, alarm: Alarm) -> None:
        """Let an alarm ring."""
        self.alarms.remove(alarm)
        SimulatedLoop.ring(alarm)

    def let_call(self, held: HeldCall, error: BaseException | None = None) -> None:
        """Let a call go on, or fail with an error; nothing happens to one that was cancelled in the meantime."""
        if held not in self.calls:
            return
        if error is None:
            held.go()
        else:
            held.fail(error)


class _HeldPerformer(Performer):
    """
    Calls functions when it is let.

    A subclass, because what is to be held is the way of a call through the real performer, with all that may happen to
    it meanwhile: it is cancelled, its time is up, its run ends.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, gates: Gates) -> None:
        assert isinstance(loop, SimulatedLoop), "an engine of a simulation lives on a loop of it"
        self._simulated = SimulatedThreads(loop)
        super().__init__(engine, loop, threads=self._simulated)
        self._gates = gates
        self._life = gates.life

    def start(self, run: str, name: str, number: int, call: StepCall) -> None:
        """Call a step's function, once its gate opens."""
        self._gates.begin(run, name, self._life)
        held = is_async(call.func)
        func = self._awaited(run, name, number, call) if held else self._counted(run, name, call)
        super().start(run, name, number, replace(call, func=func))

    def _called(self, run: str, name: str, call: StepCall) -> None:
        self._gates.called(run, name, call, life=self._life, sure=self._engine.broken is None)

    # --------------------------------------------------------------------------- asynchronous functions

    def _awaited(self, run: str, name: str, number: int, call: StepCall) -> Callable[..., Any]:
        async def held(*args: Any, **kwargs: Any) -> Any:
            await self._pass(run, name, number, call, begun=False, error=None)
            self._called(run, name, call)
            try:
                value = await call.func(*args, **kwargs)
            except Exception as error:
                await self._pass(run, name, number, call, begun=True, error=error)
                raise
            await self._pass(run, name, number, call, begun=True, error=None)
            return value

        return held

    async def _pass(
        self, run: str, name: str, number: int, call: StepCall, *, begun: bool, error: BaseException | None
    ) -> None:
        opened: asyncio.Future[None] = self._loop.create_future()

        def go() -> None:
            self._gates.calls.remove(held)
            if not opened.done():
                opened.set_result(None)

        def fail(failure: BaseException) -> None:
            self._gates.calls.remove(held)
            if not opened.done():
                opened.set_exception(failure)

        held = HeldCall(run, name, number, call, begun, error, go, fail)
        self._gates.calls.append(held)
        try:
            await opened
        finally:
            if held in self._gates.calls:  # cancelled
                self._gates.calls.remove(held)

    # ----------------------------------------------------------------------------------- other functions

    def _counted(self, run: str, name: str, call: StepCall) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._called(run, name, call)
            return call.func(*args, **kwargs)

        return counted

    def _submit(self, attempt: Attempt, job: Callable[[], None]) -> None:
        def fail(failure: BaseException) -> None:
            super(_HeldPerformer, self)._thread_done(attempt, None, failure, contextvars.copy_context())

        called = attempt.job = Job(job)
        self._hold(attempt, begun=False, error=None, go=lambda: self._simulated.do(called), fail=fail)

    def _thread_done(
        self, attempt: Attempt, outcome: Any, error: BaseException | None, context: contextvars.Context
    ) -> None:
        def end(outcome: Any, error: BaseException | None) -> None:
            super(_HeldPerformer, self)._thread_done(attempt, outcome, error, context)

        self._hold(
            attempt, begun=True, error=error, go=lambda: end(outcome, error), fail=lambda failure: end(None, failure)
        )

    def _hold(
        self,
        attempt: Attempt,
        *,
        begun: bool,
        error: BaseException | None,
        go: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        def let(then: Callable[[], None]) -> None:
            self._gates.calls.remove(held)
            then()

        held = HeldCall(
            attempt.run,
            attempt.name,
            attempt.number,
            attempt.call,
            begun,
            error,
            lambda: let(go),
            lambda failure: let(lambda: fail(failure)),
        )
        self._gates.calls.append(held)
