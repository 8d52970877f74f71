"""
`provider="scripted"`: a model that says what a script says; see `polos.llm.scripts`.

Everything that it gives is a function of request and script: ids of calls are made of the turn, and usage is counted,
not drawn. So two runs that ask the same have the same history, byte for byte.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, final

from polos.errors import ModelError, ModelReplyTruncated
from polos.llm.digests import canonical_json, request_digest
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
    assistant_item,
    call_item,
    provider_item,
    tool_call_of,
)
from polos.llm.scripts import Attempts, Reply, find_script, turns_of

__all__ = ["ScriptedProvider"]

_CHARACTERS_PER_TOKEN: Final = 4


@final
class ScriptedProvider:
    """A model that plays the script which its name names."""

    def __init__(self, *, pause: Callable[[float], Awaitable[object]] | None = None) -> None:
        """
        Begin with no attempt made.

        Args:
            pause: what waits for `delay_seconds`; by default the running loop does, in virtual time if it has one.
        """
        self._pause = pause or _pause
        self._made: Counter[str] = Counter()

    async def generate(self, request: LLMRequest) -> LLMResponse:
        """
        Give the script's reply.

        Raises:
            ModelError: the script says so.
            ScriptEnded: it has no reply for this turn.
        """
        reply = await self._reply(request)
        await self._wait(reply)
        if reply.error is not None:
            raise reply.error
        if reply.cut_after is not None:
            raise _cut(request)
        return _response(reply, request)

    async def stream(self, request: LLMRequest) -> AsyncGenerator[LLMDelta, None]:
        """
        Give the script's reply in its pieces.

        Raises:
            ModelError: the script says so.
            ScriptEnded: it has no reply for this turn.
        """
        reply = await self._reply(request)
        for count, piece in enumerate(_pieces(reply, request)):
            if count == reply.cut_after:
                raise _cut(request)
            await self._wait(reply)
            if isinstance(piece, Finished):
                if reply.error is not None:
                    raise reply.error
                if reply.cut_after is not None:
                    raise _cut(request)
            yield piece

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def _reply(self, request: LLMRequest) -> Reply:
        found = find_script(request.model).next(request)
        if inspect.isawaitable(found):
            found = await found
        if isinstance(found, Attempts):
            digest = request_digest(request)
            found_now = found.replies[min(self._made[digest], len(found.replies) - 1)]
            self._made[digest] += 1
            found = found_now
        if isinstance(found, str):
            return Reply(text=found)
        return Reply(error=found) if isinstance(found, ModelError) else found

    async def _wait(self, reply: Reply) -> None:
        if reply.delay_seconds:
            await self._pause(reply.delay_seconds)


async def _pause(seconds: float) -> None:
    """Wait as the running loop counts time, which a test may have made virtual."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    alarm = loop.call_later(seconds, over.set_result, None)
    try:
        await over
    finally:
        alarm.cancel()


def _cut(request: LLMRequest) -> ModelReplyTruncated:
    return ModelReplyTruncated("the script cuts this reply short", provider="scripted", model=request.model)


def _pieces(reply: Reply, request: LLMRequest) -> list[LLMDelta]:
    response = _response(reply, request)
    pieces: list[LLMDelta] = [ThinkingDelta(reply.thinking)] if reply.thinking else []
    chunks = reply.chunks if reply.chunks is not None else re.findall(r"\s*\S+\s*$|\s*\S+|\s+", reply.text or "")
    pieces += [TextDelta(chunk) for chunk in chunks if chunk]
    pieces += [ToolCallDelta(call) for call in response.tool_calls]
    return [*pieces, Finished(response)]


def _response(reply: Reply, request: LLMRequest) -> LLMResponse:
    text = reply.text if reply.text is not None or reply.chunks is None else "".join(reply.chunks)
    turn = turns_of(request.items)
    items: list[Item] = []
    if reply.thinking:
        items.append(provider_item("scripted", request.model, {"type": "thinking", "thinking": reply.thinking}))
    if text:
        items.append(assistant_item(text))
    calls = [
        call_item(f"call_{turn}_{number}", name, arguments if isinstance(arguments, str) else json.dumps(arguments))
        for number, (name, arguments) in enumerate(reply.tool_calls)
    ]
    items += calls
    return LLMResponse(
        content=text or None,
        tool_calls=[tool_call_of(call) for call in calls],
        items=items,
        usage=_usage(reply, request, items),
        model=request.model,
        stop_reason=reply.stop_reason or ("tool_calls" if calls else "stop"),
        response_id=f"scripted_{turn}",
        thinking=reply.thinking,
    )


def _usage(reply: Reply, request: LLMRequest, items: list[Item]) -> TokenUsage:
    """Count what the script doesn't say: the same for the same request, and growing with the conversation."""
    read = _tokens([request.system, request.items, [tool.model_dump() for tool in request.tools]])
    counted: dict[str, Any] = {"input_tokens": read, "output_tokens": _tokens(items), **reply.usage}
    counted.setdefault("total_tokens", counted["input_tokens"] + counted["output_tokens"])
    return TokenUsage(**counted)


def _tokens(value: object) -> int:
    return math.ceil(len(canonical_json(value)) / _CHARACTERS_PER_TOKEN)
