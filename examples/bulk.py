"""Many runs at once: started in one commit, counted by status, retried from where they failed, answered, cancelled."""

import asyncio
from typing import Any

from polos import BatchWorkflowInput, Polos, WorkflowContext, batch_invoke, events, workflow

post_office = {"open": False}
written: list[str] = []


def write(name: str) -> str:
    written.append(name)
    return f"letter to {name}"


def post(letter: str) -> str:
    if not post_office["open"]:
        raise OSError("the post office is closed")
    return f"{letter} is posted"


@workflow(tags=["letter"])
async def send_letter(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    letter = await ctx.step.run("write", write, payload["to"])
    return await ctx.step.run("post", post, letter, max_retries=0)


@workflow(tags=["reply"])
async def await_reply(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    return (await ctx.step.suspend("reply", payload)).data


async def until(polos: Polos, workflow_id: str, runs: list[str], *kinds: str) -> None:
    """Follow each run until something of these kinds has happened to it."""
    for run in runs:
        async for event in events.stream_workflow(polos, workflow_id, run):
            if event.event_type in kinds:
                break


async def tell(polos: Polos) -> None:
    counts = await polos.count_executions()
    print(", ".join(f"{number} {status}" for status, number in counts.items() if number))


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        names = ["ada", "bob", "eve"]
        letters = await batch_invoke(polos, [BatchWorkflowInput(id="send_letter", payload={"to": to}) for to in names])
        sent = [handle.id for handle in letters]
        await until(polos, "send_letter", sent, "workflow_failed")
        replies = await batch_invoke(polos, [BatchWorkflowInput(id="await_reply", payload={"of": to}) for to in names])
        await until(polos, "await_reply", [handle.id for handle in replies], "suspend_reply")
        await tell(polos)

        post_office["open"] = True
        print(f"retried: {(await polos.retry_many(tag='letter', reason='it is open')).accepted}")
        await until(polos, "send_letter", sent, "workflow_finish")
        print((await letters[0].get())["result"], f"and each was written once: {len(written) == len(names)}")

        print(f"answered: {(await polos.resume_many('reply', 'thank you', tag='reply', limit=2)).accepted}")
        print(f"cancelled: {(await polos.cancel_many(tag='reply', reason='too late')).accepted}")
        await until(polos, "await_reply", [handle.id for handle in replies], "workflow_finish", "workflow_cancelled")
        await tell(polos)


asyncio.run(main())
