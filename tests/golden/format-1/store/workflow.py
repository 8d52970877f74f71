"""What ran on the data directory in `store.tar.xz`, until its process was killed."""

import asyncio
from typing import Any

from pydantic import BaseModel

from polos import WorkflowContext, WorkflowState, workflow


class Invoice(BaseModel):
    number: int
    lines: list[str] = []


class Progress(WorkflowState):
    done: list[str] = []


@workflow(id="golden_invoice")
async def invoice(ctx: WorkflowContext, payload: dict[str, Any]) -> Invoice:
    lines = await ctx.step.run("lines", lambda: [f"line {number} " + "x" * 90 for number in range(payload["lines"])])
    return Invoice(number=payload["number"], lines=lines)


@workflow(id="golden_order", state_schema=Progress, tags=["order"])
async def order(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    """Waits for three things from outside, and for a day."""
    ctx.on_query("done", lambda: list(ctx.state.done))
    small, large = await asyncio.gather(
        ctx.step.invoke_and_wait("small", invoice, {"number": 1, "lines": 1}),
        ctx.step.invoke_and_wait("large", invoice, {"number": 2, "lines": 1000}),
    )
    ticket = await ctx.step.uuid("ticket")
    ctx.state.done.append("invoices")
    answer = await ctx.step.suspend("approve", {"lines": len(large.lines)})
    ctx.state.done.append("approved")
    paid = await ctx.step.wait_for_event("paid", "payments")
    ctx.state.done.append("paid")
    sent = await ctx.step.wait_for_signal("sent")
    last = await ctx.step.run("last", lambda: f"{small.lines[0][:6]}, {len(large.lines)} lines")
    return {
        "answer": answer.data, "paid": paid.data, "sent": sent, "last": last, "ticket": ticket, "done": ctx.state.done
    }


@workflow(id="golden_rounds_of_a_day")
async def day(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.wait_for("an hour", hours=1)
    if payload["round"] < 3:
        ctx.continue_as_new({"round": payload["round"] + 1})
    return "evening"
