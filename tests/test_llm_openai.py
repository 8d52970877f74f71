"""Tests of the Responses interface of OpenAI: what exactly is sent, and how what comes is read."""

from __future__ import annotations

from typing import Any

import pytest
from polos.errors import ModelError, ModelReplyMalformed, ModelReplyTruncated, ModelUnavailable
from polos.llm import Finished, LLMRequest, TextDelta, ThinkingDelta, ToolCallDelta, ToolSpec, get_provider
from polos.llm.messages import assistant_item, call_item, output_item, provider_item, user_item

from tests.llm_lines import KEY, Body, Server, failing, generate, sse, stream, whole

USAGE = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 6},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 123,
}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "encrypted_content": "gAAA",
    "summary": [{"type": "summary_text", "text": "Hm."}],
}
MESSAGE = {
    "type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "phase": "commentary",
    "content": [{"type": "output_text", "text": "It is warm.", "annotations": [], "logprobs": []}],
}  # fmt: skip
CALL = {
    "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Paris"}',
    "status": "completed",
}  # fmt: skip
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
REPLY = {
    "id": "resp_1", "object": "response", "status": "completed", "model": "gpt-5-2025-08-07", "service_tier": "default",
    "output": [REASONING, SEARCH, MESSAGE, CALL], "usage": USAGE, "error": None, "incomplete_details": None,
}  # fmt: skip
EVENTS: list[Any] = [
    {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}},
    {"type": "response.reasoning_summary_text.delta", "delta": "Hm."},
    {"type": "response.output_item.done", "item": REASONING},
    {"type": "response.output_item.done", "item": SEARCH},
    {"type": "response.output_text.delta", "delta": "It is"},
    {"type": "response.output_text.delta", "delta": ""},
    {"type": "response.output_text.delta", "delta": " warm."},
    {"type": "response.output_item.done", "item": MESSAGE},
    {"type": "response.function_call_arguments.delta", "delta": '{"city":'},
    {"type": "response.output_item.done", "item": CALL},
    {"type": "response.completed", "response": REPLY},
]
ASKED = LLMRequest(model="gpt-5", provider="openai", items=[user_item("How warm is Paris?")])
STRICT = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOSE = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string", "default": "C"}}}


def sent(request: LLMRequest, **settings: Any) -> dict[str, Any]:
    """Give the body that is sent for a request."""
    server = Server(REPLY)
    generate(server.provider("openai", **settings), request)
    return server.bodies[0]


def test_the_smallest_body():
    """A plain request sends the conversation, and asks that nothing is stored."""
    plain = LLMRequest(model="gpt-4o", items=[user_item("Hi")])

    assert {"model": "gpt-4o", "input": [{"role": "user", "content": "Hi"}], "store": False} == sent(plain)


def test_the_whole_body():
    """Every part of a request has its place in the body."""
    request = ASKED.model_copy(
        update={
            "system": "Be kind.",
            "tools": [
                ToolSpec(name="strict", description="d", parameters=STRICT),
                ToolSpec(name="loose", parameters=LOOSE),
                ToolSpec(name="asked", parameters=LOOSE, strict=True),
                ToolSpec.of({"type": "web_search"}),
            ],
            "output_schema": LOOSE,
            "output_schema_name": "Weather report",
            "temperature": 0.5,
            "top_p": 0.25,
            "max_output_tokens": 99,
            "provider_kwargs": {
                "text": {"verbosity": "low"}, "reasoning": {"effort": "low"}, "include": ["file_search_call.results"],
            },
        }
    )  # fmt: skip
    narrowed = {"city": {"type": "string"}, "unit": {"type": "string"}}
    strict = {"type": "object", "properties": narrowed, "required": ["city", "unit"], "additionalProperties": False}

    assert {
        "model": "gpt-5",
        "input": [{"role": "user", "content": "How warm is Paris?"}],
        "store": False,
        "instructions": "Be kind.",
        "tools": [
            {
                "type": "function",
                "name": "strict",
                "description": "d",
                "parameters": {**STRICT, "additionalProperties": False},
                "strict": True,
            },
            {"type": "function", "name": "loose", "description": "", "parameters": LOOSE, "strict": False},
            {"type": "function", "name": "asked", "description": "", "parameters": strict, "strict": True},
            {"type": "web_search"},
        ],
        "temperature": 0.5,
        "top_p": 0.25,
        "max_output_tokens": 99,
        "text": {
            "format": {"type": "json_schema", "name": "Weather_report", "schema": strict, "strict": True},
            "verbosity": "low",
        },
        "include": ["reasoning.encrypted_content", "file_search_call.results"],
        "reasoning": {"effort": "low"},
    } == sent(request)


def test_a_schema_that_cannot_be_strict_is_sent_as_a_wish():
    """A schema with free keys goes as it is, not strict."""
    free = {"type": "object", "additionalProperties": {"type": "integer"}}
    body = sent(ASKED.model_copy(update={"output_schema": free}))

    assert {"type": "json_schema", "name": "answer", "schema": free, "strict": False} == body["text"]["format"]


def test_a_turn_goes_back_as_it_came():
    """The second turn holds reasoning and server-side items untouched, in their places, and no ids of items."""
    server = Server(REPLY)
    provider = server.provider("openai")
    first = generate(provider, ASKED)
    items = [*ASKED.items, *first.items, output_item(first.tool_calls[0], "21 degrees")]
    generate(provider, ASKED.model_copy(update={"items": items}))

    assert [
        {"role": "user", "content": "How warm is Paris?"},
        REASONING,
        SEARCH,
        {
            "type": "message",
            "role": "assistant",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "It is warm."}],
        },
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Paris"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "21 degrees"},
    ] == server.bodies[1]["input"]


def test_what_a_text_cites_is_kept():
    """Annotations of a text are kept with it."""
    cited = {"type": "output_text", "text": "a", "annotations": [{"type": "url_citation", "url": "u"}]}
    server = Server({**REPLY, "output": [{**MESSAGE, "content": [cited]}]})
    items = generate(server.provider("openai"), ASKED).items

    assert [cited] == items[0]["content"]


def test_a_stored_conversation_keeps_its_ids():
    """With `store` the server holds items, so that they are named, and nothing encrypted is asked for."""
    plain = {"type": "reasoning", "id": "rs_1", "summary": []}
    items = [provider_item("openai", "gpt-5", plain), {**call_item("c", "n", "{}"), "id": "fc_1"}]
    body = sent(ASKED.model_copy(update={"items": items, "provider_kwargs": {"store": True}}))

    assert [plain, {**call_item("c", "n", "{}"), "id": "fc_1"}] == body["input"]
    assert (True, False) == (body["store"], "include" in body)


def test_what_another_model_thought_is_left_out():
    """Opaque items of other providers and models, and reasoning that came without its content, aren't sent."""
    items = [
        user_item("Hi"),
        provider_item("anthropic", "gpt-5", {"type": "thinking"}),
        provider_item("openai", "gpt-4", {"type": "reasoning", "encrypted_content": "x"}),
        provider_item("openai", "gpt-5", {"type": "reasoning", "id": "rs_1", "summary": []}),
        {**call_item("c", "n", "{}"), "native": {"provider": "openai", "data": {}}},
        output_item("c", "1"),
    ]

    assert [user_item("Hi"), call_item("c", "n", "{}"), output_item("c", "1")] == sent(
        ASKED.model_copy(update={"items": items})
    )["input"]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "input_text", "text": "a"}, {"type": "input_text", "text": "a"}),
        ({"type": "text", "text": "a"}, {"type": "input_text", "text": "a"}),
        ("a", {"type": "input_text", "text": "a"}),
        (
            {"type": "input_image", "image_url": "https://x/a.png", "detail": "low"},
            {"type": "input_image", "image_url": "https://x/a.png", "detail": "low"},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
            {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
        ),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
            {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}},
            {"type": "input_image", "image_url": "https://x/a.png"},
        ),
        ({"type": "input_image", "file_id": "file_1"}, {"type": "input_image", "file_id": "file_1"}),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        ),
        (
            {
                "type": "document",
                "title": "a",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="},
            },
            {"type": "input_file", "filename": "a", "file_data": "data:application/pdf;base64,AA=="},
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}},
            {"type": "input_file", "file_url": "https://x/a.pdf"},
        ),
        ({"type": "file", "file": {"file_id": "file_1"}}, {"type": "input_file", "file_id": "file_1"}),
        ({"type": "input_audio", "input_audio": {}}, {"type": "input_audio", "input_audio": {}}),
    ],
)
def test_images_and_files_in_each_dialect(part, expected):
    """What a user hands over is sent in this provider's form, whichever it was written in."""
    items = [{"role": "user", "content": [part]}, output_item("c", [part])]

    assert [expected] == sent(ASKED.model_copy(update={"items": items}))["input"][0]["content"]
    assert [expected] == sent(ASKED.model_copy(update={"items": items}))["input"][1]["output"]


def test_words_of_the_sdk_among_the_arguments():
    """Headers, query and extra body among `provider_kwargs` go where the SDK's methods put them."""
    server = Server(REPLY)
    extra = {"extra_headers": {"x-a": "1"}, "extra_query": {"q": "2"}, "extra_body": {"seed": 3}, "timeout": 4}
    generate(server.provider("openai"), ASKED.model_copy(update={"provider_kwargs": extra}))
    request = server.requests[0]

    assert ("1", "2", 3, 4) == (
        request.headers["x-a"],
        request.url.params["q"],
        server.bodies[0]["seed"],
        request.extensions["timeout"]["read"],
    )
    assert not set(extra) & set(server.bodies[0])


def test_a_reply_is_read():
    """A reply has its text, calls, items, usage, reason and what it lets see of its reasoning."""
    reply = generate(Server(REPLY).provider("openai"), ASKED)

    assert ("It is warm.", "tool_calls", "resp_1", "gpt-5-2025-08-07", "Hm.") == (
        reply.content, reply.stop_reason, reply.response_id, reply.model, reply.thinking,
    )  # fmt: skip
    assert [("fc_1", "call_1", "weather")] == [(call.id, call.call_id, call.function.name) for call in reply.tool_calls]
    assert {
        "input_tokens": 36, "output_tokens": 87, "total_tokens": 123, "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 6, "reasoning_tokens": 64,
    } == reply.usage.model_dump()  # fmt: skip
    assert ["provider_item", "provider_item", "message", "function_call"] == [item["type"] for item in reply.items]
    assert {"service_tier": "default"} == reply.raw


def test_a_stream_is_the_same_reply():
    """The whole reply at the end of a stream is the one that comes in one piece; its pieces came before."""
    server = Server(sse(EVENTS, named=True))
    pieces = stream(server.provider("openai"), ASKED)
    complete = generate(Server(REPLY).provider("openai"), ASKED)

    assert [
        ThinkingDelta("Hm."),
        TextDelta("It is"),
        TextDelta(" warm."),
        ToolCallDelta(complete.tool_calls[0]),
    ] == pieces[:-1]
    assert Finished(complete) == pieces[-1]
    assert server.bodies[0]["stream"] is True


def test_what_a_stream_left_out_comes_before_its_end():
    """Text and calls that came only with the whole reply are pieces too; items that it left out came before."""
    complete = generate(Server(REPLY).provider("openai"), ASKED)
    quiet = stream(Server(sse(EVENTS[-1:])).provider("openai"), ASKED)
    without_output = [*EVENTS[:-1], {"type": "response.completed", "response": {**REPLY, "output": []}}]

    assert [TextDelta("It is warm."), ToolCallDelta(complete.tool_calls[0]), Finished(complete)] == quiet
    assert Finished(complete) == stream(Server(sse(without_output)).provider("openai"), ASKED)[-1]


@pytest.mark.parametrize(
    ("change", "stop_reason"),
    [
        ({"output": [MESSAGE]}, "stop"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "length",
        ),
        ({"output": [], "status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"output": [], "status": "incomplete"}, "length"),
        ({"output": [{**MESSAGE, "content": [{"type": "refusal", "refusal": "No."}]}]}, "refusal"),
    ],
)
def test_why_it_stopped(change, stop_reason):
    """A reply says in our words why it ended, also where it isn't complete."""
    ended = {**REPLY, **change}
    streamed = stream(
        Server(sse([{"type": "response." + ended["status"], "response": ended}])).provider("openai"), ASKED
    )

    assert stop_reason == generate(Server(ended).provider("openai"), ASKED).stop_reason
    assert stop_reason == whole(streamed).stop_reason


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ({**REPLY, "status": "in_progress"}, ModelReplyTruncated),
        ({**REPLY, "status": "failed", "error": {"code": "server_error", "message": "m"}}, ModelUnavailable),
        ({**REPLY, "status": "failed"}, ModelUnavailable),
        ({}, ModelReplyMalformed),
        ([], ModelReplyMalformed),
        ("text", ModelReplyMalformed),
        (3, ModelReplyMalformed),
    ],
)
def test_what_is_no_reply(reply, error):
    """What isn't a whole reply is an error and never taken for one."""
    with pytest.raises(error):
        generate(Server(reply).provider("openai"), ASKED)


def test_a_stream_is_closed_when_nobody_reads_on():
    """Who stops reading ends the call: the answer is closed."""
    import asyncio
    from contextlib import aclosing

    body = Body([sse(EVENTS[:4])], end="stall")

    async def look() -> None:
        async with aclosing(Server(body).provider("openai").stream(ASKED)) as pieces:
            async for _ in pieces:
                break
        assert body.closed

    asyncio.run(look())


def test_keys_and_addresses(monkeypatch):
    """The key is the given one or the environment's; a server elsewhere needs none; without any, access is denied."""
    server = Server(REPLY)
    generate(server.provider("openai"), ASKED)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    generate(server.provider("openai", api_key=None, base_url="http://127.0.0.1:8080/v1"), ASKED)
    with pytest.raises(ModelError, match="OPENAI_API_KEY"):
        generate(server.provider("openai", api_key=None), ASKED)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    generate(server.provider("openai", api_key=None), ASKED)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    generate(server.provider("openai", api_key=None), ASKED)

    assert ["Bearer " + key for key in (KEY, "no-key", "sk-environment", "sk-environment")] == [
        request.headers["authorization"] for request in server.requests
    ]
    assert ["https://api.openai.com/v1/responses", "http://127.0.0.1:8080/v1/responses"] == [
        str(request.url) for request in server.requests[:2]
    ]
    assert "http://elsewhere/v1/responses" == str(server.requests[3].url)


@pytest.mark.parametrize(
    ("name", "environment", "address", "key"),
    [
        ("groq", {"GROQ_API_KEY": "k"}, "https://api.groq.com/openai/v1", "k"),
        ("together", {"TOGETHER_API_KEY": "k"}, "https://api.together.xyz/v1", "k"),
        ("fireworks", {"FIREWORKS_API_KEY": "k"}, "https://api.fireworks.ai/inference/v1", "k"),
        ("Gemini", {"GEMINI_API_KEY": "k"}, "https://generativelanguage.googleapis.com/v1beta/openai", "k"),
        ("ollama", {}, "http://127.0.0.1:11434/v1", "no-key"),
        ("ollama", {"OLLAMA_HOST": "box:1234"}, "http://box:1234/v1", "no-key"),
        ("ollama", {"OLLAMA_HOST": "https://box/"}, "https://box/v1", "no-key"),
    ],
)
def test_providers_that_speak_like_openai(monkeypatch, name, environment, address, key):
    """Names that programs use lead to their servers, with their keys, and errors and opaque items bear the name."""
    for variable in ("OPENAI_API_KEY", "OLLAMA_HOST"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    message = {"content": "a", "reasoning_details": [{"type": "x"}]}
    server = Server({"choices": [{"message": message, "finish_reason": "stop"}]}, failing(500))
    asked = ASKED.model_copy(update={"provider": name.lower(), "model": f"{name.lower()}/m"})
    reply = generate(server.provider(name, api_key=None), asked)
    with pytest.raises(ModelUnavailable) as failed:
        generate(server.provider(name, api_key=None), asked)

    assert (f"{address}/chat/completions", f"Bearer {key}", "m") == (
        str(server.requests[0].url), server.requests[0].headers["authorization"], server.bodies[0]["model"],
    )  # fmt: skip
    assert (name.lower(), name.lower()) == (failed.value.provider, reply.items[0]["provider"])


def test_given_settings_count_before_known_ones():
    """An address or an interface that is given is taken, whoever it is."""
    server = Server(REPLY)
    generate(server.provider("groq", base_url="http://x/v1", llm_api="responses"), ASKED)

    assert "http://x/v1/responses" == str(server.requests[0].url)


def test_settings_that_make_no_sense_are_refused():
    """A setting that nothing can keep is refused with its name, when the provider is made."""
    with pytest.raises(ValueError, match="llm_api"):
        get_provider("openai", llm_api="completions")
    with pytest.raises(ValueError, match="base_url"):
        get_provider("openai", base_url="localhost:8080")
    with pytest.raises(ValueError, match="idle_timeout_seconds"):
        get_provider("openai", idle_timeout_seconds=0)
    with pytest.raises(ValueError, match="timeout_seconds"):
        get_provider("openai", timeout_seconds=-1)


def test_a_call_is_made_once():
    """The SDK doesn't try again by itself: one call, one request."""
    server = Server(failing(500))

    for ask in (generate, stream):
        with pytest.raises(ModelUnavailable):
            ask(server.provider("openai"), ASKED)
    assert 2 == len(server.requests)


def test_closing():
    """Closing leaves a given client open, and a closed provider works again."""
    import asyncio

    server = Server(REPLY)

    async def twice() -> None:
        provider = server.provider("openai")
        await provider.aclose()
        await provider.generate(ASKED)
        await provider.aclose()
        await provider.generate(ASKED)
        own = get_provider("openai", api_key=KEY)
        assert KEY not in repr(own)
        own._client = closed = type("Client", (), {"closed": False})()  # type: ignore[attr-defined]

        async def close() -> None:
            closed.closed = True

        closed.close = close
        await own.aclose()
        assert closed.closed

    asyncio.run(twice())
    assert 2 == len(server.requests)


def test_a_message_of_the_model_that_a_program_wrote():
    """An assistant's text in a list is sent as what a model said."""
    items = [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}, assistant_item("b")]
    body = sent(ASKED.model_copy(update={"items": items}))

    assert [["output_text", "a"], ["output_text", "b"]] == [
        [part[name] for name in ("type", "text")] for item in body["input"] for part in item["content"]
    ]
