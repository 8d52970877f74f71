"""
`ctx.step.run`: call a function, and never again once it is known to have returned.

The function may be async or plain (then it runs in a thread), takes arguments, and is called again when it raises.
"""

import asyncio
from typing import Any

from polos import Polos, WorkflowContext, workflow

_calls: list[str] = []


async def look_up(city: str) -> dict[str, float]:
    _calls.append(city)
    if len(_calls) == 1:
        raise TimeoutError("no answer")
    return {"celsius": 21.5}


@workflow
async def weather(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    found = await ctx.step.run("look_up", look_up, payload["city"], max_retries=3, base_delay=0.1, timeout_seconds=5)
    return await ctx.step.run("describe", lambda: f"{found['celsius']} °C in {payload['city']}")


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        print(await weather.run(polos, {"city": "Porto"}))
        print(f"{len(_calls)} calls")


asyncio.run(main())
