"""
A charge that is made twice, and what a crash sweep says of it.

A step that was under way when the process died is called again: nobody can know whether the bank had the order. So
either the bank is handed a key by which it knows an order that it has seen, or the step may be called at most once.
"""

from __future__ import annotations

import asyncio
from typing import Any

from polos import WorkflowContext, workflow
from polos.testing import CrashOutcome, CrashSweepFailed, Outside, crash_sweep

bank = Outside("bank")


async def charge(cents: int) -> str:
    bank.note("charged", cents=cents)
    return "paid"


async def charge_by_key(ctx: WorkflowContext, cents: int) -> str:
    key = ctx.step.idempotency_key
    if key not in [order["key"] for order in bank.notes("charged")]:  # what a bank does that is handed a key
        bank.note("charged", cents=cents, key=key)
    return "paid"


@workflow(id="pay-broken")
async def broken(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", charge, payload["cents"])


@workflow(id="pay")
async def mended(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", charge_by_key, ctx, payload["cents"])


def check(outcome: CrashOutcome) -> None:
    charged = bank.count("charged")
    assert charged == 1, f"charged {charged} times, by {outcome.calls['charge']} calls"


async def main() -> None:
    try:
        await crash_sweep(broken, {"cents": 4900}, check=check)
    except CrashSweepFailed as failed:
        print(f"broken: a crash at {failed.points[0]}: {failed.differences[0]}")
    report = await crash_sweep(mended, {"cents": 4900}, check=check)
    print(f"mended: survives {report.singles} of {len(report.points)} crashes, and {report.pairs} pairs")


if __name__ == "__main__":
    asyncio.run(main())
