"""
What a recorded answer means to the code that asked: a value, or an exception.

The only place where it is decided, so live and in replay the code sees the same value and reads the same text.
Values come from their record and never from the object that a step returned. An answer that an earlier attempt of
the run got counts like one of this attempt: `ResultReused` stands for the event that it names.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from polos.engine import events as e
from polos.errors import PolosUsageError, StepExecutionError
from polos.value_types import return_hint
from polos.values import decode

if TYPE_CHECKING:
    from polos.context import Port
    from polos.replay.facts import Fact

__all__ = [
    "answer_of",
    "child_result",
    "instant",
    "misused",
    "place_of",
    "replayed_step",
    "rfc3339",
    "step_result",
    "timer_result",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(time_us: int) -> datetime:
    """Give microseconds since the epoch as an instant in UTC."""
    return _EPOCH + timedelta(microseconds=time_us)


def rfc3339(time_us: int) -> str:
    """Give an instant as RFC 3339 text, in UTC and with microseconds."""
    return instant(time_us).isoformat(timespec="microseconds")


def answer_of(fact: Fact) -> e.Event:
    """Give the event that holds the answer."""
    if not isinstance(fact.event, e.ResultReused):
        return fact.event
    assert fact.source is not None, "a reused answer comes with the event that holds it"
    return fact.source


def place_of(fact: Fact) -> int:
    """Give the position of the record that holds the answer."""
    return fact.source_position or fact.position


async def replayed_step(port: Port, name: str, func: Callable[..., Any]) -> Any:
    """
    Ask for a step whose answer is recorded, and give its result.

    The function isn't called, so what it would be called with is neither copied nor digested: a request is known by its
    kind and name, and who compares more is answered `knows_answer` with False.

    Args:
        port: the code of the run, in replay.
        name: the step's name.
        func: the function of the step; only what it says that it returns counts.

    Raises:
        StepExecutionError: the step failed.
        PolosUsageError: an earlier attempt of the run used the name for something else.
    """
    asked = e.StepScheduled(cause=port.cause, name=name, function="", digest="")
    return step_result(name, await port.ask(asked), return_hint(func))


def step_result(name: str, fact: Fact, hint: object) -> Any:
    """
    Give a step's result.

    Args:
        name: the step's name.
        fact: what answered.
        hint: the return annotation of the step's function.

    Raises:
        StepExecutionError: the step failed.
        PolosUsageError: an earlier attempt of the run used the name for something else.
    """
    match answer_of(fact):
        case e.StepCompleted() as event:
            return decode(event.value, hint=hint, type=event.type)
        case e.StepFailed() as event:
            retries = event.attempt - 1
            raise _failed(f"Step execution failed after {retries} retries: {event.error.message}", event.error)
        case e.StepResolved(outcome="completed") as event:
            return decode(event.value, hint=hint, type=event.type)
        case e.StepResolved() as event:
            message = f"Step execution failed: {event.by} said so"
            if event.error is None:
                raise StepExecutionError(message)
            raise _failed(f"{message}: {event.error.message}", event.error)
        case other:
            raise misused(name, "a step", other)


def timer_result(name: str, fact: Fact) -> None:
    """
    Let a timer's end pass.

    Raises:
        StepExecutionError: an earlier attempt of the run found that the moment was over when it asked.
        PolosUsageError: an earlier attempt of the run used the name for something else.
    """
    match answer_of(fact):
        case e.TimerFired():
            return
        case e.StepFailed() as event:
            raise StepExecutionError(event.error.message)
        case other:
            raise misused(name, "a timer", other)


def child_result(name: str, workflow: str, fact: Fact, hint: object) -> Any:
    """
    Give what a child run returned.

    Args:
        name: the request's name.
        workflow: the child's workflow.
        fact: what answered.
        hint: type of the workflow's result.

    Raises:
        StepExecutionError: it failed or was cancelled.
        PolosUsageError: an earlier attempt of the run used the name for something else.
    """
    event = answer_of(fact)
    if not isinstance(event, e.ChildFinished):
        raise misused(name, "a child run", event)
    if event.status == "completed":
        return decode(event.result, hint=hint, type=event.result_type)
    if event.error is not None:
        raise _failed(event.error.message, event.error)
    how = "timed out and was cancelled" if event.by == "timeout" else f"was {event.status}"
    raise StepExecutionError(f"run {event.child} of workflow {workflow!r} {how}")


def misused(name: str, what: str, found: e.Event) -> PolosUsageError:
    """Make the error for an answer to another kind of question: an earlier attempt used the name differently."""
    return PolosUsageError(
        f"{name!r} is {what} now and got the answer {type(found).__name__} from an earlier attempt of this run, whose "
        f"code used the name for something else; give one of the two another step key"
    )


def _failed(message: str, error: e.Failure) -> StepExecutionError:
    return StepExecutionError(message, error_type=error.type, traceback=error.traceback)
