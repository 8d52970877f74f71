"""An agent that searches the web, each search with a person's leave, and asks the person back."""

import asyncio
import os

from polos import Agent, Polos, WebSearchToolConfig, create_ask_user_tool, create_web_search_tool

from tests.examples_api.model import model

researcher = Agent(
    id="researcher",
    **model(),
    system_prompt="You find things out. Ask if you don't know what is wanted.",
    tools=[
        create_web_search_tool(WebSearchToolConfig(base_url=os.environ["SEARCH_URL"], approval="always")),
        create_ask_user_tool(),
    ],
)


async def main() -> None:
    async with Polos() as polos:
        reply = await researcher.stream(polos, "What is new?")
        async for event in reply.events:
            kind = event.event_type or ""
            if not kind.startswith("suspend_"):
                continue
            form = event.data["_form"]
            if kind.startswith("suspend_approve_web_search"):
                print(f"search for {form['context']['input']['query']!r}?")
                answer: dict = {"approved": input() == "y"}
            else:
                print(form["title"], [(field["key"], field["type"]) for field in form["fields"]])
                answer = {field["key"]: input() for field in form["fields"]}
            await polos.resume(researcher.id, reply.id, kind.removeprefix("suspend_"), answer)
        print((await reply.result()).result)


if __name__ == "__main__":
    asyncio.run(main())
