"""
A step key that depends on the time, and what a crash sweep says of it.

After a crash the body is run again, and it must ask for what is recorded. `datetime.now()` gives another moment then,
so the step of the first time isn't found: the run stops with a divergence, at night, after the next deployment.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from polos import WorkflowContext, workflow
from polos.testing import CrashSweepFailed, Outside, crash_sweep

shelf = Outside("shelf")


async def write_report(day: str) -> str:
    shelf.note("report", day=day)
    return f"report of {day}"


@workflow(id="report-broken")
async def broken(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    moment = datetime.now(UTC)
    return await ctx.step.run(f"report-{moment}", write_report, payload["day"])


@workflow(id="report")
async def mended(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run(f"report-{payload['day']}", write_report, payload["day"])


async def main() -> None:
    try:
        await crash_sweep(broken, {"day": "monday"})
    except CrashSweepFailed as failed:
        print(f"broken: {failed.differences[0].partition(':')[0]}")
    report = await crash_sweep(mended, {"day": "monday"})
    print(f"mended: survives {report.singles} of {len(report.points)} crashes, and {report.pairs} pairs")


if __name__ == "__main__":
    asyncio.run(main())
