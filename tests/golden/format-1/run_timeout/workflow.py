"""A run that may take a minute, and takes longer."""

from polos import WorkflowContext, workflow


@workflow(id="golden_run_timeout", run_timeout_seconds=60)
async def run_timeout(ctx: WorkflowContext) -> None:
    try:
        await ctx.step.wait_for("an hour", hours=1)
    finally:
        await ctx.step.run("tidy", lambda: "tidied")
