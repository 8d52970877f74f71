"""
Tests against a mock server on a real socket: what both official SDKs do with faults that only a connection has.

`llmock` plays the servers. It keeps a journal of its own, which says how often it was asked.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from polos.errors import (
    ContextTooLong,
    ModelConnectionFailed,
    ModelError,
    ModelRateLimited,
    ModelReplyMalformed,
    ModelReplyTruncated,
    ModelUnavailable,
)
from polos.llm import Finished, LLMRequest, LLMResponse, TextDelta, ToolSpec, get_provider, output_item, user_item

WEATHER = ToolSpec(
    name="weather", description="weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "responses": {"provider_name": "openai"},
    "chat": {"provider_name": "openai", "llm_api": "chat_completions"},
    "messages": {"provider_name": "anthropic"},
}
TEXT = "It is warm in Paris, and it will be warmer still tomorrow."


@pytest.fixture(params=[(api, streamed) for api in SETTINGS for streamed in (False, True)], ids=str)
def called(request, llmock):
    """Call a model by one interface, in one piece or in many; gives how, and what came before an error."""
    api, streamed = request.param
    seen: list[Any] = []

    def call(*items: Any, **more: Any) -> LLMResponse:
        asked = LLMRequest(model="model-1", items=[user_item("How warm is Paris?"), *items], **more)

        async def run() -> LLMResponse:
            provider = get_provider(**SETTINGS[api], idle_timeout_seconds=asking.silence_seconds)
            try:
                if not streamed:
                    return await provider.generate(asked)
                async for piece in provider.stream(asked):
                    seen.append(piece)  # noqa: PERF401  # what came before an error counts
                assert isinstance(seen[-1], Finished)
                assert seen[-1].response.content == ("".join(p.text for p in seen if isinstance(p, TextDelta)) or None)
                return seen[-1].response
            finally:
                await provider.aclose()

        return asyncio.run(run())

    asking: Any = call
    asking.seen = seen
    asking.silence_seconds = 60
    llmock.tool_mode("off")
    return asking


def test_a_reply(called, llmock):
    """A reply comes through a real connection, with its usage, by one request."""
    llmock.reply(TEXT)
    reply = called()

    assert (TEXT, "stop") == (reply.content, reply.stop_reason)
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 0
    assert 1 == len(llmock.requests)


def test_a_tool_and_its_result(called, llmock):
    """A call and its result go back and forth."""
    llmock.call_tool("weather", {"city": "Paris"}).reply(TEXT)
    first = called(tools=[WEATHER])
    second = called(*first.items, output_item(first.tool_calls[0], "21 degrees"), tools=[WEATHER])

    assert [("weather", "tool_calls")] == [(call.function.name, first.stop_reason) for call in first.tool_calls]
    assert '"Paris"' in first.tool_calls[0].function.arguments
    assert TEXT == second.content
    assert "21 degrees" in str(llmock.last_request.body)


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, ModelRateLimited), (500, ModelUnavailable), (503, ModelUnavailable), (529, ModelUnavailable)],
)
def test_a_status_is_told_after_one_request(called, llmock, status, error):
    """A server that can't answer now is asked once, and says when to come back."""
    llmock.fail(status, times=None, retry_after=7)

    with pytest.raises(error) as raised:
        called()
    assert (7, True) == (raised.value.retry_after_seconds, raised.value.retryable)
    assert 1 == len(llmock.requests)
    assert not called.seen


def test_a_conversation_that_is_too_long(called, llmock):
    """A conversation that doesn't fit the model is told apart from other refusals."""
    llmock.context_overflow()

    with pytest.raises(ContextTooLong):
        called()


@pytest.mark.parametrize(
    ("fault", "errors"),
    [
        ("truncate", {ModelReplyTruncated}),
        ("disconnect", {ModelConnectionFailed}),
        ("corrupt", {ModelReplyMalformed}),
        ("stall", {ModelConnectionFailed}),
    ],
)
@pytest.mark.parametrize("after_chunks", [0, 1, 4])
@pytest.mark.parametrize("called", [(api, True) for api in SETTINGS], ids=str, indirect=True)
def test_a_stream_that_breaks_is_no_reply(called, llmock, fault, errors, after_chunks):
    """A stream that is cut, dropped, damaged or silent ends in its error, and what had come is no reply."""
    getattr(llmock.reply(TEXT), fault)(after_chunks=after_chunks)
    called.silence_seconds = 0.2 if fault == "stall" else 60

    with pytest.raises(ModelError) as raised:
        called()
    assert type(raised.value) in errors
    assert raised.value.retryable
    assert not any(isinstance(piece, Finished) for piece in called.seen)
    assert 1 == len(llmock.requests)
