"""Workflows that have several agents work together, one after another and at once."""

import asyncio
import json

from polos import Agent, Polos, WorkflowContext, events, workflow
from polos.types import AgentResult
from pydantic import BaseModel

from tests.examples_api.model import model


class Opinion(BaseModel):
    stars: int
    remark: str


writer = Agent(id="writer", **model("writer"), system_prompt="You write blog posts.")
reviewers = [
    Agent(id=f"{kind}_reviewer", **model(kind), system_prompt=f"You judge {kind}.", output_schema=Opinion)
    for kind in ("grammar", "facts", "tone")
]
editor = Agent(id="editor", **model("editor"), system_prompt="You mend posts.")


@workflow(id="blog_review")
async def blog_review(ctx: WorkflowContext, payload: dict) -> dict:
    found = await ctx.step.batch_agent_invoke_and_wait(
        "reviews", [reviewer.with_input(payload["post"]) for reviewer in reviewers]
    )
    opinions = [AgentResult.model_validate(one.result).result for one in found if one.success]
    edited = await ctx.step.agent_invoke_and_wait(
        "edit", editor.with_input(f"Mend this: {payload['post']} It was said: {json.dumps(opinions)}")
    )
    return {"opinions": opinions, "post": edited.result}


@workflow(id="generate_blog")
async def generate_blog(ctx: WorkflowContext, payload: dict) -> dict:
    draft = await ctx.step.agent_invoke_and_wait("draft", writer.with_input(f"Write about {payload['topic']}."))
    review = await ctx.step.invoke_and_wait("review", blog_review, {"post": draft.result})
    return {"draft": draft.result, **review}


async def main() -> None:
    async with Polos() as polos:
        handle = await generate_blog.invoke(polos, {"topic": "boats"})
        finished = []
        async for event in events.stream_workflow(polos, "generate_blog", handle.id):
            if event.event_type in ("agent_finish", "workflow_finish"):
                finished.append(event.data["_metadata"]["workflow_id"])
                json.dumps(event.data)
        print("finished:", finished[0], sorted(finished[1:4]), *finished[4:])
        found = (await polos.get_execution(handle.id))["result"]
        print(json.dumps(found, sort_keys=True))


if __name__ == "__main__":
    asyncio.run(main())
