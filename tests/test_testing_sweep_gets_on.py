"""A life that comes to no end without hanging anywhere: what a sweep says of it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from polos import WorkflowContext, workflow
from polos.testing import CrashSweepFailed, patience, sweep_hanging
from polos.testing.sweep import sweep

PATIENCE = 0.02


class Busy:
    """A clock by which half of the patience is over after some steps, and all of it some steps after that was noted."""

    def __init__(self) -> None:
        self.steps = 0
        self.noted_at: int | None = None

    def monotonic(self) -> float:
        """Give the time that patience sees."""
        if self.steps < 3:
            return 0.0
        over = self.noted_at is not None and self.steps > self.noted_at + 3
        return PATIENCE * (100 if over else 0.6)

    def sleep(self, seconds: float) -> None:
        """Let the code go on for a moment."""
        threading.Event().wait(seconds)

    def step(self) -> None:
        """Be done at once."""
        self.steps += 1


def test_a_life_that_gets_on_all_the_time_is_told_as_a_whole(monkeypatch: pytest.MonkeyPatch):
    """None of its steps takes long, so none of them is said to; and what is recorded is shown in part."""
    busy, half = Busy(), sweep_hanging.Scene.half

    def noting(scene: sweep_hanging.Scene) -> None:
        half(scene)
        busy.noted_at = busy.steps

    monkeypatch.setattr(patience, "time", busy)
    monkeypatch.setattr(sweep_hanging.Scene, "half", noting)

    @workflow(id="hanging-busily")
    async def busily(ctx: WorkflowContext, payload: dict[str, str]) -> None:
        while True:
            await ctx.step.run("quick", busy.step)

    with pytest.raises(CrashSweepFailed) as failed:
        sweep(busily, {}, patience_seconds=PATIENCE, processes=0)

    (told,) = failed.value.differences
    assert "the life as a whole, which gets on all the time (there are " in told
    assert "in busily" in told
    assert f"{Path(patience.__file__).parent.parent}" not in told
    assert len(str(failed.value).splitlines()) < 4 * sweep_hanging.SHOWN


def test_a_body_that_waits_for_nothing_recorded_says_where():
    """As a step that never comes back does."""

    @workflow(id="hanging-waits")
    async def waits(ctx: WorkflowContext, payload: dict[str, str]) -> None:
        await asyncio.Event().wait()

    with pytest.raises(CrashSweepFailed, match=r"it is running; its body waits at\n.*in waits\n +await asyncio.Event"):
        sweep(waits, {}, processes=0)
