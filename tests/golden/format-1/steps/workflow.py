"""Steps: plain and async functions, arguments of every kind, models, names used twice, a result of None."""

from typing import Any

from pydantic import BaseModel

from polos import WorkflowContext, workflow


class Order(BaseModel):
    number: int
    items: list[str] = []


class Receipt(BaseModel):
    order: Order
    cents: int


def price(order: Order, *, discount: float = 0.0) -> Receipt:
    return Receipt(order=order, cents=round(1000 * len(order.items) * (1 - discount)))


async def notify(text: str, times: int) -> list[str]:
    return [text] * times


@workflow(id="golden_steps")
async def steps(ctx: WorkflowContext, payload: Order) -> dict[str, Any]:
    receipt = await ctx.step.run("price", price, payload, discount=0.25)
    lines = [await ctx.step.run("notify", notify, f"line {number}", number) for number in range(3)]
    nothing = await ctx.step.run("nothing", lambda: None)
    odd = await ctx.step.run("a key/with #odd 🜨 characters", lambda: {"ünï": [1, 2.5, True, None, "\u0000\u2028"]})
    unnamed = await ctx.step.run(len, "four")
    return {"cents": receipt.cents, "lines": lines, "nothing": nothing, "odd": odd, "unnamed": unnamed}
