"""Several things at once: gather, as_completed, wait for the first, task groups whose tasks fail, what is given up."""

import asyncio
from typing import Any

from polos import StepExecutionError, WorkflowContext, workflow


async def work(name: str) -> str:
    if name.startswith("bad"):
        raise ValueError(name)
    return name


@workflow(id="golden_gather")
async def gather(ctx: WorkflowContext) -> dict[str, Any]:
    async def named(name: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return await ctx.step.run(name, work, name, max_retries=0)

    found: dict[str, Any] = {"gather": await asyncio.gather(named("a", 3), named("b", 1), ctx.step.run("c", work, "c"))}
    mixed = await asyncio.gather(named("bad one", 1), named("d", 1), return_exceptions=True)
    found["mixed"] = [type(one).__name__ if isinstance(one, BaseException) else one for one in mixed]
    found["as_completed"] = [await one for one in asyncio.as_completed([named("e", 2), named("f", 1)])]
    first, rest = await asyncio.wait(
        [asyncio.ensure_future(named("g", 1)), asyncio.ensure_future(named("h", 50))],
        return_when=asyncio.FIRST_COMPLETED,
    )
    for task in rest:
        task.cancel()
    found["first"] = [task.result() for task in first]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(named("bad two", 1))
            group.create_task(named("i", 2))
            group.create_task(ctx.step.wait_for_signal("never"))
    except* StepExecutionError as failures:
        found["group"] = [failure.reason for failure in failures.exceptions]
    return found


@workflow(id="golden_given_up")
async def given_up(ctx: WorkflowContext) -> str:
    async def forever() -> None:
        await asyncio.Event().wait()

    try:
        async with asyncio.timeout(5):
            await ctx.step.run("forever", forever)
    except TimeoutError:
        return "gave up"
    return "unlikely"
