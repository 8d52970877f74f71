"""Triggers: events of topics start runs, one by one or in batches, each event once, however often the process dies."""

import asyncio

from polos import BatchEventPayload, EventPayload, Polos, WorkflowContext, events, triggers, workflow

said: asyncio.Queue[str] = asyncio.Queue()


@workflow(trigger_on_event="orders/*/created")
async def on_order_created(ctx: WorkflowContext, payload: EventPayload) -> None:
    region = payload.topic.split("/")[1]
    await ctx.step.run("say", said.put, f"{region}: order {payload.data['order']}")


def is_large(event: EventPayload) -> bool:
    return bool(event.data["amount"] >= 100)  # an event without an amount makes it raise: that is a no, and is recorded


@workflow(trigger_on_event="orders/**", trigger_filter=is_large)
async def on_large_order(ctx: WorkflowContext, payload: EventPayload) -> None:
    await ctx.step.run("say", said.put, f"look at order {payload.data['order']}")


@workflow(trigger_on_event="clicks", batch_size=3, batch_timeout_seconds=0.2)
async def count_clicks(ctx: WorkflowContext, payload: BatchEventPayload) -> None:
    await ctx.step.run("say", said.put, f"{len(payload.events)} clicks")


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        for region, order, amount in (("eu", "A-1", 20), ("us", "A-2", 150)):
            data = {"order": order, "amount": amount}
            await events.publish(polos, f"orders/{region}/created", events.EventData(data=data))
        for line in sorted([await said.get() for _ in range(3)]):
            print(line)

        await events.publish(polos, "orders/eu/shipped", events.EventData(data={"order": "A-1"}))
        await events.batch_publish(polos, "clicks", [events.EventData(data={"x": x}) for x in range(5)])
        for line in sorted([await said.get() for _ in range(2)], reverse=True):
            print(line)
        for failure in triggers.failures(polos, "on_large_order"):
            print(f"the filter failed on an event of {failure.topic}: {failure.error}")
        print([found.topic for found in triggers.list(polos)])


asyncio.run(main())
