"""
The conversation of a session, by agent: events of a topic, one for each run of the agent.

A run adds what it said and heard; one that shortened the conversation says so, and from there the conversation begins
with the summary. So what a session remembers is a fold of the log like everything else, can be read at any time, and
grows by each message once. Two runs at once both add what they have; nothing is overwritten.
"""

from __future__ import annotations

from typing import Any, cast

from polos.context import WorkflowContext, current_attempt
from polos.engine.json import Json
from polos.llm.messages import Item, user_item
from polos.memory.types import SessionMemory

__all__ = [
    "ACKNOWLEDGED",
    "SUMMARY",
    "fold",
    "load_session_memory",
    "memory_topic",
    "read_memory",
    "store_session_memory",
    "summary_pair",
]

SUMMARY = "[Prior conversation summary]\n"
ACKNOWLEDGED = "I have read the summary of our conversation and go on from it."


def memory_topic(session: str, agent: str) -> str:
    """Give the topic that holds the conversation of a session with an agent."""
    return f"session/{session}/{agent}"


def summary_pair(summary: str | None) -> list[Item]:
    """Give the messages that stand for a summary, at the beginning of a conversation."""
    if summary is None:
        return []
    return [user_item(SUMMARY + summary), {"role": "assistant", "content": ACKNOWLEDGED}]


def fold(events: list[Any]) -> SessionMemory:
    """
    Give what a session remembers.

    Args:
        events: data of the topic's events, in order; what isn't ours is passed over.
    """
    memory = SessionMemory()
    for told in events:
        event = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
        items = cast("list[Item]", event.get("items") or [])
        if event.get("replaces"):
            memory = SessionMemory(summary=event.get("summary"), messages=list(items))
        else:
            memory.messages += items
    return memory


async def read_memory(topic: str) -> dict[str, Any]:
    """Read what a session remembers now; the function of a step."""
    attempt = current_attempt.get()
    assert attempt is not None, "it is called by a step"
    return fold([data for _, _, data in attempt.resources.topic(topic)]).model_dump()


async def load_session_memory(ctx: WorkflowContext, agent: str) -> SessionMemory:
    """
    Give what the session of a run remembers of its talks with an agent.

    Durable:
        what was read is recorded with the run.
    """
    if ctx.session_id in (None, ctx.execution_id):
        return SessionMemory()  # a session that begins with this very run remembers nothing
    found = await ctx.step.run("load_session_memory", read_memory, memory_topic(str(ctx.session_id), agent))
    return SessionMemory.model_validate(found)


async def store_session_memory(
    ctx: WorkflowContext, agent: str, items: list[Item], *, summary: str | None = None, replaces: bool = False
) -> None:
    """
    Add to what the session of a run remembers.

    Args:
        ctx: of the run.
        agent: the agent.
        items: what was said, or all that is remembered beside the summary.
        summary: of what isn't among them.
        replaces: whether nothing else is remembered from now on.

    Durable:
        with what the body asks for next.
    """
    if ctx.session_id is None:
        return
    data: dict[str, Json] = {"run": ctx.execution_id, "items": cast("Json", items)}
    if replaces:
        data |= {"replaces": True, "summary": summary}
    await ctx.step.publish_event("store_session_memory", memory_topic(ctx.session_id, agent), data, "session_memory")
