"""
Agents for the sweeps of crashes, at the top level of a module, so that child processes can import them.

A desk pays with leave, asks the customer, has a clerk look something up, and hands over to a closer; all of them spend
one budget. `world` is what they act upon, and what notes each request to a model.

A sender, a poster and a careless one send one mail each, with a tool that does so itself, in no step: one of which a
person says what became of it, one that can be asked itself, and one that is sent whatever became of it.
"""

from __future__ import annotations

from typing import Any

from polos import Agent, Budget, Completed, NotDone, Tool, Workflow, WorkflowContext, create_ask_user_tool, tool
from polos.engine.json import Json
from polos.llm import LLMRequest, Reply, script
from polos.llm.digests import digest_of
from polos.testing import Outside, Waiting
from pydantic import BaseModel

__all__ = [
    "ANSWERS", "USED", "careless", "decide", "desk", "look_up", "poster", "say_of_the_mail", "sender", "world",
]  # fmt: skip

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


# ----------------------------------------------------------------------------------- tools that are called at most once


class Mail(BaseModel):
    """What is sent."""

    to: str


def deliver(to: str) -> str:
    """Send it."""
    world.note("sent", to=to)
    return f"sent to {to}"


def was_sent(input: Mail) -> Completed | NotDone:
    """Look whether it was sent."""
    return Completed(f"sent to {input.to}") if world.count("sent") else NotDone()


@tool(id="swept_send", description="Send a mail.", effect="at_most_once")
async def send(ctx: WorkflowContext, input: Mail) -> str:
    """Send a mail, in the body of the tool."""
    return deliver(input.to)


@tool(id="swept_post", description="Send a mail.", effect="at_most_once", reconcile=was_sent)
def post(ctx: WorkflowContext, input: Mail) -> str:
    """The same in a thread, and it can be found out."""
    return deliver(input.to)


class Careless(Tool):
    """It is recorded that it is called, and nobody looks whether it was."""

    async def call(self, context: WorkflowContext, arguments: tuple[Any, ...], record: Json) -> Any:
        """Call the function."""
        await context.require_port().record("_call", "tool_call", lambda: {"tool": self.id})
        return await Workflow.call(self, context, arguments, record)


fling = Careless("swept_fling", "Send a mail.", func=send.func, effect="at_most_once")


def _mailing(one: Tool) -> Agent:
    name = f"{one.id}_agent"
    script(name, [Reply(tool_calls=[(one.id, {"to": "ann"})]), "It is sent."])
    return Agent(id=name, provider="scripted", model=name, tools=[one])


sender, poster, careless = map(_mailing, (send, post, fling))


def say_of_the_mail(waiting: Waiting) -> Any:
    """Say what became of a mail, as whoever got it does."""
    sent = world.count("sent")
    return {"outcome": "completed", "value": "sent to ann"} if sent else {"outcome": "not_done"}
