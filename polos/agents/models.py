"""
Calling a model: one durable step, whole reply or error.

The function of the step gets the request as an object, which isn't recorded, and its digest, which is: the record of
the request stands beside the step (`polos.agents.conversation`), once, however often the step is tried. Errors of
models say whether trying again may help, and when; the engine's retry policy does the rest, so each attempt is on
record and none is made in the SDK behind its back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

import orjson

from polos.context import StepAttempt, current_attempt
from polos.engine.json import Json
from polos.engine.retry import RetryPolicy
from polos.errors import ModelReplyTruncated, ModelRequestRefused, PolosUsageError
from polos.llm.messages import Finished, LLMRequest, LLMResponse, TextDelta, ToolCallDelta
from polos.llm.providers.base import ModelProvider, Providers, get_provider

__all__ = ["FINAL", "MODEL_RETRIES", "ModelCall", "call_model"]

# What no policy tries again: the same request would be refused again.
FINAL: Final = (ModelRequestRefused, PolosUsageError)

# What the provider says of when to come back is kept as well; see `polos.engine.retry.next_delay_us`.
MODEL_RETRIES: Final = RetryPolicy(
    max_retries=2,
    base_delay_seconds=1.0,
    max_delay_seconds=10.0,
    non_retryable=FINAL,
)


@final
class ModelCall:
    """
    What a model is asked, and where it is; handed to its step as it is.

    It is no dataclass, whose fields would be digested and copied with the arguments of the step: the whole
    conversation, at every call and in each replay. Its digest is an argument of its own, and the copy is made when
    the model is called, which is once.

    Attributes:
        request: what is asked.
        settings: of the provider, such as its address.
        turn: the agent's turn, told with each delta.
    """

    __slots__ = ("request", "settings", "turn")

    def __init__(self, request: LLMRequest, settings: dict[str, Any] | None = None, turn: int = 0) -> None:
        """Hold what is asked."""
        self.request = request
        self.settings = settings or {}
        self.turn = turn

    def own_request(self) -> LLMRequest:
        """Give a request whose messages the provider may keep and change."""
        return self.request.model_copy(update={"items": orjson.loads(orjson.dumps(self.request.items))})


async def call_model(digest: str, call: ModelCall) -> LLMResponse:  # noqa: ARG001  # the digest is for the record
    """
    Ask a model, once.

    Args:
        digest: of the request: what is recorded of it with the step.
        call: the request itself.

    Returns:
        The whole reply.

    Raises:
        ModelError: there is none.
    """
    request = call.own_request()
    attempt = current_attempt.get()
    if attempt is None:
        provider = _provider(get_provider, call)
        try:
            return await _answer(provider, request, call.turn, None)
        finally:
            await provider.aclose()
    provider = _provider(attempt.resources.get(Providers).get, call)
    return await _answer(provider, request, call.turn, attempt)


def _provider(find: Callable[..., ModelProvider], call: ModelCall) -> ModelProvider:
    """Give the provider of a call; settings that it doesn't have are a mistake, which no second attempt mends."""
    try:
        return find(call.request.provider, **call.settings)
    except (ValueError, TypeError, ImportError) as wrong:
        raise PolosUsageError(str(wrong)) from wrong


async def _answer(provider: ModelProvider, request: LLMRequest, turn: int, attempt: StepAttempt | None) -> LLMResponse:
    if not request.stream:
        return await provider.generate(request)

    def send(event_type: str, **data: Json) -> None:
        if attempt is not None:
            attempt.send(event_type, {"step": turn, **data})

    # A reader that has deltas of an attempt before this one has to drop them.
    send("stream_start")
    stream = provider.stream(request)
    try:
        async for piece in stream:
            match piece:
                case TextDelta():
                    send("text_delta", content=piece.text, tool_call=None, usage=None)
                case ToolCallDelta():
                    send("tool_call", content=None, tool_call=piece.tool_call.model_dump(mode="json"), usage=None)
                case Finished():
                    return piece.response
                case _:
                    pass  # thinking isn't shown
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
    raise ModelReplyTruncated(
        "the stream ended before the reply was whole", provider=request.provider, model=request.model
    )
