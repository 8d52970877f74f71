"""Runs that nobody could run for a while: their code was missing, or had killed its process."""

from polos import WorkflowContext, workflow


@workflow(id="golden_set_aside")
async def set_aside(ctx: WorkflowContext) -> str:
    await ctx.step.run("before", lambda: "before")
    signal = await ctx.step.wait_for_signal("go")
    await ctx.step.run("after", lambda: "after")
    return str(signal)
