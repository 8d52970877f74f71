"""Retention: runs that have ended leave the log for the archive, where they can still be read."""

import asyncio

from polos import Polos, PolosClient, Retention, WorkflowContext, archive, events, workflow


@workflow
async def pick(ctx: WorkflowContext, payload: dict) -> str:
    return await ctx.step.run("pick", lambda: f"{payload['item']} from shelf {len(payload['item'])}")


@workflow(retention=Retention(max_count=1, statuses=["completed"]))
async def parcel(ctx: WorkflowContext, payload: dict) -> list[str]:
    if not payload["items"]:
        raise ValueError("an empty parcel")
    if len(payload["items"]) > 2:
        await ctx.set_tag("large")
    return [
        await ctx.step.invoke_and_wait(f"pick {number}", pick, {"item": item})
        for number, item in enumerate(payload["items"])
    ]


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        packed = []
        for items in (["tea", "salt", "honey"], ["bread"], ["soap"]):
            packed.append(await parcel.invoke(polos, {"items": items}, session_id="monday"))
            async for _ in events.stream_workflow(polos, "parcel", packed[-1].id):
                pass
        while len(archive.list(polos, workflow_id="parcel")) < 2:  # noqa: ASYNC110  # all but the newest
            await asyncio.sleep(0.01)
        print(len(await polos.list_executions(session_id="monday")), "runs are in the log")

        first = packed[0]
        found = await polos.get_execution(first.id)
        print(found["status"], found["result"], found["tags"], found["archived_at"] is not None)
        tree = await archive.read(polos, first.id)
        print(len(tree.executions), "runs,", len(tree.events), "events, from", tree.events[0]["type"])
        stream = events.stream_workflow(polos, "parcel", first.id, last_sequence_id=0)
        shown = [event.event_type async for event in stream]
        print(shown[0], "to", shown[-1])

    async with PolosClient() as client:  # no engine is needed
        for run in archive.list(client, workflow_id="parcel"):
            print("archived:", run["tags"], run["session_id"])


asyncio.run(main())
