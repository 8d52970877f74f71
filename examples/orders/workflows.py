"""
What happens to an order: one workflow for the order, one for its shipping.

The bodies read as if nothing could go wrong between two lines. What talks to the world is a step, and hands on the
idempotency key of the step, so that a call which a crash cut short has its effect once when it is made again.
Whatever was done for an order that comes to nothing is undone, in reverse.
"""

from __future__ import annotations

import os
from typing import Any

from examples.orders.order import Order, Outcome, needs_approval
from examples.orders.provider import AddressNotServed, CardDeclined, Provider
from polos import StepExecutionError, WorkflowContext, workflow

# How the worker is told where the world is; a real one would have addresses and keys of services here.
PROVIDER_PATH = "ORDERS_PROVIDER"
PROVIDER_SABOTAGE = "ORDERS_SABOTAGE"

_provider: list[Provider] = []


def provider() -> Provider:
    if not _provider:
        _provider.append(Provider(os.environ[PROVIDER_PATH], sabotage=os.environ.get(PROVIDER_SABOTAGE)))
    return _provider[0]


async def ask(ctx: WorkflowContext, kind: str, order: Order, *, cents: int = 0, **options: Any) -> str:
    """Have the world do something about an order: a step."""

    def request(order: Order) -> str:
        return provider().request(kind, ctx.step.idempotency_key, order, cents=cents)

    return await ctx.step.run(kind, request, order, base_delay=0.2, **options)


def problem(order: Order) -> str | None:
    """Tell what is wrong with an order."""
    if order.quantity < 1:
        return f"a quantity of {order.quantity}"
    return None if "@" in order.email else f"an address {order.email!r}"


@workflow(id="ship", tags=["shipping"])
async def ship(ctx: WorkflowContext, order: Order) -> str:
    """Get a label and hand the parcel over; gives the number to track it by."""
    label = await ask(ctx, "label", order, non_retryable=[AddressNotServed])
    await ctx.step.wait_for("collected", seconds=0.8)
    await ask(ctx, "parcel", order)
    return label


@workflow(id="order", tags=["shop"])
async def process(ctx: WorkflowContext, order: Order) -> dict[str, Any]:
    """Take an order from the cart to the customer, or undo what was done for it."""
    wrong = await ctx.step.run("validate", problem, order)
    if wrong:
        return await close(ctx, order, "invalid", reason=wrong)

    await ask(ctx, "reserve", order)
    if needs_approval(order):
        answer = await ctx.step.suspend("approval", {"order_id": order.order_id, "cents": order.total_cents})
        if not answer.data["approved"]:
            await ask(ctx, "release", order)
            return await close(ctx, order, "rejected", reason=f"rejected by {answer.data['by']}")

    try:
        charge = await ask(ctx, "charge", order, cents=order.total_cents, non_retryable=[CardDeclined])
    except StepExecutionError as error:
        await ask(ctx, "release", order)
        return await close(ctx, order, "declined", reason=error.reason)

    await ctx.step.wait_for("may be changed", seconds=1.2)
    try:
        parcel = await ctx.step.invoke_and_wait("ship", ship, order)
    except StepExecutionError as error:
        await ask(ctx, "refund", order, cents=order.total_cents)
        await ask(ctx, "release", order)
        return await close(ctx, order, "refunded", charge=charge, reason=error.reason)
    return await close(ctx, order, "shipped", charge=charge, parcel=parcel)


async def close(ctx: WorkflowContext, order: Order, outcome: Outcome, **details: str) -> dict[str, Any]:
    """Tell the customer, and say what became of the order."""
    await ask(ctx, "mail", order)
    return {"order_id": order.order_id, "outcome": outcome, **details}
