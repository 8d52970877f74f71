"""Tools that ask: an approval given and one refused, a question with a form, a search, a call of unknown outcome."""

import asyncio

from pydantic import BaseModel

from polos import (
    Agent, Completed, NotDone, StillUnknown, WebSearchOptions, WebSearchResult, WebSearchResultItem,
    WebSearchToolConfig, WorkflowContext, create_ask_user_tool, create_web_search_tool, tool,
)  # fmt: skip
from polos.llm import Reply, script

WORLD = {"hangs": False, "sent": False}


class Payment(BaseModel):
    cents: int


class Mail(BaseModel):
    to: str


@tool(id="golden_pay", description="Pay.", approval="always", approval_timeout_seconds=3600, effect="at_most_once")
async def pay(ctx: WorkflowContext, input: Payment) -> str:
    return f"paid {input.cents}"


async def was_it_sent(input: Mail) -> Completed | NotDone | StillUnknown:
    return Completed(f"sent to {input.to}") if WORLD["sent"] else StillUnknown()


@tool(
    id="golden_send", description="Send a letter.", effect="at_most_once", reconcile=was_it_sent, timeout_seconds=600,
    queue="golden letters",
)
async def send(ctx: WorkflowContext, input: Mail) -> str:
    if WORLD["hangs"]:
        await asyncio.get_running_loop().create_future()
    return f"posted to {input.to}"


def find(query: str, options: WebSearchOptions) -> WebSearchResult:
    page = WebSearchResultItem(title=query, url="https://example.org", content="A page.", score=1.0)
    return WebSearchResult(query=query, results=[page], answer="It is so.")


search = create_web_search_tool(WebSearchToolConfig(search=find, tool_id="golden_search", max_results=2))
ask = create_ask_user_tool()

fields = [{"key": "seats", "type": "number", "label": "Seats?", "required": True}]
script("golden-cashier", [
    Reply(text="Some things.", tool_calls=[
        ("golden_pay", {"cents": 500}), ("golden_pay", {"cents": 9}), ("ask_user", {"question": "Who?", "fields": fields}),
        ("golden_search", {"query": "prices"}),
    ]),
    "Done.",
])  # fmt: skip
cashier = Agent("golden_cashier", "scripted", "golden-cashier", tools=[pay, search, ask], max_parallel_tools=3)

script("golden-postman", [Reply(tool_calls=[("golden_send", {"to": "ada"})]), "Sent."])
postman = Agent("golden_postman", "scripted", "golden-postman", tools=[send])
