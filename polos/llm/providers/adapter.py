"""
Providers that programs bring along, behind the one interface of `ModelProvider`.

A class written for Polos sees a conversation in its own words: it is given the messages that it returned last time
(`raw_output`, all of them) and the results of tools beside them (`tool_results`). We keep a conversation as items that
any provider reads. So of each `raw_output` the part that is new is kept in a `provider_item`, in front of the reply's
plain items; next time that part stands for them and for the tool results before it, which it contains. Whoever edits
the conversation by hand edits the plain items, and removes the `provider_item` to have them read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, final

from polos.errors import ModelReplyTruncated, ModelUnavailable
from polos.llm.jsonish import an_object
from polos.llm.messages import (
    Finished,
    Item,
    LLMDelta,
    LLMRequest,
    LLMResponse,
    TextDelta,
    ToolCallDelta,
    assistant_item,
    call_item,
    is_model_made,
    provider_item,
)
from polos.llm.providers.base import streams
from polos.types.llm import ToolCall

__all__ = ["OwnProvider", "PolosProvider", "pieces_of"]

_RESULT: Final = "function_call_output"


def pieces_of(response: LLMResponse) -> list[LLMDelta]:
    """Give a whole reply as a stream: its text in one piece, each call, the end."""
    pieces: list[LLMDelta] = [TextDelta(response.content)] if response.content else []
    pieces += [ToolCallDelta(call) for call in response.tool_calls]
    return [*pieces, Finished(response)]


def completed(response: LLMResponse) -> LLMResponse:
    """Give a reply the items that its text and calls are, if it has none."""
    if response.items or not (response.content or response.tool_calls):
        return response
    items = [assistant_item(response.content)] if response.content else []
    items += [
        call_item(call.call_id or call.id, call.function.name, call.function.arguments) for call in response.tool_calls
    ]
    return response.model_copy(update={"items": items})


@final
class OwnProvider:
    """A provider that answers requests; whether it streams, can be closed or gives items is up to it."""

    def __init__(self, provider: Any) -> None:
        """Take the provider."""
        self._provider = provider

    async def generate(self, request: LLMRequest) -> LLMResponse:
        """Ask the provider."""
        return completed(await self._provider.generate(request))

    async def stream(self, request: LLMRequest) -> AsyncGenerator[LLMDelta, None]:
        """Ask the provider for pieces, or for a whole reply if it has none to give."""
        if not streams(self._provider):
            for piece in pieces_of(await self.generate(request)):
                yield piece
            return
        async for piece in self._provider.stream(request):
            yield Finished(completed(piece.response)) if isinstance(piece, Finished) else piece

    async def aclose(self) -> None:
        """Close the provider, if it can be closed."""
        if hasattr(self._provider, "aclose"):
            await self._provider.aclose()


@final
class PolosProvider:
    """A provider written for Polos."""

    def __init__(self, provider: Any, name: str) -> None:
        """
        Take the provider.

        Args:
            provider: an instance of a class whose `generate` takes `messages`.
            name: under which it was registered.
        """
        self._provider = provider
        self._name = name

    async def generate(self, request: LLMRequest) -> LLMResponse:
        """Ask the provider with the arguments that it expects."""
        arguments = self._arguments(request)
        response = LLMResponse.model_validate(_as_dict(await self._provider.generate(**arguments)))
        return self._kept(response, arguments["messages"], request)

    async def stream(self, request: LLMRequest) -> AsyncGenerator[LLMDelta, None]:
        """
        Ask the provider for pieces; for a whole reply if it doesn't stream.

        Raises:
            ModelUnavailable: it reported an error.
            ModelReplyTruncated: it ended without saying that it is done.
        """
        if not streams(self._provider):
            for piece in pieces_of(await self.generate(request)):
                yield piece
            return
        arguments = self._arguments(request)
        text: list[str] = []
        calls: list[ToolCall] = []
        async for event in self._provider.stream(**arguments):
            data: Any = event.get("data") or {}
            match event.get("type"):
                case "text_delta" if data.get("content"):
                    text.append(data["content"])
                    yield TextDelta(data["content"])
                case "tool_call":
                    call = ToolCall.model_validate(data.get("tool_call", data))
                    calls.append(call)
                    yield ToolCallDelta(call)
                case "error":
                    reason = str(data.get("error") or data.get("message") or "it says no more")
                    said = f"the provider {self._name!r} reported an error: {reason}"
                    raise ModelUnavailable(said, provider=self._name, model=request.model)
                case "done":
                    told = {**data, "content": "".join(text) or data.get("content"), "tool_calls": calls}
                    response = LLMResponse.model_validate(_as_dict(told))
                    yield Finished(self._kept(response, arguments["messages"], request))
                    return
                case _:
                    pass  # pieces that we have no use for
        cut = f"the stream of {self._name!r} ended before it was done"
        raise ModelReplyTruncated(cut, provider=self._name, model=request.model)

    async def aclose(self) -> None:
        """Close the provider, if it can be closed."""
        if hasattr(self._provider, "aclose"):
            await self._provider.aclose()

    def _arguments(self, request: LLMRequest) -> dict[str, Any]:
        messages, results = self._messages(request.items)
        config = {
            "name": "", "provider": self._name, "model": request.model, "system_prompt": request.system,
            "max_output_tokens": request.max_output_tokens, "temperature": request.temperature, "top_p": request.top_p,
            "provider_kwargs": request.provider_kwargs,
        }  # fmt: skip
        arguments: dict[str, Any] = {
            "messages": messages,
            "model": request.model,
            "tools": [_told(tool) for tool in request.tools] or None,
            "temperature": request.temperature,
            "max_tokens": request.max_output_tokens,
            "top_p": request.top_p,
            "agent_config": config,
            "tool_results": results or None,
            **request.provider_kwargs,
        }
        if request.output_schema is not None:
            arguments["output_schema"] = request.output_schema
            arguments["output_schema_name"] = request.output_schema_name
        return arguments

    def _messages(self, items: list[Item]) -> tuple[list[dict[str, Any]], list[Item]]:
        """Give the messages before the latest tool results, in the provider's words, and those results."""
        messages: list[dict[str, Any]] = []
        plain: list[Item] = []  # not yet in the provider's words
        mine = False  # the items that follow are contained in messages already
        for item in items:
            if item.get("type") == "provider_item":
                mine = item.get("provider") == self._name
                if mine:
                    while plain and plain[-1].get("type") == _RESULT:
                        plain.pop()
                    messages += self._provider.convert_history_messages(plain) if plain else []
                    messages += item["item"]["messages"]
                    plain = []
            elif not (mine and is_model_made(item)):
                mine = False
                plain.append(item)
        end = len(plain)
        while end and plain[end - 1].get("type") == _RESULT:
            end -= 1
        if end:
            messages += self._provider.convert_history_messages(plain[:end])
        return messages, plain[end:]

    def _kept(self, response: LLMResponse, sent: list[dict[str, Any]], request: LLMRequest) -> LLMResponse:
        """Keep what the provider wants to see of its reply, without what it was sent."""
        response = completed(response)
        told = response.raw_output
        if told and len(told) > len(sent) and told[: len(sent)] == sent:
            native = provider_item(self._name, request.model, {"messages": told[len(sent) :]})
            response = response.model_copy(update={"items": [native, *response.items]})
        return response.model_copy(update={"raw_output": None})


def _told(tool: Any) -> dict[str, Any]:
    """Give a tool in the flat form in which Polos tells providers of it."""
    if tool.native is not None:
        native: dict[str, Any] = tool.native
        return native
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}


def _as_dict(response: Any) -> dict[str, Any]:
    """Read a reply, whichever class it is of; None stands for left out."""
    told: dict[str, Any] = an_object(response) or response.model_dump()
    return {key: value for key, value in told.items() if value is not None and key in LLMResponse.model_fields}
