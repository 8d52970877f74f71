"""
What type checkers must say about calling models.

Checked by mypy and pyright, never run; see `public_api`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

from polos.llm import (
    Attempts,
    Finished,
    LLMDelta,
    LLMProvider,
    LLMRequest,
    LLMResponse,
    ModelProvider,
    Recording,
    Reply,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    default_prices,
    get_provider,
    register_provider,
    request_digest,
    script,
)
from polos.types import ToolCall


@register_provider("typed")
class Typed(LLMProvider):
    """A provider that takes requests."""

    async def generate(self, request: LLMRequest) -> LLMResponse:
        """Answer."""
        return LLMResponse(content=request.model)

    async def stream(self, request: LLMRequest) -> AsyncIterator[LLMDelta]:
        """Answer in pieces."""
        yield Finished(await self.generate(request))


assert_type(Typed, type[Typed])
script("list", ["text", Reply(tool_calls=[("add", {"n": 1})]), Attempts(["a"])])
script("function", lambda request: request.model)


async def call(request: LLMRequest) -> None:
    """Use a provider."""
    provider = get_provider("openai", base_url="http://localhost")
    assert_type(provider, ModelProvider)
    reply = await provider.generate(request)
    assert_type(reply, LLMResponse)
    assert_type(default_prices().cost_microdollars(request.model, reply.usage), int | None)
    assert_type(request_digest(request), str)
    async for piece in provider.stream(request):
        match piece:
            case TextDelta(text) | ThinkingDelta(text):
                assert_type(text, str)
            case ToolCallDelta(wish):
                assert_type(wish, ToolCall)
            case Finished(whole):
                assert_type(whole, LLMResponse)
    Recording(["no call"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # calls, not texts
