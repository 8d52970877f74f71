"""What ran on the data directory in `store.tar.xz`: most of it is archived, one tree of it without its deltas."""

from typing import Any

from polos import Agent, Retention, WorkflowContext, workflow
from polos.llm import script

script("golden-reciter", ["Once upon a time there was a log."])
reciter = Agent("golden_reciter", "scripted", "golden-reciter")


@workflow(id="golden_sealed_leaf")
async def leaf(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("fill", lambda: f"{payload['n']} " * 40_000)


@workflow(id="golden_sealed", retention=Retention(max_age_seconds=0))
async def sealed(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    text = await ctx.step.invoke_and_wait("leaf", leaf, payload)
    return len(text)


@workflow(id="golden_sealed_talk", retention=Retention(max_age_seconds=0, keep_deltas=False))
async def talk(ctx: WorkflowContext) -> Any:
    answer = await ctx.step.agent_invoke_and_wait("recite", reciter.with_input("A story.", streaming=True))
    return answer.result


@workflow(id="golden_left_over")
async def left_over(ctx: WorkflowContext) -> str:
    await ctx.step.run("before", lambda: "before")
    return str(await ctx.step.wait_for_signal("go"))
