"""What requests are compared by, and requests that follow from others: giving one up, noting a changed state."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from polos.engine import events as e
from polos.engine.json import Json, printable

__all__ = ["CLOSINGS", "ENDS", "closing_of", "fits_end", "key_of", "name_of", "refused_answer", "shown", "state_change"]

# Requests that `decide` adds by itself when a run ends, so that code needn't ask for them.
CLOSINGS: Final = (e.StepAbandoned, e.TimerCancelled, e.WaitCancelled, e.ChildDetached, e.UpdateAnswered)

# What ends an attempt.
ENDS: Final = (e.RunCompleted, e.RunFailed, e.RunCancelled, e.RunRetried, e.RunContinued)

_NOTHING: Final = object()


def name_of(event: e.Event) -> str:
    """Give the name that a request goes by; empty for one that needs none."""
    return getattr(event, "name", None) or getattr(event, "update_id", None) or ""


def key_of(event: e.Event) -> tuple[str, str]:
    """Give what a request is matched by within its activation: kind and name."""
    return type(event).__name__, name_of(event)


def shown(event: e.Event) -> str:
    """Give a request as text, for reports."""
    if isinstance(event, e.StateChanged):
        names = sorted({*cast("dict[str, Json]", event.changed), *event.removed})
        return f"StateChanged of ctx.state.{', ctx.state.'.join(names)}"
    name = name_of(event)
    return f"{type(event).__name__} {name!r}" if name else type(event).__name__


def closing_of(event: e.Event, cause: int) -> e.Event | None:
    """Give the request that gives another one up; None if there is nothing to give up."""
    match event:
        case e.StepScheduled():
            return e.StepAbandoned(cause=cause, name=event.name)
        case e.TimerStarted():
            return e.TimerCancelled(cause=cause, name=event.name)
        case e.WaitStarted():
            return e.WaitCancelled(cause=cause, name=event.name)
        case e.ChildStarted():
            return e.ChildDetached(cause=cause, name=event.name, cancelled=not event.detached)
        case _:
            return None


def fits_end(event: e.Event, error: BaseException | None) -> bool:
    """Tell whether a recorded end is that of a body that ended with this error, or with none."""
    match event:
        case e.RunCompleted():
            return error is None
        case e.RunCancelled():
            return isinstance(error, asyncio.CancelledError)
        case e.RunContinued():
            return type(error).__name__ == "ContinueAsNew"
        case _:
            return error is not None


def refused_answer(error: BaseException) -> e.Failure:
    """Give what the caller of an update is told about what its handler raised."""
    return e.Failure(type=printable(type(error).__name__), message=printable(_text_of(error)))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # it is the program's own code, and its failure must not keep the caller waiting
        return "(its text can't be made)"


def state_change(before: dict[str, Json], after: dict[str, Json], cause: int) -> e.StateChanged | None:
    """Give the request that records how `ctx.state` changed, by field; None if it didn't."""
    changed = {name: value for name, value in after.items() if not _same(before.get(name, _NOTHING), value)}
    removed = tuple(name for name in before if name not in after)
    if not changed and not removed:
        return None
    return e.StateChanged(cause=cause, changed=changed, removed=removed)


def _same(old: object, new: object) -> bool:
    """Compare as JSON: to Python `True == 1 == 1.0`, on disk they are three values."""
    if type(old) is not type(new) or old != new:
        return False
    if isinstance(new, dict):
        return all(_same(old[name], value) for name, value in new.items())  # type: ignore[index]  # of the same type
    if isinstance(new, list):
        return all(map(_same, old, new))  # type: ignore[call-overload]  # of the same type
    return True
