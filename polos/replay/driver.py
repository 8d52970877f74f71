"""
User code against history.

A `Driver` holds the code of one attempt of one run on a deterministic loop. It is handed facts, one
after another in the order of their versions; on each it runs the code until it is quiet (an
*activation*) and gives back what the code asked for meanwhile. Live, those requests are decided and
recorded; in replay the recorded ones are handed in and must be the same. Both go through `activate`.

Requests are proposed events. Within an activation they match by kind and name, whatever their order;
across activations by `cause`. What the code asks for and gives up within one activation leaves no
trace: neither the log nor the outside has seen it.

A request that matches may still differ from the recorded one: another function, other arguments. That stops no run, and
an engine has no use for it, so nothing here looks. Whoever wants to know sets `on_match`, which is told of each pair at
the line that asks; what counts as a difference is then theirs to say.

The driver performs nothing. Functions to be called wait in `pending` until the shell comes for them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.commands import Request
from polos.engine.json import Json
from polos.errors import ExecutionCancelledError, RunEvicted
from polos.replay.divergence import Divergence, caller_line
from polos.replay.facts import Counters, Earlier, Fact, Outcome, Pending, StepCall, UpdateHandler, Values
from polos.replay.loop import LoopTimer, WorkflowLoop
from polos.replay.requests import (
    CLOSINGS,
    ENDS,
    closing_of,
    fits_end,
    key_of,
    name_of,
    refused_answer,
    shown,
    state_change,
)
from polos.replay.stdlib import unawaited_is_fine

__all__ = ["Driver"]


# Where a timer that is due at no time stands: the year 11104, in microseconds.
FARTHEST_US = float(1 << 58)


@dataclass(slots=True)
class _Asked:
    """A request of the running activation, not settled yet."""

    request: Request
    line: str | None


class Driver:
    """The code of one attempt of a run, on its loop."""

    # As many as there are runs in memory. With more than 30 attributes a dictionary for each takes 1.8 KB.
    __slots__ = (
        "_answers", "_asked", "_body", "_cancel_by", "_counters", "_dead", "_dump_state", "_earlier", "_encode",
        "_ending", "_expected", "_finish", "_last_state", "_loop", "_main", "_new_run_id", "_patches", "_python",
        "_queries", "_report", "_timers", "_update_tasks", "_updates", "_values", "_wait_threshold_us", "actions",
        "cause", "fact_us", "forced", "on_match", "outcome", "pending", "replaying", "run",
    )  # fmt: skip

    direct = False

    def __init__(
        self,
        *,
        run: str,
        values: Values,
        new_run_id: Callable[[], str],
        start_us: int,
        python: str | None = None,
        wait_threshold_us: int = 10_000_000,
        activation_callbacks_max: int = 200_000,
        report: Callable[[dict[str, Any]], None] = lambda _context: None,
        earlier: Earlier | None = None,
    ) -> None:
        """
        Prepare the loop; no code runs yet.

        Args:
            run: the run's id, for reports.
            values: source of time and randomness for live activations.
            new_run_id: makes ids of children.
            start_us: time of the attempt's `RunStarted`.
            python: the Python version that recorded the attempt.
            wait_threshold_us: longer timers let the run show `waiting`.
            activation_callbacks_max: how many callbacks an activation may take.
            earlier: what earlier attempts of the run finished; None for the first one.
            report: is told of exceptions of tasks that nobody looked at; may be called on any thread.
        """
        self.run = run
        self.cause = 0
        self.fact_us = start_us
        self.replaying = self.forced = False
        self.pending: dict[str, Pending] = {}
        self.outcome: Outcome | None = None
        self.on_match: Callable[[e.Event, e.Event], None] | None = None
        self._values = values
        self._new_run_id = new_run_id
        self._python = python
        self._wait_threshold_us = wait_threshold_us
        self._loop = WorkflowLoop(self, start_time=start_us / 1e6, activation_callbacks_max=activation_callbacks_max)
        self._main: asyncio.Task[Any] | None = None
        self._counters = Counters()
        self._timers: dict[str, LoopTimer] = {}
        self._asked: list[_Asked] = []
        self._expected: dict[tuple[str, str], list[e.Event]] = {}
        self._answers: dict[str, int] = {}
        self._dead = self._ending = False
        self._cancel_by: str | None = None
        self._body: Callable[[], Coroutine[Any, Any, Any]] | None = None
        self._finish: Callable[[Outcome, int], Request] | None = None
        self._dump_state: Callable[[], dict[str, Json] | None] = lambda: None
        self._last_state: dict[str, Json] = {}
        self._patches: dict[str, bool] = {}
        self._queries: dict[str, Callable[..., Any]] = {}
        self._updates: dict[str, UpdateHandler] = {}
        self._update_tasks: dict[asyncio.Task[None], None] = {}
        self._encode: Callable[[Any], tuple[Json, str | None]] = lambda value: (value, None)
        self._report = report
        self._earlier = earlier
        self.actions: list[Callable[[], None]] = []  # for the shell: to be done when this activation is durable

    def bind(
        self,
        body: Callable[[], Coroutine[Any, Any, Any]],
        finish: Callable[[Outcome, int], Request],
        dump_state: Callable[[], dict[str, Json] | None],
        encode: Callable[[Any], tuple[Json, str | None]],
    ) -> None:
        """
        Say what to run.

        Args:
            body: makes the main coroutine.
            finish: turns an outcome and a cause into the request that ends the attempt.
            dump_state: gives `ctx.state` as a JSON object, None if there is none.
            encode: makes a value JSON, and tells its type.
        """
        self._encode = encode
        self._body = body
        self._finish = finish
        self._dump_state = dump_state
        self._last_state = dump_state() or {}

    # ------------------------------------------------------------------------- for the shell

    def activate(self, fact: Fact, *, recorded: Sequence[e.Event] | None = None) -> list[Request]:
        """
        Run the code on one fact until it is quiet.

        Args:
            fact: what happened.
            recorded: in replay, the events whose `cause` is this fact; None when live.

        Returns:
            What the code asked for; empty in replay.

        Raises:
            Divergence: in replay, the code asked for something else.
            WorkflowNeverWaits: the code didn't become quiet.
        """
        self.cause = fact.version
        self.fact_us = max(self.fact_us, fact.time_us)
        self.replaying = recorded is not None
        self._asked = []
        self._expected.clear()
        for event in recorded or ():
            self._expected.setdefault(key_of(event), []).append(event)
        now = fact.time_us / 1e6
        if isinstance(fact.event, e.TimerFired) and (timer := self._timers.get(fact.event.name)) is not None:
            # Seconds as a float are coarser than microseconds: a timer never fires before it is due.
            now = max(now, timer.due)
        if self.forced or isinstance(fact.event, e.CancelForced):
            with unawaited_is_fine():
                self._loop.activate(lambda: self._deliver(fact), now)
        else:
            self._loop.activate(lambda: self._deliver(fact), now)
        if self._main is not None and self._main.done() and self.outcome is None:
            self._conclude(self._main)
        else:
            self._note_state()
        return self._settle()

    def foresee(self, facts: Iterable[Fact]) -> None:
        """Hear what replay will deliver: all facts of the attempt, in order."""
        for fact in facts:
            event = fact.event
            if isinstance(event, e.StepResolved) and event.outcome == "not_done":
                continue
            if not isinstance(event, e.UpdateReceived):  # it has the name of a handler, which a step may have, too
                self._answers[name_of(event)] = fact.version

    def discard(self) -> None:
        """Take the code out of memory: close its tasks, record nothing."""
        self._dead = True
        self._loop.discard()
        self.pending.clear()
        self._timers.clear()

    def has_query(self, name: str) -> bool:
        """Tell whether the body registered a function for this query."""
        return name in self._queries

    def query(self, name: str, args: tuple[Any, ...]) -> Any:
        """Call a function registered by `on_query`."""
        return self._queries[name](*args)

    @property
    def queries(self) -> Sequence[str]:
        """Names registered by `on_query`."""
        return list(self._queries)

    def has_update(self, name: str) -> bool:
        """Tell whether the body registered a handler for this update."""
        return name in self._updates

    def validate_update(self, name: str, data: Any) -> None:
        """Let the validator look at an update; what it raises is the refusal."""
        validator = self._updates[name].validator
        if validator is not None:
            validator(data)

    # --------------------------------------------------------------------------- for the code

    def name(self, key: str | None, fallback: str) -> str:
        """Give a request its name: the key, counted; without one the task path and a fallback."""
        if key is None:
            return self._counters.name(f"{self._loop.current_path()}/{fallback}")
        return self._counters.name(key)

    @property
    def path(self) -> str:
        """Task path of the running code."""
        return self._loop.current_path()

    def knows_answer(self, name: str) -> bool:
        """Tell whether replay will deliver the answer to a request, and nobody compares what it asks for."""
        return self.replaying and self.on_match is None and self._answers.get(name, 0) > self.cause

    def new_run_id(self) -> str:
        """Make a child's id; in replay the recorded request's id counts instead."""
        return self._new_run_id()

    def is_short(self, delay_us: int) -> bool:
        """Tell whether a timer leaves the run `running`."""
        return delay_us <= self._wait_threshold_us

    async def ask(self, event: e.Event, *, spec: e.RunCreated | None = None, call: StepCall | None = None) -> Fact:
        """
        Ask for something that is answered by a later fact, and wait for it.

        Giving up waiting (a cancellation) abandons the request in the same activation.
        """
        name = name_of(event)
        self._request(event, spec)
        future: asyncio.Future[Fact] = self._loop.create_future()
        held = Pending(future, event, call)
        self.pending[name] = held
        try:
            return await future
        finally:
            if self.pending.get(name) is held:
                del self.pending[name]
                self._give_up(event)

    async def tell(self, event: e.Event, *, spec: e.RunCreated | None = None) -> e.Event:
        """Ask for something that needs no answer; gives the event as it is recorded."""
        known = self._known(name_of(event))
        if known is not None and type(known[1]) is type(event):
            # An earlier attempt did it: what it recorded stands.
            self._request(e.ResultReused(cause=self.cause, name=name_of(event), version=known[0]), None)
            return known[1]
        recorded = self._request(event, spec)
        if isinstance(recorded, e.ResultReused):
            assert self._earlier is not None, "only a later attempt finds anything to use again"
            return self._earlier.event(recorded.version)
        if recorded is None:
            await self._never()
        assert recorded is not None
        return recorded

    def _known(self, name: str) -> tuple[int, e.Event] | None:
        """Give what an earlier attempt of the run finished under this name, with its version; never in replay."""
        if self.replaying or self._earlier is None:
            return None
        version = self._earlier.finished(name)
        return None if version is None else (version, self._earlier.event(version))

    async def record(self, key: str | None, kind: str, make: Callable[[], Json]) -> Json:
        """Give a recorded value, made once."""
        name = self.name(key, kind)
        if self.replaying:
            recorded = self._request(e.ValueRecorded(cause=self.cause, name=name, kind=kind, value=None), None)
            if recorded is None:
                await self._never()
            assert isinstance(recorded, e.ValueRecorded)
            return recorded.value
        known = self._known(name)
        value = known[1].value if known is not None and isinstance(known[1], e.ValueRecorded) else make()
        self._request(e.ValueRecorded(cause=self.cause, name=name, kind=kind, value=value), None)
        return value

    async def note(self, key: str | None, kind: str, value: Json) -> None:
        """Record a value that the code computed; in replay it is computed again, for whoever compares."""
        asked = e.ValueRecorded(cause=self.cause, name="", kind=kind, value=value)
        if not self.replaying:
            await self.record(key, kind, lambda: value)
        elif self._request(replace(asked, name=self.name(key, kind)), None) is None:
            await self._never()

    def when_durable(self, action: Callable[[], None]) -> None:
        """Do something that leaves the process once all that led to it is durable; never in replay."""
        if not self.replaying:
            self.actions.append(action)

    @property
    def values(self) -> Values:
        """Where live values come from."""
        return self._values

    def patched(self, name: str) -> bool:
        """Tell whether this attempt began with the code that has the patch; the same answer each time."""
        if name in self._patches:
            return self._patches[name]
        if self.replaying:
            found = self._expected.pop(("PatchMarked", name), None)
            answer = found is not None
        else:
            self._request(e.PatchMarked(cause=self.cause, name=name), None)
            answer = True
        self._patches[name] = answer
        return answer

    def on_query(self, name: str, func: Callable[..., Any]) -> None:
        """Register a function that answers queries."""
        self._queries[name] = func

    def on_update(self, name: str, func: Callable[..., Any], validator: Callable[..., Any] | None) -> None:
        """Register the handler of an update."""
        self._updates[name] = UpdateHandler(func, validator)

    # ---------------------------------------------------------------------- for the loop (host)

    def timer_started(self, timer: LoopTimer) -> None:
        """Take a timer of the code's own: `asyncio.sleep`, `asyncio.timeout`, `loop.call_later`."""
        due_us = math.ceil(min(timer.due * 1e6, FARTHEST_US))
        timer_name = self._counters.name(timer.name)
        timer.name = timer_name
        short = self.is_short(due_us - self.fact_us)
        self._request(e.TimerStarted(cause=self.cause, name=timer_name, due_us=due_us, short=short), None)
        self._timers[timer_name] = timer

    def timer_cancelled(self, timer: LoopTimer) -> None:
        """Take back a timer."""
        if self._timers.pop(timer.name, None) is not None:
            self._give_up(e.TimerStarted(cause=self.cause, name=timer.name, due_us=0))

    def unhandled(self, context: dict[str, Any]) -> None:
        """Take an exception that no task's owner looked at: plain asyncio logs it; nobody is told here."""
        if not (self._dead or self.replaying):
            self._report(context)

    # ------------------------------------------------------------------------------- delivery

    def _deliver(self, fact: Fact) -> None:
        event = fact.event
        if type(event) is e.StepCompleted:  # nearly all are that
            self._answer(event.name, fact)
            return
        match event:
            case e.RunStarted():
                assert self._body is not None, "bind comes first"
                self._main = self._loop.start(self._body())
            case e.CancelRequested():
                self._cancel_by = event.by
                if self._main is not None:
                    self._main.cancel()
            case e.CancelForced():
                self._force()
            case e.UpdateReceived():
                self._start_update(event)
            case e.StepResolved(outcome="not_done"):
                pass  # no answer: the step will be called again, and the code goes on waiting for it
            case e.TimerFired() if event.name in self._timers:
                self._loop.fire(self._timers.pop(event.name))
            case _:
                self._answer(name_of(event), fact)

    def _answer(self, name: str, fact: Fact) -> None:
        # What an earlier attempt left open may end before this one asks for it: nobody waits, and the
        # request, when it comes, is answered from what is finished.
        if isinstance(fact.event, e.ResultReused) and name in self._timers:
            self._loop.fire(self._timers.pop(name))
            return
        held = self.pending.pop(name, None)
        if held is not None and not held.future.done():
            held.future.set_result(fact)

    def _force(self) -> None:
        self.forced = True
        for name, held in list(self.pending.items()):
            del self.pending[name]
            if not held.future.done():
                held.future.set_exception(ExecutionCancelledError())
                self._give_up(held.request)

    def _start_update(self, event: e.UpdateReceived) -> None:
        handler = self._updates.get(event.name)

        async def answer() -> None:
            try:
                if handler is None:
                    message = f"the workflow has no handler for the update {event.name!r}"
                    raise LookupError(message)
                value = handler.func(event.data)
                if asyncio.iscoroutine(value):
                    value = await value
                encoded, type_path = self._encode(value)
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # whatever the handler raises is its answer
                if self._ending or self._dead:
                    raise  # the run ends, and its end answers
                answered = e.UpdateAnswered(cause=self.cause, update_id=event.update_id, error=refused_answer(error))
            else:
                answered = e.UpdateAnswered(cause=self.cause, update_id=event.update_id, value=encoded, type=type_path)
            self._request(answered, None)

        task = self._loop.create_task(answer())
        self._update_tasks[task] = None
        task.add_done_callback(self._update_tasks.pop)

    # ------------------------------------------------------------------------------- requests

    def _request(self, event: e.Event, spec: e.RunCreated | None) -> e.Event | None:
        """Take a request; gives the recorded event in replay, None if there is none."""
        if self._dead:
            raise RunEvicted
        if self._ending or self.forced:
            raise ExecutionCancelledError
        if not self.replaying:
            self._asked.append(_Asked(Request(event=event, spec=spec), None))
            return event
        found = self._expected.get(key_of(event))
        if found:
            recorded = found.pop(0)
            if self.on_match is not None:
                self.on_match(recorded, event)
            self._asked.append(_Asked(Request(event=recorded, spec=spec), "matched"))
            return recorded
        reused = self._expected.get(("ResultReused", name_of(event)))
        if reused:
            return reused.pop(0)
        self._asked.append(_Asked(Request(event=event, spec=spec), caller_line()))
        return None

    def _give_up(self, event: e.Event) -> None:
        """Abandon a request. One of this very activation vanishes: nobody has seen it."""
        if self._dead:
            return
        name = name_of(event)
        for index, asked in enumerate(self._asked):
            if asked.line != "matched" and asked.request.event is event:
                del self._asked[index]
                return
        # The loop's own timers are asked for by name.
        if isinstance(event, e.TimerStarted):
            for index, asked in enumerate(self._asked):
                held = asked.request.event
                if asked.line != "matched" and isinstance(held, e.TimerStarted) and held.name == name:
                    del self._asked[index]
                    return
        if self._ending:
            return  # the unit that ends the run closes everything
        self._abandon(event)

    def _abandon(self, event: e.Event) -> None:
        closing = closing_of(event, self.cause)
        if closing is None:
            return
        if not self.replaying:
            self._asked.append(_Asked(Request(event=closing), None))
            return
        found = self._expected.get(key_of(closing))
        if found:
            found.pop(0)
        else:
            self._asked.append(_Asked(Request(event=closing), caller_line()))

    async def _never(self) -> None:
        """Hold the code that asked for what isn't recorded; the activation ends in a divergence."""
        await self._loop.create_future()

    # --------------------------------------------------------------------------------- the end

    def _conclude(self, main: asyncio.Task[Any]) -> None:
        """The body ended: stop what is left of the code and say how it ended."""
        self._note_state()
        self._ending = True
        with unawaited_is_fine():
            # What cleans up may be refused something on its way to a coroutine: that isn't the program's fault.
            self._loop.cancel_remaining()
        self.pending.clear()
        self._timers.clear()
        if main.cancelled():
            self.outcome = Outcome(error=asyncio.CancelledError())
        elif (error := main.exception()) is not None:
            self.outcome = Outcome(error=error)
        else:
            self.outcome = Outcome(result=main.result())
        if not self.replaying:
            assert self._finish is not None, "bind comes first"
            self._asked.append(_Asked(self._finish(self.outcome, self.cause), None))

    @property
    def cancel_by(self) -> str | None:
        """Who asked for the cancellation that the code has seen."""
        return self._cancel_by

    def _note_state(self) -> None:
        """Ask for what changed in `ctx.state` to be recorded."""
        if self._dead or self._ending:
            return
        now = self._dump_state()
        event = None if now is None else state_change(self._last_state, now, self.cause)
        if now is not None and event is not None:
            self._last_state = now
            self._request_state(event)

    def _request_state(self, event: e.StateChanged) -> None:
        if self.forced and not self.replaying:
            self._asked.append(_Asked(Request(event=event), None))
            return
        forced, self.forced = self.forced, False
        try:
            self._request(event, None)
        finally:
            self.forced = forced

    def _settle(self) -> list[Request]:
        """End the activation: hand out the requests, or check that all fit."""
        asked, self._asked = self._asked, []
        if not self.replaying:
            return [item.request for item in asked]
        for item in asked:
            if item.line != "matched" and not self._is_answered(item.request.event):
                raise self._diverged(self._first_left(), shown(item.request.event), item.line)
        self._check_left()
        return []

    def _is_answered(self, event: e.Event) -> bool:
        """Tell whether this gives up what is answered already, by a fact that comes later; that leaves no trace."""
        return isinstance(event, CLOSINGS) and self._answers.get(name_of(event), 0) > self.cause

    def _check_left(self) -> None:
        """Refuse a recorded request that the code didn't make."""
        ended = self.outcome is not None
        recorded_end = False
        for left in self._expected.values():
            for event in left:
                if isinstance(event, ENDS):
                    recorded_end = True
                    if self.outcome is not None and fits_end(event, self.outcome.error):
                        continue
                    if isinstance(event, e.RunCancelled) and self.forced:
                        continue  # the engine closed the run, not the code
                elif isinstance(event, CLOSINGS) and (ended or self.forced or not self._waits(event)):
                    continue
                raise self._diverged(shown(event), None)
        if ended and not recorded_end:
            raise self._diverged(None, "the end of the run")

    def _diverged(self, recorded: str | None, asked: str | None, line: str | None = None) -> Divergence:
        return Divergence(cause=self.cause, recorded=recorded, asked=asked, line=line, python=self._python)

    def _waits(self, event: e.Event) -> bool:
        """Tell whether the code still waits for what this event closes."""
        name = name_of(event)
        return name in self.pending or name in self._timers

    def _first_left(self) -> str | None:
        for left in self._expected.values():
            for event in left:
                return shown(event)
        return None
