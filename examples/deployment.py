"""A program that is replaced by its next version: drained, taken over, and with contracts kept to their version."""

import asyncio
from typing import Any

from polos import Polos, WorkflowContext, events, workflow


@workflow(id="contract", version="1", pin=True)
async def contract(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.suspend("sign", {"who": payload["who"]})
    return f"{payload['who']} signed under the old terms"


@workflow(id="greeting")
async def greeting(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.suspend("ask", {})
    return f"good day, {payload['who']}"


async def until(polos: Polos, name: str, run: str, event_type: str) -> None:
    async for event in events.stream_workflow(polos, name, run):
        if event.event_type == event_type:
            return


async def old_version() -> list[str]:
    polos = Polos(deployment_id="monday", log_file="polos.log")
    await polos.start()
    runs = [await polos.invoke(name, {"who": "Ada"}) for name in ("contract", "greeting")]
    await until(polos, "contract", runs[0].id, "suspend_sign")
    await until(polos, "greeting", runs[1].id, "suspend_ask")
    late = polos.invoke("greeting", {"who": "Grace"})  # somebody calls while it leaves
    print("under way when it left:", await polos.drain(timeout_seconds=10))
    return [*(run.id for run in runs), (await late).id]


async def new_version(contract_run: str, greeting_run: str, late: str) -> None:
    async with Polos(deployment_id="tuesday", log_file="polos.log") as polos:
        await until(polos, "greeting", late, "suspend_ask")
        await polos.resume("contract", contract_run, "sign", None)
        await polos.resume("greeting", greeting_run, "ask", None)
        await polos.resume("greeting", late, "ask", None)
        fresh = await polos.invoke("contract", {"who": "Alan"})
        for name, run in (
            ("contract", contract_run),
            ("greeting", greeting_run),
            ("greeting", late),
            ("contract", fresh.id),
        ):
            await until(polos, name, run, "workflow_finish")
            print((await polos.get_execution(run))["result"])


def redefine() -> None:
    """Be the next version of this program."""

    @workflow(id="contract", version="2", pin=True)
    async def contract(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
        await ctx.step.run("check", lambda: True)
        return f"{payload['who']} signed under the new terms"

    @workflow(id="greeting")
    async def greeting(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
        await ctx.step.suspend("ask", {})
        return f"hello, {payload['who']}!"


runs = asyncio.run(old_version())
redefine()
asyncio.run(new_version(*runs))
