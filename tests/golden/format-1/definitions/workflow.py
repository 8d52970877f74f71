"""What a definition says of all its runs: that calls are held back, from where events count, what a result has to be."""

from typing import Any

from pydantic import BaseModel

from polos import EventPayload, WorkflowContext, workflow


class Index(BaseModel):
    words: int


@workflow(id="golden_held_back", debounce={"seconds": 5, "max_seconds": 12}, output_schema=Index)
async def held_back(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    return {"words": len(payload["text"].split())}


@workflow(id="golden_from_beginning", trigger_on_event="golden/early", from_beginning=True)
async def from_beginning(ctx: WorkflowContext, payload: EventPayload) -> str:
    return str(payload.data)
