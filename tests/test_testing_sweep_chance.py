"""What bodies draw in a sweep: the same in each scenario, whichever of two branches comes first after a crash."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.testing import CrashOutcome
from polos.testing.sweep import sweep

pytestmark = pytest.mark.sweep


async def slow() -> None:
    """Take its time, and all of it once more after a crash."""
    await asyncio.sleep(5)


@workflow(id="drawing-child")
async def child(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    """Draw."""
    return payload["drawn"] + int(1_000 * await ctx.step.random("weight"))


@workflow(id="drawing")
async def drawing(ctx: WorkflowContext, payload: dict[str, Any]) -> list[int]:
    """Draw in two branches, in the body, with no name, and in children."""

    async def branch(waiting: Any, number: int) -> int:
        await waiting
        drawn = int(1_000 * await ctx.step.random(f"price-{number}"))
        drawn += int(1_000 * await ctx.step.random())
        drawn += int(str(await ctx.step.uuid(f"name-{number}"))[:4], 16)
        return drawn + await ctx.step.invoke_and_wait(f"child-{number}", child, {"drawn": drawn})

    branches = branch(ctx.step.run("slow", slow), 0), branch(ctx.step.wait_for("soon", seconds=6), 1)
    return list(await asyncio.gather(*branches))


@pytest.mark.parametrize("options", [{"processes": 0, "pairs": 10}, {"real": True, "points": 8, "pairs": 1}])
def test_branches_that_change_places_draw_the_same(options: dict[str, Any]):
    """Each value is drawn by its name, in the body and in runs that it starts, so none of them is another's."""
    orders: set[tuple[str, ...]] = set()
    results: list[Any] = []

    def drawn(outcome: CrashOutcome) -> None:
        orders.add(tuple(run.path for run in outcome.executions))
        results.append(outcome.result)

    sweep(drawing, {}, workflows=[child], check=drawn, **options)

    assert {("", "child-0", "child-1"), ("", "child-1", "child-0")} == orders
    assert [results[0]] * len(results) == results
    assert results[0][0] != results[0][1]
