"""`ctx.step.wait_for_event`: wait for the next event of a topic, and no longer than one likes."""

import asyncio
from typing import Any

from polos import Polos, StepExecutionError, WorkflowContext, workflow
from polos.features import events
from polos.features.events import EventData


@workflow
async def wait_for_payment(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    topic = f"payments/{payload['order']}"
    try:
        # With `since=0` an event counts, too, that was published before the run came to this line.
        event = await ctx.step.wait_for_event("paid", topic, timeout=payload["seconds"], since=0)
    except StepExecutionError:
        return f"{payload['order']} wasn't paid"
    return f"{payload['order']}: {event.event_type} of {event.data['cents']} cents"


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        waiting = await wait_for_payment.invoke(polos, {"order": "A-1", "seconds": 60})
        await events.publish(polos, "payments/A-1", EventData(event_type="payment", data={"cents": 4990}))
        async for event in events.stream_workflow(polos, "wait_for_payment", waiting.id, from_sequence=0):
            if event.event_type == "workflow_finish":
                print(event.data["result"])
        print(await wait_for_payment.run(polos, {"order": "A-2", "seconds": 0.2}))


asyncio.run(main())
