"""Async generators: read to their end, left early, with clean-up that takes steps."""

from collections.abc import AsyncIterator

from polos import WorkflowContext, workflow


@workflow(id="golden_generators")
async def generators(ctx: WorkflowContext) -> list[str]:
    closed: list[str] = []

    async def numbers(name: str, count: int) -> AsyncIterator[str]:
        try:
            for number in range(count):
                yield await ctx.step.run(f"{name} {number}", lambda number=number: f"{name} {number}")
        finally:
            closed.append(await ctx.step.run(f"close {name}", lambda: f"{name} closed"))

    found = [text async for text in numbers("all", 2)]
    early = numbers("early", 9)
    async for text in early:
        found.append(text)
        break
    await early.aclose()
    async for text in numbers("dropped", 9):
        found.append(text)
        break
    await ctx.step.wait_for("pause", seconds=1)
    return found + closed
