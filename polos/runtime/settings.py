"""
The engine's limits and defaults, each with its unit.

A setting that makes no sense is refused where it is given. Found later it would come up in the middle: an endless
`stop_grace_seconds` while the engine stops, a `drain_work_max` of nothing as a program that hangs.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, Literal

from polos.data_class import dataclass
from polos.retention import Retention, read_retention

__all__ = ["TURN_US", "Settings"]

TURN_US: Final = 5_000  # for which work is decided, before the program's own callbacks get their turn

_SECONDS_MAX: Final = 1_000 * 365.25 * 86_400
_MAY_BE_ZERO: Final = frozenset({"resident_runs_max", "lost_threads_max"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    How an engine behaves.

    Attributes:
        deployment_id: recorded with every run.
        max_concurrent_workflows: runs whose code is being run or whose steps are in flight.
        wait_threshold_seconds: longer timers let a run show `waiting` and free its slot.
        cancel_grace_seconds: how long a cancelled run may clean up.
        stop_grace_seconds: how long `stop` waits for running steps.
        step_threads_max: threads for steps that are plain functions.
        lost_threads_max: threads beside those, held by functions that nobody waits for any more.
        result_bytes_max: a larger result of a step or run is refused, finally.
        resident_runs_max: idle runs kept in memory; the least recently used leave first.
        activation_callbacks_max: callbacks one activation may take.
        poisoned_after: process deaths in a row with the run's code on the loop that set it aside.
        inbox_poll_seconds: how often the inbox is looked at.
        work_queue_max: commands that may wait to be decided, while the log refuses writes or under load.
        drain_work_max: pieces of work decided, for 5 ms at most, before the program's own callbacks get a turn.
        retry_append_seconds: how long the engine waits before it tries a failed log again.
        record_sources: whether `CodeRegistered` keeps the sources as blobs.
        retention: when ended runs are archived, where their workflow says nothing of it; None for never.
        idempotency_seconds: for how long a start with an idempotency key gives the run that the first one made.
        sync: "full" survives a power cut; "off" survives only a killed process.

    Raises:
        ValueError: a number is out of range; the text names it.
        TypeError: a number is none.
    """

    deployment_id: str = "default"
    max_concurrent_workflows: int = 100
    wait_threshold_seconds: float = 10.0
    cancel_grace_seconds: float = 120.0
    stop_grace_seconds: float = 15.0
    step_threads_max: int = 32
    lost_threads_max: int = 100
    result_bytes_max: int = 256 << 20
    resident_runs_max: int = 1_000
    activation_callbacks_max: int = 200_000
    poisoned_after: int = 3
    inbox_poll_seconds: float = 0.02
    work_queue_max: int = 100_000
    drain_work_max: int = 256
    retry_append_seconds: float = 0.05
    record_sources: bool = True
    retention: Retention | None = None
    idempotency_seconds: float = 86_400.0
    sync: Literal["full", "off"] = "full"

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        object.__setattr__(self, "retention", read_retention(self.retention, "the engine") or None)
        for spec in fields(self):
            value: Any = getattr(self, spec.name)
            if spec.type == "int":
                _check_count(spec.name, value, at_least=0 if spec.name in _MAY_BE_ZERO else 1)
            elif spec.type == "float":
                _check_seconds(spec.name, value)


def _check_count(name: str, value: Any, *, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, it is {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, it is {value!r}")


def _check_seconds(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, it is {value!r}")
    if not 0 <= value <= _SECONDS_MAX:  # which NaN isn't either
        raise ValueError(f"{name} must not be negative, nor more than a thousand years; it is {value!r}")
