"""
A conversation with a model, in no provider's dialect.

**Items** are plain JSON objects, because they are recorded, compared by digest and read by people years later. Their
form is that of the input list which programs already write, so what a user hands to an agent is an item as it stands:

| item | form |
|---|---|
| text of somebody | `{"role": "user" or "system" or "developer" or "assistant", "content": text or parts}` |
| part: text | `{"type": "input_text" or "output_text", "text": …}` |
| part: image | `{"type": "input_image", "image_url": address or data URL}` or `file_id`, with `detail` |
| part: file | `{"type": "input_file", "file_url" or "file_data" or "file_id": …, "filename": …}` |
| wish for a tool | `{"type": "function_call", "call_id": …, "name": …, "arguments": text of a JSON object}` |
| its result | `{"type": "function_call_output", "call_id": …, "output": text or parts}` |
| what only its maker reads | `{"type": "provider_item", "provider": …, "model": …, "item": {…}}` |

The last kind holds what a provider wants back unchanged: thinking with its signature, encrypted reasoning, calls and
results of tools that run on the provider's side. It is opaque. The provider that made it puts it back where it stood;
every other one leaves it out, and so does the same provider for another model, as such blocks are bound to the model
that wrote them. So a conversation can move to another model at any turn.

A **request** says what is asked, and not how it travels: `stream` is no part of its digest. A **reply** is whole, by
definition; what was cut short is an error (`polos.errors.ModelReplyTruncated`) and never becomes one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from polos.llm.jsonish import a_list, a_text, an_object
from polos.types.llm import ToolCall, ToolCallFunction, Usage

__all__ = [
    "MODEL_MADE",
    "Finished",
    "Item",
    "LLMDelta",
    "LLMRequest",
    "LLMResponse",
    "StopReason",
    "TextDelta",
    "ThinkingDelta",
    "TokenUsage",
    "ToolCallDelta",
    "ToolSpec",
    "assistant_item",
    "call_item",
    "fit_name",
    "is_model_made",
    "item_text",
    "items_of",
    "output_item",
    "provider_item",
    "tool_call_of",
    "user_item",
]

Item: TypeAlias = dict[str, Any]

# Why a model stopped; providers' own words are translated, unknown ones are kept as they are.
StopReason: TypeAlias = Literal["stop", "tool_calls", "length", "content_filter", "refusal", "pause"]

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")
_NAME_CHARACTERS_MAX: Final = 64

# Types of the items that a model makes; text has no type but a role.
MODEL_MADE = frozenset({"function_call", "provider_item"})


class TokenUsage(Usage):
    """
    What one call of a model used, in tokens.

    Attributes:
        reasoning_tokens: how many of the output were reasoning that isn't shown; None if the provider doesn't say.
    """

    reasoning_tokens: int | None = None


class ToolSpec(BaseModel):
    """
    A tool as a model is told of it.

    Attributes:
        name: what the model calls it.
        description: what it is for.
        parameters: JSON schema of its arguments, an object.
        strict: whether the provider has to hold the model to the schema; None: if the schema allows for it.
        native: a tool that runs on the provider's side, in the provider's own words; the rest but `name` is unused.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None
    native: dict[str, Any] | None = None

    @classmethod
    def of(cls, tool: ToolSpec | dict[str, Any]) -> ToolSpec:
        """
        Read a tool in any of the forms in which programs give one.

        Args:
            tool: a spec; `{"type": "function", "name", "description", "parameters"}`, flat or with its `function`
                nested; anything else is a provider's own tool and is passed through.
        """
        if isinstance(tool, ToolSpec):
            return tool
        told = (an_object(tool.get("function")) if tool.get("type") == "function" else None) or tool
        if tool.get("type") == "function" and "name" in told:
            known = {key: told[key] for key in ("description", "parameters", "strict") if told.get(key) is not None}
            return cls(name=told["name"], **known)
        return cls(name=str(tool.get("name") or tool.get("type") or "tool"), native=dict(tool))


class LLMRequest(BaseModel):
    """
    What a model is asked.

    Attributes:
        model: its name.
        provider: who serves it; part of the digest.
        system: what it is told before everything else.
        items: the conversation, oldest first; see the module.
        tools: what it may ask for.
        output_schema: JSON schema that its last answer has to fit; None for free text.
        output_schema_name: a name for that schema.
        temperature: as the provider understands it; None leaves it to the provider, as with everything here.
        max_output_tokens: how much it may write.
        top_p: as the provider understands it.
        provider_kwargs: what else the provider is to get, in its own words; put into the request's body.
        stream: whether the reply is wanted in pieces.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str
    provider: str = ""
    system: str | None = None
    items: list[Item] = Field(default_factory=list[Item])
    tools: list[ToolSpec] = Field(default_factory=list[ToolSpec])
    output_schema: dict[str, Any] | None = None
    output_schema_name: str | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    top_p: float | None = None
    provider_kwargs: dict[str, Any] = Field(default_factory=dict)
    stream: bool = False


class LLMResponse(BaseModel):
    """
    What a model replied, whole.

    Attributes:
        content: its text; None if it wrote none.
        tool_calls: the tools that it wants called, in its order.
        items: the reply as items, to be appended to the conversation as they are.
        usage: what it used.
        model: the model that answered, as the provider names it.
        stop_reason: why it stopped, see `StopReason`.
        response_id: the provider's id of the reply.
        thinking: what it let see of its reasoning; None if nothing.
        raw_output: what a provider written for Polos gives as the next turn's messages; unused otherwise.
        raw: small facts that the provider told besides, such as its service tier; never the content again.
    """

    model_config = ConfigDict(protected_namespaces=())

    content: str | None = None
    tool_calls: list[ToolCall] = Field(default_factory=list[ToolCall])
    items: list[Item] = Field(default_factory=list[Item])
    usage: TokenUsage = Field(default_factory=TokenUsage)
    model: str | None = None
    stop_reason: str | None = None
    response_id: str | None = None
    thinking: str | None = None
    raw_output: list[dict[str, Any]] | None = None
    raw: dict[str, Any] = Field(default_factory=dict)


# ---------------------------------------------------------------------------------------------- pieces of a reply


@dataclass(frozen=True, slots=True)
class TextDelta:
    """
    A piece of the text.

    Attributes:
        text: never empty.
    """

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """
    A piece of the reasoning that is let see.

    Attributes:
        text: never empty.
    """

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """
    A wish for a tool, complete.

    Attributes:
        tool_call: the wish.
    """

    tool_call: ToolCall


@dataclass(frozen=True, slots=True)
class Finished:
    """
    The last piece of every stream, and of none that was cut.

    Attributes:
        response: the whole reply; its text is all text pieces, its calls are all calls.
    """

    response: LLMResponse


LLMDelta: TypeAlias = TextDelta | ThinkingDelta | ToolCallDelta | Finished


# --------------------------------------------------------------------------------------------------------- items


def fit_name(*parts: str) -> str:
    """Make a name that models take for a tool: they know letters, digits, `_` and `-`, and not many of them."""
    return _NOT_IN_NAMES.sub("_", "".join(parts))[:_NAME_CHARACTERS_MAX]


def user_item(content: str | list[dict[str, Any]]) -> Item:
    """Make the item of what a user says, text or parts."""
    return {"role": "user", "content": content}


def assistant_item(text: str, **more: Any) -> Item:
    """Make the item of what a model said; `more` goes into its one part."""
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text, **more}]}


def call_item(call_id: str, name: str, arguments: str) -> Item:
    """Make the item of a wish for a tool."""
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output_item(call: ToolCall | str, output: str | list[dict[str, Any]]) -> Item:
    """Make the item of a tool's result, for the call or its `call_id`."""
    call_id = call if isinstance(call, str) else call.call_id or call.id
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def provider_item(provider: str, model: str, item: dict[str, Any]) -> Item:
    """Make the item of what only its maker reads."""
    return {"type": "provider_item", "provider": provider, "model": model, "item": item}


def tool_call_of(item: Item) -> ToolCall:
    """Give the tool call of an item that is one."""
    function = ToolCallFunction(name=item["name"], arguments=item["arguments"])
    return ToolCall(id=item.get("id") or "", call_id=item["call_id"], function=function)


def is_model_made(item: Item) -> bool:
    """Tell whether a model made this item."""
    return item.get("type") in MODEL_MADE or item.get("role") == "assistant"


def item_text(item: Item) -> str:
    """Give the text of an item, its parts one after the other; empty for what isn't text."""
    content: object = item.get("content", "")
    if isinstance(content, str):
        return content
    parts = [an_object(part) or {} for part in a_list(content) or []]
    return "".join(a_text(part.get("text")) or "" for part in parts)


def items_of(request_input: str | Sequence[Item]) -> list[Item]:
    """Read what a program gives as input: a text is what a user says, a list is taken as it is."""
    if isinstance(request_input, str):
        return [user_item(request_input)]
    return [dict(item) for item in request_input]
