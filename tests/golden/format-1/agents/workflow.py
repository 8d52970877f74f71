"""Agents: turns with tools, an answer that streams, one with a schema that doesn't fit at first, a busy model."""

from pydantic import BaseModel

from polos import Agent, RetryPolicy, WorkflowContext, tool
from polos.errors import ModelRateLimited
from polos.llm import Attempts, Reply, script


class City(BaseModel):
    name: str


class Review(BaseModel):
    title: str
    stars: int


@tool(id="golden_weather", description="Tell the weather of a city.")
async def weather(ctx: WorkflowContext, input: City) -> dict[str, object]:
    degrees = await ctx.step.run("look", len, input.name)
    return {"city": input.name, "degrees": degrees}


calls = [("golden_weather", {"name": "Oslo"}), ("golden_weather", {"place": "Rome"}), ("golden_nobody", {})]
script("golden-forecaster", [
    Reply(text="Let me see.", tool_calls=calls, thinking="North is cold."),
    Attempts([ModelRateLimited("busy"), Reply(text="It is cold in Oslo.", usage={"input_tokens": 90})]),
])  # fmt: skip
forecaster = Agent(
    "golden_forecaster", "scripted", "golden-forecaster", "Tells the weather.", "Be brief.", [weather],
    temperature=0.5, max_output_tokens=300, tags=["golden"],
)  # fmt: skip

script("golden-critic", ['{"title": "Up"}', '{"title": "Up", "stars": 5}'])
critic = Agent(
    "golden_critic", "scripted", "golden-critic", output_schema=Review, stream_to_workflow=True, top_p=0.9,
    model_retries=RetryPolicy(max_retries=1), model_timeout_seconds=60, run_timeout_seconds=600, queue="golden critics",
)  # fmt: skip
