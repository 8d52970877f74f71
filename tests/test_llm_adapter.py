"""Tests of how providers are found, kept, and put behind one interface, those written for Polos among them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any, ClassVar

import pytest
from polos.errors import ModelReplyTruncated, ModelUnavailable
from polos.llm import (
    Finished,
    Item,
    LLMProvider,
    LLMRequest,
    LLMResponse,
    ModelProvider,
    TextDelta,
    ToolCallDelta,
    ToolSpec,
    get_provider,
    register_provider,
)
from polos.llm.messages import assistant_item, call_item, output_item, user_item
from polos.llm.providers.base import Providers

from tests.tidy import ROOT


def ask(name: str, request: LLMRequest, **settings: Any) -> LLMResponse:
    """Give the reply in one piece."""
    return asyncio.run(get_provider(name, **settings).generate(request))


def pieces(name: str, request: LLMRequest) -> list[Any]:
    """Give the reply in its pieces."""

    async def collect() -> list[Any]:
        return [piece async for piece in get_provider(name).stream(request)]

    return asyncio.run(collect())


def asked(*items: Item, **more: Any) -> LLMRequest:
    """Make a request."""
    return LLMRequest(model="m", items=list(items) or [user_item("Hi")], **more)


class Seen(LLMProvider):
    """A provider written for Polos, whose messages are words of its own; it keeps what it was given."""

    calls: ClassVar[list[dict]] = []
    closed = 0

    def convert_history_messages(self, messages):
        return [{"own": message} for message in messages]

    async def generate(self, messages, model, tools=None, tool_results=None, **more):
        Seen.calls.append({"messages": messages, "model": model, "tools": tools, "tool_results": tool_results, **more})
        said = {"said": len(Seen.calls), "secret": "signature"}
        reply: Any = LLMResponse  # providers of Polos give dicts
        return reply(
            content="a",
            tool_calls=[{"id": "", "call_id": "c1", "type": "function", "function": {"name": "t", "arguments": "{}"}}],
            usage={"input_tokens": 3, "output_tokens": 1, "total_tokens": 4, "cost": 5},
            raw_output=[*messages, *({"result": one} for one in tool_results or []), said],
            model=model,
            stop_reason="tool_use",
        )

    async def aclose(self):
        Seen.closed += 1


@pytest.fixture(autouse=True)
def _registered():
    Seen.calls = []
    Seen.closed = 0
    register_provider("Seen")(Seen)


def test_a_provider_of_polos_gets_its_arguments():
    """A class whose generate takes messages is called as Polos calls it."""
    request = asked(
        system="Be kind.", tools=[ToolSpec(name="t", description="d"), ToolSpec.of({"type": "web_search"})],
        temperature=0.5,
        max_output_tokens=9, top_p=0.25, output_schema={"type": "object"}, output_schema_name="N",
        provider_kwargs={"seed": 1},
    )  # fmt: skip
    reply = ask("seen", request)
    call = Seen.calls[0]

    assert [{"own": user_item("Hi")}] == call["messages"]
    assert ("m", 0.5, 9, 0.25, 1, {"type": "object"}, "N") == tuple(
        call[name]
        for name in ("model", "temperature", "max_tokens", "top_p", "seed", "output_schema", "output_schema_name")
    )
    assert {
        "type": "function",
        "name": "t",
        "description": "d",
        "parameters": {"type": "object", "properties": {}},
    } == call["tools"][0]
    assert {"type": "web_search"} == call["tools"][1]
    assert {
        "name": "", "provider": "seen", "model": "m", "system_prompt": "Be kind.", "max_output_tokens": 9,
        "temperature": 0.5, "top_p": 0.25, "provider_kwargs": {"seed": 1},
    } == call["agent_config"]  # fmt: skip
    assert ("a", "tool_use", 3, "c1") == (
        reply.content,
        reply.stop_reason,
        reply.usage.input_tokens,
        reply.tool_calls[0].call_id,
    )


def test_a_provider_of_polos_gets_its_own_words_back():
    """What it said last time comes back as it said it, and only new tool results come beside."""
    first = ask("seen", asked())
    conversation = [user_item("Hi"), *first.items, output_item("c1", "one")]
    second = ask("seen", asked(*conversation))
    ask("seen", asked(*conversation, *second.items, output_item("c1", "two")))
    hi, said = {"own": user_item("Hi")}, [{"said": n, "secret": "signature"} for n in (1, 2)]

    assert ([hi], None) == (Seen.calls[0]["messages"], Seen.calls[0]["tool_results"])
    assert ([hi, said[0]], [output_item("c1", "one")]) == (Seen.calls[1]["messages"], Seen.calls[1]["tool_results"])
    assert [hi, said[0], {"result": output_item("c1", "one")}, said[1]] == Seen.calls[2]["messages"]
    assert [output_item("c1", "two")] == Seen.calls[2]["tool_results"]
    assert ["provider_item", "message", "function_call"] == [item["type"] for item in first.items]


def test_a_conversation_moves_to_a_provider_of_polos():
    """What another provider said is read as plain items, with results of tools where they stood."""
    foreign = {"type": "provider_item", "provider": "other", "model": "m", "item": {"thinking": "x"}}
    items = [
        user_item("Hi"),
        foreign,
        call_item("c", "t", "{}"),
        output_item("c", "r"),
        assistant_item("a"),
        user_item("b"),
    ]
    ask("seen", asked(*items))

    assert [{"own": item} for item in items if item is not foreign] == Seen.calls[0]["messages"]


def test_messages_in_other_words_are_kept_plain():
    """A raw output that doesn't go on from what was sent can't be cut, so the plain reply is kept."""

    @register_provider("forgetful")
    class Forgetful(LLMProvider):
        async def generate(self, messages, model, **more):
            return LLMResponse(content="a", raw_output=[{"role": "assistant", "content": "a"}])

    assert [assistant_item("a")] == ask("forgetful", asked(user_item("x"), user_item("y"))).items


def test_a_provider_that_cannot_stream_gives_one_piece():
    """Without a stream of its own a reply comes whole, as text, calls and end."""
    got = pieces("seen", asked())

    assert TextDelta("a") == got[0]
    assert [ToolCallDelta, Finished] == [type(piece) for piece in got[1:]]
    assert got[1].tool_call == got[2].response.tool_calls[0]


def streaming(*events: dict[str, Any]) -> None:
    """Register a provider of Polos that streams these events."""

    @register_provider("streaming")
    class Streaming(LLMProvider):
        async def generate(self, messages, model, **more):
            raise NotImplementedError

        async def stream(self, messages, model, **more):
            for event in events:
                yield event


CALL = {"id": "", "call_id": "c", "type": "function", "function": {"name": "t", "arguments": "{}"}}
DONE = {
    "type": "done",
    "data": {"usage": {"input_tokens": 1, "total_tokens": 1}, "stop_reason": "stop", "raw_output": None},
}


def test_dicts_become_pieces():
    """The pieces of a provider of Polos are translated, and what it doesn't say in the end is put together."""
    streaming(
        {"type": "text_delta", "data": {"content": "a"}},
        {"type": "text_complete", "data": {}},
        {"type": "tool_call", "data": {"tool_call": CALL}},
        {"type": "text_delta", "data": {"content": "b"}},
        DONE,
        {"type": "text_delta", "data": {"content": "never"}},
    )
    got = pieces("streaming", asked())

    assert [TextDelta("a"), TextDelta("b")] == [piece for piece in got if isinstance(piece, TextDelta)]
    assert ("ab", "c", 1) == (
        got[-1].response.content,
        got[-1].response.tool_calls[0].call_id,
        got[-1].response.usage.input_tokens,
    )
    assert ["message", "function_call"] == [item["type"] for item in got[-1].response.items]


def test_a_stream_without_its_end_is_no_reply():
    """A stream that doesn't say that it is done was cut."""
    streaming({"type": "text_delta", "data": {"content": "a"}})

    with pytest.raises(ModelReplyTruncated):
        pieces("streaming", asked())


def test_an_error_of_a_stream_is_raised():
    """An error that a provider of Polos reports ends the call, to be tried again."""
    streaming({"type": "error", "data": {"error": "overloaded"}})

    with pytest.raises(ModelUnavailable, match="overloaded"):
        pieces("streaming", asked())


def test_a_provider_of_ours_is_asked_as_it_is():
    """A class whose generate takes a request is asked with it, and streams by itself if it can."""

    class Plain:
        def __init__(self, base_url=None):
            self.base_url = base_url

        async def generate(self, request):
            return LLMResponse(content=self.base_url)

    @register_provider("whole")
    class Own:
        async def generate(self, request):
            return LLMResponse(content="whole")

        async def stream(self, request):
            yield Finished(LLMResponse(content="streamed"))

    @register_provider("bare")
    class Bare(LLMProvider):
        async def generate(self, request):
            return LLMResponse(content="bare")

    register_provider("plain")(Plain)

    assert "u" == ask("plain", asked(), base_url="u", llm_api="left out: its constructor has no such argument").content
    assert [assistant_item("u")] == ask("plain", asked(), base_url="u").items
    assert [Finished(LLMResponse())] == pieces("plain", asked())
    assert [[assistant_item("streamed")]] == [piece.response.items for piece in pieces("whole", asked())]
    assert [TextDelta("bare")] == pieces("bare", asked())[:1]


def test_unknown_names_are_refused():
    """A provider or a setting that isn't there is named, with those that are."""
    with pytest.raises(ValueError, match=r"'nobody'; there are anthropic, .*groq, .*openai, .*scripted"):
        get_provider("nobody")
    with pytest.raises(ValueError, match="'scripted' has no setting nonsense"):
        get_provider("scripted", nonsense=1, api_key=None)


def test_every_provider_closes():
    """Whatever stands behind, what is got can be closed, and what can be closed is."""

    @register_provider("closeless")
    class Closeless:
        async def generate(self, request):
            return LLMResponse()

    async def close_all() -> None:
        for name in ("seen", "closeless", "scripted"):
            provider = get_provider(name)
            assert isinstance(provider, ModelProvider)
            await provider.aclose()

    asyncio.run(close_all())
    assert 1 == Seen.closed


def test_providers_are_kept():
    """The same settings on the same loop give the same provider; others, and what isn't JSON, give another."""

    async def look() -> Providers:
        kept = Providers()
        first = kept.get("seen")
        assert first is kept.get("Seen")
        assert first is not kept.get("seen", base_url="x")
        assert kept.get("seen", hook=print) is not kept.get("seen", hook=print)
        await kept.aclose()
        assert first is not kept.get("seen")
        return kept

    kept = asyncio.run(look())

    async def look_again() -> ModelProvider:
        before = kept.get("scripted")
        assert before is kept.get("scripted")
        return before

    assert asyncio.run(look_again()) is not asyncio.run(look_again())
    assert 2 == Seen.closed


def test_no_sdk_is_loaded_before_it_is_needed():
    """Importing polos.llm and making providers loads no SDK."""
    script = (
        "import sys, polos.llm as llm; [getattr(llm, name) for name in llm.__all__];"
        "llm.get_provider('scripted');"
        "print([name for name in ('openai', 'anthropic', 'httpx2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()
