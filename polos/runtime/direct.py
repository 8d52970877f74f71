"""
Bodies that may do I/O themselves: declared `deterministic=False`, or plain functions.

Such a body runs on the program's own loop (or in a thread) and can't be replayed. So it gets each
answer only when it is durable, and after a crash it begins anew: what it already finished is looked up
by name and given back, what it left open is taken over. That is the look-up a retried run uses.

A cancellation that an earlier attempt saw holds for the new one: it passes what is finished, and where it
would begin something new, or waits for something of its own, it gets the CancelledError. So it stands about
where it stood, and cleans up what it did.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.commands import Request
from polos.engine.json import Json
from polos.engine.state import Phase
from polos.errors import EngineNotRunning, ExecutionCancelledError, PolosStoreError, PolosUsageError, RunEvicted
from polos.replay.facts import Counters, Fact, Outcome, Pending, StepCall, Values
from polos.replay.requests import closing_of, refused_answer, state_change
from polos.runtime.on_loop import OnLoop
from polos.runtime.unit import Resident, Unit, Work, settle

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["DirectCode"]


class _Body(Protocol):
    context: Any

    @property
    def in_thread(self) -> bool: ...

    async def main(self) -> Any: ...

    def finish(self, outcome: Outcome, cause: int) -> Request: ...

    def encode(self, value: Any) -> tuple[Json, str | None]: ...


class DirectCode:
    """The code of one attempt of a run whose body isn't replayed."""

    direct = True
    replaying = False

    def __init__(self, engine: Engine, resident: Resident) -> None:
        """Take the engine and the run; nothing runs yet."""
        self.run: str = resident.run
        self.cause: int = 0
        self.seen: int = 0  # version of the last fact that was handed over
        self.fact_us: int = resident.state.last_time_us
        self.pending: dict[str, Pending] = {}
        self.outcome: Outcome | None = None
        self._engine = engine
        self._body: _Body | None = None
        self._counters = Counters()
        self._task: asyncio.Task[Outcome] | None = None
        self._dead = False
        self._forced = False
        # A cancellation before this attempt: seen from the start, thrown where the body comes to something new.
        self._owes_cancel = resident.state.phase is Phase.CANCELLING
        self._cancel_by: str | None = resident.state.cancelled_by if self._owes_cancel else None
        self._looking_up = 0  # requests under way that an earlier attempt finished
        self._last_state: dict[str, Json] = {}
        self._queries: dict[str, Callable[..., Any]] = {}
        self._updates: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {}
        self._update_tasks: set[asyncio.Task[None]] = set()

    def bind(self, body: _Body) -> None:
        """Say what to run."""
        self._body = body
        self._last_state = body.context.dump_state() or {}

    # -------------------------------------------------------------------------------- for the shell

    def activate(self, fact: Fact, *, recorded: Sequence[e.Event] | None = None) -> list[Request]:
        """Hand over one durable fact; what the body asks for comes by itself."""
        assert recorded is None, "a direct body isn't replayed"
        self.fact_us = max(self.fact_us, fact.time_us)
        self.seen = fact.version
        event = fact.event
        match event:
            case e.RunStarted():
                self.cause = fact.version
                self._start()
            case e.CancelRequested():
                self._cancel_by = event.by
                # Both facts may come in one go, and a task that is cancelled before its first step never runs.
                if self._task is not None and not self._owes_cancel:
                    self._engine.loop.call_soon(self._task.cancel)
            case e.CancelForced():
                self._force()
            case e.UpdateReceived():
                self._start_update(event)
            case e.StepResolved(outcome="not_done"):
                pass  # no answer: the step will be called again
            case _:
                name = getattr(event, "name", "")
                held = self.pending.pop(name, None)
                if held is not None and not held.future.done():
                    held.future.set_result(fact)
        return []

    @property
    def is_running(self) -> bool:
        """Whether the body was begun and isn't done."""
        return self._task is not None and self.outcome is None

    def discard(self) -> None:
        """Take the code out of memory: the task is cancelled, nothing more is recorded."""
        self._dead = True
        tasks: list[asyncio.Task[Any] | None] = [self._task, *self._update_tasks]
        for task in tasks:
            if task is not None and not task.done():
                task.cancel()
        self.pending.clear()

    def has_query(self, name: str) -> bool:
        """Tell whether the body registered a function for this query."""
        return name in self._queries

    def query(self, name: str, args: tuple[Any, ...]) -> Any:
        """Call a function registered by `on_query`."""
        return self._queries[name](*args)

    def has_update(self, name: str) -> bool:
        """Tell whether there is a handler for this update."""
        return name in self._updates

    def validate_update(self, name: str, data: Any) -> None:
        """Let the validator look at an update."""
        validator = self._updates[name][1]
        if validator is not None:
            validator(data)

    # ----------------------------------------------------------------------------------- for the code

    @property
    def path(self) -> str:
        """Task path of the running code: a direct body has none."""
        return "direct"

    @property
    def values(self) -> Values:
        """Where live values come from."""
        return self._engine.clock

    @property
    def cancel_by(self) -> str | None:
        """Who asked for the cancellation that the code has seen."""
        return self._cancel_by

    def name(self, key: str | None, fallback: str) -> str:
        """Give a request its name: the key, counted."""
        return self._counters.name(fallback if key is None else key)

    def knows_answer(self, _name: str) -> bool:
        """Tell that nothing is ever replayed."""
        return False

    def new_run_id(self) -> str:
        """Make a child's id."""
        return self._engine.new_run_id()

    def is_short(self, delay_us: int) -> bool:
        """Tell whether a timer leaves the run `running`."""
        return delay_us <= self._engine.settings.wait_threshold_seconds * 1e6

    async def ask(self, event: e.Event, *, spec: e.RunCreated | None = None, call: StepCall | None = None) -> Fact:
        """Ask for something that is answered by a later fact, and wait for it."""
        self._check()
        name = str(getattr(event, "name", ""))
        known = await self._reach(name)
        if name in self.pending:
            message = f"{name!r} is asked for while it is still open; a body that isn't deterministic needs another key"
            raise PolosUsageError(message)
        future: asyncio.Future[Fact] = asyncio.get_running_loop().create_future()
        held = Pending(future, event, call)
        self.pending[name] = held
        self._looking_up += known
        try:
            await self._send(Request(event=event, spec=spec))
            return await future
        finally:
            self._looked_up(known)
            if self.pending.get(name) is held:
                del self.pending[name]
                self._abandon(event)

    async def tell(self, event: e.Event, *, spec: e.RunCreated | None = None) -> e.Event:
        """Ask for something that needs no answer; gives the event as it is recorded, when it is durable."""
        self._check()
        known = await self._reach(str(getattr(event, "name", "")))
        self._looking_up += known
        try:
            await self._send(Request(event=event, spec=spec))
        finally:
            self._looked_up(known)
        finished = self._finished(str(getattr(event, "name", "")))
        return finished if finished is not None and type(finished) is type(event) else event

    async def record(self, key: str | None, kind: str, make: Callable[[], Json]) -> Json:
        """Give a recorded value, made once."""
        self._check()
        name = self.name(key, kind)
        passes = await self._reach(name)
        known = self._finished(name)
        value = known.value if isinstance(known, e.ValueRecorded) else make()
        self._looking_up += passes
        try:
            await self._send(Request(event=e.ValueRecorded(cause=self.cause, name=name, kind=kind, value=value)))
        finally:
            self._looked_up(passes)
        return value

    async def note(self, key: str | None, kind: str, value: Json) -> None:
        """Record a value that the code computed."""
        await self.record(key, kind, lambda: value)

    def patched(self, name: str) -> bool:  # noqa: ARG002  # the port's signature
        """A direct body always begins with today's code."""
        return True

    def on_query(self, name: str, func: Callable[..., Any]) -> None:
        """Register a function that answers queries."""
        self._queries[name] = func

    def on_update(self, name: str, func: Callable[..., Any], validator: Callable[..., Any] | None) -> None:
        """Register the handler of an update."""
        self._updates[name] = (func, validator)

    # ---------------------------------------------------------------------------------------- inside

    def _check(self) -> None:
        if self._dead:
            raise RunEvicted
        if self._forced:
            raise ExecutionCancelledError

    def _finished(self, name: str) -> e.Event | None:
        resident = self._engine.residents.get(self.run)
        version = resident.state.finished.get(name) if resident is not None else None
        return None if version is None else self._engine.loader.event_at(self.run, version)[0]

    async def _reach(self, name: str) -> bool:
        """Tell whether a body that is to be cancelled may pass here; it gets the cancellation if it may not."""
        if not self._owes_cancel:
            return False
        if self._finished(name) is not None:
            return True
        self._throw_cancel()
        await asyncio.sleep(0)  # noqa: TID251  # where the body, or the task of it that asks, is thrown out
        return False

    def _looked_up(self, known: bool) -> None:  # noqa: FBT001  # what _reach gave
        if known:
            self._looking_up -= 1
            # After the step that runs now, which may come to the next request that is finished.
            self._engine.loop.call_soon(self._cancel_past)

    def _cancel_past(self) -> None:
        """Cancel a body that waits, and not for what an earlier attempt finished."""
        if self._looking_up == 0:
            self._throw_cancel()

    def _throw_cancel(self) -> None:
        if self._owes_cancel and self._task is not None:
            self._owes_cancel = False
            self._task.cancel()

    async def _send(self, request: Request) -> None:
        """Have a request, and what changed in `ctx.state`, recorded; returns when it is durable."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def refused(error: BaseException) -> None:
            if not durable.done():
                durable.set_exception(error)

        self._post([*self._changes(), request], lambda: settle(durable), refused)
        await durable

    def _post(
        self,
        requests: list[Request],
        done: Callable[[], Any] | None = None,
        refused: Callable[[BaseException], Any] | None = None,
    ) -> None:
        """
        Have requests decided.

        Args:
            requests: what is asked for.
            done: called when they are durable.
            refused: called with the error if they can never be; without it the code is taken out of memory.
        """
        cause = self.cause
        tried = False

        def apply(unit: Unit) -> None:
            nonlocal tried
            resident = self._engine.loader.find(self.run)
            if resident is None:
                return
            # Decided again after a commit of unknown outcome, what is open already was asked for by this very request.
            wanted = [request for request in requests if not (tried and _is_open(resident, request.event))]
            tried = True
            self._engine.decide_on(unit, resident, c.Activate(cause=cause, requests=tuple(wanted)))

        def fail(error: BaseException) -> None:
            if refused is None or self._dead or isinstance(error, EngineNotRunning | PolosStoreError):
                self.discard()  # nobody is there to record anything; the next engine begins it anew
            else:
                refused(error)

        self._engine.post(Work(apply, done=lambda _reply: done() if done else None, fail=fail))

    def _changes(self) -> list[Request]:
        assert self._body is not None
        now = self._body.context.dump_state()
        event = None if now is None else state_change(self._last_state, now, self.cause)
        if now is None or event is None:
            return []
        self._last_state = now
        return [Request(event=event)]

    def _abandon(self, event: e.Event) -> None:
        if self._dead or self.outcome is not None:
            return
        closing = closing_of(event, self.cause)
        if closing is None:
            return
        self._post([Request(event=closing)])

    def _force(self) -> None:
        self._forced = True
        for held in self.pending.values():
            if not held.future.done():
                held.future.set_exception(ExecutionCancelledError())
        self.pending.clear()

    def _start(self) -> None:
        body = self._body
        assert body is not None, "bind comes first"
        self._task = self._engine.loop.create_task(self._main(body), context=contextvars.Context())
        self._task.add_done_callback(self._done)
        if self._owes_cancel and body.in_thread:
            self._throw_cancel()  # nothing can be thrown into a plain function: it isn't begun
        elif self._owes_cancel:
            self._engine.loop.call_soon(self._cancel_past)

    async def _main(self, body: _Body) -> Outcome:
        """Run a body; what would end the program if it left a task ends the run."""
        try:
            return Outcome(result=await OnLoop(body.main(), self._enter, self._engine.debts.leave_code))
        except SystemExit as error:
            return Outcome(error=error)

    def _enter(self) -> None:
        """Mark that the body is on the loop. How far it has come is told by what is finished: attempts begin anew."""
        resident = self._engine.residents.get(self.run)
        self._engine.debts.enter_code(self.run, 0 if resident is None else len(resident.state.finished))

    def _done(self, task: asyncio.Task[Outcome]) -> None:
        if self._dead or self._engine.stopping:
            return
        if task.cancelled():
            if self._cancel_by is None and task.cancelling():
                return  # somebody takes the program down: the run stays as it is
            self.outcome = Outcome(error=asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self.outcome = Outcome(error=error)
        else:
            self.outcome = task.result()
        assert self._body is not None
        changes: list[Request] = []
        try:
            changes = self._changes()
        except PolosUsageError as error:
            self.outcome = Outcome(error=error)  # another attempt would leave the same behind
        self._post([*changes, self._body.finish(self.outcome, self.cause)], refused=self._refused_end)

    def _refused_end(self, error: BaseException) -> None:
        """Fail, because the end that the body came to can't be recorded."""
        assert self._body is not None
        self.outcome = Outcome(error=error)
        self._post([self._body.finish(self.outcome, self.cause)])

    def _start_update(self, event: e.UpdateReceived) -> None:
        handler = self._updates.get(event.name)
        body = self._body
        assert body is not None

        async def answer() -> None:
            answered = e.UpdateAnswered(cause=self.cause, update_id=event.update_id)
            try:
                if handler is None:
                    message = f"the workflow has no handler for the update {event.name!r}"
                    raise LookupError(message)
                value = handler[0](event.data)
                if asyncio.iscoroutine(value):
                    value = await value
                encoded, type_path = body.encode(value)
                requests = [*self._changes(), Request(event=replace(answered, value=encoded, type=type_path))]
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # whatever the handler raises is its answer
                if isinstance(error, asyncio.CancelledError) and (self._dead or self._engine.stopping or _cancelled()):
                    raise
                requests = [Request(event=replace(answered, error=refused_answer(error)))]
            self._post(requests)

        task = self._engine.loop.create_task(answer())
        self._update_tasks.add(task)
        task.add_done_callback(self._update_tasks.discard)


def _cancelled() -> bool:
    """Tell whether somebody asked the running task to stop."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_open(resident: Resident, event: e.Event) -> bool:
    if not isinstance(event, e.StepScheduled | e.TimerStarted | e.WaitStarted | e.ChildStarted):
        return False
    op = resident.state.ops.get(event.name)
    return op is not None and op.claimed
