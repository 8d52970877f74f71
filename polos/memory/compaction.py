"""
Shortening a conversation before it is too long for its model.

What lies between a summary that is there already and the last messages is told to the agent's own model, which writes
a new summary; that takes its place. A tool's result stays with the call that it answers: a conversation that holds one
without the other is refused by every provider, so the cut is moved back to where both are on one side. If the model
gives no summary, the last messages alone go on, as nothing would be gained by failing.

Sizes are what the provider said of the last request, where it did, and an estimate of what came since: four characters
a token, which is what English text has.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from polos.errors import StepExecutionError
from polos.llm.messages import Item, is_model_made, item_text
from polos.memory.sessions import SUMMARY, summary_pair
from polos.memory.types import CompactionConfig, CompactionResult

__all__ = ["compact_if_needed", "estimate_tokens", "tokens_of"]

CHARACTERS_A_TOKEN: Final = 4

Summarise = Callable[[str, str], Awaitable[str | None]]

_ASK: Final = (
    "Summarise this conversation so that it can be continued from the summary alone. Keep facts, decisions, names, "
    "numbers, open questions and what tools returned. Write nothing else."
)
_SHORTER: Final = (
    "Shorten this summary to at most {tokens} tokens. Keep what is needed to continue. Write nothing else."
)


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a text has."""
    return -(-len(text) // CHARACTERS_A_TOKEN)


def tokens_of(item: Item) -> int:
    """Estimate how many tokens a message has."""
    content = item.get("content", item.get("output", item.get("arguments", "")))
    return max(1, estimate_tokens(content if isinstance(content, str) else json.dumps(content)))


async def compact_if_needed(
    messages: Sequence[Item],
    summary: str | None,
    config: CompactionConfig,
    summarise: Summarise,
    *,
    known: int | None = None,
) -> CompactionResult:
    """
    Shorten a conversation if it is too long.

    Args:
        messages: the conversation, without the messages that stand for a summary.
        summary: of what was before it.
        config: when, and how far.
        summarise: asks the agent's model; gets a name for the step and what is to be summarised, gives the summary or
            None.
        known: its size in tokens, if it is known better than by an estimate.

    Returns:
        The conversation now, with the messages that stand for its summary in front.
    """
    whole = [*summary_pair(summary), *messages]
    size = sum(tokens_of(item) for item in whole) if known is None else known
    if not config.enabled or size <= config.max_conversation_tokens:
        return CompactionResult(messages=whole, summary=summary)
    cut = _cut(messages, config.min_recent_messages)
    if cut == 0:
        return CompactionResult(messages=whole, summary=summary)
    recent = list(messages[cut:])
    told = _told(summary, messages[:cut])
    try:
        made = await summarise("", f"{_ASK}\n\n{told}")
        if made is not None and estimate_tokens(made) > config.max_summary_tokens:
            shorter = _SHORTER.format(tokens=config.max_summary_tokens)
            made = await summarise(":resummarize", f"{shorter}\n\n{made}")
    except StepExecutionError:
        made = None
    if made is None:
        return CompactionResult(
            compacted=True, messages=[*summary_pair(summary), *recent], summary=summary, total_turns=cut
        )
    return CompactionResult(
        compacted=True, messages=[*summary_pair(made), *recent], summary=made,
        summary_tokens=estimate_tokens(made), total_turns=cut,
    )  # fmt: skip


def _cut(messages: Sequence[Item], recent: int) -> int:
    """Say how many messages go into the summary: no result of a tool is parted from its call."""
    cut = max(0, len(messages) - recent)
    while 0 < cut < len(messages) and not _begins(messages, cut):
        cut -= 1
    return cut


def _begins(messages: Sequence[Item], place: int) -> bool:
    """Tell whether a conversation may begin at a message: somebody speaks, or a turn of the model begins."""
    if messages[place].get("role") in ("user", "system", "developer"):
        return True
    return is_model_made(messages[place]) and not is_model_made(messages[place - 1])


def _told(summary: str | None, messages: Sequence[Item]) -> str:
    lines = [SUMMARY + summary] if summary else []
    for item in messages:
        match item.get("type"):
            case "function_call":
                lines.append(f"assistant called {item['name']} with {item['arguments']}")
            case "function_call_output":
                output: Any = item["output"]
                lines.append(f"it returned {output if isinstance(output, str) else json.dumps(output)}")
            case "provider_item":
                pass
            case _:
                lines.append(f"{item.get('role', 'somebody')}: {item_text(item)}")
    return "\n".join(lines)
