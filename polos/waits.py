"""
Waiting: for a moment, an answer, an event, a signal.

A wait is a request that is answered by somebody else's doing, so each has an end of its own: an answer, or the moment
when it expires. Moments are reckoned from the time of the fact that the code runs on, never from a clock, so that
replay reckons the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, cast

from polos.calls import function_name, positive, step_call
from polos.context import Port
from polos.engine import events as e
from polos.engine.json import Json
from polos.errors import StepExecutionError
from polos.outcomes import answer_of, misused, place_of, rfc3339, timer_result
from polos.values import digest_arguments

__all__ = ["Answer", "due_in", "due_of", "refuse_past", "sleep_until", "wait"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Of a `sequence_id`: how many public events one record has room for.
_EVENTS_PER_POSITION: Final = 4096
_CALLED: Final = {"suspend": "Suspend", "topic": "Event wait", "signal": "Signal wait"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What ended a wait.

    Attributes:
        event: the recorded answer.
        sequence_id: its place among public events.
    """

    event: e.WaitSatisfied
    sequence_id: int


def due_in(port: Port, step_key: str, **parts: float | None) -> int:
    """
    Reckon when a time to wait will be over.

    Args:
        port: the code of the run.
        step_key: names the wait in errors.
        **parts: seconds, minutes, hours, days, weeks.

    Raises:
        StepExecutionError: the sum isn't positive, or is beyond all calendars.
    """
    try:
        length = timedelta(**{unit: number for unit, number in parts.items() if number is not None})
        due_us = port.fact_us + length // _MICROSECOND
        rfc3339(due_us)
    except (OverflowError, ValueError) as error:
        raise StepExecutionError(f"wait_for {step_key!r}: no calendar has the time to wait for: {error}") from error
    if due_us <= port.fact_us:
        raise StepExecutionError(f"wait_for {step_key!r}: the time to wait must be positive, it is {length}")
    return due_us


def due_of(moment: datetime) -> int:
    """Give a moment in microseconds since the epoch; without a time zone it is in UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


async def sleep_until(port: Port, name: str, due_us: int) -> None:
    """Wait for a moment; one that is over is waited for as well, and comes at once."""
    asked = e.TimerStarted(cause=port.cause, name=name, due_us=due_us, short=port.is_short(due_us - port.fact_us))
    timer_result(name, await port.ask(asked))


async def refuse_past(port: Port, name: str, step_key: str, due_us: int) -> None:
    """
    Fail a wait for a moment that is over.

    Recorded as a step that failed: a later attempt of the run, for which even more moments are over, must find that
    this one failed, where another one of the same kind ended well.
    """
    message = f"wait_until {step_key!r}: {rfc3339(due_us)} was over at {rfc3339(port.fact_us)}"
    refuse = partial(_refuse, message)
    call = step_call(name, refuse, (), {}, max_retries=0, base_delay=0, max_delay=0, options={"effect": "pure"})
    asked = e.StepScheduled(
        cause=port.cause,
        name=name,
        function=function_name(refuse)[1],
        digest=digest_arguments((message,), {}),
        effect="pure",
        path=port.path,
    )
    timer_result(name, await port.ask(asked, call=call))


async def wait(
    port: Port,
    name: str,
    kind: str,
    key: str,
    *,
    data: Json = None,
    timeout: float | None = None,
    since: int | None = None,
) -> Answer:
    """
    Wait for an answer.

    Args:
        port: the code of the run.
        name: the request's name.
        kind: "suspend", "topic" or "signal".
        key: the step key, the topic or the signal's name.
        data: what the answerer is shown.
        timeout: seconds to wait at most.
        since: events of the topic behind this `sequence_id` count as well.

    Raises:
        StepExecutionError: the wait expired.
        ValueError: the timeout isn't positive.
    """
    positive("timeout", timeout)
    if since is not None and not (isinstance(cast("object", since), int) and 0 <= since < 1 << 63):
        raise ValueError(f"since must be a sequence_id, it is {since!r}")
    expires_us = None if timeout is None else port.fact_us + round(timeout * 1e6)
    asked = e.WaitStarted(
        cause=port.cause, name=name, kind=kind, key=key, data=data, expires_us=expires_us, since=since
    )
    fact = await port.ask(asked)
    match answer_of(fact):
        case e.WaitSatisfied() as event:
            place = event.sequence_id
            return Answer(
                event=event,
                sequence_id=(place_of(fact) - event.back) * _EVENTS_PER_POSITION if place is None else place,
            )
        case e.WaitExpired() as event:
            raise StepExecutionError(f"{_CALLED[kind]} expired at {rfc3339(event.due_us)}")
        case other:
            raise misused(name, f"a wait for a {kind}", other)


def _refuse(message: str) -> None:
    raise StepExecutionError(message)
