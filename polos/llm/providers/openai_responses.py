"""
The Responses interface of OpenAI: what is sent, and how what comes is read. Pure; `openai.py` does the talking.

The conversation is ours, not the server's: it is sent whole each time and `store` is false, so that a run that is
resumed after months doesn't depend on what a server has kept. Reasoning is asked for in its encrypted form and put
back where it stood, which is how a model goes on with a thought although the server remembers nothing. Ids of items
are left out for the same reason: they name what a server would have to hold. `provider_kwargs={"store": True}` has it
the other way.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from polos.errors import ModelReplyTruncated
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
    provider_item,
    tool_call_of,
)
from polos.llm.providers.failures import Told, failure, malformed
from polos.llm.providers.parts import FilePart, ImagePart, OtherPart, TextPart, parts_of
from polos.llm.schemas import is_strict, strict_schema
from polos.types.llm import ToolCall

__all__ = ["PROVIDER", "merged", "responses_body", "responses_pieces", "responses_reply", "served_by"]

PROVIDER: Final = "openai"
# Only these give encrypted reasoning; others refuse to be asked for it.
_REASONING: Final = re.compile(r"(?:o\d|gpt-(?:[5-9]|\d\d)|codex)")
_ENCRYPTED: Final = "reasoning.encrypted_content"


def served_by(request: LLMRequest) -> str:
    """Name who serves a request: other servers speak these interfaces, too."""
    return request.provider or PROVIDER


# ----------------------------------------------------------------------------------------------------- what is sent


def responses_body(request: LLMRequest) -> dict[str, Any]:
    """
    Write the body of a request.

    Raises:
        ModelRequestRefused: the conversation holds something that isn't an item.
    """
    extra = dict(request.provider_kwargs)
    stored = bool(extra.get("store", False))
    body: dict[str, Any] = {"model": request.model, "input": _input(request, stored=stored), "store": stored}
    if request.system is not None:
        body["instructions"] = request.system
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    for name in ("temperature", "top_p", "max_output_tokens"):
        if getattr(request, name) is not None:
            body[name] = getattr(request, name)
    if request.output_schema is not None:
        body["text"] = {"format": {"type": "json_schema", **json_format(request)}}
    if _REASONING.match(request.model) and not stored:
        body["include"] = [_ENCRYPTED]
    if "include" in extra:
        extra["include"] = [*body.get("include", []), *(one for one in extra["include"] if one != _ENCRYPTED)]
    return merged(body, extra)


def json_format(request: LLMRequest) -> dict[str, Any]:
    """Name the schema that the answer has to fit: strictly, if it can be said strictly."""
    assert request.output_schema is not None, "asked for only with a schema"
    strict = strict_schema(request.output_schema)
    name = re.sub(r"[^\w-]", "_", request.output_schema_name or "answer", flags=re.ASCII)[:64]
    return {"name": name, "schema": strict or request.output_schema, "strict": strict is not None}


def merged(body: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Put what the program wants to be sent into a body; objects are joined, everything else is replaced."""
    joined = dict(body)
    for name, value in extra.items():
        mine, theirs = an_object(joined.get(name)), an_object(value)
        joined[name] = value if mine is None or theirs is None else merged(mine, theirs)
    return joined


def _tool(tool: ToolSpec) -> dict[str, Any]:
    if tool.native is not None:
        return tool.native
    # This interface takes what isn't marked for strict, and rewrites the schema; so it is said either way.
    strict = is_strict(tool.parameters) if tool.strict is None else tool.strict
    schema = (strict_schema(tool.parameters) if strict else None) or tool.parameters
    return {
        "type": "function", "name": tool.name, "description": tool.description, "parameters": schema, "strict": strict,
    }  # fmt: skip


def _input(request: LLMRequest, *, stored: bool) -> list[Any]:
    sent: list[Any] = []
    for item in request.items:
        match item.get("type", "message"):
            case "provider_item":
                inner = item["item"]
                theirs = item["provider"] == served_by(request) and item["model"] == request.model
                lost = inner.get("type") == "reasoning" and not inner.get("encrypted_content") and not stored
                if theirs and not lost and "chat_fields" not in inner:
                    sent.append(inner)
            case "message":
                sent.append(_message(item, stored=stored))
            case "function_call":
                sent.append(_without(item, "native", *(() if stored else ("id", "status"))))
            case "function_call_output":
                output = item["output"]
                parts = output if isinstance(output, str) else [_part(part, "user") for part in parts_of(output)]
                sent.append({"type": "function_call_output", "call_id": item["call_id"], "output": parts})
            case _:
                sent.append(item)  # a program's own, such as a reference to something that the server holds
    return sent


def _message(item: Item, *, stored: bool) -> dict[str, Any]:
    content = item.get("content")
    if not isinstance(content, str):
        content = [_part(part, item.get("role", "user")) for part in parts_of(content)]
    kept = _without(item, *(() if stored else ("id", "status")))
    return {**kept, "content": content}


def _without(item: Item, *names: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in names}


def _part(part: Any, role: str) -> dict[str, Any]:
    match part:
        case TextPart(text):
            return {"type": "output_text" if role == "assistant" else "input_text", "text": text}
        case ImagePart(url, file_id, detail):
            known = {"image_url": url, "file_id": file_id, "detail": detail}
            return {"type": "input_image", **{name: value for name, value in known.items() if value is not None}}
        case FilePart(url, data, file_id, filename):
            known = {"file_url": url, "file_data": data, "file_id": file_id, "filename": filename}
            return {"type": "input_file", **{name: value for name, value in known.items() if value is not None}}
        case _:
            assert isinstance(part, OtherPart), "parts are one of four"
            return part.part


# ------------------------------------------------------------------------------------------------------- what comes


def responses_reply(told: object, request: LLMRequest, *, secrets: tuple[str, ...] = ()) -> LLMResponse:
    """
    Read a reply.

    Raises:
        ModelError: it isn't one, isn't whole, or tells of a failure.
    """
    reply = an_object(told)
    if reply is None or (an_object(reply.get("error")) is None and "status" not in reply and "output" not in reply):
        raise malformed(f"{told!r:.200}", provider=served_by(request), model=request.model, secrets=secrets)
    if an_object(reply.get("error")) is not None or reply.get("status") == "failed":
        told_of = Told(provider=served_by(request), model=request.model, body=reply.get("error"), secrets=secrets)
        raise failure(told_of)
    if reply.get("status", "completed") not in ("completed", "incomplete"):
        cut = f"the reply of {request.model} is {reply.get('status')!r:.40}, not completed"
        raise ModelReplyTruncated(cut, provider=served_by(request), model=request.model)
    reply = texts_mended(reply)
    items = [_kept(item, request) for item in map(an_object, a_list(reply.get("output")) or []) if item is not None]
    calls = [tool_call_of(item) for item in items if item.get("type") == "function_call"]
    texts, refusals = _texts(items)
    return LLMResponse(
        content="".join(texts) or None,
        tool_calls=calls,
        items=items,
        usage=_usage(an_object(reply.get("usage")) or {}),
        model=a_text(reply.get("model")) or request.model,
        stop_reason=_stop_reason(reply, calls, refusals),
        response_id=a_text(reply.get("id")),
        thinking="\n\n".join(_summaries(items)) or None,
        raw={name: reply[name] for name in ("service_tier", "incomplete_details") if reply.get(name) is not None},
    )


def _kept(item: dict[str, Any], request: LLMRequest) -> Item:
    """Keep an item of the reply: what we have a word for as it is, the rest for its maker."""
    if item.get("type") == "function_call":
        call = {**item, "name": str(item.get("name")), "arguments": str(item.get("arguments") or "")}
        return _without({**call, "call_id": str(item.get("call_id") or item.get("id") or "")}, "status")
    if item.get("type") != "message":
        return provider_item(served_by(request), request.model, item)
    parts = [part for part in map(an_object, a_list(item.get("content")) or []) if part is not None]
    content = [_without(part, "logprobs", *(() if part.get("annotations") else ("annotations",))) for part in parts]
    return {**_without(item, "status"), "role": "assistant", "content": content}


def _texts(items: list[Item]) -> tuple[list[str], list[str]]:
    """Give the texts of a reply, and the refusals in it."""
    parts = [part for item in items if item.get("type") == "message" for part in item["content"]]
    texts = [str(part["text"]) for part in parts if part.get("type") == "output_text" and "text" in part]
    return texts, [str(part.get("refusal")) for part in parts if part.get("type") == "refusal"]


def _summaries(items: list[Item]) -> list[str]:
    reasoning = [item["item"] for item in items if item.get("type") == "provider_item"]
    parts = [
        part for item in reasoning if item.get("type") == "reasoning" for part in a_list(item.get("summary")) or []
    ]
    return [str(part["text"]) for part in map(an_object, parts) if part is not None and part.get("text")]


def _stop_reason(reply: dict[str, Any], calls: list[ToolCall], refusals: list[str]) -> str:
    if reply.get("status") == "incomplete":
        reason = a_text((an_object(reply.get("incomplete_details")) or {}).get("reason")) or "length"
        return "length" if reason in ("max_output_tokens", "max_tokens") else reason
    if calls:
        return "tool_calls"
    return "refusal" if refusals else "stop"


def _usage(told: dict[str, Any]) -> TokenUsage:
    read, written = a_number(told.get("input_tokens")) or 0, a_number(told.get("output_tokens")) or 0
    inputs = an_object(told.get("input_tokens_details")) or {}
    outputs = an_object(told.get("output_tokens_details")) or {}
    return TokenUsage(
        input_tokens=read,
        output_tokens=written,
        total_tokens=a_number(told.get("total_tokens")) or read + written,
        cache_read_input_tokens=a_number(inputs.get("cached_tokens")),
        cache_creation_input_tokens=a_number(inputs.get("cache_write_tokens")),
        reasoning_tokens=a_number(outputs.get("reasoning_tokens")),
    )


_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


async def responses_pieces(
    events: AsyncIterator[Any], request: LLMRequest, *, secrets: tuple[str, ...] = ()
) -> AsyncGenerator[LLMDelta, None]:
    """
    Read a stream of events.

    Raises:
        ModelError: it ends without its end, isn't what it should be, or tells of a failure.
    """
    text: list[str] = []
    mender = TextMender()
    done: list[Any] = []
    calls = 0
    async for told in events:
        event = an_object(told) or {}
        kind = event.get("type")
        if kind in _ENDS:
            whole = an_object(event.get("response")) or {}
            if not whole.get("output") and done and kind != "response.failed":
                whole = {**whole, "output": done}  # some servers say each item once
            response = responses_reply(whole, request, secrets=secrets)
            for piece in _rest(response, "".join(text), calls):
                yield piece
            return
        if kind == "response.output_text.delta" and a_text(event.get("delta")):
            delta = mender.take(event["delta"])
            text.append(delta)
            if delta:
                yield TextDelta(delta)
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta") and event.get("delta"):
            yield ThinkingDelta(texts_mended(str(event["delta"])))
        elif kind == "response.output_item.done":
            item = an_object(event.get("item")) or {}
            done.append(item)
            if item.get("type") == "function_call":
                calls += 1
                yield ToolCallDelta(tool_call_of(_kept(texts_mended(item), request)))
        elif kind == "error" or event.get("error"):
            inner = an_object(event.get("error")) or event
            raise failure(Told(provider=served_by(request), model=request.model, body=_named(inner), secrets=secrets))
    raise ModelReplyTruncated(
        f"the stream of {request.model} ended without response.completed",
        provider=served_by(request),
        model=request.model,
    )


def _named(event: dict[str, Any]) -> dict[str, Any]:
    """Give an error event without its own type, which is `error` and says nothing."""
    return {name: value for name, value in event.items() if (name, value) != ("type", "error")}


def _rest(response: LLMResponse, told: str, told_calls: int) -> list[LLMDelta]:
    """Give what the whole reply holds and its pieces didn't, and the reply."""
    content = response.content or ""
    rest: list[LLMDelta] = [TextDelta(content[len(told) :])] if content.startswith(told) and content != told else []
    rest += [ToolCallDelta(call) for call in response.tool_calls[told_calls:]]
    return [*rest, Finished(response)]
