"""
Calling a model: one durable step, whole reply or error.

The function of the step gets the request as an object, which isn't recorded, and its digest, which is: the record of
the request stands beside the step (`polos.agents.conversation`), once, however often the step is tried. Errors of
models say whether trying again may help, and when; the engine's retry policy does the rest, so each attempt is on
record and none is made in the SDK behind its back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

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


@dataclass(frozen=True, slots=True)
class ModelCall:
    """
    What a model is asked, and where it is.

    Attributes:
        request: what is asked.
        settings: of the provider, such as its address.
        turn: the agent's turn, told with each delta.
    """

    request: LLMRequest
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    turn: int = 0


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
    request = call.request
    attempt = current_attempt.get()
    if attempt is None:
        provider = get_provider(request.provider, **call.settings)
        try:
            return await _answer(provider, call, None)
        finally:
            await provider.aclose()
    provider = attempt.resources.get(Providers).get(request.provider, **call.settings)
    return await _answer(provider, call, attempt)


async def _answer(provider: ModelProvider, call: ModelCall, attempt: StepAttempt | None) -> LLMResponse:
    if not call.request.stream:
        return await provider.generate(call.request)

    def send(event_type: str, **data: Json) -> None:
        if attempt is not None:
            attempt.send(event_type, {"step": call.turn, **data})

    # A reader that has deltas of an attempt before this one has to drop them.
    send("stream_start")
    stream = provider.stream(call.request)
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
        "the stream ended before the reply was whole", provider=call.request.provider, model=call.request.model
    )
