"""Sessions, users and tags: named and not, inherited, set and taken away by code, kept by a successor."""

from polos import WorkflowContext, workflow


@workflow(id="golden_session_child", tags=["child"])
async def child(ctx: WorkflowContext, payload: dict) -> list[str | None]:
    await ctx.set_tag("seen", f"number:{payload['n']}")
    return [ctx.session_id, ctx.user_id]


@workflow(id="golden_session", tags=["golden", "first"])
async def session(ctx: WorkflowContext, payload: dict) -> list[str | None]:
    await ctx.set_tag("busy", "golden")
    found = await ctx.step.invoke_and_wait("child", child, {"n": payload["n"]})
    await ctx.remove_tag("busy", "first", "never had")
    if payload["n"]:
        ctx.continue_as_new({"n": payload["n"] - 1})
    return found


@workflow(id="golden_session_direct", deterministic=False)
async def direct(ctx: WorkflowContext) -> str:
    await ctx.set_tag("direct")
    return "tagged"
