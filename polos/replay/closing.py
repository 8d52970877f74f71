"""
How the code of a run leaves memory.

CPython can't drop a suspended coroutine without running its `finally` blocks: it would throw `GeneratorExit`
whenever the collector gets there, on any thread, and complain about each `await` in a `finally`. So the
coroutines are ended here, at a known moment: `RunEvicted` is thrown in, and again at every await the code
still tries, until it has returned. It is thrown by hand rather than through the task, because a task can be
made to raise nothing but `CancelledError`, and bodies handle that one.
"""

# ruff: noqa: SLF001 -- a task's state can be set only by the methods of its base class and private functions.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from polos.errors import RunEvicted
from polos.replay.futures import WorkflowTask, position_of
from polos.replay.generators import Generator

__all__ = ["end_generator", "end_task", "throw"]

# Code that catches BaseException around every await, in a loop, would be thrown at for ever.
THROWS_MAX = 1_000


def throw(task: WorkflowTask, error: BaseException) -> object:
    """
    Throw an error into a task's code where it stands; give what the code waits for next.

    Must be called in the task's context while its loop runs.

    Raises:
        BaseException: whatever ends the code; StopIteration if it returned.
    """
    loop = task.get_loop()
    asyncio.tasks._enter_task(loop, task)
    try:
        coroutine: Any = task.get_coro()
        return coroutine.throw(error)
    finally:
        asyncio.tasks._leave_task(loop, task)


def end_task(task: WorkflowTask) -> str | None:
    """
    End a task's code; nothing it raises gets out, except KeyboardInterrupt.

    Returns:
        None, or where the code stands if it doesn't let itself be ended.
    """
    coroutine: Any = task.get_coro()
    if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        coroutine.close()  # it never began, so it has nothing to finish
        return None
    for _ in range(THROWS_MAX):
        if _ended_by(lambda: task.context.run(throw, task, RunEvicted())):
            return None
    return position_of(coroutine)


def end_generator(generator: Generator) -> str | None:
    """
    End an async generator; nothing it raises gets out, except KeyboardInterrupt.

    Returns:
        None, or its name if it doesn't let itself be ended.
    """
    resumption: Any = None
    for _ in range(THROWS_MAX):
        if generator.ag_frame is None:
            return None
        if resumption is None:
            # One of these resumes the generator until it yields a value or ends; on the way it may await.
            resumption = generator.athrow(RunEvicted())
            over = _ended_by(functools.partial(resumption.send, None))
        else:
            over = _ended_by(functools.partial(resumption.throw, RunEvicted()))
        if over:
            resumption = None
    return generator.__qualname__


def _ended_by(resume: Callable[[], object]) -> bool:
    """Resume code and tell whether that ended it, by a return or an error; else it awaits something more."""
    try:
        resume()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 -- whatever the dying code raises, nobody is there to hear it
        _forget_frames(error)
        return True
    return False


def _forget_frames(error: BaseException | None) -> None:
    """
    Clear the frames an error has passed through.

    Their local variables often hold the error again. Such a cycle would keep the run's objects in memory until
    the next collection, and coroutines among them would complain then that nobody awaited them.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        step = error.__traceback__
        error.__traceback__ = None
        while step is not None:
            with contextlib.suppress(RuntimeError):  # it says so of frames that are still running: ours
                step.tb_frame.clear()
            step = step.tb_next
        error = error.__context__
