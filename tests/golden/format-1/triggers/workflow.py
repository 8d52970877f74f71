"""Triggers: single events and batches, a pattern, a filter that refuses and one that raises, a pause, a reset."""

from typing import Any

from polos import BatchEventPayload, EventPayload, WorkflowContext, workflow


def judge(event: EventPayload) -> bool:
    if event.data["n"] == 13:
        raise ValueError("thirteen")
    return bool(event.data["n"] < 100)


@workflow(id="golden_each", trigger_on_event="golden/each")
async def each(ctx: WorkflowContext, payload: EventPayload) -> Any:
    return payload.data["n"]


@workflow(
    id="golden_batches",
    trigger_on_event="golden/**",
    batch_size=3,
    batch_timeout_seconds=30,
    trigger_filter=judge,
)
async def batches(ctx: WorkflowContext, payload: BatchEventPayload) -> list[Any]:
    return [event.data["n"] for event in payload.events]
