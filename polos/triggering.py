"""
What makes events of a topic start runs of a workflow, as a program says it.

This module holds what was said and checks it at once, so that a mistake shows where the workflow is defined and not
when the first event comes. What follows from it while an engine runs stands in `polos.runtime.triggers`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast, final

from polos.checking import name, positive
from polos.engine.json import Json
from polos.engine.patterns import check_pattern

__all__ = ["BATCH_SIZE_MAX", "Filter", "Trigger", "read_trigger"]

# A batch is one payload of one run and is built in memory; a thousand events are far more than one wants in a batch.
BATCH_SIZE_MAX: Final = 10_000

Filter = Callable[[Any], Any]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """
    Which events start runs of a workflow, and how many of them one run.

    Attributes:
        topic: a topic, or a pattern with ``*`` for a segment and ``**`` for any number.
        batch_size: how many events one run gets at most.
        batch_timeout_seconds: how long the oldest event of a batch waits for others; None for not at all.
        filter: tells of an event whether it counts; None if all do.
        from_beginning: whether a new trigger begins with the first event that the log has.
    """

    topic: str
    batch_size: int = 1
    batch_timeout_seconds: float | None = None
    filter: Filter | None = None
    from_beginning: bool = False

    @property
    def batched(self) -> bool:
        """Whether a run gets a list of events rather than an event."""
        return self.batch_size > 1 or self.batch_timeout_seconds is not None

    def recorded(self) -> dict[str, Json]:
        """Give what is recorded of it."""
        seconds = self.batch_timeout_seconds
        return {
            "topic": self.topic,
            "batch_size": self.batch_size,
            "batch_timeout_us": None if seconds is None else round(seconds * 1e6),
            "filtered": self.filter is not None,
        }


def read_trigger(
    topic: object, batch_size: object, seconds: float | None, filter: object, from_beginning: object
) -> Trigger | None:
    """
    Read what a workflow was told of the events that start it; arguments as those of `Trigger`.

    Raises:
        ValueError: a number or a pattern makes no sense, or something was said and no topic.
        TypeError: an argument is of the wrong type.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"batch_size must be a whole number, it is {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, it is {batch_size!r}")
    if batch_size > BATCH_SIZE_MAX:
        raise ValueError(f"batch_size must be at most {BATCH_SIZE_MAX}, it is {batch_size!r}")
    positive("batch_timeout_seconds", seconds)
    if not isinstance(from_beginning, bool):
        raise TypeError(f"from_beginning must be True or False, it is {from_beginning!r}")
    if filter is not None and (not callable(filter) or inspect.iscoroutinefunction(filter)):
        raise TypeError(f"trigger_filter must be a plain function of an event, it is {filter!r}")
    if topic is None:
        for what, given in (("trigger_filter", filter is not None), ("from_beginning", from_beginning)):
            if given:
                raise ValueError(f"{what} says which events of trigger_on_event count, and there is no such topic")
        return None
    name("trigger_on_event", topic)
    check_pattern("trigger_on_event", cast("str", topic))
    return Trigger(
        topic=cast("str", topic),
        batch_size=batch_size,
        batch_timeout_seconds=seconds,
        filter=cast("Filter | None", filter),
        from_beginning=from_beginning,
    )
