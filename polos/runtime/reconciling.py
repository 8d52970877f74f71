"""
Asking a step's `reconcile` what became of an attempt of unknown outcome.

It is the program's code, as a step's function is, and is called the same way: an asynchronous one on the program's
loop, any other in a thread, because it talks to whatever the step talked to. It answers to nobody who waits, so one
that hangs may hang; but when the time that the step may take is over, its thread counts as lost.

An attempt that took too long or was cancelled, and wasn't done, is a failed one: another follows as long as the policy
of the step allows one more. An attempt that a process died in isn't: the next one follows in any case.

An answer is about the attempt that was asked about. When somebody has resolved that by hand meanwhile, and another
attempt is of unknown outcome by now, "it wasn't done" would have it called a second time; so it isn't believed.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from polos import values
from polos.context import current_step
from polos.engine import commands as c
from polos.engine import events as e
from polos.errors import PolosUsageError
from polos.replay.facts import StepCall
from polos.runtime.threads import Job, Threads, is_async
from polos.types import Completed, NotDone

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Question", "Reconciling"]

_log = logging.getLogger("polos")

RECONCILE_SECONDS: Final = 60.0  # of a step that has no limit of its own

Question = tuple[str, str, int]


class Reconciling:
    """Asks, and brings the answers to the engine."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, threads: Threads) -> None:
        """Take the engine that answers go to, and where functions run."""
        self._engine = engine
        self._loop = loop
        self._threads = threads
        self._open: set[Question] = set()
        self.unclear: dict[Question, e.Failure] = {}  # of attempts that ended in this process

    def ask(self, run: str, name: str, number: int, call: StepCall) -> None:
        """Ask about an attempt, unless it is being asked about already."""
        question = (run, name, number)
        if question in self._open:
            return
        self._open.add(question)
        func = call.reconcile
        assert func is not None, "there is something to ask"
        context = call.context.copy() if call.context is not None else contextvars.copy_context()
        context.run(current_step.set, f"{run}/{name}")
        try:
            args, kwargs = values.copy_arguments(call.args, dict(call.kwargs))
        except PolosUsageError as error:
            self._answered(question, call, None, error)
            return
        if is_async(func):
            self._await(question, call, func, args, kwargs, context)
        else:
            self._in_thread(question, call, lambda: context.run(func, *args, **kwargs), context)

    def _await(
        self, question: Question, call: StepCall, func: Callable[..., Awaitable[Any]], args: tuple[Any, ...],
        kwargs: dict[str, Any], context: contextvars.Context,
    ) -> None:  # fmt: skip
        async def asked() -> None:
            try:
                answer = await func(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  # whatever it raises, the outcome stays unknown
                self._answered(question, call, None, error)
            else:
                self._answered(question, call, answer, None)
            finally:
                self._open.discard(question)

        task = self._loop.create_task(asked(), context=context)
        self._engine.background.add(task)
        task.add_done_callback(self._engine.background.discard)

    def _in_thread(
        self, question: Question, call: StepCall, ask: Callable[[], Any], context: contextvars.Context
    ) -> None:
        alarms: list[Any] = []

        def tell(callback: Callable[..., None], *args: Any) -> bool:
            try:
                self._loop.call_soon_threadsafe(callback, *args)
            except RuntimeError:
                _log.debug("news of the question %s came after the loop was closed", question)
                return False
            return True

        def work() -> None:
            if not tell(begin):
                return
            answer: Any = None
            error: BaseException | None = None
            try:
                answer = ask()
            except BaseException as raised:  # noqa: BLE001  # as above
                error = raised
            tell(done, answer, error)

        def begin() -> None:
            seconds = call.timeout_seconds or RECONCILE_SECONDS
            alarms.append(self._engine.clock.call_after(round(seconds * 1e6), lambda: self._give_up(question, job)))

        def done(answer: Any, error: BaseException | None) -> None:
            for alarm in alarms:
                alarm.cancel()
            if error is None and inspect.isawaitable(answer):
                # A plain function that gave back a coroutine.
                self._await(question, call, lambda: answer, (), {}, context)
                return
            self._answered(question, call, answer, error)

        job = Job(work)
        self._threads.submit(job)

    def _give_up(self, question: Question, job: Job) -> None:
        """It hangs: its answer still counts, and its thread doesn't."""
        run, name, _ = question
        self._threads.give_up(job)
        _log.warning("reconcile of step %r of run %s takes too long; the outcome stays unknown for now", name, run)

    def _answered(self, question: Question, call: StepCall, answer: Any, error: BaseException | None) -> None:
        self._open.discard(question)
        run, name, number = question
        failure = self.unclear.pop(question, None)
        if error is not None:
            _log.error("reconcile of step %r of run %s failed; its outcome stays unknown", name, run, exc_info=error)
            return
        if isinstance(answer, Completed):
            try:
                encoded, _ = values.encode(
                    answer.value, hint=call.hint, bytes_max=self._engine.settings.result_bytes_max,
                    what=f"result of step {name!r}",
                )  # fmt: skip
            except PolosUsageError:
                _log.exception("reconcile of step %r of run %s gave what can't be recorded", name, run)
                return
            command = c.ResolveStep(
                name=name, attempt=number, outcome="completed", by="reconcile", value=encoded.value, type=encoded.type
            )
        elif isinstance(answer, NotDone) or answer is NotDone:
            if failure is None or number <= call.policy.max_retries:
                command = c.ResolveStep(name=name, attempt=number, outcome="not_done", by="reconcile")
            else:
                command = c.ResolveStep(name=name, attempt=number, outcome="failed", by="reconcile", error=failure)
        else:
            return
        self._engine.outcome(run, command, lambda _told: None)
