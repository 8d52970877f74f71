"""A queue that lets so many runs of each key begin in a while: with and without a key, and one key that is full."""

from typing import Any

from polos import Queue, RateLimit, WorkflowContext, workflow

CALLS = Queue("golden calls", concurrency_limit=2, rate_limit=RateLimit(4, 60), key_rate_limit=RateLimit(2, 30))


@workflow(id="golden_key_rated", queue=CALLS)
async def key_rated(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("call", lambda: f"called {payload['n']}")
