"""Orders that an agent looks at; a person, in another program, approves the large ones."""

import asyncio
import sys

from polos import Agent, Polos, WorkflowContext, events, tool, workflow
from pydantic import BaseModel

from tests.examples_api.model import model

LIMIT = 1000


class Order(BaseModel):
    order_id: str
    customer: str
    amount: float


class OrderId(BaseModel):
    order_id: str


class Message(BaseModel):
    to: str
    text: str


class Verdict(BaseModel):
    risky: bool
    reason: str


@tool(description="Look up the customer of an order.")
async def customer_history(ctx: WorkflowContext, input: OrderId) -> dict:
    return {"order_id": input.order_id, "orders_before": 12}


@tool(description="Send an e-mail.")
async def send_email(ctx: WorkflowContext, input: Message) -> dict:
    return {"sent": True, "to": input.to}


checker = Agent(
    id="order_checker", **model(), system_prompt="You judge orders.", tools=[customer_history], output_schema=Verdict
)
clerk = Agent(id="order_clerk", **model(), system_prompt="You write to customers.", tools=[send_email])


@workflow(id="order_processing")
async def order_processing(ctx: WorkflowContext, payload: Order) -> dict:
    verdict = await ctx.step.agent_invoke_and_wait(
        "check", checker.with_input(f"Order {payload.order_id} of {payload.customer}: {payload.amount:g} euros.")
    )
    approved_by = None
    if payload.amount > LIMIT:
        answer = await ctx.step.suspend(
            "approve_order", {"order_id": payload.order_id, "amount": payload.amount}, timeout=86_400
        )
        decision = answer.get("data", {})
        if not decision.get("approved"):
            return {"status": "rejected", "reason": decision.get("reason")}
        approved_by = decision["approver"]
        await ctx.step.agent_invoke_and_wait("check_again", checker.with_input("It was approved. What now?"))
    mail = await ctx.step.agent_invoke_and_wait(
        "confirm", clerk.with_input(f"Tell {payload.customer} that the order is on its way.")
    )
    return {
        "status": "completed",
        "risky": verdict.result.risky,
        "approved_by": approved_by,
        "email_sent": any(one.result["sent"] for one in mail.tool_results),
    }


async def main(amount: float) -> None:
    async with Polos() as polos:
        order = Order(order_id="A-1", customer="ada@example.com", amount=amount)
        handle = await order_processing.invoke(polos, order, session_id="order-A-1")
        async for event in events.stream_workflow(polos, "order_processing", handle.id):
            if event.event_type == "suspend_approve_order":
                print(f"suspended: {event.data['amount']} euros, run {handle.id}")
        found = await polos.get_execution(handle.id)
        print(f"{found['status']}: {found['result']}")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
