"""
`ctx.step.suspend` and `resume`: a run asks and waits; a person's program answers, or another run does.

An answer that comes before the question is kept for it; a question that nobody answers in time is an error.
"""

import asyncio
from typing import Any

from polos import ExecutionHandle, Polos, StepExecutionError, WorkflowContext, events, workflow


@workflow
async def expense(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    try:
        answer = await ctx.step.suspend("approve", {"cents": payload["cents"]}, timeout=payload.get("seconds", 60))
    except StepExecutionError:
        return "nobody looked"
    return f"{'approved' if answer.data['ok'] else 'refused'} by {answer.data['by']}"


@workflow
async def accountant(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    answer = {"ok": payload["cents"] < 10_000, "by": "the accountant"}
    await ctx.step.resume("answer", "approve", payload["run"], "expense", answer)


async def ending(polos: Polos, handle: ExecutionHandle) -> Any:
    async for event in events.stream_workflow(polos, "expense", handle.id):
        if event.event_type == "workflow_finish":
            return event.data["result"]
    return None


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        handle = await expense.invoke(polos, {"cents": 1250})
        async for event in events.stream_workflow(polos, "expense", handle.id):
            if event.event_type == "suspend_approve":
                print(f"asked about {event.data['cents']} cents")
                await polos.resume("expense", handle.id, "approve", {"ok": True, "by": "a person"})
                break
        print(await ending(polos, handle))

        handle = await expense.invoke(polos, {"cents": 99_000})
        await accountant.run(polos, {"run": handle.id, "cents": 99_000})
        print(await ending(polos, handle))

        print(await expense.run(polos, {"cents": 1, "seconds": 0.2}))


asyncio.run(main())
