"""Code that was changed under a run, and changed back: the run stopped, lost nothing, and went on."""

from typing import Any

from polos import WorkflowContext, workflow


@workflow(id="golden_divergence")
async def divergence(ctx: WorkflowContext) -> list[Any]:
    one = await ctx.step.run("one", lambda: 1)
    go = await ctx.step.wait_for_signal("go")
    return [one, go, await ctx.step.run("two", lambda: 2)]


async def changed(ctx: WorkflowContext) -> str:
    return str(await ctx.step.run("another", lambda: "another"))
