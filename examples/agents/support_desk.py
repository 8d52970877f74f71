"""
An agent that answers customers: it looks things up, and asks a person before it gives money back.

The model is played from a script, so this runs without a network and without a key; with `provider="openai"` or
`"anthropic"` and the name of a model the same program asks a real one. The answer is shown while it is written. End
the program while it asks for the approval and start it again: the run is still there, and nothing that it has done
is done again.

    python examples/agents/support_desk.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel

from polos import Agent, Polos, WorkflowContext, tool
from polos.llm import LLMRequest, Reply, script


class Order(BaseModel):
    order: int


class Refund(BaseModel):
    order: int
    cents: int


@tool(description="Look up an order.")
async def look_up_order(ctx: WorkflowContext, input: Order) -> dict[str, Any]:
    return await ctx.step.run("look_up", lambda: {"order": input.order, "paid": 4990, "state": "lost on its way"})


@tool(description="Look up what the shop promises.")
async def look_up_promises(ctx: WorkflowContext) -> str:
    return await ctx.step.run("look_up", lambda: "What is lost is paid back.")


# The approval is for this call with these arguments; other arguments would need another one.
@tool(description="Pay money back.", approval="always", effect="at_most_once")
async def pay_back(ctx: WorkflowContext, input: Refund) -> str:
    return await ctx.step.run("pay", lambda: f"{input.cents} cents are on their way", effect="at_most_once")


def play(request: LLMRequest) -> Reply:
    """Play the model: what it says next follows from what it was told last."""
    told = str(request.items[-1].get("output", ""))
    if "rejected" in told:
        return Reply(text="I may not pay that back. A colleague will write to you.")
    if "on their way" in told:
        return Reply(text="It was lost, I am sorry. Your 49.90 are on their way.")
    if "paid back" in told:
        return Reply(tool_calls=[("pay_back", {"order": 7, "cents": 4990})])
    calls: list[tuple[str, Any]] = [("look_up_order", {"order": 7}), ("look_up_promises", {})]
    return Reply(text="Let me look.", tool_calls=calls)


script("support_desk", play)
desk = Agent(
    id="support_desk",
    provider="scripted",
    model="support_desk",
    system_prompt="You answer customers of a shop. Look things up before you answer.",
    tools=[look_up_order, look_up_promises, pay_back],
)


def ask(question: str) -> dict[str, Any]:
    # Blocks the program, as input() does. The engine stalls with it, and nothing worse happens.
    approved = input(question) == "y"
    return {"approved": approved, "feedback": None if approved else "not today"}


async def answer(polos: Polos, question: str) -> None:
    reply = await desk.stream(polos, question)
    async for event in reply.events:
        kind = event.event_type or ""
        if kind == "text_delta":
            print(event.data["content"], end="")
        elif kind == "tool_call":
            print(f"\n[{event.data['tool_call']['function']['name']}]", end="")
        elif kind.startswith("suspend_"):
            asked = event.data["_form"]["context"]
            decision = ask(f"\n{asked['tool']} {asked['input']}, may it? (y/n) ")
            await polos.resume(desk.id, reply.id, kind.removeprefix("suspend_"), decision)
            print()
    print()
    found = await reply.result()
    print(f"{found.total_steps} turns, {len(found.tool_results)} calls, {found.stop_reason}")


async def main() -> None:
    async with Polos() as polos:
        for question in ("Where is order 7?", "Where is order 7, I ask again?"):
            print(question)
            await answer(polos, question)


if __name__ == "__main__":
    asyncio.run(main())
