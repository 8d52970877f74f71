"""Steps that fail: tried again, given up, not tried again, timed out; a failure that the body catches."""

import asyncio
from typing import Any

from polos import StepExecutionError, WorkflowContext, workflow

CALLS: dict[str, int] = {}


def flaky(name: str, failures: int) -> str:
    CALLS[name] = CALLS.get(name, 0) + 1
    if CALLS[name] <= failures:
        raise ConnectionError(f"{name} doesn't answer, call {CALLS[name]}")
    return f"{name} answered"


async def slow() -> None:
    await asyncio.Event().wait()


@workflow(id="golden_step_retries")
async def step_retries(ctx: WorkflowContext) -> dict[str, Any]:
    found: dict[str, Any] = {"second": await ctx.step.run("second", flaky, "second", 2, base_delay=1.0)}
    for name, options in {
        "never": {"max_retries": 1, "base_delay": 0.5, "jitter": 0.0},
        "final": {"non_retryable": (ConnectionError,)},
    }.items():
        try:
            await ctx.step.run(name, flaky, name, 9, **options)
        except StepExecutionError as error:
            found[name] = [error.reason, str(error)]
    try:
        await ctx.step.run("slow", slow, timeout_seconds=2, max_retries=0)
    except StepExecutionError as error:
        found["slow"] = error.reason
    return found


@workflow(id="golden_failing")
async def failing(ctx: WorkflowContext) -> None:
    await ctx.step.run("last", flaky, "last", 9, max_retries=0)
