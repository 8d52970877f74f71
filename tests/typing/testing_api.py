"""
What type checkers must say about the names of the test kit's fixtures and recorded runs.

Checked by mypy and pyright, never run; see public_api.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_type

from polos import Workflow
from polos.engine import events as e
from polos.testing import (
    Captured,
    CapturedEvents,
    Compared,
    Difference,
    Hanging,
    JumpingClock,
    RecordedRun,
    RunDiffers,
    assert_replays,
)


def recorded_runs(workflow: Workflow[Any]) -> None:
    """A recording is a file or what it holds; what differs is read from the failure."""
    assert_type(RecordedRun.load("order.json"), RecordedRun)
    assert_type(RecordedRun.load("order.json").runs(), list[str])
    try:
        assert_replays("order.json", workflow, comparers={e.StepScheduled: costs})
    except RunDiffers as error:
        assert_type(error.differences, tuple[Difference, ...])
    assert_replays(3, workflow)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def costs(pair: Compared) -> list[Difference]:
    """Compare nothing."""
    assert_type(pair.line, str | None)
    return []


async def fixtures(clock: JumpingClock, captured: CapturedEvents, hanging: Hanging) -> None:
    """What the fixtures give is typed, and so is what it gives."""
    assert_type(clock.now, datetime)
    assert_type(clock.passed_seconds, float)
    assert_type(captured[0], Captured)
    assert_type(captured[1:], list[Captured])
    assert_type(captured[0].event, e.Event)
    assert_type(await captured.wait_for(e.RunCompleted), Captured)
    assert_type(hanging.calls, int)
    clock.auto = "no"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
