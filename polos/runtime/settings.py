"""The engine's limits and defaults, each with its unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Settings"]


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
        result_bytes_max: a larger result of a step or run is refused, finally.
        resident_runs_max: idle runs kept in memory; the least recently used leave first.
        activation_callbacks_max: callbacks one activation may take.
        poisoned_after: process deaths in a row with the run's code on the loop that set it aside.
        inbox_poll_seconds: how often the inbox is looked at.
        work_queue_max: commands that may wait to be decided, while the log refuses writes or under load.
        drain_work_max: pieces of work decided before the program's own callbacks get a turn.
        retry_append_seconds: how long the engine waits before it tries a failed log again.
        record_sources: whether `CodeRegistered` keeps the sources as blobs.
        sync: "full" survives a power cut; "off" survives only a killed process.
    """

    deployment_id: str = "default"
    max_concurrent_workflows: int = 100
    wait_threshold_seconds: float = 10.0
    cancel_grace_seconds: float = 120.0
    stop_grace_seconds: float = 15.0
    step_threads_max: int = 32
    result_bytes_max: int = 256 << 20
    resident_runs_max: int = 1_000
    activation_callbacks_max: int = 200_000
    poisoned_after: int = 3
    inbox_poll_seconds: float = 0.02
    work_queue_max: int = 100_000
    drain_work_max: int = 256
    retry_append_seconds: float = 0.05
    record_sources: bool = True
    sync: Literal["full", "off"] = "full"
