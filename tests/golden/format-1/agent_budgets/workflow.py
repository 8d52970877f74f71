"""Budgets: of calls, with a person who grants more; of money, by prices that are recorded; of another, cheaper model."""

from typing import Any

from polos import Agent, Budget, WorkflowContext, tool
from polos.llm import Reply, script


@tool(id="golden_idle", description="Do nothing.")
async def idle(ctx: WorkflowContext) -> str:
    return "nothing"


def busy(request: Any) -> Reply:
    if request.model == "gpt-6-luna":
        return Reply(text="Done, cheaply.", usage={"input_tokens": 100, "output_tokens": 10})
    return Reply(text="More.", tool_calls=[("golden_idle", {})], usage={"input_tokens": 100, "output_tokens": 10})


for model in ("gpt-6.1-terra", "gpt-6-luna", "golden-spender"):
    script(model, busy)
asking = Agent(
    "golden_asking", "scripted", "golden-spender", tools=[idle], budget=Budget(calls=1, on_breach="suspend")
)
frugal = Agent(
    "golden_frugal", "scripted", "gpt-6.1-terra", tools=[idle],
    budget=Budget(dollars=0.0012, tokens=100_000, answer_tokens=200, on_breach="switch", switch_to="gpt-6-luna"),
)  # fmt: skip
