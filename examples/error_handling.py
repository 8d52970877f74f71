"""
When steps fail: retries, going on without what failed, a fallback, a circuit breaker, and a saga that undoes.

A step that failed for good raises `StepExecutionError`, with the same text after a crash as before it, so that a body
may decide by it.

    python examples/error_handling.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from polos import Polos, StepExecutionError, WorkflowContext, workflow

QUICK: dict[str, Any] = {"max_retries": 1, "base_delay": 0.05}


def work_on(item: dict[str, Any]) -> str:
    if item.get("broken"):
        raise ValueError(f"item {item['id']} is broken")
    return f"item {item['id']} done"


@workflow(id="tolerant_batch")
async def tolerant_batch(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    processed, failed = [], []
    for item in payload["items"]:
        try:
            processed.append(await ctx.step.run(f"item_{item['id']}", work_on, item, **QUICK))
        except StepExecutionError as error:
            failed.append({"id": item["id"], "error": error.reason, "type": error.error_type})
    return {"processed": processed, "failed": failed}


# ------------------------------------------------------------------------------------------- fallback


async def ask_primary(source: str) -> str:
    if source == "down":
        raise ConnectionError("the primary source is down")
    return "fresh data"


@workflow(id="with_fallback")
async def with_fallback(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    try:
        data = await ctx.step.run("primary", ask_primary, payload["primary"], **QUICK)
        return {"source": "primary", "data": data, "degraded": False}
    except StepExecutionError:
        data = await ctx.step.run("fallback", lambda: "data of yesterday")
        return {"source": "fallback", "data": data, "degraded": True}


# ------------------------------------------------------------------------------------- circuit breaker


@workflow(id="circuit_breaker")
async def circuit_breaker(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    failures, skipped, results = 0, [], []
    for item in payload["items"]:
        if failures >= payload["failures_max"]:
            skipped.append(item["id"])
            continue
        try:
            results.append(await ctx.step.run(f"call_{item['id']}", work_on, item, max_retries=0))
        except StepExecutionError:
            failures += 1
    opened = failures >= payload["failures_max"]
    return {"circuit_open": opened, "total_failures": failures, "done": len(results), "skipped": skipped}


# ----------------------------------------------------------------------------------------------- saga


def book(what: str, *, fails: bool = False) -> str:
    if fails:
        raise RuntimeError(f"{what} is impossible")
    return f"{what} done"


@workflow(id="saga")
async def saga(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    done: list[str] = []
    try:
        for what in ("reserve_inventory", "charge_payment"):
            await ctx.step.run(what, book, what)
            done.append(what)
        await ctx.step.run("ship_order", book, "ship_order", fails=payload["address"] is None, **QUICK)
    except StepExecutionError as error:
        undone = []
        for what in reversed(done):
            await ctx.step.run(f"undo_{what}", book, f"undo_{what}")
            undone.append(what)
        return {"status": "rolled_back", "because": error.reason, "undone": undone}
    return {"status": "completed"}


async def main() -> None:
    items = [{"id": number, "broken": number in (2, 4)} for number in (1, 2, 3, 4, 5)]
    async with Polos(log_file="polos.log") as polos:
        found = await tolerant_batch.run(polos, {"items": items})
        print(f"batch: {len(found['processed'])} processed, {len(found['failed'])} failed")
        for one in found["failed"]:
            print(f"  {one['id']}: {one['type']}: {one['error']}")

        for primary in ("up", "down"):
            found = await with_fallback.run(polos, {"primary": primary})
            print(f"{found['source']}: {found['data']}, degraded: {found['degraded']}")

        items = [{"id": number, "broken": number in (3, 4, 5)} for number in range(1, 8)]
        found = await circuit_breaker.run(polos, {"items": items, "failures_max": 3})
        print(f"circuit open: {found['circuit_open']}, total_failures: {found['total_failures']}")
        print(f"skipped: {found['skipped']}")

        print(f"saga: {(await saga.run(polos, {'address': 'Rue Mercière 1'}))['status']}")
        found = await saga.run(polos, {"address": None})
        print(f"saga: {found['status']} {found['undone']}, because: {found['because']}")


if __name__ == "__main__":
    asyncio.run(main())
