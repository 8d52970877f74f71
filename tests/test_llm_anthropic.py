"""Tests of the Messages interface of Anthropic: what exactly is sent, and how what comes is read."""

from __future__ import annotations

from typing import Any

import pytest
from polos.errors import ModelError, ModelReplyMalformed, ModelReplyTruncated, ModelRequestRefused, ModelUnavailable
from polos.llm import Finished, LLMRequest, TextDelta, ThinkingDelta, ToolCallDelta, ToolSpec
from polos.llm.messages import assistant_item, call_item, output_item, provider_item, user_item

from tests.llm_lines import KEY, Server, generate, sse, stream, whole

ASKED = LLMRequest(model="claude-m", items=[user_item("Hi")])
CACHED = {"cache_control": {"type": "ephemeral"}}
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}
REDACTED = {"type": "redacted_thinking", "data": "Emw"}
SEARCH = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "x"}}
FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "srv_1",
    "content": [{"type": "web_search_result", "url": "u", "encrypted_content": "E"}],
}
CITATION = {"type": "web_search_result_location", "encrypted_index": "E"}
CITED = {"type": "text", "text": "It is warm.", "citations": [CITATION]}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
NOTHING = {"type": "tool_use", "id": "toolu_2", "name": "clock", "input": {}}
USAGE = {
    "input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 5,
    "output_tokens_details": {"thinking_tokens": 3},
}  # fmt: skip
CONTENT = [THINKING, REDACTED, SEARCH, FOUND, {"type": "text", "text": "Well: "}, CITED, CALL, NOTHING]
REPLY: dict[str, Any] = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-m-2026", "stop_reason": "tool_use",
    "content": CONTENT, "usage": USAGE,
}  # fmt: skip
BEGUN = {**REPLY, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}


def delta(index: int, kind: str, **more: Any) -> dict[str, Any]:
    """Make the event of a piece of a block."""
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}


def block(index: int, begun: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the events of a block."""
    begin = {"type": "content_block_start", "index": index, "content_block": begun}
    return [begin, *deltas, {"type": "content_block_stop", "index": index}]


EVENTS: list[Any] = [
    {"type": "message_start", "message": BEGUN},
    {"type": "ping"},
    *block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        delta(0, "thinking_delta", thinking="H"),
        delta(0, "thinking_delta", thinking="m."),
        delta(0, "signature_delta", signature="EqQB"),
    ),
    *block(1, REDACTED),
    *block(2, {**SEARCH, "input": {}}, delta(2, "input_json_delta", partial_json='{"query": "x"}')),
    *block(3, FOUND),
    *block(4, {"type": "text", "text": ""}, delta(4, "text_delta", text="Well: ")),
    *block(
        5,
        {"type": "text", "text": "", "citations": []},
        delta(5, "citations_delta", citation=CITATION),
        delta(5, "text_delta", text="It is"),
        delta(5, "text_delta", text=" warm."),
    ),
    *block(
        6,
        {**CALL, "input": {}},
        delta(6, "input_json_delta", partial_json=""),
        delta(6, "input_json_delta", partial_json='{"city": '),
        delta(6, "input_json_delta", partial_json='"Paris"}'),
    ),
    *block(7, NOTHING),
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
]  # fmt: skip


def sent(request: LLMRequest, **settings: Any) -> dict[str, Any]:
    """Give the body that is sent for a request."""
    server = Server(REPLY)
    generate(server.provider("anthropic", **settings), request)
    return server.bodies[0]


def test_the_smallest_body():
    """A plain request sends the conversation, with the mark of the cache behind it."""
    assert {
        "model": "claude-m",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", **CACHED}]}],
    } == sent(ASKED)


def test_the_whole_body():
    """Every part of a request has its place, and three marks of the cache."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "description": "d"}}}
    search = {"type": "web_search_20250305", "name": "web_search"}
    request = ASKED.model_copy(
        update={
            "system": "Be kind.",
            "tools": [ToolSpec.of(search), ToolSpec(name="t", description="d", parameters=schema)],
            "items": [{"role": "developer", "content": "Be brief."}, user_item("Hi")], "output_schema": schema,
            "temperature": 0.5, "top_p": 0.25, "max_output_tokens": 9,
            "provider_kwargs": {
                "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}, "betas": ["b1", "b2"],
            },
        }
    )  # fmt: skip
    narrowed = {"n": {"type": "integer", "description": "d"}}
    server = Server(REPLY)
    generate(server.provider("anthropic"), request)

    assert {
        "model": "claude-m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief.", **CACHED}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", **CACHED}]}],
        "tools": [search, {"name": "t", "description": "d", "input_schema": schema, **CACHED}],
        "output_config": {
            "format": {
                "type": "json_schema",
                "schema": {"type": "object", "properties": narrowed, "required": ["n"], "additionalProperties": False},
            },
            "effort": "low",
        },
        "temperature": 0.5,
        "top_p": 0.25,
        "thinking": {"type": "adaptive"},
    } == server.bodies[0]
    assert "b1,b2" == server.requests[0].headers["anthropic-beta"]


def test_a_streamed_reply_may_be_longer():
    """A stream asks for more than an answer in one piece, for which a connection has to stand still."""
    server = Server(sse(EVENTS, named=True))
    stream(server.provider("anthropic"), ASKED)

    assert (64_000, True) == (server.bodies[0]["max_tokens"], server.bodies[0]["stream"])


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("claude-3-haiku-20240307", 4_096),
        ("claude-3-5-sonnet-20241022", 8_192),
        ("claude-opus-4-20250514", 32_000),
        ("claude-opus-4-1-20250805", 32_000),
        ("claude-opus-4-5", 64_000),
        ("claude-sonnet-4-20250514", 64_000),
    ],
)
def test_models_that_write_less_are_asked_for_less(model, most):
    """A model isn't asked for more than it can write, unless the program says so itself."""
    server = Server(sse(EVENTS, named=True))
    asked = ASKED.model_copy(update={"model": model})
    stream(server.provider("anthropic"), asked)
    stream(server.provider("anthropic"), asked.model_copy(update={"max_output_tokens": 99_000}))

    assert [most, 99_000] == [body["max_tokens"] for body in server.bodies]


@pytest.mark.parametrize(
    ("model", "held"),
    [
        ("claude-3-5-sonnet-20241022", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-opus-4-0", False),
        ("claude-opus-4-1-20250805", True),
        ("claude-sonnet-4-5-20250929", True),
        ("claude-opus-5-5", True),
    ],
)
def test_models_that_cannot_be_held_to_a_schema_are_told(model, held):
    """Older models are told of the schema in words, and every model of one that has no strict form."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    free = {"type": "object", "additionalProperties": True}
    body = sent(ASKED.model_copy(update={"model": model, "output_schema": schema}))
    told = sent(ASKED.model_copy(update={"model": model, "output_schema": free}))

    assert (held, not held) == ("output_config" in body, "system" in body)
    assert told["system"][-1]["text"].startswith("Answer with one JSON object")
    assert "output_config" not in told


def test_a_turn_goes_back_as_it_came():
    """The second turn holds thinking, server-side tools and citations untouched, and results before words."""
    server = Server(REPLY)
    provider = server.provider("anthropic")
    first = generate(provider, ASKED)
    results = [output_item(call, str(number)) for number, call in enumerate(first.tool_calls)]
    items = [*ASKED.items, *first.items, results[0], user_item("Quick!"), results[1]]
    generate(provider, ASKED.model_copy(update={"items": items}))

    assert [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": REPLY["content"]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "0"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "1"},
                {"type": "text", "text": "Quick!", **CACHED},
            ],
        },
    ] == server.bodies[1]["messages"]


def test_thoughts_are_for_who_thought_them():
    """Another model of the provider gets the text and the calls, without thinking and without citations."""
    server = Server(REPLY)
    provider = server.provider("anthropic")
    items = [*ASKED.items, *generate(provider, ASKED).items]
    generate(provider, ASKED.model_copy(update={"items": items, "model": "claude-n"}))
    told = server.bodies[1]["messages"][1]["content"]

    assert ["text", "text", "tool_use", "tool_use"] == [one["type"] for one in told]
    assert {"type": "text", "text": "It is warm."} == told[1]


def test_a_conversation_that_began_elsewhere():
    """Ids, arguments and empty texts of other providers are made into what is allowed here."""
    items = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": " "},
        provider_item("openai", "claude-m", {"type": "reasoning"}),
        call_item("functions.add:0", "add", "no json"),
        output_item("functions.add:0", [{"type": "input_text", "text": "1"}]),
    ]

    assert [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "functions_add_0", "name": "add", "input": {}}]},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "functions_add_0",
                    "content": [{"type": "text", "text": "1"}],
                    **CACHED,
                }
            ],
        },
    ] == sent(ASKED.model_copy(update={"items": items}))["messages"]


def test_thinking_carries_no_mark():
    """A conversation that ends with thinking has no mark of the cache at its end, where it would be refused."""
    items = [user_item("Hi"), provider_item("anthropic", "claude-m", THINKING)]

    assert [THINKING] == sent(ASKED.model_copy(update={"items": items}))["messages"][1]["content"]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://x"}},
            {"type": "image", "source": {"type": "url", "url": "https://x"}},
        ),
        ({"type": "input_image", "file_id": "f"}, {"type": "image", "source": {"type": "file", "file_id": "f"}}),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="},
                "title": "a.pdf",
            },
        ),
        (
            {"type": "input_file", "file_url": "https://x"},
            {"type": "document", "source": {"type": "url", "url": "https://x"}},
        ),
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}},
        ),
        ({"type": "input_image"}, None),
    ],
)
def test_images_and_files_in_each_dialect(part, expected):
    """What a user hands over is sent in this provider's form, whichever it was written in."""
    request = ASKED.model_copy(update={"items": [user_item([part])]})
    if expected is None:
        with pytest.raises(ModelRequestRefused, match="needs an address"):
            sent(request)
    else:
        assert [{**expected, **CACHED}] == sent(request)["messages"][0]["content"]


def test_items_without_a_form_are_refused():
    """An item that this interface doesn't know is refused before anything is sent."""
    with pytest.raises(ModelRequestRefused, match="item_reference"):
        sent(ASKED.model_copy(update={"items": [{"type": "item_reference", "id": "x"}]}))


def test_a_reply_is_read():
    """A reply has its text, calls, items, usage with the cache in it, and what it lets see of its thinking."""
    reply = generate(Server(REPLY).provider("anthropic"), ASKED)

    assert ("Well: It is warm.", "tool_calls", "msg_1", "claude-m-2026", "Hm.") == (
        reply.content, reply.stop_reason, reply.response_id, reply.model, reply.thinking,
    )  # fmt: skip
    assert [("toolu_1", '{"city": "Paris"}'), ("toolu_2", "{}")] == [
        (call.call_id, call.function.arguments) for call in reply.tool_calls
    ]
    assert {
        "input_tokens": 35, "output_tokens": 7, "total_tokens": 42, "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 5, "reasoning_tokens": 3,
    } == reply.usage.model_dump()  # fmt: skip


def test_a_stream_is_the_same_reply():
    """A stream adds up to the reply in one piece: signatures, citations, a call without arguments and all."""
    pieces = stream(Server(sse(EVENTS, named=True)).provider("anthropic"), ASKED)
    complete = generate(Server(REPLY).provider("anthropic"), ASKED)

    assert [
        ThinkingDelta("H"),
        ThinkingDelta("m."),
        TextDelta("Well: "),
        TextDelta("It is"),
        TextDelta(" warm."),
        *map(ToolCallDelta, complete.tool_calls),
        Finished(complete),
    ] == pieces


def test_a_text_that_says_no_more_is_plain():
    """Fields of a text that are empty are no reason to keep it in its maker's words."""
    told = {"type": "text", "text": "a", "citations": None}
    reply = generate(Server({**REPLY, "content": [told]}).provider("anthropic"), ASKED)

    assert [assistant_item("a")] == reply.items


@pytest.mark.parametrize(
    ("told", "stop_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("something new", "something new"),
    ],
)
def test_why_it_stopped(told, stop_reason):
    """A reply says in our words why it ended; words that we don't know are kept."""
    assert stop_reason == generate(Server({**REPLY, "stop_reason": told}).provider("anthropic"), ASKED).stop_reason


def test_arguments_that_were_cut_are_kept_as_written():
    """A model that reached its limit within the arguments left no JSON; what it wrote is kept as it is."""
    events = [
        EVENTS[0],
        *block(0, {**CALL, "input": {}}, delta(0, "input_json_delta", partial_json='{"city": "Pa')),
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    reply = whole(stream(Server(sse(events, named=True)).provider("anthropic"), ASKED))

    assert ("length", '{"city": "Pa') == (reply.stop_reason, reply.tool_calls[0].function.arguments)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ({**REPLY, "stop_reason": None}, ModelReplyTruncated),
        ({**REPLY, "content": None}, ModelReplyMalformed),
        ({}, ModelReplyMalformed),
        ([], ModelReplyMalformed),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, ModelUnavailable),
    ],
)
def test_what_is_no_reply(reply, error):
    """What isn't a whole reply is an error and never taken for one."""
    with pytest.raises(error):
        generate(Server(reply).provider("anthropic"), ASKED)


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([*EVENTS[:-2], EVENTS[-1]], ModelReplyTruncated),
        ([EVENTS[0], delta(0, "text_delta", text="a")], ModelReplyMalformed),
        ([EVENTS[0], {"type": "content_block_start"}], ModelReplyMalformed),
        ([EVENTS[0], {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}], ModelUnavailable),
    ],
)
def test_streams_that_are_no_reply(events, error):
    """A stream whose events don't fit together is no reply."""
    with pytest.raises(error):
        stream(Server(sse(events, named=True)).provider("anthropic"), ASKED)


def test_keys_and_addresses(monkeypatch, tmp_path):
    """The key is the given one or the environment's; without any, access is denied and nothing is sent."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    server = Server(REPLY)
    generate(server.provider("anthropic", base_url="http://127.0.0.1:8080"), ASKED)
    with pytest.raises(ModelError, match="ANTHROPIC_API_KEY"):
        generate(server.provider("anthropic", api_key=None), ASKED)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-environment")
    generate(server.provider("anthropic", api_key=None), ASKED)

    assert [f"Bearer {KEY}", "Bearer sk-environment"] == [
        request.headers["authorization"] for request in server.requests
    ]
    assert ["http://127.0.0.1:8080/v1/messages", "https://api.anthropic.com/v1/messages"] == [
        str(request.url) for request in server.requests
    ]


def test_who_said_what():
    """Items of one side, one after the other, are one turn."""
    items = [
        user_item("a"),
        user_item("b"),
        assistant_item("c"),
        call_item("d", "t", '{"n": 1}'),
        output_item("d", "1"),
    ]

    assert [("user", 2), ("assistant", 2), ("user", 1)] == [
        (turn["role"], len(turn["content"])) for turn in sent(ASKED.model_copy(update={"items": items}))["messages"]
    ]


def test_calls_of_a_conversation_need_tools():
    """A conversation with calls is refused where no tools are; who is to call none gets them, and may not."""
    server = Server(REPLY)
    items = [
        user_item("Hi"), call_item("toolu_1", "weather", "{}"), output_item("toolu_1", "warm"),
        call_item("toolu_2", "weather", "{}"), output_item("toolu_2", "warm"), user_item("As JSON, please."),
    ]  # fmt: skip
    generate(server.provider("anthropic"), ASKED.model_copy(update={"items": items}))
    generate(server.provider("anthropic"), ASKED)
    with_tools = ASKED.model_copy(update={"items": items, "tools": [ToolSpec(name="clock")]})
    generate(server.provider("anthropic"), with_tools)
    told, plain, own = server.bodies

    assert ([{"name": "weather", "input_schema": {"type": "object"}}], {"type": "none"}) == (
        told["tools"], told["tool_choice"]
    )  # fmt: skip
    assert [] == [name for name in ("tools", "tool_choice") if name in plain]
    assert (["clock"], None) == ([one["name"] for one in own["tools"]], own.get("tool_choice"))
