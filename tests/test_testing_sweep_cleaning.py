"""Bugs that are hidden where the dead clean up after themselves, as they do in one process and in no killed one."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from polos.testing import CrashOutcome, CrashSweepFailed, lives
from polos.testing.cleaning import cleans_up
from polos.testing.sweep import sweep
from polos.testing.sweep_course import _Sweep

from tests import sweep_workflows as w

pytestmark = pytest.mark.sweep

POINT = "inside_effect/await:1"


def check(outcome: CrashOutcome) -> None:
    """Nobody finds the lock taken."""
    assert not w.bank.count("locked out")


def swept(**options: Any) -> Any:
    """Sweep the workflow that leaves a lock behind."""
    return sweep(w.leaves_a_lock, {}, **{"pairs": 0, "check": check, "setup": w.remember_place, **options})


@pytest.mark.parametrize("options", [{"seed": 0}, {"seed": 3}, {"points": 4}, {"from_remains": True}], ids=str)
def test_a_lock_that_is_given_back_in_a_finally_is_found(options: dict[str, Any]):
    """Where a `finally` would hide it, a process is killed first of all, whatever the seed, of a sample as well."""
    with pytest.raises(CrashSweepFailed) as failed:
        swept(**options)

    assert (POINT, True) == (str(failed.value.points[0]), failed.value.real)
    assert "tidies up when its coroutine is closed here" in str(failed.value)


def test_in_one_process_alone_it_is_hidden():
    """The dead give the lock back, so nothing is found without child processes; with remains the report says so."""
    assert not swept(processes=0).notes
    (note,) = swept(processes=0, from_remains=True).notes

    assert "or a `finally` or `with` of a function that is under way in a crash cleans up" in note
    assert note.endswith("try real=True for that, or processes over 0")


def _knows_nothing(_coroutine: object) -> tuple[Any, ...]:
    return ()


def test_what_remains_show_a_killed_process_decides(monkeypatch: pytest.MonkeyPatch):
    """Nobody foresees it, and it isn't drawn: what is wrong with remains alone is played with a killed process."""
    monkeypatch.setattr(lives, "cleans_up", _knows_nothing)
    monkeypatch.setattr(_Sweep, "_drawn", lambda _sweep, _singles: [])

    assert swept().singles
    with pytest.raises(CrashSweepFailed) as failed:
        swept(from_remains=True)

    assert (POINT, True) == (str(failed.value.points[0]), failed.value.real)


async def _waits() -> None:
    await asyncio.get_running_loop().create_future()


async def _helps() -> None:
    try:
        await _waits()
    finally:
        w.memory.clear()


async def _calls() -> None:
    await _helps()


async def _within() -> None:
    async with asyncio.timeout(None):
        await _calls()


@pytest.mark.parametrize(
    ("function", "expected"),
    [(_waits, []), (_helps, [_helps]), (_calls, [_helps]), (_within, [_within, _helps]), (asyncio.sleep, [])],
)
def test_what_would_be_cleaned_up_is_read_from_the_code_that_waits(function: Any, expected: list[Any]):
    """However deep it is called; what a library would do is nothing of the program's."""

    async def main() -> Any:
        waiting = function(60) if function is asyncio.sleep else function()
        task = asyncio.create_task(waiting)
        await asyncio.sleep(0)
        found = cleans_up(waiting)
        task.cancel()
        await asyncio.wait([task])
        return found

    assert inspect.iscoroutinefunction(function)
    assert tuple(one.__code__ for one in expected) == asyncio.run(main())
