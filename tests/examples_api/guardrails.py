"""Answers that are looked at before anybody sees them: mended, refused, or judged by the model itself."""

import asyncio
import re

from polos import Agent, GuardrailContext, GuardrailResult, Polos, WorkflowContext, guardrail

from tests.examples_api.model import model


@guardrail
async def no_addresses(ctx: WorkflowContext, told: GuardrailContext) -> GuardrailResult:
    mended = re.sub(r"[\w.]+@[\w.]+\w", "[e-mail]", told.content or "")
    mended = re.sub(r"\+?\d[\d -]{6,}\d", "[phone]", mended)
    return GuardrailResult.continue_with(modified_content=mended)


@guardrail
def no_injection(ctx: WorkflowContext, told: GuardrailContext) -> GuardrailResult:
    if "ignore previous instructions" in (told.content or "").lower():
        return GuardrailResult.fail("the answer repeats an injected instruction")
    return GuardrailResult.continue_with()


@guardrail
def disclaimer(ctx: WorkflowContext, told: GuardrailContext) -> GuardrailResult:
    return GuardrailResult.continue_with(modified_content=f"{told.content} (This is no advice.)")


safe = Agent(
    id="safe", **model(), system_prompt="You help.", guardrails=[no_addresses, no_injection], guardrail_max_retries=2
)
judged = Agent(
    id="judged",
    **model(),
    system_prompt="You help politely.",
    guardrails=["The answer is polite.", "The answer is short.", disclaimer],
)


async def main() -> None:
    agents = [safe, judged]
    async with Polos() as polos:
        while (said := input("You: ").strip()) != "quit":
            if said == "switch":
                agents.reverse()
                print(f"now talking to {agents[0].id}")
                continue
            reply = await agents[0].stream(polos, said)
            deltas = 0
            async for event in reply.events:
                if event.event_type == "text_delta":
                    deltas += 1
                    print(event.data["content"])
                elif event.event_type == "agent_failed":
                    print(f"failed: {event.data['error']}")
            print(f"{deltas} text_delta")


if __name__ == "__main__":
    asyncio.run(main())
