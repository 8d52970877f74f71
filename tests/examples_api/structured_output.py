"""An answer that is an object."""

import asyncio

from polos import Agent, Polos
from pydantic import BaseModel, Field

from tests.examples_api.model import model


class BookReview(BaseModel):
    title: str
    stars: int = Field(ge=1, le=5)
    themes: list[str]


critic = Agent(id="critic", **model(), system_prompt="You review books.", output_schema=BookReview)


async def main() -> None:
    async with Polos() as polos:
        answer = await critic.run(polos, "Review Moby Dick.")
        print(repr(answer.result))


if __name__ == "__main__":
    asyncio.run(main())
