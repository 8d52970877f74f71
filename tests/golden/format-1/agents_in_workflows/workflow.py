"""Agents that a workflow asks: one, one that it doesn't wait for, several at once, one that fails, in a span."""

from polos import Agent, WorkflowContext, workflow
from polos.llm import script

script("golden-poet", lambda request: f"Roses are red, {len(request.items)} times.")
script("golden-mute", [])
poet = Agent("golden_poet", "scripted", "golden-poet")
mute = Agent("golden_mute", "scripted", "golden-mute")


@workflow(id="golden_card")
async def card(ctx: WorkflowContext) -> dict[str, object]:
    with ctx.step.trace("asking", {"poets": 1}):
        first = await ctx.step.agent_invoke_and_wait("first", poet.with_input("A poem."))
        await ctx.step.agent_invoke("another", poet.with_input("Another."))
    both = await ctx.step.batch_agent_invoke_and_wait("both", [poet.with_input("One."), mute.with_input("Two.")])
    handles = await ctx.step.batch_agent_invoke("more", [poet.with_input("Three.")])
    return {"first": first.result, "both": [one.success for one in both], "more": len(handles)}
