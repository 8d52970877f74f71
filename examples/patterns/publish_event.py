"""`ctx.step.publish_event`: tell a topic, once, however often the process dies; anybody can stream the topic."""

import asyncio
from typing import Any

from polos import Polos, WorkflowContext, events, workflow


@workflow
async def newspaper(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    for headline in payload["headlines"]:
        await ctx.step.publish_event("headline", "news", {"text": headline}, event_type="headline")
    await ctx.step.publish_workflow_event("done", {"headlines": len(payload["headlines"])}, event_type="edition")
    return "printed"


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        handle = await newspaper.invoke(polos, {"headlines": ["Rain", "More rain"]})
        # Streams are read off the log, so nothing is lost by looking late.
        async for event in events.stream_workflow(polos, "newspaper", handle.id, from_sequence=0):
            print(f"of the run: {event.event_type}")
        seen = 0
        async for event in events.stream_topic(polos, "news", from_sequence=0):
            print(f"{event.topic}: {event.event_type}: {event.data['text']}")
            seen += 1
            if seen == 2:
                break


asyncio.run(main())
