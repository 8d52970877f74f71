"""Schedules: occurrences that fire, wait, overlap, were missed, are filled in; one that changes, rests and goes."""

from polos import SchedulePayload, WorkflowContext, workflow


@workflow(id="golden_scheduled", schedule=True, tags=["golden"])
async def scheduled(ctx: WorkflowContext, payload: SchedulePayload) -> list[str]:
    await ctx.step.wait_for("rest", hours=30)
    return [payload.timestamp.isoformat(), str(payload.last_timestamp), payload.upcoming.isoformat(), payload.key]
