"""An agent with one tool."""

import asyncio

from polos import Agent, MaxStepsConfig, Polos, WorkflowContext, max_steps, tool
from pydantic import BaseModel

from tests.examples_api.model import model


class Place(BaseModel):
    city: str


class Weather(BaseModel):
    city: str
    celsius: int
    sky: str


@tool(description="Tell the current weather of a city.")
async def get_weather(ctx: WorkflowContext, input: Place) -> Weather:
    print(f"looking at the sky over {input.city}")
    return Weather(city=input.city, celsius=18, sky="cloudy")


forecaster = Agent(
    id="forecaster",
    **model(),
    system_prompt="You tell people about the weather. Look it up before you answer.",
    tools=[get_weather],
    stop_conditions=[max_steps(MaxStepsConfig(count=10))],
)


async def main() -> None:
    async with Polos() as polos:
        answer = await forecaster.run(polos, "Do I need a coat in Lisbon?")
        print(answer.result)
        print(answer.total_steps, answer.tool_results[0].result)


if __name__ == "__main__":
    asyncio.run(main())
