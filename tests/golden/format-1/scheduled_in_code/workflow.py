"""A schedule that the code says, which changes with the code, and goes with it."""

from polos import SchedulePayload, WorkflowContext, workflow


@workflow(id="golden_scheduled_in_code", schedule={"cron": "0 6 * * *", "timezone": "Europe/Berlin"})
async def scheduled(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    return payload.timestamp.isoformat()


async def unscheduled(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    return payload.timestamp.isoformat()
