"""
Chat Completions, as OpenAI defined it and a hundred servers speak it. Pure; `openai.py` does the talking.

Servers differ in what they leave out, so what comes is read with patience: missing ids of calls are made from their
number, missing usage is zero, calls may come whole or in pieces. Patience ends with `finish_reason`: what came
without it is no reply.

What is sent is kept to what most servers know. A schema for the answer goes into `response_format` only where there
are no tools beside it, as many servers can't do both; with tools it is said in words.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from polos.errors import ModelReplyTruncated, ModelRequestRefused
from polos.llm.jsonish import TextMender, a_list, a_number, a_text, an_object, texts_mended
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
    provider_item,
    tool_call_of,
)
from polos.llm.providers.failures import Told, failure, malformed
from polos.llm.providers.openai_responses import json_format, merged, served_by
from polos.llm.providers.parts import FilePart, ImagePart, OtherPart, TextPart, parts_of
from polos.llm.schemas import schema_instruction

__all__ = ["chat_body", "chat_pieces", "chat_reply"]

# Fields of a message that its maker wants back, beside text and calls.
_HANDED_BACK: Final = ("reasoning_details",)
_THINKING: Final = ("reasoning_content", "reasoning")


# ----------------------------------------------------------------------------------------------------- what is sent


def chat_body(request: LLMRequest, *, own_server: bool) -> dict[str, Any]:
    """
    Write the body of a request.

    Args:
        request: the request.
        own_server: it goes to a server that merely speaks like OpenAI's.

    Raises:
        ModelRequestRefused: the conversation holds something that this interface has no form for.
    """
    system = request.system
    # Programs that know several providers by one library write the provider's name in front of the model's.
    body: dict[str, Any] = {"model": request.model.removeprefix(f"{request.provider}/")}
    if request.output_schema is not None:
        if request.tools:
            system = "\n\n".join(filter(None, (system, schema_instruction(request.output_schema))))
        else:
            body["response_format"] = {"type": "json_schema", "json_schema": json_format(request)}
    body["messages"] = ([] if system is None else [{"role": "system", "content": system}]) + _messages(request)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    for name in ("temperature", "top_p"):
        if getattr(request, name) is not None:
            body[name] = getattr(request, name)
    if request.max_output_tokens is not None:
        # The old name is refused by OpenAI's newer models, the new one is unknown to most other servers.
        body["max_tokens" if own_server else "max_completion_tokens"] = request.max_output_tokens
    return merged(body, request.provider_kwargs)


def _tool(tool: ToolSpec) -> dict[str, Any]:
    if tool.native is not None:
        return tool.native
    function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _messages(request: LLMRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    turn: dict[str, Any] | None = None  # the message of the model that is being put together
    for item in request.items:
        kind = item.get("type", "message")
        if kind == "provider_item":
            fields = an_object(item["item"].get("chat_fields"))
            if fields is None or (item["provider"], item["model"]) != (served_by(request), request.model):
                continue
            turn = {"role": "assistant", "content": None, **fields}
            messages.append(turn)
        elif kind == "function_call" or item.get("role") == "assistant":
            # Text after a call begins another message: in this form a message's text stands before its calls.
            if turn is None or (kind != "function_call" and "tool_calls" in turn):
                turn = {"role": "assistant", "content": None}
                messages.append(turn)
            if kind == "function_call":
                turn.setdefault("tool_calls", []).append(_call(item, request))
            else:
                turn["content"] = (turn["content"] or "") + item_text(item)
        else:
            turn = None
            messages.append(_message(item, kind))
    return messages


def _call(item: Item, request: LLMRequest) -> dict[str, Any]:
    function = {"name": item["name"], "arguments": item["arguments"]}
    native = an_object(item.get("native")) or {}
    mine = (native.get("provider"), native.get("model")) == (served_by(request), request.model)
    return {"id": item["call_id"], "type": "function", "function": function, **(native["data"] if mine else {})}


def _message(item: Item, kind: str) -> dict[str, Any]:
    match kind:
        case "function_call_output":
            output = item["output"]
            text = output if isinstance(output, str) else item_text({"content": output})
            return {"role": "tool", "tool_call_id": item["call_id"], "content": text}
        case "message" if "role" in item:
            content = item.get("content")
            parts = content if isinstance(content, str) else [_part(part) for part in parts_of(content)]
            known = {name: value for name, value in item.items() if name not in ("type", "id", "status")}
            return {**known, "content": parts}
        case _:
            raise ModelRequestRefused(f"chat completions have no form for an item of type {kind!r}")


def _part(part: Any) -> dict[str, Any]:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ImagePart(url, _, detail) if url is not None:
            return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}
        case FilePart(None, data, file_id, filename):
            known = {"file_data": data, "file_id": file_id, "filename": filename}
            return {"type": "file", "file": {name: value for name, value in known.items() if value is not None}}
        case OtherPart(other):
            return other
        case _:
            raise ModelRequestRefused(f"chat completions have no form for {part!r:.200}")


# ------------------------------------------------------------------------------------------------------- what comes


def chat_reply(told: object, request: LLMRequest, *, secrets: tuple[str, ...] = ()) -> LLMResponse:
    """
    Read a reply.

    Raises:
        ModelError: it isn't one, isn't whole, or tells of a failure.
    """
    reply = an_object(told) or {}
    if reply.get("error"):
        raise failure(Told(provider=served_by(request), model=request.model, body=reply, secrets=secrets))
    choice = an_object(next(iter(a_list(reply.get("choices")) or []), None))
    message = an_object((choice or {}).get("message"))
    if choice is None or message is None:
        raise malformed(f"{told!r:.200}", provider=served_by(request), model=request.model, secrets=secrets)
    turn = _Turn(request)
    turn.take_facts(reply)
    turn.take(message)
    turn.text.append(turn.mender.rest())
    turn.finish_reason = a_text(choice.get("finish_reason"))
    return turn.response()


@dataclass(slots=True)
class _Turn:
    """A turn of the model that is being put together."""

    request: LLMRequest
    text: list[str] = field(default_factory=list[str])
    thinking: list[str] = field(default_factory=list[str])
    refusal: list[str] = field(default_factory=list[str])
    calls: list[_Call] = field(default_factory=list["_Call"])
    fields: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    finish_reason: str | None = None
    mender: TextMender = field(default_factory=TextMender)

    def take_facts(self, told: dict[str, Any]) -> None:
        """Take what is told beside the message; a stream tells it again and again, and usage last."""
        self.usage = an_object(told.get("usage")) or self.usage
        self.facts |= {name: told[name] for name in ("id", "model", "service_tier") if told.get(name)}

    def take(self, message: dict[str, Any]) -> list[LLMDelta]:
        """Take a message or a piece of one; gives the pieces to be passed on."""
        pieces: list[LLMDelta] = []
        thought = next((thought for name in _THINKING if (thought := a_text(message.get(name)))), None)
        if thought:
            self.thinking.append(thought)
            pieces.append(ThinkingDelta(texts_mended(thought)))
        # Some servers give the content as a list of parts, as they take it.
        text = self.mender.take(item_text(message))
        if text:
            self.text.append(text)
            pieces.append(TextDelta(text))
        if a_text(message.get("refusal")):
            self.refusal.append(message["refusal"])
        for name in _HANDED_BACK:
            self.fields.setdefault(name, []).extend(a_list(message.get(name)) or [])
        for call in map(an_object, a_list(message.get("tool_calls")) or []):
            self._take_call(call or {})
        return pieces

    def _take_call(self, told: dict[str, Any]) -> None:
        function = an_object(told.get("function")) or {}
        index = a_number(told.get("index"))
        found = next((call for call in self.calls if index is not None and call.index == index), None)
        if found is None and index is None and self.calls and not function.get("name"):
            found = self.calls[-1]  # a piece that doesn't say of which call
        if found is None:
            found = _Call(index)
            self.calls.append(found)
        found.id = a_text(told.get("id")) or found.id
        found.name += a_text(function.get("name")) or ""
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            found.arguments.append(arguments)
        known = ("index", "id", "type", "function")
        found.more |= {name: value for name, value in told.items() if name not in known and value is not None}

    def response(self) -> LLMResponse:
        """
        Give the whole reply.

        Raises:
            ModelReplyTruncated: it isn't whole.
        """
        model = self.request.model
        if self.finish_reason is None:
            raise ModelReplyTruncated(
                f"the reply of {model} came without finish_reason", provider=served_by(self.request), model=model
            )
        items: list[Item] = []
        fields = {name: value for name, value in self.fields.items() if value}
        if fields:
            items.append(provider_item(served_by(self.request), model, {"chat_fields": fields}))
        text = "".join(self.text)
        if text:
            items.append(assistant_item(text))
        calls: list[Item] = [call.item(number, self.request) for number, call in enumerate(self.calls)]
        calls, items = texts_mended(calls), texts_mended(items)
        return LLMResponse(
            content=text or None,
            tool_calls=[tool_call_of(call) for call in calls],
            items=[*items, *calls],
            usage=_usage(self.usage),
            model=a_text(self.facts.get("model")) or model,
            stop_reason=self._stop_reason(),
            response_id=a_text(self.facts.get("id")),
            thinking=texts_mended("".join(self.thinking)) or None,
            raw={name: value for name, value in self.facts.items() if name == "service_tier"},
        )

    def _stop_reason(self) -> str | None:
        if self.finish_reason == "stop":
            # Some servers say `stop` after calls, too.
            return "tool_calls" if self.calls else "refusal" if self.refusal else "stop"
        return "tool_calls" if self.finish_reason == "function_call" else self.finish_reason


@dataclass(slots=True)
class _Call:
    """A wish for a tool that is being put together."""

    index: int | None
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])
    more: dict[str, Any] = field(default_factory=dict[str, Any])

    def item(self, number: int, request: LLMRequest) -> Item:
        """Give the item; what the server told besides is kept for it."""
        made = call_item(self.id or f"call_{number}", self.name, "".join(self.arguments) or "{}")
        native = {"provider": served_by(request), "model": request.model, "data": self.more}
        return {**made, "native": native} if self.more else made


def _usage(told: dict[str, Any]) -> TokenUsage:
    read, written = a_number(told.get("prompt_tokens")) or 0, a_number(told.get("completion_tokens")) or 0
    inputs = an_object(told.get("prompt_tokens_details")) or {}
    outputs = an_object(told.get("completion_tokens_details")) or {}
    return TokenUsage(
        input_tokens=read,
        output_tokens=written,
        total_tokens=a_number(told.get("total_tokens")) or read + written,
        cache_read_input_tokens=a_number(inputs.get("cached_tokens")),
        cache_creation_input_tokens=a_number(inputs.get("cache_write_tokens")),
        reasoning_tokens=a_number(outputs.get("reasoning_tokens")),
    )


async def chat_pieces(
    chunks: AsyncIterator[Any], request: LLMRequest, *, secrets: tuple[str, ...] = ()
) -> AsyncGenerator[LLMDelta, None]:
    """
    Read a stream of chunks.

    Raises:
        ModelError: it ends without its end, isn't what it should be, or tells of a failure.
    """
    turn = _Turn(request)
    async for told in chunks:
        chunk = an_object(told)
        if chunk is None:
            raise malformed(f"{told!r:.200}", provider=served_by(request), model=request.model, secrets=secrets)
        if chunk.get("error"):
            raise failure(Told(provider=served_by(request), model=request.model, body=chunk, secrets=secrets))
        turn.take_facts(chunk)
        choice = an_object(next(iter(a_list(chunk.get("choices")) or []), None)) or {}
        # After its end only usage follows, but that is worth waiting for.
        turn.finish_reason = a_text(choice.get("finish_reason")) or turn.finish_reason
        for piece in turn.take(an_object(choice.get("delta")) or {}):
            yield piece
    rest = turn.mender.rest()
    if rest:
        turn.text.append(rest)
        yield TextDelta(rest)
    response = turn.response()
    for call in response.tool_calls:
        yield ToolCallDelta(call)
    yield Finished(response)
