"""
Events by which a run is asked for once more: it is to go on although it ended, or it takes the place of another call.

Both are said from outside, not by code, so neither has a `cause`; they stand in the run's own stream, because what
they change is what the run does next. `events.py` has the others, and what holds for all of them.
"""

from __future__ import annotations

from polos.data_class import dataclass
from polos.engine.json import Json

__all__ = ["RunDebounced", "RunReopened"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReopened:
    """A run that ended in failure or by cancellation is to go on: an attempt follows that redoes what failed."""

    by: str
    reason: str | None = None
    origin: str | None = None  # id of the message of the parent that asked for it


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDebounced:
    """Another call of the same key came before the run began: it has that one's input, and begins later."""

    start_after_us: int
    input: Json = None
    initial_state: Json = None
