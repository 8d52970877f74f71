"""
Whose code an engine of the kit is running, when somebody else has to ask.

Asked on another thread, while the engine's own runs code that doesn't come back: so nothing here waits for it or
changes anything, and what is found is told as it is found.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from typing import TYPE_CHECKING, Any, cast

from polos.testing.patience import Frames, own_frames, stack_of, summary_of

if TYPE_CHECKING:
    from polos.runtime.engine import Engine
    from polos.runtime.performer import Attempt, Performer
    from polos.runtime.threads import Job

__all__ = ["bodies_wait_at", "body_waits_at", "under_way", "waits_at"]


def under_way(engine: Engine, loop: asyncio.AbstractEventLoop) -> tuple[str, Frames]:
    """
    Say whose code is being run.

    Args:
        engine: the engine.
        loop: that it runs on, and that is running.

    Returns:
        Whose, and where it is if it isn't on the loop's thread: on another one, or waiting for its turn.
    """
    performer = cast("Performer | None", getattr(engine, "_performer", None))  # there is none before it has started
    attempts = [] if performer is None else list(performer.in_flight.values())
    task = asyncio.current_task(loop) or getattr(loop, "doing_for", None)
    threads = getattr(performer, "_threads", None)
    job: Job | None = getattr(threads, "doing", None)
    for attempt in attempts:
        if attempt.task is not None and attempt.task is task:
            return _step(engine, attempt), waits_at(attempt)
        if attempt.job is not None and attempt.job is job:
            thread: int | None = getattr(threads, "beside", None)
            return _step(engine, attempt), () if thread is None else own_frames(stack_of(thread))
    run = engine.activations.running
    if run is not None:
        return f"the body of {_workflow(engine, run)}", ()
    if task is not None:
        direct = [resident.run for resident in list(engine.residents.values()) if getattr(resident.code, "direct", 0)]
        if len(direct) == 1:
            return f"the body of {_workflow(engine, direct[0])}", ()
    if attempts:
        # Between two of its turns: a coroutine that gives way again and again, and never comes to an end.
        names = ", ".join(_step(engine, attempt) for attempt in attempts)
        return names, tuple(frame for attempt in attempts for frame in waits_at(attempt))
    return "the engine", ()


def _step(engine: Engine, attempt: Attempt) -> str:
    return f"step {attempt.name!r} of {_workflow(engine, attempt.run)} (attempt {attempt.number})"


def _workflow(engine: Engine, run: str) -> str:
    resident = engine.residents.get(run)
    return f"run {run}" if resident is None else f"workflow {resident.state.workflow!r}"


def waits_at(attempt: Attempt) -> Frames:
    """Give the program's frames of a step; none while it runs, for then they are on the stack of its thread."""
    return _waits_at(attempt.task)


def body_waits_at(engine: Engine, run: str) -> Frames:
    """Give the program's frames of a body, likewise."""
    code: Any = getattr(engine.residents.get(run), "code", None)
    return _waits_at(getattr(code, "_main", None) or getattr(code, "_task", None))


def bodies_wait_at(engine: Engine) -> Frames:
    """Give those of all bodies that are in memory."""
    return tuple(frame for run in list(engine.residents) for frame in body_waits_at(engine, run))


def _waits_at(task: asyncio.Task[Any] | None) -> Frames:
    found: list[traceback.FrameSummary] = []
    code: Any = None if task is None else task.get_coro()
    while True:
        if inspect.iscoroutine(code):
            frame, runs, inner = code.cr_frame, code.cr_running, code.cr_await
        elif inspect.isgenerator(code):
            frame, runs, inner = code.gi_frame, code.gi_running, code.gi_yieldfrom
            if inner is None and frame is not None:
                inner = frame.f_locals.get("code")  # the kit drives it by hand, see `lives`
        else:
            return own_frames(tuple(found))
        if runs or frame is None:
            return ()
        found.append(summary_of(frame))
        code = inner
