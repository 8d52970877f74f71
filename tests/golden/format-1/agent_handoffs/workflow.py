"""Agents that have others work: one as a tool, one that the conversation is handed over to."""

from polos import Agent
from polos.llm import Reply, script

used = {"input_tokens": 10, "output_tokens": 10}
script("golden-clerk", [Reply(text="The file says yes.", usage=used)])
script("golden-closer", lambda request: Reply(text=f"Closed after {len(request.items)} messages.", usage=used))
script("golden-desk", [
    Reply(text="One moment.", tool_calls=[("golden_ask_clerk", {"input": "What of it?"})], usage=used),
    Reply(text="I hand you over.", tool_calls=[("transfer_to_golden_closer", {})], usage=used),
])  # fmt: skip

clerk = Agent("golden_clerk", "scripted", "golden-clerk")
closer = Agent("golden_closer", "scripted", "golden-closer")
ask_clerk = clerk.as_tool("golden_ask_clerk")
desk = Agent("golden_desk", "scripted", "golden-desk", tools=[ask_clerk], handoffs=[closer])
