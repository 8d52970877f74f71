"""
The deterministic asyncio loop that workflow bodies run on.

It has no time, no I/O and no threads of its own, only a queue of callbacks. Its host delivers one fact at a
time (`activate`), and the loop then runs the code until nothing is ready: what the code does next depends on
the code and on the facts so far, and on nothing else. That is what makes a recorded run repeatable, in
another process and on another version of Python.

* Callbacks run first in, first out. `time()` is what the last activation said; it never goes back.
* A timer is a wish: `call_later` tells the host, and only the host fires it.
* A body that is always ready would hang the program; a count of callbacks per activation ends that.
* An activation is entered from plain callbacks only, inside whatever loop the program runs, and leaves that
  loop's state as it found it. CPython 3.14 keeps one current task per thread, so it couldn't be otherwise.
* An async generator that is left early is closed by a task of this loop, as in asyncio. That is a moment of
  the history if its last reference is dropped by the code. If the garbage collector found it in a cycle, it
  is not; then the generator is kept and closed when the run ends.

`refusals` holds what the loop refuses, `futures` its tasks, `stdlib` the changes asyncio needs around it,
`closing` how code is ended.
"""

# ruff: noqa: SLF001 -- an event loop is made of asyncio's internals: handles, the running loop, entering tasks.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVarTuple, Unpack, final

from polos.errors import NondeterministicCall, PolosInternalError, RunEvicted, WorkflowNeverWaits
from polos.replay import closing
from polos.replay.futures import Callback, LoopTimer, WorkflowFuture, WorkflowTask, awaited_by, position_of
from polos.replay.generators import Generator, OpenGenerators
from polos.replay.refusals import PureLoop, refusal
from polos.replay.stdlib import collecting_garbage, foreign, install, unawaited_is_fine

__all__ = ["LoopHost", "LoopTimer", "WorkflowFuture", "WorkflowLoop", "WorkflowTask"]

_Ts = TypeVarTuple("_Ts")
# Before 3.14, asyncio keeps the tasks of all loops in one set, where our small hashes would pile up.
_TASKS_IN_A_SET = sys.version_info < (3, 14)


class LoopHost(Protocol):
    """Who runs a `WorkflowLoop` and hears what its code wants. What these raise, the calling code gets."""

    def timer_started(self, timer: LoopTimer) -> None:
        """Hear that the code wants a timer; it may be due at once, or never (infinity)."""
        ...

    def timer_cancelled(self, timer: LoopTimer) -> None:
        """Hear that a timer that wasn't fired isn't wanted any more."""
        ...

    def unhandled(self, context: dict[str, Any]) -> None:
        """
        Hear of an error nobody caught; `context` is that of `loop.call_exception_handler`.

        Good for a log line and nothing else: some are noticed when garbage is collected, at any moment, on any thread.
        """
        ...


@final
class WorkflowLoop(PureLoop):
    """
    An event loop that runs one run's code, deterministically.

    Args:
        host: hears about timers and unhandled errors.
        start_time: what `time()` says before the first activation, in seconds.
        activation_callbacks_max: how many callbacks one activation may run before `WorkflowNeverWaits`.
        context: the context of the main task; a copy of the current one if not given.
    """

    def __init__(
        self,
        host: LoopHost,
        *,
        start_time: float,
        activation_callbacks_max: int = 200_000,
        context: contextvars.Context | None = None,
    ) -> None:
        install()
        self._host = host
        self._time = start_time
        self._callbacks_max = activation_callbacks_max
        self._context = context
        self._ready: list[Callback | LoopTimer] = []
        self._accepting = False  # inside an activation; anything scheduled outside of one comes from no fact
        self._running = False
        self._dead = False
        self._main: WorkflowTask | None = None
        self._scope: WorkflowTask | None = None  # on whose behalf code runs now
        self._number = 0
        self._tasks: dict[int, WorkflowTask] = {}
        self._generators = OpenGenerators()

    # ------------------------------------------------------------------------------------------- for the host

    def start(self, coro: Coroutine[Any, Any, Any]) -> WorkflowTask:
        """Make the main task, path `main`, before any other. It runs in this activation, or in the next one."""
        assert self._main is None, "a loop runs one run"
        accepting, self._accepting = self._accepting, True
        try:
            context = self._context if self._context is not None else contextvars.copy_context()
            self._main = self._make_task(coro, name=None, context=context, path="main")
        finally:
            self._accepting = accepting
        self._scope = self._main
        return self._main

    def activate(self, deliver: Callable[[], object], now: float) -> None:
        """
        Deliver one fact and run the code until it waits.

        Args:
            deliver: called inside the loop; it resolves futures, fires timers, makes tasks.
            now: when the fact happened; `time()` takes this value unless it is past it already.

        Raises:
            WorkflowNeverWaits: the code doesn't stop. What remains is for `discard`.
            PolosInternalError: called from inside a task or an activation.
            BaseException: what `deliver` raises; KeyboardInterrupt from the code, too.
        """
        self._time = max(self._time, now)
        self._enter(deliver)

    def fire(self, timer: LoopTimer) -> None:
        """Let a timer's callback run in this activation; a cancelled or fired timer is left alone."""
        assert self._accepting, "fired outside of an activation"
        if not timer._cancelled and not timer.fired:
            timer.fired = True
            self._ready.append(timer)

    def cancel_remaining(self) -> list[str]:
        """
        End what the main task left behind.

        Other tasks are cancelled once, in creation order, and run until they wait; async generators that are still
        open are closed by tasks; what is left then is discarded, and the loop with it. The host hears of errors.

        Returns:
            Where code stands that doesn't let itself be ended (see `discard`).

        Raises:
            WorkflowNeverWaits: the code doesn't stop.
        """
        if self._dead:
            return []
        assert self._main is not None
        assert self._main.done(), "the main task goes first"
        left = self.tasks()
        if left:  # most runs leave nothing behind
            self._enter(lambda: [task.cancel() for task in left])
        if self._generators.unfinished():
            self._enter(lambda: left.extend(self._close_generators()))
        for task in left:
            error = None if not task.done() or task.cancelled() else task.exception()
            if error is not None:
                self.call_exception_handler({"message": "error at the end of a run", "exception": error, "task": task})
        return self.discard()

    def discard(self) -> list[str]:
        """
        Close the code: every await from now on raises `RunEvicted`, and the host hears nothing more.

        Tasks are ended in creation order, then async generators in the order they were begun. Discarding twice is fine.

        Returns:
            Where code stands that catches RunEvicted for ever; normally nothing.
        """
        if self._running:
            raise PolosInternalError("a workflow loop can't be discarded from inside itself")
        if self._dead:
            return []
        self._dead = True
        self._ready.clear()
        stubborn: list[str] = []
        with unawaited_is_fine():
            if self._tasks or self._generators.unfinished():
                self._enter(lambda: self._end_code(stubborn))
            # The host holds the loop, and tasks do; what the loop holds of them would make cycles.
            self._main = self._scope = self._context = None
        del self._host
        return stubborn

    def current_path(self) -> str:
        """Give the path of the task that runs, or on whose behalf a callback runs; outside of tasks, `main`."""
        return "main" if self._scope is None else self._scope.path

    # --------------------------------------------------------------------------------------- entering the loop

    def _enter(self, work: Callable[[], object]) -> None:
        """Do some work inside the loop, run what it made ready, and leave the outer loop as it was."""
        outer = asyncio._get_running_loop()
        if outer is not None and asyncio.current_task(outer) is not None:
            raise PolosInternalError("a workflow loop can be entered only from a plain callback, not from a task")
        hooks = sys.get_asyncgen_hooks()
        try:
            asyncio._set_running_loop(self)
            sys.set_asyncgen_hooks(firstiter=self._generators.add, finalizer=self._generator_left)  # type: ignore[arg-type]  # the interpreter's own type of generators
            self._running = self._accepting = True
            self._scope = self._main
            work()
            self._drain()
        finally:
            self._running = self._accepting = False
            self._scope = self._main
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(outer)

    def _drain(self) -> None:
        left = self._callbacks_max
        while self._ready:
            batch, self._ready = self._ready, []
            taken = 0
            try:
                for handle in batch:
                    taken += 1
                    if handle._cancelled:
                        continue
                    left -= 1
                    if left < 0:
                        raise self._never_waits(handle)
                    self._run(handle)
            except BaseException:
                self._ready[:0] = batch[taken:]
                raise

    def _run(self, handle: Callback | LoopTimer) -> None:
        callback = handle._callback
        # A step of a task is called on the task's behalf, whoever woke it.
        owner = getattr(callback, "__self__", None)
        scope = self._scope = owner if type(owner) is WorkflowTask else handle.scope
        try:
            handle._context.run(callback, *handle._args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 -- as in asyncio: a callback's error goes to the handler
            # A task keeps its error, and lets SystemExit pass besides: that would end the program, which isn't the
            # run's to end, again at each start.
            ended = scope is not None and scope.done() and scope is owner
            if not (isinstance(error, SystemExit) and ended):
                self.call_exception_handler({"message": f"error in {callback!r}", "exception": error, "handle": handle})
        finally:
            if scope is not None and scope.done():
                scope.first_step = None  # it refers to the task
                self._tasks.pop(scope.number, None)

    def _never_waits(self, handle: Callback | LoopTimer) -> WorkflowNeverWaits:
        owner = getattr(handle._callback, "__self__", None)
        spinning = owner if isinstance(owner, WorkflowTask) else handle._callback
        path = owner.path if isinstance(owner, WorkflowTask) else self.current_path()
        return WorkflowNeverWaits(
            f"the workflow ran {self._callbacks_max} callbacks without waiting for anything "
            f"(activation_callbacks_max); task {path} is at {position_of(spinning)}"
        )

    # ------------------------------------------------------------------------------------- what asyncio calls

    def time(self) -> float:
        """Give the time of the fact that is being delivered, in seconds."""
        return self._time

    def is_running(self) -> bool:
        """Tell whether this is inside an activation."""
        return self._running

    def is_closed(self) -> bool:
        """Tell whether the loop was discarded."""
        return self._dead

    def get_debug(self) -> bool:
        """Tell that there is no debug mode."""
        return False

    def get_task_factory(self) -> None:
        """Tell that there is no task factory."""

    def get_exception_handler(self) -> None:
        """Tell that the host is the only exception handler."""

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Put a callback at the end of the queue."""
        if context is None:
            context = contextvars.copy_context()
        called: Callable[..., object] = callback
        if not args and isinstance(getattr(callback, "__self__", None), asyncio.Task):
            called = self._check_step(callback)
        handle = Callback(called, args, self, context, self._scope)
        if not self._accepting:
            self._refuse_outsider(handle)
        elif not self._dead:
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Put a callback at the end of the queue, if this thread is the one that runs the loop; refuse otherwise."""
        if asyncio._get_running_loop() is not self:
            raise refusal("loop.call_soon_threadsafe() from outside of the workflow")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> LoopTimer:
        """Ask the host for a timer; any delay, zero too, makes a durable one."""
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> LoopTimer:
        """Ask the host for a timer; one that is due already is durable, too."""
        if self._dead:
            raise RunEvicted
        if not self._accepting:
            raise refusal("a timer on a workflow's loop, started from outside of the workflow,")
        if when != when:  # noqa: PLR0124 -- not a number
            raise ValueError("a timer's due time is not a number")
        scope = self._scope
        assert scope is not None, "the main task is made first"
        scope.timers += 1
        name = f"{scope.path}/timer#{scope.timers}"
        if context is None:
            context = contextvars.copy_context()
        timer = LoopTimer(when, callback, args, self, context, scope, name)
        self._host.timer_started(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        # asyncio.TimerHandle.cancel calls this, the first time it is called.
        assert isinstance(handle, LoopTimer)
        if not handle.fired and not self._dead:
            self._host.timer_cancelled(handle)

    def create_future(self) -> WorkflowFuture:
        """Make a future."""
        return WorkflowFuture(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        eager_start: bool | None = None,
        **options: Any,
    ) -> WorkflowTask:
        """Make a task; `eager_start` works on every Python, and `options` are for newer ones."""
        if self._dead:
            coro.close()
            raise RunEvicted
        parent = self._scope
        assert parent is not None, "the main task is made first"
        parent.children += 1
        path = f"{parent.path}.{parent.children}"
        if context is None:
            context = contextvars.copy_context()
        task = self._make_task(coro, name=name, context=context, path=path, **options)
        if eager_start:
            self._run_newest()
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell the host about an error that nobody caught."""
        if not self._dead:
            self._host.unhandled(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell the host about an error that nobody caught."""
        self.call_exception_handler(context)

    # -------------------------------------------------------------------------------------------------- tasks

    def next_number(self) -> int:
        """Give the next creation number."""
        self._number += 1
        return self._number

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Give the tasks that aren't done, in creation order."""
        return [task for task in self._tasks.values() if not task.done()]

    def _make_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None,
        context: contextvars.Context,
        path: str,
        **options: Any,
    ) -> WorkflowTask:
        task = WorkflowTask(coro, loop=self, name=name, context=context, path=path, **options)
        if _TASKS_IN_A_SET:
            asyncio.tasks._unregister_task(task)
        self._tasks[task.number] = task
        task.first_step = self._ready[-1]._callback
        return task

    def _run_newest(self) -> None:
        """Run the first step of the task just made, now. Python 3.12 can do that on request, 3.11 can't."""
        scope, current = self._scope, asyncio.current_task(self)
        handle = self._ready.pop()
        if current is not None:
            asyncio.tasks._leave_task(self, current)
        try:
            self._run(handle)
        finally:
            if current is not None:
                asyncio.tasks._enter_task(self, current)
            self._scope = scope

    def _check_step(self, step: Callable[..., object]) -> Callable[..., object]:
        """
        Look at a task's step before it is queued.

        When code awaits a future of another loop, asyncio makes a RuntimeError and queues a step that will throw it.
        The error should be the one that says what to do.
        """
        task = getattr(step, "__self__", None)
        if not isinstance(task, WorkflowTask):
            raise NondeterministicCall("make tasks with asyncio.create_task(): a task made by its class has no place")
        for error in gc.get_referents(step):
            if isinstance(error, RuntimeError) and "attached to a different loop" in str(error):
                for future in gc.get_referents(awaited_by(task.get_coro())[-1]):
                    if asyncio.isfuture(future):
                        future._asyncio_future_blocking = False  # or nobody could await it any more, here or there
                return functools.partial(self._throw, task, foreign(str(error)))
        return step

    def _throw(self, task: WorkflowTask, error: BaseException) -> None:
        """Throw an error into a task, which asyncio's own tasks can't be made to do, and let the task go on."""
        base: type[asyncio.Future[Any]] = asyncio.Future
        try:
            awaited: Any = closing.throw(task, error)
        except StopIteration as stop:
            base.set_result(task, stop.value)
        except asyncio.CancelledError:
            base.cancel(task)
        except BaseException as raised:
            base.set_exception(task, raised)
            if isinstance(raised, KeyboardInterrupt):
                raise
        else:
            if asyncio.isfuture(awaited):
                # A step resumes the code, and a future that is resumed while it is pending just says again what it
                # waits for: this time to the task.
                awaited._asyncio_future_blocking = False
            assert task.first_step is not None
            self.call_soon(task.first_step, context=task.context)

    def _refuse_outsider(self, handle: Callback) -> None:
        if self._dead:
            return  # a remnant, such as a future that is cancelled when nobody cares any more
        raise NondeterministicCall(
            f"something outside of the workflow touched its event loop ({handle!r}): what a workflow waits for must "
            f"come through its context (a step, an event, a signal), or it can't be repeated"
        )

    # ------------------------------------------------------------------------------------------------- ending

    def _close_generators(self) -> list[WorkflowTask]:
        closers: list[WorkflowTask] = []
        for number, generator in self._generators.unfinished():
            self._generators.release(number)
            closers.append(self.create_task(_close(generator)))
        return closers

    def _end_code(self, stubborn: list[str]) -> None:
        """End all code. It can't make tasks any more, but it may still begin generators."""
        tasks = list(self._tasks.values())
        for task in tasks:
            self._scope = task
            stubborn.extend(filter(None, [closing.end_task(task)]))
        self._scope = self._main
        while generators := self._generators.unfinished():
            self._generators.clear()
            for _, generator in generators:
                stubborn.extend(filter(None, [closing.end_generator(generator)]))
        self._release(tasks)
        self._tasks.clear()

    @staticmethod
    def _release(tasks: list[WorkflowTask]) -> None:
        """Part ended tasks from what they waited for, so that reference counting frees both."""
        base: type[asyncio.Future[Any]] = asyncio.Future
        waiters: list[Any] = [getattr(task, "_fut_waiter", None) for task in tasks]
        for task in tasks:
            task.first_step = None
            base.cancel(task)
        for waiter in waiters:
            if waiter is not None:
                waiter.cancel()  # that of a gather passes it on to the futures it waits for
                base.cancel(waiter)

    # --------------------------------------------------------------------------------------- async generators

    def _generator_left(self, generator: Generator) -> None:
        """Hear that an unfinished generator lost its last reference; called by the interpreter, once a generator."""
        number = self._generators.keep(generator)
        if self._accepting and not self._dead and asyncio._get_running_loop() is self and not collecting_garbage():
            self.call_soon(self._close_left, number, generator)

    def _close_left(self, number: int, generator: Generator) -> None:
        self._generators.release(number)
        self.create_task(_close(generator))


async def _close(generator: Generator) -> None:
    await generator.aclose()
