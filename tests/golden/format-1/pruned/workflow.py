"""Deltas that the archive doesn't keep: a tree that was sealed without them."""

import asyncio
from typing import Any

from polos import Retention, WorkflowContext, workflow


async def say(ctx: WorkflowContext, words: list[str]) -> str:
    for word in words:
        ctx.step.emit("text_delta", {"content": word})
    return " ".join(words)


@workflow(id="golden_pruned_talk")
async def talk(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("say", say, ctx, payload["words"])


@workflow(id="golden_pruned", retention=Retention(max_age_seconds=3600, keep_deltas=False))
async def pruned(ctx: WorkflowContext, payload: dict[str, Any]) -> list[str]:
    return list(await asyncio.gather(*(ctx.step.invoke_and_wait(word, talk, {"words": [word] * 3}) for word in "ab")))
