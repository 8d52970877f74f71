"""
Agents for the sweeps of crashes, at the top level of a module, so that child processes can import them.

A desk pays with leave, asks the customer, has a clerk look something up, and hands over to a closer; all of them spend
one budget. `world` is what they act upon, and what notes each request to a model.
"""

from __future__ import annotations

from typing import Any

from polos import Agent, Budget, Completed, NotDone, WorkflowContext, create_ask_user_tool, tool
from polos.llm import LLMRequest, Reply, script
from polos.llm.digests import digest_of
from polos.testing import Outside, Waiting
from pydantic import BaseModel

__all__ = ["ANSWERS", "USED", "decide", "desk", "look_up", "world"]

USED = {"input_tokens": 10, "output_tokens": 10}
world = Outside("world")


class Bill(BaseModel):
    """What is paid."""

    cents: int


async def transfer(cents: int) -> str:
    """Move money."""
    world.note("paid", cents=cents)
    return f"paid {cents}"


@tool(id="swept_pay", description="Pay.", approval="always", effect="at_most_once")
async def pay(ctx: WorkflowContext, input: Bill) -> str:
    """Pay a bill, in a step that is made once."""
    return await ctx.step.run("transfer", transfer, input.cents, effect="at_most_once")


ask_user = create_ask_user_tool()


def asked(request: LLMRequest, who: str) -> int:
    """Note a request; gives which turn of the conversation it is."""
    turn = sum(1 for item in request.items if item.get("role") == "assistant")
    world.note("asked", who=who, turn=turn, digest=digest_of(request.items))
    return turn


def as_clerk(request: LLMRequest) -> Reply:
    """Look something up, and say it."""
    if asked(request, "clerk") == 0:
        return Reply(text="Let me see.", tool_calls=[("swept_file", {})], usage=USED)
    return Reply(text="The file says yes.", usage=USED)


def as_closer(request: LLMRequest) -> Reply:
    """End the conversation, saying what was told."""
    asked(request, "closer")
    outputs = sum(1 for item in request.items if item.get("type") == "function_call_output")
    return Reply(text=f"Closed after {outputs} answers.", usage=USED)


def as_desk(request: LLMRequest) -> Reply:
    """Do everything at once, then hand over."""
    if asked(request, "desk") == 0:
        calls = [
            ("swept_pay", {"cents": 5}), ("ask_user", {"question": "Why?"}), ("ask_clerk", {"input": "What of it?"}),
        ]  # fmt: skip
        return Reply(text="One moment.", tool_calls=calls, usage=USED)
    return Reply(text="I hand you over.", tool_calls=[("transfer_to_swept_closer", {})], usage=USED)


@tool(id="swept_file", description="Look into the file.")
async def look_up(ctx: WorkflowContext) -> str:
    """Give what the file says."""
    return "yes"


for _name, _replies in (("clerk", as_clerk), ("closer", as_closer), ("desk", as_desk)):
    script(f"swept-{_name}", _replies)

clerk = Agent(id="swept_clerk", provider="scripted", model="swept-clerk", tools=[look_up])
closer = Agent(id="swept_closer", provider="scripted", model="swept-closer")
ask_clerk = clerk.as_tool("ask_clerk")
desk = Agent(
    id="swept_desk", provider="scripted", model="swept-desk", tools=[pay, ask_user, ask_clerk], handoffs=[closer],
    budget=Budget(calls=9, tokens=9_000),
)  # fmt: skip


def decide(waiting: Waiting) -> Any:
    """Decide as the form asks for it, about these arguments."""
    world.note("decided", run=waiting.run, key=waiting.key)
    return {"approved": True, "approver": "ann", "digest": waiting.data["_approval"]["digest"]}


def look(waiting: Waiting) -> Any:
    """Say what became of the money, as a person who can see the account does."""
    if world.count("paid"):
        return {"outcome": "completed", "value": "paid 5"}
    return {"outcome": "not_done"}


def moved(waiting: Waiting) -> Any:
    """Say the same of the step in which it was moved."""
    return Completed("paid 5") if world.count("paid") else NotDone()


ANSWERS: dict[str, Any] = {
    "approve_*": decide, "ask_user_*": {"response": "so"}, "resolve_*": look, "transfer": moved,
}  # fmt: skip
