"""Archived runs: trees of one and of several runs that have ended, sealed while others go on."""

from polos import Retention, WorkflowContext, workflow


@workflow(id="golden_archived_leaf")
async def leaf(ctx: WorkflowContext, payload: dict) -> str:
    return await ctx.step.run("say", lambda: "word " * payload["n"])


@workflow(id="golden_archived", retention=Retention(max_age_seconds=3600, statuses=["completed"]), tags=["golden"])
async def archived(ctx: WorkflowContext, payload: dict) -> list[str]:
    if payload["n"] < 0:
        raise ValueError("one that failed stays")
    return [await ctx.step.invoke_and_wait(f"leaf {number}", leaf, {"n": number}) for number in range(payload["n"])]


@workflow(id="golden_kept", retention=False)
async def kept(ctx: WorkflowContext) -> str:
    await ctx.step.wait_for("long", days=2)
    return "kept"
