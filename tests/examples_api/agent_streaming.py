"""An answer while it is written: its text, its events, and all of it."""

import asyncio

from polos import Agent, Polos

from tests.examples_api.model import model

storyteller = Agent(id="storyteller", **model(), system_prompt="You tell very short stories.")


async def main() -> None:
    async with Polos() as polos:
        story = await storyteller.stream(polos, "A story about a boat.")
        print(story.topic == f"workflow/storyteller/{story.agent_run_id}")
        async for chunk in story.text_chunks:
            print(chunk, end="|")
        print()

        story = await storyteller.stream(polos, "A story about a whale.")
        async for event in story.events:
            if event.event_type == "text_delta":
                print(event.data["content"], end="|")
            elif event.event_type == "agent_finish":
                print("\n[Agent completed]")

        story = await storyteller.stream(polos, "A story about the sea.")
        print(await story.text())


if __name__ == "__main__":
    asyncio.run(main())
