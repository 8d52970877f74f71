"""A conversation that goes on from turn to turn, with tools."""

import asyncio

from polos import Agent, MaxStepsConfig, Polos, WorkflowContext, max_steps, tool
from polos.memory.types import CompactionConfig
from pydantic import BaseModel

from tests.examples_api.model import model


class Sum(BaseModel):
    numbers: list[float]


class Text(BaseModel):
    text: str


class Total(BaseModel):
    total: float


@tool(description="Add numbers.")
async def calculator(ctx: WorkflowContext, input: Sum) -> Total:
    return Total(total=sum(input.numbers))


@tool(description="Turn a text around.")
async def backwards(ctx: WorkflowContext, input: Text) -> str:
    return input.text[::-1]


@tool(description="Tell the time.")
async def clock(ctx: WorkflowContext) -> str:
    return "half past nine"


companion = Agent(
    id="companion",
    **model(),
    system_prompt="You chat, and use your tools where they help.",
    tools=[calculator, backwards, clock],
    stop_conditions=[max_steps(MaxStepsConfig(count=10))],
    compaction=CompactionConfig(max_conversation_tokens=50_000),
)


async def main() -> None:
    session = "ada-and-companion"
    async with Polos() as polos:
        while (said := input("You: ").strip()) not in ("quit", "exit"):
            reply = await companion.stream(polos, said, session_id=session)
            async for event in reply.events:
                if event.event_type == "text_delta":
                    print(event.data["content"], end="")
                elif event.event_type == "tool_call":
                    print(f"[Using {event.data['tool_call']['function']['name']}...]")
            print()


if __name__ == "__main__":
    asyncio.run(main())
