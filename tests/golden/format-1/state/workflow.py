"""`ctx.state`: of a schema, given at the start, a plain dict whose fields come and go."""

from typing import Any

from polos import WorkflowContext, WorkflowState, workflow


class Counter(WorkflowState):
    count: int = 0
    seen: list[str] = []


@workflow(id="golden_counter", state_schema=Counter, tags=["counting", "gold"])
async def counter(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    for name in payload["names"]:
        ctx.state.count += await ctx.step.run("measure", len, name)
        ctx.state.seen.append(name)
    return int(ctx.state.count)


@workflow(id="golden_dict")
async def plain(ctx: WorkflowContext) -> dict[str, Any]:
    ctx.state["new"] = {"deep": [1, 2]}
    await ctx.step.run("one", lambda: 1)
    ctx.state["new"]["deep"].append(3)
    del ctx.state["old"]
    ctx.state["flag"] = True
    await ctx.step.run("two", lambda: 2)
    ctx.state["flag"] = 1
    return dict(ctx.state)
