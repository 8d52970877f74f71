"""Sweeps in which time passes between a crash and the recovery from it, so that something is overdue there."""

from __future__ import annotations

from typing import Any

import pytest
from polos import workflow
from polos.testing import CrashOutcome, CrashSweepFailed
from polos.testing.sweep import sweep
from polos.testing.sweep_report import POINT_VARIABLE

from tests import sweep_workflows as w

pytestmark = pytest.mark.sweep

VALID_MS = 60_000


async def draw(now_ms: int) -> int:
    """Give a token, which is the time until which it is valid."""
    return now_ms + VALID_MS


async def use(token: int, now_ms: int) -> str:
    if now_ms > token:
        raise ValueError("expired")
    return "used"


@workflow(id="downtime-token")
async def takes_a_token(ctx) -> str:
    token = await ctx.step.run("draw", draw, await ctx.step.now())
    found: str = await ctx.step.run("use", use, token, await ctx.step.now(), max_retries=0)
    return found


def swept(which: Any = takes_a_token, **options: Any) -> Any:
    """Sweep in this process."""
    return sweep(which, {"number": 1}, **{"processes": 0, "pairs": 0, **options})


def failure(**options: Any) -> CrashSweepFailed:
    """Give the failure of a sweep that must fail."""
    with pytest.raises(CrashSweepFailed) as failed:
        swept(**options)
    return failed.value


@pytest.mark.parametrize("options", [{}, {"from_remains": True}, {"real": True}], ids=str)
def test_what_is_overdue_after_a_crash_is_found(options: dict[str, Any]):
    """A token that is valid for a minute isn't after a minute and a bit, wherever a life is lived."""
    failed = failure(downtime_seconds=60.5, **options)

    assert "expired" in str(failed.differences)
    assert "down for 60.5 s)" in str(failed)
    assert bool(options.get("real")) == failed.real


def test_by_default_no_time_passes():
    """Then nothing is overdue that wasn't; the report says how long it was, if it was."""
    none, some = swept(), swept(downtime_seconds=60)

    assert "; down" not in str(none)
    assert "; down for 60 s after each crash" in str(some)


def test_a_sound_workflow_may_be_down_for_weeks():
    """Timers, waits, children, retries: all that was due meanwhile is done late, and to the same end."""
    report = swept(w.mixed, answers=w.ANSWERS, points=15, pairs=5, downtime_seconds=40 * 86_400)

    assert (15, 5) == (report.singles, report.pairs)


@pytest.mark.parametrize("from_remains", [False, True])
def test_it_passes_after_each_crash(from_remains: bool):
    """After the second one of a pair, too."""
    ends: dict[int, set[str]] = {}

    def check(outcome: CrashOutcome) -> None:
        ends.setdefault(len(outcome.crashes), set()).add(outcome.events[-1][:19])

    swept(w.small, check=check, pairs=20, downtime_seconds=3600, from_remains=from_remains)

    hours = [f"2026-01-01 0{hour}:00:0" for hour in range(3)]
    found = {crashes: max(hours.index(end[:18]) for end in all_of) for crashes, all_of in ends.items()}
    assert {0: 0, 1: 1, 2: 2} == found


def test_the_command_of_a_failure_plays_it_with_the_time(monkeypatch: pytest.MonkeyPatch):
    """A sweep of the same run without is another one."""
    first = failure(downtime_seconds=61)
    monkeypatch.setenv(POINT_VARIABLE, first.target)

    assert "nothing was tried, " in str(swept())
    assert (first.points, first.target) == ((again := failure(downtime_seconds=61)).points, again.target)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), True, "60", None])
def test_a_time_that_makes_no_sense_is_refused(seconds: Any):
    """Before anything is begun, by the name that it has."""
    with pytest.raises(ValueError, match=r"downtime_seconds is a time from 0 to 3,200,000,000, it is"):
        swept(downtime_seconds=seconds)
