"""A structured answer while it is written: the raw JSON, then the object."""

import asyncio

from polos import Agent, Polos
from pydantic import BaseModel

from tests.examples_api.model import model


class Thought(BaseModel):
    steps: list[str]
    answer: str
    sure: bool


thinker = Agent(id="thinker", **model(), system_prompt="You solve puzzles step by step.", output_schema=Thought)


async def main() -> None:
    async with Polos() as polos:
        reply = await thinker.stream(polos, "Which weighs more, a kilo of feathers or a kilo of iron?")
        async for chunk in reply.text_chunks:
            print(chunk, end="")
        print()
        thought = (await reply.result()).result
        print(f"{type(thought).__name__}: {thought.answer}")


if __name__ == "__main__":
    asyncio.run(main())
