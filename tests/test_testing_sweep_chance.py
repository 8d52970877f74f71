"""What bodies draw in a sweep: the same in each scenario, whichever of two branches comes first after a crash."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from polos import EventPayload, WorkflowContext, workflow
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


@workflow(id="drawing-directly", deterministic=False)
async def directly(ctx: WorkflowContext, payload: dict[str, Any]) -> list[int]:
    """Draw twice."""
    return [int(1_000 * await ctx.step.random(name)) for name in ("first", "second")]


def test_a_direct_body_draws_the_same_after_a_crash():
    """It is called once more, and records once more what it has; that is no value more."""
    report = sweep(directly, {}, processes=0, pairs=10)

    assert len(report.points) == report.singles


@workflow(id="drawing-shop")
async def shop(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Publish two events side by side."""

    async def publish(waiting: Any, number: int) -> None:
        await waiting
        await ctx.step.publish_event(f"placed-{number}", topic="drawing/orders", data={"number": number})

    await asyncio.gather(publish(ctx.step.run("slow", slow), 0), publish(ctx.step.wait_for("soon", seconds=6), 1))


@workflow(id="drawing-shops")
async def shops(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Have two of them."""

    async def begin(waiting: Any, number: int) -> None:
        await waiting
        await ctx.step.invoke_and_wait(f"shop-{number}", shop, {})

    await asyncio.gather(begin(ctx.step.run("slow", slow), 0), begin(ctx.step.wait_for("soon", seconds=6), 1))


@workflow(id="drawing-payment")
async def payment(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Publish one event more."""
    await ctx.step.publish_event("paid", topic="drawing/paid", data=payload)


@workflow(id="drawing-bill", trigger_on_event="drawing/orders")
async def bill(ctx: WorkflowContext, payload: EventPayload) -> None:
    """Have it paid."""
    await ctx.step.invoke_and_wait("payment", payment, payload.data)


@workflow(id="drawing-ledger", trigger_on_event="drawing/paid")
async def ledger(ctx: WorkflowContext, payload: EventPayload) -> Any:
    """Note it."""
    return payload.data


@pytest.mark.parametrize("seed", range(2))
def test_no_run_is_given_the_id_of_another_one(seed: int):
    """Many begin at one moment, and after a crash, when ids that were drawn are drawn once more; none is missing."""

    def each(outcome: CrashOutcome) -> None:
        assert len(outcome.executions) == len({run.id for run in outcome.executions}) == 15

    sweep(shops, {}, workflows=[bill, payment, ledger], check=each, processes=0, pairs=40, seed=seed)
