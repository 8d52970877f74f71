"""
What steps share and an engine closes: connections to services, mostly; and its log, to be read.

A step that opens a connection pool at each call pays for it at each call, and one that keeps it in a module can't tell
when to close it. So a step asks its engine (`polos.context.current_attempt`), which makes one of each kind when it is
first asked for and closes all of them when it stops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast, final

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import topic_stream
from polos.runtime.public_events import sequence_id
from polos.store.log import Log

__all__ = ["Resources"]

_log = logging.getLogger("polos")


class Closes(Protocol):
    """What can be closed."""

    async def aclose(self) -> None:
        """Close it."""
        ...


_T = TypeVar("_T", bound=Closes)


@final
class Resources:
    """One of each kind, and the log to read."""

    def __init__(self, log: Log) -> None:
        """Begin with none."""
        self._log = log
        self._made: dict[Any, Closes] = {}

    def get(self, make: Callable[[], _T]) -> _T:
        """Give the one that was made by this, made now if there is none; from the engine's loop."""
        if make not in self._made:
            self._made[make] = make()
        return cast("_T", self._made[make])  # made by this very function

    def topic(self, topic: str) -> list[tuple[int, str | None, Any]]:
        """
        Give the events of a topic, from the first to the last that is durable now.

        Args:
            topic: the topic.

        Returns:
            Number, type and data of each.
        """
        with self._log.reader() as reader:
            records = list(reader.stream(topic_stream(topic)))
        found: list[tuple[int, str | None, Any]] = []
        for record in records:
            event = decode(record.type, record.schema_version, record.payload)
            assert isinstance(event, e.EventPublished), "a topic holds what was published"
            found.append((sequence_id(record.position), event.event_type, event.data))
        return found

    async def close(self) -> None:
        """Close all; one that can't be closed is reported and keeps none of the others open."""
        made, self._made = self._made, {}
        for one in made.values():
            try:
                await one.aclose()
            except Exception:  # noqa: BLE001  # whatever it is, the others are closed as well
                _log.exception("%r couldn't be closed", one)
