"""
Schedules: reports by the clock, reminders of one's own, and what was missed while nobody was there.

The schedules stay in the data directory: the second time this program begins it finds them and makes none anew.
"""

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from polos import Polos, SchedulePayload, WorkflowContext, schedules, workflow


@workflow(id="nightly_cleanup", schedule="0 3 * * *")
async def nightly_cleanup(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    removed = await ctx.step.run("remove", lambda: 150)
    return f"{removed} records older than {payload.timestamp:%Y-%m-%d} removed"


@workflow(
    id="morning_report",
    schedule={"cron": "0 8 * * mon-fri", "timezone": "America/New_York", "overlap": "buffer_one", "jitter_seconds": 60},
)
async def morning_report(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    return await ctx.step.run("write", lambda: f"report of {payload.timestamp:%A}")


@workflow(id="reminder", schedule=True)  # may be scheduled; by whom and when is said below
async def reminder(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    return await ctx.step.run("send", lambda: f"{payload.key} is reminded")


async def begin(folder: Path) -> None:
    async with Polos(data_dir=folder) as polos:
        for user, zone in {"alice": "America/New_York", "bob": "Europe/London", "carol": "Asia/Tokyo"}.items():
            await schedules.create(polos, "reminder", "0 8 * * *", timezone=zone, key=user, catch_up_seconds=3600)
        print(", ".join(found.id for found in schedules.list(polos)))

        run = await schedules.trigger(polos, "reminder:bob")
        print((await polos._wait_ended(run))["result"])  # noqa: SLF001  # a handle does the same

        first, last = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 4, tzinfo=UTC)
        filled = await schedules.backfill(polos, "nightly_cleanup:global", first, last)
        for one in filled:
            await polos._wait_ended(one)  # noqa: SLF001
        print(f"{len(filled)} nights made up")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            asyncio.run(begin(Path(folder)))


if __name__ == "__main__":
    main()
