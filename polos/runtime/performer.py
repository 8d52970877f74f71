"""
Calling the functions that workflows ask for.

An attempt begins only when its intent is durable, and what it gives back is a piece of work like any
other: decided, appended, kept in memory while the log refuses writes. An attempt stays *in flight*
until its outcome is durable, so that a run that is read again in between doesn't start it twice.

Asynchronous functions are tasks of the program's own loop, others run in threads; both with the
context variables of the place that asked. A cancellation that comes from outside is no outcome:
somebody is taking the program down, and the step stays owed. One that the function brought on itself is
one, like any exception: it would do the same whenever it is called.

What an `at_most_once` function raises after its time was up says nothing of its effect, nor does a
cancellation, so the outcome is unknown then; a value that comes late is still its result.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from polos import values
from polos.context import current_attempt, current_step
from polos.data_class import dataclass
from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.json import Json, message_of, printable
from polos.engine.retry import next_delay_us, retryable
from polos.errors import PolosUsageError
from polos.points import reach
from polos.replay.facts import StepCall
from polos.runtime.deltas import Deltas
from polos.runtime.reconciling import Reconciling
from polos.runtime.resources import Resources
from polos.runtime.threads import Job, StepThreads, Threads, is_async

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Attempt", "Performer", "failure_of", "is_async"]

_log = logging.getLogger("polos")

TRACEBACK_CHARACTERS_MAX = 20_000

AttemptKey = tuple[str, str, int]


def failure_of(error: BaseException) -> e.Failure:
    """Give what is kept of an exception."""
    text = "".join(traceback.format_exception(error))
    if len(text) > TRACEBACK_CHARACTERS_MAX:
        text = "…" + text[-TRACEBACK_CHARACTERS_MAX:]
    return e.Failure(type=type(error).__name__, message=message_of(error), traceback=printable(text))


def _enter_step(key: str, attempt: Attempt) -> None:
    """Say where the code runs that follows; in one go, as it is done for every step."""
    current_step.set(key)
    current_attempt.set(attempt)


class StepTask(asyncio.Task[None]):
    """A task that knows whether it was cancelled by nobody but itself, and whose end is looked at where it matters."""

    attempt: Attempt | None = None
    _by_itself: tuple[bool, ...] = ()  # for each request that stands; `uncancel` takes back the last
    _watched: bool = False

    def watch(self) -> None:
        """Have the performer look at its end. Of one that ends well, or by an `Exception`, its own code tells."""
        if self.attempt is not None and not self._watched:
            self._watched = True
            self.add_done_callback(self.attempt.task_done)

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask the task to stop, and note who asks."""
        self.watch()  # perhaps none of its code has run, and none will
        asked = super().cancel(msg)
        if asked:
            # The loop is named: `asyncio.run` asks when it runs no more.
            self._by_itself = (*self._by_itself, asyncio.current_task(self.get_loop()) is self)
        return asked

    def uncancel(self) -> int:
        """Take back a request."""
        self._by_itself = self._by_itself[:-1]
        return super().uncancel()

    @property
    def cancelled_from_outside(self) -> bool:
        """Whether somebody else asked, and it stands."""
        return not all(self._by_itself)


@dataclass(slots=True, eq=False)
class Attempt:
    """One call of a step's function, in flight."""

    performer: Performer
    key: AttemptKey  # what tells attempts apart
    call: StepCall
    task: StepTask | None = None
    job: Job | None = None
    deltas: Deltas | None = None
    alarm: Any = None
    timed_out: bool = False
    ignored: bool = False  # the code stopped waiting, or the engine took the attempt away
    ended: bool = False

    @property
    def run(self) -> str:
        """The run."""
        return self.key[0]

    @property
    def name(self) -> str:
        """The step's name."""
        return self.key[1]

    @property
    def number(self) -> int:
        """Which attempt of the step it is, from 1."""
        return self.key[2]

    def task_done(self, task: asyncio.Task[None]) -> None:
        """Look at the end of the task."""
        self.performer.task_done(self, task)

    def settled(self, _told: object) -> None:
        """Its outcome is durable, or will never be: it isn't in flight any more."""
        self.performer.forget(self)

    @property
    def resources(self) -> Resources:
        """What steps share."""
        return self.performer.resources

    def send(self, event_type: str, data: dict[str, Json]) -> None:
        """Send one delta; few steps do, so what takes them is made for the first, by whichever thread sends it."""
        with self.performer.making_deltas:
            if self.deltas is None:
                self.deltas = Deltas(self.performer.engine, self.run, self.name, self.number)
        self.deltas.send(event_type, data)


class Performer:
    """Starts attempts and brings their outcomes to the engine."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, /, *, threads: Threads | None = None) -> None:
        """
        Begin to call functions.

        Args:
            engine: outcomes go to it.
            loop: asynchronous functions run on it.
            threads: others run there; in a pool of its own by default.
        """
        self.engine = self._engine = engine
        self._loop = loop
        settings = engine.settings
        self._threads = threads or StepThreads(settings.step_threads_max, settings.lost_threads_max)
        self.reconciling: Reconciling = Reconciling(engine, loop, self._threads)
        self.resources = Resources(engine.store.log)
        self.making_deltas = threading.Lock()
        self.in_flight: dict[AttemptKey, Attempt] = {}
        self._by_run: dict[str, dict[AttemptKey, Attempt]] = {}
        self._idle: asyncio.Future[None] | None = None

    # ---------------------------------------------------------------------------------- starting

    def start(self, run: str, name: str, number: int, call: StepCall) -> None:
        """Call a step's function; does nothing if that attempt is in flight already."""
        key = (run, name, number)
        if key in self.in_flight:
            return
        attempt = self.in_flight[key] = Attempt(self, key, call)
        self._by_run.setdefault(run, {})[key] = attempt
        try:
            args, kwargs = values.copy_arguments(call.args, dict(call.kwargs))
        except PolosUsageError as error:
            self._finish_later(attempt, error)
            return
        context = call.context.copy() if call.context is not None else contextvars.copy_context()
        context.run(_enter_step, f"{run}/{name}", attempt)
        if is_async(call.func):
            self._spawn(attempt, self._as_task(attempt, args, kwargs), context)
            if call.timeout_seconds is not None:
                self._arm(attempt)
        else:
            self._submit(attempt, lambda: self._in_thread(attempt, context, args, kwargs))

    def running(self, run: str) -> int:
        """Count the attempts of a run that are in flight."""
        return len(self._by_run.get(run, ()))

    def abandon(self, run: str, name: str) -> None:
        """Stop what nobody waits for any more: an async attempt is cancelled, one in a thread runs on unheard."""
        for attempt in list(self._by_run.get(run, {}).values()):
            if attempt.name == name:
                attempt.ignored = True
                if attempt.task is not None:
                    attempt.task.cancel()
                self._give_up(attempt, "was abandoned")
                self.forget(attempt)

    def _submit(self, attempt: Attempt, job: Callable[[], None]) -> None:
        attempt.job = Job(job, waiting=partial(self._waits, attempt))
        self._threads.submit(attempt.job)

    def _waits(self, attempt: Attempt, waiting: bool) -> None:  # noqa: FBT001  # a callback of the threads
        self._engine.crowd.note(attempt.run, attempt.name, attempt.number, waiting=waiting)

    def _give_up(self, attempt: Attempt, why: str) -> None:
        """Nobody waits for an attempt any more: one that waits for a thread isn't called, one that has it keeps it."""
        if attempt.job is None:
            return
        lost = self._threads.give_up(attempt.job)
        if lost is not None:
            _log.warning(
                "attempt %d of step %r of run %s %s, and its function goes on; threads lost that way: %d "
                "(lost_threads_max: %d)",
                attempt.number, attempt.name, attempt.run, why, lost, self._engine.settings.lost_threads_max,
            )  # fmt: skip

    def _spawn(self, attempt: Attempt, coro: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        attempt.task = StepTask(coro, loop=self._loop, context=context)
        attempt.task.attempt = attempt

    async def _as_task(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call an asynchronous function and report its outcome at once, not when the loop comes round to it."""
        try:
            reach("inside_effect")
            value = await attempt.call.func(*args, **kwargs)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # it is the step's outcome, whatever it is
            # If SystemExit left the task it would end the program, and the next one at the same step.
            self._outcome(attempt, None, error)
        except BaseException:
            if attempt.task is not None:
                attempt.task.watch()
            raise
        else:
            self._outcome(attempt, value, None)

    def _in_thread(
        self, attempt: Attempt, context: contextvars.Context, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not self._may_begin(attempt):
            return
        try:
            reach("inside_effect")
            outcome: Any = context.run(attempt.call.func, *args, **kwargs)
            error: BaseException | None = None
        except BaseException as raised:  # noqa: BLE001 — it is the step's outcome, whatever it is
            outcome, error = None, raised
        self._tell_loop(self._thread_done, attempt, outcome, error, context)

    def _may_begin(self, attempt: Attempt) -> bool:
        """
        Tell, on its thread, whether an attempt is still wanted now that its turn has come, and let its time begin.

        It may have waited long for a thread. Its time doesn't run meanwhile, so that what timed out has been called,
        once; and what was taken away isn't called any more: whoever took it may have it called somewhere else.
        """
        if attempt.ignored or self._loop.is_closed():
            return False
        return attempt.call.timeout_seconds is None or self._tell_loop(self._arm, attempt)

    def _tell_loop(self, callback: Callable[..., None], attempt: Attempt, *args: Any) -> bool:
        """Have something done on the program's loop; False if that is closed."""
        try:
            self._loop.call_soon_threadsafe(callback, attempt, *args)
        except RuntimeError:
            # Nobody can take the outcome, the step stays owed.
            _log.debug("news of %s came after the loop was closed", attempt.key)
            return False
        return True

    async def _as_awaitable(self, attempt: Attempt, outcome: Awaitable[Any]) -> None:
        try:
            value = await outcome
        except (Exception, SystemExit) as error:  # noqa: BLE001  # as above
            self._outcome(attempt, None, error)
        except BaseException:
            if attempt.task is not None:
                attempt.task.watch()
            raise
        else:
            self._outcome(attempt, value, None)

    def _thread_done(
        self, attempt: Attempt, outcome: Any, error: BaseException | None, context: contextvars.Context
    ) -> None:
        if error is None and inspect.isawaitable(outcome):
            # A plain function that gave back a coroutine: its result is what the step gives.
            self._spawn(attempt, self._as_awaitable(attempt, outcome), context)
            return
        self._outcome(attempt, outcome, error)

    def task_done(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """Take the end of a task that was cancelled, or ended by what isn't an `Exception`."""
        assert isinstance(task, StepTask), "no other is made here"
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, KeyboardInterrupt):
                # It goes through the program's loop, which ends, and the step stays owed.
                self.forget(attempt)
            elif error is not None:
                self._outcome(attempt, None, error)  # what isn't an Exception comes here, not through the task's code
            return
        if attempt.timed_out and not attempt.ignored:
            self._timed_out(attempt)
        elif attempt.ignored or self._engine.stopping or task.cancelled_from_outside:
            self._taken_away(attempt)
        else:
            self._outcome(attempt, None, asyncio.CancelledError("the step cancelled itself"))

    def _taken_away(self, attempt: Attempt) -> None:
        """An attempt ended by a cancellation from outside: no outcome, the step stays owed."""
        if attempt.ignored or self._engine.stopping:
            self.forget(attempt)
            return
        # Either the program goes down right now, or somebody cancelled a task that isn't theirs.
        # In the second case the engine lives on and calls the step again, after a moment.

        def again() -> None:
            self.forget(attempt)
            self._engine.perform_again(attempt.run)

        self._engine.clock.call_after(1_000_000, again)

    # ----------------------------------------------------------------------------------- outcomes

    def _finish_later(self, attempt: Attempt, error: BaseException) -> None:
        self._loop.call_soon(self._outcome, attempt, None, error)

    def _outcome(self, attempt: Attempt, value: Any, error: BaseException | None) -> None:
        if attempt.ended or attempt.ignored:
            return
        reach("after_effect_before_outcome")
        if attempt.alarm is not None:
            self._disarm(attempt)
        attempt.ended = True
        if attempt.deltas is not None:
            attempt.deltas.finish()
        command = self._completed(attempt, value) if error is None else self._failed(attempt, error)
        self._engine.outcome(attempt.run, command, attempt.settled)

    def _completed(self, attempt: Attempt, value: Any) -> c.Command:
        what = f"result of step {attempt.name!r}"
        try:
            encoded, _ = values.encode(
                value, hint=attempt.call.hint, bytes_max=self._engine.settings.result_bytes_max, what=what
            )
        except PolosUsageError as refused:
            # The effect has happened: calling again would repeat it, so this is final.
            return c.FailStep(name=attempt.name, attempt=attempt.number, error=failure_of(refused))
        return c.CompleteStep(name=attempt.name, attempt=attempt.number, value=encoded.value, type=encoded.type)

    def _failed(self, attempt: Attempt, error: BaseException) -> c.Command:
        call = attempt.call
        if call.effect == "at_most_once" and (attempt.timed_out or isinstance(error, asyncio.CancelledError)):
            return self._unknown(attempt, error)
        delay_us = None
        named = call.policy.retry_on is not None
        if (call.effect != "at_most_once" or named) and retryable(call.policy, error):
            delay_us = next_delay_us(
                call.policy, failed_attempts=attempt.number, chance=self._engine.clock.random(),
                asked_seconds=getattr(error, "retry_after_seconds", None),
            )  # fmt: skip
        return c.FailStep(name=attempt.name, attempt=attempt.number, error=failure_of(error), delay_us=delay_us)

    def _unknown(self, attempt: Attempt, error: BaseException) -> c.Command:
        reason = f"no outcome within {attempt.call.timeout_seconds} s" if attempt.timed_out else "it was cancelled"
        if not isinstance(error, (asyncio.CancelledError, TimeoutError)):
            late = failure_of(error)
            reason = f"{reason}, then {late.type}: {late.message}"
        if attempt.call.reconcile is not None:
            failure = e.Failure(type="TimeoutError" if attempt.timed_out else "CancelledError", message=reason)
            self.reconciling.unclear[attempt.run, attempt.name, attempt.number] = failure
        return c.MarkUnknown(name=attempt.name, attempt=attempt.number, reason=reason)

    def _time_out(self, attempt: Attempt) -> None:
        if attempt.ended or attempt.ignored or attempt.timed_out:
            return
        attempt.timed_out = True
        if attempt.task is not None:
            attempt.task.cancel()  # its end is the outcome
        else:
            self._timed_out(attempt)

    def _timed_out(self, attempt: Attempt) -> None:
        """Report a timeout; an attempt in a thread isn't over, its late result may still count."""
        late = TimeoutError(f"step {attempt.name!r} took longer than {attempt.call.timeout_seconds} s")
        command = self._failed(attempt, late)
        if attempt.deltas is not None:
            attempt.deltas.finish()
        if attempt.task is not None:
            attempt.ended = True
        else:
            self._give_up(attempt, "took too long")
        self._engine.outcome(attempt.run, command, attempt.settled)

    def _arm(self, attempt: Attempt) -> None:
        """Let the time of an attempt begin."""
        if attempt.call.timeout_seconds is None or attempt.ended or attempt.ignored:
            return
        allowed_us = round(attempt.call.timeout_seconds * 1e6)
        attempt.alarm = self._engine.clock.call_after(allowed_us, lambda: self._time_out(attempt))

    def _disarm(self, attempt: Attempt) -> None:
        if attempt.alarm is not None:
            attempt.alarm.cancel()
            attempt.alarm = None

    def forget(self, attempt: Attempt) -> None:
        """Count an attempt as in flight no longer."""
        self._disarm(attempt)
        if self.in_flight.pop(attempt.key, None) is None:
            return
        attempt.task = None  # which refers to it: memory is given back at once, not when garbage is collected
        held = self._by_run[attempt.run]
        del held[attempt.key]
        if not held:
            del self._by_run[attempt.run]
        if not self.in_flight and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    # ------------------------------------------------------------------------------------ the end

    async def drain(self, due_us: int) -> None:
        """Wait until nothing is in flight, or until `due_us`."""
        if not self.in_flight:
            return
        self._idle = self._loop.create_future()
        idle = self._idle

        def give_up() -> None:
            if not idle.done():
                idle.set_result(None)

        alarm: Any = self._engine.clock.call_at(due_us, give_up)
        try:
            await idle
        finally:
            alarm.cancel()

    async def close(self) -> None:
        """Take away what is still in flight; those steps stay owed."""
        tasks = [attempt.task for attempt in self.in_flight.values() if attempt.task is not None]
        for attempt in list(self.in_flight.values()):
            attempt.ignored = True
            self.forget(attempt)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        await self.resources.close()
        self._threads.close()
