"""How often a step of unknown outcome is called again when its `reconcile` says that it wasn't done."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from polos import NotDone, Polos, StepExecutionError, WorkflowContext, workflow
from polos.testing import Simulation


async def hangs() -> None:
    """Wait for nothing."""
    await asyncio.Event().wait()


async def cancels_itself() -> None:
    """Cancel the task that calls."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("answer", [NotDone(), NotDone])
@pytest.mark.parametrize(
    ("func", "error"),
    [(hangs, ("TimeoutError", "no outcome within 0.01 s")), (cancels_itself, ("CancelledError", "it was cancelled"))],
)
@pytest.mark.parametrize("retries", [0, 2])
def test_calls_that_took_too_long_are_counted(tmp_path: Path, func: Any, error: Any, retries: int, answer: Any) -> None:
    """It fails once its policy allows no more calls, with what became of the last; it isn't called for ever."""
    seen: list[str] = []

    async def act() -> None:
        seen.append("called")
        await func()

    def look() -> Any:
        seen.append("asked")
        return answer

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        try:
            await ctx.step.run(
                "pay", act, effect="at_most_once", reconcile=look, timeout_seconds=0.01, max_retries=retries
            )
        except StepExecutionError as failed:
            return [failed.error_type, str(failed)]

    async def main() -> Any:
        async with Polos(data_dir=tmp_path) as polos:
            return await asyncio.wait_for(pays.run(polos), 20)

    kind, message = asyncio.run(main())
    assert ["called", "asked"] * (retries + 1) == seen
    assert error[0] == kind
    assert error[1] in message


def test_calls_that_a_process_died_in_are_not_counted() -> None:
    """Crashes are no fault of the step's: it is called again however often the program has died in it."""
    seen: list[str] = []

    async def act() -> str:
        seen.append("called")
        if len(seen) < 5:
            await asyncio.Event().wait()
        return "paid"

    @workflow
    async def pays(ctx: WorkflowContext) -> str:
        return await ctx.step.run("pay", act, effect="at_most_once", reconcile=NotDone, max_retries=0)

    with Simulation([pays]) as simulation:
        call = simulation.create(pays, None)
        simulation.run_for(1)
        for _ in range(4):
            simulation.recover()
            simulation.run_for(1)
        simulation.settle()
        assert "paid" == simulation.result(call.run)

    assert ["called"] * 5 == seen
