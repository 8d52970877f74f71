"""
Many runs at once: a design reviewed from all sides at once, a long list in chunks, and children nobody waits for.

    python examples/parallel_review.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel

from polos import BatchWorkflowInput, Polos, WorkflowContext, workflow

SCORES = {"security": 8, "style": 7, "performance": 8, "documentation": 9}
READING_SECONDS = 0.3


class Review(BaseModel):
    aspect: str
    score: int
    approved: bool


@workflow(id="review_aspect")
async def review_aspect(ctx: WorkflowContext, payload: dict[str, Any]) -> Review:
    await ctx.step.wait_for("read", seconds=READING_SECONDS)
    score = await ctx.step.run("judge", lambda: SCORES[payload["aspect"]])
    return Review(aspect=payload["aspect"], score=score, approved=score >= 7)


@workflow(id="review_all")
async def review_all(ctx: WorkflowContext) -> dict[str, Any]:
    wanted = [BatchWorkflowInput(id="review_aspect", payload={"aspect": aspect}) for aspect in SCORES]
    begun = await ctx.step.now("begun")
    results = await ctx.step.batch_invoke_and_wait("reviews", wanted)
    ended = await ctx.step.now("ended")
    reviews: list[Review] = [result.result for result in results if result.success]
    average = sum(review.score for review in reviews) / len(reviews)
    approved = sum(review.approved for review in reviews)
    return {"approved": approved, "of": len(wanted), "average": average, "took_ms": ended - begun}


@workflow(id="review_one_by_one")
async def review_one_by_one(ctx: WorkflowContext) -> dict[str, Any]:
    begun = await ctx.step.now("begun")
    for aspect in SCORES:
        await ctx.step.invoke_and_wait(f"review_{aspect}", review_aspect, {"aspect": aspect})
    return {"took_ms": await ctx.step.now("ended") - begun}


@workflow(id="square")
async def square(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    return await ctx.step.run("square", lambda: payload["number"] ** 2)


@workflow(id="in_chunks")
async def in_chunks(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    numbers, size = payload["numbers"], payload["chunk_size"]
    chunks = [numbers[at : at + size] for at in range(0, len(numbers), size)]
    total = 0
    for index, chunk in enumerate(chunks):
        wanted = [BatchWorkflowInput(id="square", payload={"number": number}) for number in chunk]
        results = await ctx.step.batch_invoke_and_wait(f"chunk_{index}", wanted)
        total += sum(result.result for result in results)
    return {"items": len(numbers), "chunks": len(chunks), "total": total}


@workflow(id="fire_and_forget")
async def fire_and_forget(ctx: WorkflowContext, payload: dict[str, Any]) -> list[str]:
    wanted = [BatchWorkflowInput(id="square", payload={"number": number}) for number in range(payload["count"])]
    return [handle.id for handle in await ctx.step.batch_invoke("started", wanted)]


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        together = await review_all.run(polos)
        print(f"{together['approved']}/{together['of']} approved, average {together['average']}")

        chunked = await in_chunks.run(polos, {"numbers": list(range(25)), "chunk_size": 10})
        print(f"{chunked['items']} items in {chunked['chunks']} chunks, total {chunked['total']}")

        started = await fire_and_forget.run(polos, {"count": 5})
        print(f"{len(set(started))} runs started")

        one_by_one = await review_one_by_one.run(polos)
        print(f"in parallel faster than one by one: {together['took_ms'] < one_by_one['took_ms']}")


if __name__ == "__main__":
    asyncio.run(main())
