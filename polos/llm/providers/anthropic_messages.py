"""
The Messages interface of Anthropic: what is sent, and how what comes is read. Pure; `anthropic.py` does the talking.

A conversation here is turns of two sides, each a list of blocks: results of tools belong to the user's side, in front
of what the user says, and thinking to the model's, where it stood. Thinking is signed, and bound to the model that
wrote it, so it goes back untouched to that model and to no other.

**Caching.** The same long beginning is sent in each turn, and the provider reads it from its cache for a tenth of the
price if told how far it goes. Three marks say so: behind the system prompt, behind the last tool and behind the last
block of the conversation. What one turn marked as its end is the beginning that the next one finds.

**Schemas for the answer** are a feature of newer models; older ones are told in words. A forced tool, the way of old,
is refused by the newest ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from polos.errors import ModelReplyTruncated, ModelRequestRefused
from polos.llm.jsonish import TextMender, a_list, a_number, a_text, an_object, parse_json, texts_mended
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
from polos.llm.providers.openai_responses import merged
from polos.llm.providers.parts import FilePart, ImagePart, OtherPart, TextPart, parts_of, split_data_url
from polos.llm.schemas import schema_instruction, strict_schema

__all__ = ["PROVIDER", "messages_body", "messages_pieces", "messages_reply"]

PROVIDER: Final = "anthropic"
_CACHED: Final = {"type": "ephemeral"}
_MAX_TOKENS: Final = 4_096
_MAX_TOKENS_STREAMED: Final = 64_000
# Models that write less, and refuse to be asked for more.
_WRITES_LESS: Final = (
    (re.compile(r"claude-3-(?:haiku|sonnet|opus)"), 4_096),
    (re.compile(r"claude-3-5"), 8_192),
    (re.compile(r"claude-opus-4(?:-[01]|-2025\d{4}|$)"), 32_000),
)
# Models that can't be held to a schema: all before Opus 4.1 and Sonnet 4.5.
_NO_SCHEMAS: Final = re.compile(r"claude-(?:instant|[123]|(?:opus|sonnet)-4(?:-0|-2025\d{4})?$)")
_NOT_IN_IDS: Final = re.compile(r"[^\w-]", re.ASCII)
_STOPS: Final = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "pause",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}


# ----------------------------------------------------------------------------------------------------- what is sent


def messages_body(request: LLMRequest, *, streamed: bool) -> dict[str, Any]:
    """
    Write the body of a request.

    Args:
        request: the request.
        streamed: the reply will come in pieces, and may be long.

    Raises:
        ModelRequestRefused: the conversation holds something that this interface has no form for.
    """
    default = _MAX_TOKENS_STREAMED if streamed else _MAX_TOKENS
    default = min(default, *(most for name, most in _WRITES_LESS if name.match(request.model)), default)
    body: dict[str, Any] = {"model": request.model, "max_tokens": request.max_output_tokens or default}
    told = [request.system] if request.system else []
    told += [text for item in request.items if _is_instruction(item) and (text := item_text(item))]
    if request.output_schema is not None:
        schema = None if _NO_SCHEMAS.match(request.model) else strict_schema(request.output_schema, limits=False)
        if schema is None:
            told.append(schema_instruction(request.output_schema))
        else:
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if told:
        system: list[dict[str, Any]] = [{"type": "text", "text": text} for text in told]
        body["system"] = [*system[:-1], {**system[-1], "cache_control": _CACHED}]
    body["messages"] = _turns(request)
    if request.tools:
        tools = [_tool(tool) for tool in request.tools]
        body["tools"] = [*tools[:-1], {"cache_control": _CACHED, **tools[-1]}]
    elif used := _called(body["messages"]):
        # Calls in a conversation are refused where no tools are, also by a model that is to call none any more.
        body["tools"] = [{"name": name, "input_schema": {"type": "object"}} for name in used]
        body["tool_choice"] = {"type": "none"}
    for name in ("temperature", "top_p"):
        if getattr(request, name) is not None:
            body[name] = getattr(request, name)
    return merged(body, request.provider_kwargs)


def _is_instruction(item: Item) -> bool:
    return item.get("role") in ("system", "developer")


def _called(turns: list[dict[str, Any]]) -> list[str]:
    """Give the names of the tools that were called in a conversation."""
    blocks = [block for turn in turns for block in turn["content"]]
    return sorted({block["name"] for block in blocks if block.get("type") == "tool_use"})


def _tool(tool: ToolSpec) -> dict[str, Any]:
    if tool.native is not None:
        return tool.native
    told: dict[str, Any] = {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
    return told if tool.strict is None else {**told, "strict": tool.strict}


def _turns(request: LLMRequest) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for item in request.items:
        if _is_instruction(item):
            continue
        role = "assistant" if _is_theirs(item) else "user"
        blocks = _blocks(item, request)
        if not blocks:
            continue
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += blocks
    for turn in turns:
        if turn["role"] == "user":  # results of tools come first, whatever else was said meanwhile
            said: list[dict[str, Any]] = turn["content"]
            turn["content"] = sorted(said, key=_after_results)
    if turns:
        _mark_end(turns[-1]["content"])
    return turns


def _is_theirs(item: Item) -> bool:
    return item.get("role") == "assistant" or item.get("type") in ("function_call", "provider_item")


def _after_results(block: dict[str, Any]) -> bool:
    return block.get("type") != "tool_result"


def _mark_end(blocks: list[dict[str, Any]]) -> None:
    """Mark how far the conversation can be cached; thinking can't carry the mark."""
    if blocks[-1].get("type") not in ("thinking", "redacted_thinking"):
        blocks[-1] = {**blocks[-1], "cache_control": _CACHED}


def _blocks(item: Item, request: LLMRequest) -> list[dict[str, Any]]:
    match item.get("type", "message"):
        case "provider_item":
            return [item["item"]] if (item["provider"], item["model"]) == (PROVIDER, request.model) else []
        case "function_call":
            arguments = item["arguments"]
            return [{"type": "tool_use", "id": _id(item["call_id"]), "name": item["name"], "input": _input(arguments)}]
        case "function_call_output":
            output = item["output"]
            content = output if isinstance(output, str) else [_block(part, request) for part in parts_of(output)]
            return [{"type": "tool_result", "tool_use_id": _id(item["call_id"]), "content": content}]
        case "message" if "role" in item:
            parts = parts_of(item.get("content"))
            # A text without a letter is refused, and says nothing.
            return [
                _block(part, request) for part in parts if not (isinstance(part, TextPart) and not part.text.strip())
            ]
        case other:
            raise ModelRequestRefused(f"anthropic has no form for an item of type {other!r}")


def _id(call_id: str) -> str:
    """Give an id that is allowed here; conversations that began elsewhere have others."""
    return _NOT_IN_IDS.sub("_", call_id) or "_"


def _input(arguments: str) -> dict[str, Any]:
    try:
        return an_object(parse_json(arguments)) or {}
    except ValueError:
        return {}  # what the model wrote was no JSON; the result of the call told it so


def _block(part: Any, request: LLMRequest) -> dict[str, Any]:
    match part:
        case TextPart(text, native):
            mine = native is not None and (native.get("provider"), native.get("model")) == (PROVIDER, request.model)
            return native["data"] if native is not None and mine else {"type": "text", "text": text}
        case ImagePart(url, file_id):
            return {"type": "image", "source": _source(url, file_id)}
        case FilePart(url, data, file_id, filename):
            named = {"title": filename} if filename else {}
            return {"type": "document", "source": _source(data or url, file_id), **named}
        case _:
            assert isinstance(part, OtherPart), "parts are one of four"
            return part.part


def _source(url: str | None, file_id: str | None) -> dict[str, Any]:
    if file_id is not None:
        return {"type": "file", "file_id": file_id}
    if url is None:
        raise ModelRequestRefused("an image or a file needs an address, its data or an id")
    here = split_data_url(url)
    if here is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": here[0], "data": here[1]}


# ------------------------------------------------------------------------------------------------------- what comes


def messages_reply(told: object, request: LLMRequest, *, secrets: tuple[str, ...] = ()) -> LLMResponse:
    """
    Read a reply.

    Raises:
        ModelError: it isn't one, isn't whole, or tells of a failure.
    """
    reply = an_object(told) or {}
    if reply.get("type") == "error":
        raise failure(Told(provider=PROVIDER, model=request.model, body=reply, secrets=secrets))
    content = a_list(reply.get("content"))
    if content is None:
        raise malformed(f"{told!r:.200}", provider=PROVIDER, model=request.model, secrets=secrets)
    stopped = a_text(reply.get("stop_reason"))
    if stopped is None:
        raise ModelReplyTruncated(
            f"the reply of {request.model} came without stop_reason", provider=PROVIDER, model=request.model
        )
    reply, content = texts_mended(reply), texts_mended(content)
    blocks = [block for block in map(an_object, content) if block is not None]
    items = [_item(block, request.model) for block in blocks]
    calls = [item for item in items if item["type"] == "function_call"]
    thoughts = [str(block["thinking"]) for block in blocks if block.get("type") == "thinking" and block.get("thinking")]
    return LLMResponse(
        content="".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text") or None,
        tool_calls=[tool_call_of(call) for call in calls],
        items=[item for item in items if item.get("role") != "assistant" or item_text(item)],
        usage=_usage(an_object(reply.get("usage")) or {}),
        model=a_text(reply.get("model")) or request.model,
        stop_reason=_STOPS.get(stopped, stopped),
        response_id=a_text(reply.get("id")),
        thinking="\n\n".join(thoughts) or None,
        raw={name: reply[name] for name in ("stop_sequence", "stop_details") if reply.get(name) is not None},
    )


def _item(block: dict[str, Any], model: str) -> Item:
    match block.get("type"):
        case "text":
            more = {name: value for name, value in block.items() if name not in ("type", "text") and value}
            native = {"native": {"provider": PROVIDER, "model": model, "data": block}} if more else {}
            return assistant_item(str(block.get("text", "")), **native)
        case "tool_use":
            written = block.get("input")
            # A model that was cut off within its arguments left no JSON; they are kept as it wrote them.
            arguments = written if isinstance(written, str) else json.dumps(written, ensure_ascii=False)
            return call_item(str(block.get("id")), str(block.get("name")), arguments)
        case _:
            return provider_item(PROVIDER, model, block)


def _usage(told: dict[str, Any]) -> TokenUsage:
    read, written = (a_number(told.get(name)) for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
    plain, made = a_number(told.get("input_tokens")) or 0, a_number(told.get("output_tokens")) or 0
    sent = plain + (read or 0) + (written or 0)
    details = an_object(told.get("output_tokens_details")) or {}
    thought = next((count for name, count in details.items() if "thinking" in name or "reasoning" in name), None)
    return TokenUsage(
        input_tokens=sent,
        output_tokens=made,
        total_tokens=sent + made,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        reasoning_tokens=a_number(thought),
    )


class _Reply:
    """A reply that is being put together from the events of a stream, in the form that it has in one piece."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.blocks: dict[int, dict[str, Any]] = {}
        self.texts: dict[tuple[int, str], list[str]] = {}
        self.menders: dict[tuple[int, str], TextMender] = {}

    def begin(self, index: int, block: dict[str, Any]) -> None:
        self.blocks[index] = dict(block)
        for name in ("text", "thinking"):
            if a_text(block.get(name)):
                self._add(index, name, block[name])

    def change(self, index: int, delta: dict[str, Any]) -> LLMDelta | None:
        """Take a piece of a block; gives the piece to be passed on, if it is one."""
        match delta.get("type"):
            case "text_delta":
                return TextDelta(text) if (text := self._add(index, "text", delta.get("text"))) else None
            case "thinking_delta":
                return ThinkingDelta(text) if (text := self._add(index, "thinking", delta.get("thinking"))) else None
            case "signature_delta":
                self._add(index, "signature", delta.get("signature"))
            case "input_json_delta":
                self._add(index, "input", delta.get("partial_json"))
            case "citations_delta":
                block = self.blocks[index]
                block["citations"] = [*(a_list(block.get("citations")) or []), delta.get("citation")]
            case _:
                pass  # what we don't know is no part of what we keep
        return None

    def stop(self, index: int, model: str) -> list[LLMDelta]:
        """Take the end of a block; gives what is to be passed on now that it is whole."""
        mender = self.menders.get((index, "text"))
        rest = mender.rest() if mender is not None else ""
        block = self.end(index)
        calls = [tool_call_of(_item(texts_mended(block), model))] if block.get("type") == "tool_use" else []
        return [*([TextDelta(rest)] if rest else []), *map(ToolCallDelta, calls)]

    def end(self, index: int) -> dict[str, Any]:
        """Put a block together."""
        block = self.blocks[index]
        for name in ("text", "thinking", "signature"):
            if (index, name) in self.texts:
                block[name] = "".join(self.texts.pop((index, name)))
        if "input" in block:
            written = "".join(self.texts.pop((index, "input"), []))
            try:
                block["input"] = parse_json(written) if written.strip() else block["input"] or {}
            except ValueError:
                block["input"] = written
        return block

    def whole(self) -> dict[str, Any]:
        return {**self.told, "content": [self.end(index) for index in sorted(self.blocks)]}

    def _add(self, index: int, name: str, told: object) -> str:
        text = a_text(told) or ""
        self.texts.setdefault((index, name), []).append(text)
        return self.menders.setdefault((index, name), TextMender()).take(text)


async def messages_pieces(
    events: AsyncIterator[Any], request: LLMRequest, *, secrets: tuple[str, ...] = ()
) -> AsyncGenerator[LLMDelta, None]:
    """
    Read a stream of events.

    Raises:
        ModelError: it ends without its end, isn't what it should be, or tells of a failure.
    """
    reply = _Reply()
    async for told in events:
        event = an_object(told) or {}
        index = a_number(event.get("index"))
        match event.get("type"):
            case "message_start":
                reply.told = an_object(event.get("message")) or {}
            case "content_block_start" if index is not None:
                reply.begin(index, an_object(event.get("content_block")) or {})
            case "content_block_delta" if index in reply.blocks:
                piece = reply.change(index, an_object(event.get("delta")) or {})
                if piece is not None:
                    yield piece
            case "content_block_stop" if index in reply.blocks:
                for piece in reply.stop(index, request.model):
                    yield piece
            case "message_delta":
                known = (an_object(reply.told.get("usage")) or {}, an_object(event.get("usage")) or {})
                counted = {name: count for one in known for name, count in one.items() if count is not None}
                reply.told |= {**(an_object(event.get("delta")) or {}), "usage": counted}
            case "message_stop":
                yield Finished(messages_reply(reply.whole(), request, secrets=secrets))
                return
            case "error":
                raise failure(Told(provider=PROVIDER, model=request.model, body=event, secrets=secrets))
            case "content_block_start" | "content_block_delta" | "content_block_stop":
                raise malformed(f"{told!r:.200}", provider=PROVIDER, model=request.model, secrets=secrets)
            case _:
                pass  # pings, and events that are made one day
    raise ModelReplyTruncated(
        f"the stream of {request.model} ended without message_stop", provider=PROVIDER, model=request.model
    )
