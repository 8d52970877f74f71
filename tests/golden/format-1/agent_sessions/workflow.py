"""A session: what was said is remembered by the next run, and shortened when it grows long."""

from typing import Any

from polos import Agent
from polos.llm import script
from polos.memory.types import CompactionConfig


def talk(request: Any) -> str:
    first = request.items[0].get("content")
    if isinstance(first, str) and ("Summarise" in first or "Shorten" in first):
        return "There was much talk of rain."
    return f"I have read {len(request.items)} messages. " + "It rains. " * 12


script("golden-talker", talk)
talker = Agent(
    "golden_talker", "scripted", "golden-talker",
    compaction=CompactionConfig(max_conversation_tokens=60, max_summary_tokens=40, min_recent_messages=2),
)  # fmt: skip
