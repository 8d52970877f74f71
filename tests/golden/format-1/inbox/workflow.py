"""Commands from other processes, by way of the inbox: taken, refused; engines that came and went."""

from polos import WorkflowContext, workflow


@workflow(id="golden_inbox")
async def inbox(ctx: WorkflowContext) -> str:
    return str(await ctx.step.wait_for_signal("from outside"))
