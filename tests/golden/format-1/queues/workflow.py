"""Queues: limits of a queue and its keys, a rate, priorities, a full queue, a pause, a start put off."""

from typing import Any

from polos import Queue, RateLimit, StepExecutionError, WorkflowContext, workflow

MAIL = Queue("golden mail", 2, key_concurrency_limit=1, rate_limit=RateLimit(3, 60), max_queued=4)


@workflow(id="golden_queued", queue=MAIL)
async def queued(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.run("send", lambda: "sent")
    await ctx.step.wait_for("rest", seconds=30)
    return str(payload["to"])


@workflow(id="golden_sender")
async def sender(ctx: WorkflowContext) -> list[str]:
    found: list[str] = []
    for number in range(2):
        try:
            found.append(await ctx.step.invoke_and_wait(f"mail {number}", queued, {"to": number}))
        except StepExecutionError as error:
            found.append(f"refused: {'is full' in str(error)}")
    return found
