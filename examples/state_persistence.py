"""
State of a run: a model whose changes are recorded, so that it is what it was after a crash.

State belongs to one run. Each run begins with the defaults of the model, or with what it is given as initial state.

    python examples/state_persistence.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field

from polos import Polos, WorkflowContext, WorkflowState, events, workflow


class Counter(WorkflowState):
    count: int = 0
    history: list[str] = Field(default_factory=list)


@workflow(id="counter", state_schema=Counter)
async def counter(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    before = ctx.state.count
    match payload["action"]:
        case "increment":
            ctx.state.count += 1
        case "add":
            ctx.state.count += payload["amount"]
        case "subtract":
            ctx.state.count -= payload["amount"]
        case _:
            ctx.state.count = 0
    ctx.state.history = [*ctx.state.history, payload["action"]]
    # A change is recorded with what the body asks for next; anybody can read it from now on.
    await ctx.step.run("log", lambda: payload["action"])
    return {"before": before, "count": ctx.state.count, "history": ctx.state.history}


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        print("each run has a state of its own:")
        for payload in (
            {"action": "increment"},
            {"action": "add", "amount": 5},
            {"action": "subtract", "amount": 2},
            {"action": "reset"},
        ):
            found = await counter.run(polos, payload)
            print(f"{payload['action']}: {found['count']} {found['history']}")

        print("each run begins with what it is given:")
        adding = {"action": "add", "amount": 5}
        for initial in (None, {"count": 100}, Counter(count=50)):
            payload = adding if not isinstance(initial, Counter) else {"action": "add", "amount": 25}
            handle = await counter.invoke(polos, payload, initial_state=initial)
            async for event in events.stream_workflow(polos, "counter", handle.id):
                if event.event_type == "workflow_finish":
                    found = event.data["result"]
                    print(f"{found['before']} -> {found['count']}, kept: {(await handle.query())['count']}")


if __name__ == "__main__":
    asyncio.run(main())
