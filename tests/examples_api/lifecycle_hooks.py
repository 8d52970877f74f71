"""Functions that are called around runs, turns and tools."""

import asyncio

from polos import Agent, HookContext, HookResult, Polos, WorkflowContext, hook, tool
from pydantic import BaseModel

from tests.examples_api.model import model


class Query(BaseModel):
    words: str


@tool(description="Search the library.")
async def search_library(ctx: WorkflowContext, input: Query) -> dict:
    return {"found": [f"a book about {input.words}"]}


@hook
async def check_prompt(ctx: WorkflowContext, told: HookContext) -> HookResult:
    prompt = told.current_payload.get("prompt")
    if not prompt or not prompt.strip():
        return HookResult.fail("the prompt is empty")
    print(f"on_start: {prompt}")
    return HookResult.continue_with()


@hook
async def note_end(ctx: WorkflowContext, told: HookContext) -> HookResult:
    print(f"on_end: {told.workflow_id}")
    return HookResult.continue_with()


@hook
def step_begins(ctx: WorkflowContext, told: HookContext) -> HookResult:
    print(f"on_agent_step_start: {told.current_payload['step']}")
    return HookResult.continue_with()


@hook
def step_ends(ctx: WorkflowContext, told: HookContext) -> HookResult:
    print(f"on_agent_step_end: {told.current_payload['step']}")
    return HookResult.continue_with()


@hook
async def tool_begins(ctx: WorkflowContext, told: HookContext) -> HookResult:
    print(f"on_tool_start: {told.current_tool} {told.current_payload}")
    return HookResult.continue_with(modified_payload={"words": told.current_payload["words"].lower()})


@hook
async def tool_ends(ctx: WorkflowContext, told: HookContext) -> HookResult:
    print(f"on_tool_end: {told.current_output}")
    return HookResult.continue_with(modified_output={**told.current_output, "checked": True})


librarian = Agent(
    id="librarian",
    **model(),
    system_prompt="You find books.",
    tools=[search_library],
    on_start=check_prompt,
    on_end=[note_end],
    on_agent_step_start=step_begins,
    on_agent_step_end=step_ends,
    on_tool_start=tool_begins,
    on_tool_end=tool_ends,
)


async def main() -> None:
    async with Polos() as polos:
        for prompt in ("A book about WHALES, please.", "Hello!", "   "):
            try:
                print((await librarian.run(polos, prompt)).result)
            except RuntimeError as error:
                print(f"error: {error}")


if __name__ == "__main__":
    asyncio.run(main())
