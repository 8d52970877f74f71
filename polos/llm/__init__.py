"""
Models, whoever serves them: one request, one reply, one tree of errors.

Nothing here knows the engine. A provider is called inside one durable step and either gives a whole reply or raises;
what is recorded, retried, counted and paid is the business of who calls it. Names are found when they are first used,
so that an agent that never calls a model loads no provider.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polos.llm.digests import canonical_json, digest_of, request_digest, request_outline
    from polos.llm.messages import (
        Finished,
        Item,
        LLMDelta,
        LLMRequest,
        LLMResponse,
        TextDelta,
        ThinkingDelta,
        TokenUsage,
        ToolCallDelta,
        ToolSpec,
        assistant_item,
        call_item,
        item_text,
        items_of,
        output_item,
        provider_item,
        user_item,
    )
    from polos.llm.prices import ModelPrice, PriceTable, default_prices, set_prices
    from polos.llm.providers.base import LLMProvider, ModelProvider, get_provider, register_provider
    from polos.llm.providers.recorded import RecordedCall, Recording
    from polos.llm.scripts import Attempts, Reply, script

_HOMES = {
    "polos.llm.digests": ("canonical_json", "digest_of", "request_digest", "request_outline"),
    "polos.llm.messages": (
        "Finished", "Item", "LLMDelta", "LLMRequest", "LLMResponse", "TextDelta", "ThinkingDelta", "TokenUsage",
        "ToolCallDelta", "ToolSpec", "assistant_item", "call_item", "item_text", "items_of", "output_item",
        "provider_item", "user_item",
    ),
    "polos.llm.prices": ("ModelPrice", "PriceTable", "default_prices", "set_prices"),
    "polos.llm.providers.base": ("LLMProvider", "ModelProvider", "get_provider", "register_provider"),
    "polos.llm.providers.recorded": ("RecordedCall", "Recording"),
    "polos.llm.scripts": ("Attempts", "Reply", "script"),
}  # fmt: skip

__all__ = [
    "Attempts",
    "Finished",
    "Item",
    "LLMDelta",
    "LLMProvider",
    "LLMRequest",
    "LLMResponse",
    "ModelPrice",
    "ModelProvider",
    "PriceTable",
    "RecordedCall",
    "Recording",
    "Reply",
    "TextDelta",
    "ThinkingDelta",
    "TokenUsage",
    "ToolCallDelta",
    "ToolSpec",
    "assistant_item",
    "call_item",
    "canonical_json",
    "default_prices",
    "digest_of",
    "get_provider",
    "item_text",
    "items_of",
    "output_item",
    "provider_item",
    "register_provider",
    "request_digest",
    "request_outline",
    "script",
    "set_prices",
    "user_item",
]


if not TYPE_CHECKING:  # a checker that saw this would take every misspelt name for a public one

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                found = getattr(import_module(home), name)
                globals()[name] = found
                return found
        raise AttributeError(f"module 'polos.llm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
