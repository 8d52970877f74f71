"""Tests of Chat Completions: what exactly is sent, and how the replies of a hundred servers are read."""

from __future__ import annotations

from typing import Any

import pytest
from polos.errors import ModelReplyMalformed, ModelReplyTruncated, ModelRequestRefused, ModelUnavailable
from polos.llm import Finished, LLMRequest, LLMResponse, TextDelta, ThinkingDelta, ToolCallDelta, ToolSpec
from polos.llm.messages import assistant_item, call_item, output_item, provider_item, user_item

from tests.llm_lines import Server, generate, sse, stream

ASKED = LLMRequest(model="local", items=[user_item("Hi")])
MESSAGE = {"role": "assistant", "content": "Hello there"}
USAGE = {
    "prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21, "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 5},
}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

CONVERSATION = [
    user_item("Hi"),
    assistant_item("Let me "),
    assistant_item("see."),
    call_item("c1", "add", "{}"),
    call_item("c2", "add", "[]"),
    output_item("c1", "1"),
    output_item("c2", [{"type": "input_text", "text": "2"}, {"type": "input_image", "image_url": "https://x"}]),
    assistant_item("Done."),
    call_item("c3", "add", "{}"),
    assistant_item("Really."),
    {"type": "message", "role": "developer", "content": "Be brief.", "name": "boss"},
    user_item(
        [{"type": "input_text", "text": "And?"}, {"type": "input_image", "image_url": "https://x", "detail": "low"}]
    ),
]


def reply(message: dict[str, Any], finish_reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    """Make an answer in one piece."""
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "chat_1", "model": "local-7b", "choices": [choice], "usage": USAGE, **more}


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    """Make a piece of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chat_1", "model": "local-7b", "choices": [choice], **more}


def ask(answer: Any, request: LLMRequest = ASKED) -> LLMResponse:
    """Ask a server that gives this answer."""
    return generate(Server(answer).provider("openai", llm_api="chat_completions"), request)


def pieces(events: list[Any], request: LLMRequest = ASKED) -> list[Any]:
    """Ask a server that streams these events."""
    return stream(Server(sse(events)).provider("openai", llm_api="chat_completions"), request)


def sent(request: LLMRequest, **settings: Any) -> dict[str, Any]:
    """Give the body that is sent for a request."""
    server = Server(reply(MESSAGE))
    generate(server.provider("openai", llm_api="chat_completions", **settings), request)
    assert str(server.requests[0].url).endswith("/chat/completions")
    return server.bodies[0]


def test_the_smallest_body():
    """A plain request is the model and its messages."""
    assert {"model": "local", "messages": [{"role": "user", "content": "Hi"}]} == sent(ASKED)


def test_the_whole_body():
    """Every part of a request has its place; the system prompt is said once, whatever the conversation."""
    tools = [ToolSpec(name="add", description="sums", parameters=SCHEMA), ToolSpec(name="s", strict=True)]
    native = {"type": "custom", "custom": {}}
    request = ASKED.model_copy(
        update={
            "system": "Be kind.", "items": CONVERSATION, "tools": [*tools, ToolSpec.of(native)], "temperature": 0.5,
            "top_p": 0.25, "max_output_tokens": 9, "provider_kwargs": {"seed": 1},
        }
    )  # fmt: skip
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}

    assert {
        "model": "local",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    {**call, "id": "c1"},
                    {"id": "c2", "type": "function", "function": {"name": "add", "arguments": "[]"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": "2"},
            {"role": "assistant", "content": "Done.", "tool_calls": [{**call, "id": "c3"}]},
            {"role": "assistant", "content": "Really."},
            {"role": "developer", "content": "Be brief.", "name": "boss"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And?"},
                    {"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}},
                ],
            },
        ],
        "tools": [
            {"type": "function", "function": {"name": "add", "description": "sums", "parameters": SCHEMA}},
            {
                "type": "function",
                "function": {
                    "name": "s",
                    "description": "",
                    "parameters": {"type": "object", "properties": {}},
                    "strict": True,
                },
            },
            native,
        ],
        "temperature": 0.5,
        "top_p": 0.25,
        "max_completion_tokens": 9,
        "seed": 1,
    } == sent(request)


def test_other_servers_know_the_old_name():
    """The limit of the output has the name that servers elsewhere know."""
    body = sent(ASKED.model_copy(update={"max_output_tokens": 9}), base_url="http://127.0.0.1:1/v1")

    assert (9, False) == (body["max_tokens"], "max_completion_tokens" in body)


def test_a_schema_beside_tools_is_said_in_words():
    """Without tools the schema is a format; with them it is part of the system prompt."""
    alone = sent(ASKED.model_copy(update={"output_schema": SCHEMA, "output_schema_name": "N", "system": "S"}))
    beside = sent(ASKED.model_copy(update={"output_schema": SCHEMA, "system": "S", "tools": [ToolSpec(name="t")]}))
    unsaid = sent(ASKED.model_copy(update={"output_schema": SCHEMA, "tools": [ToolSpec(name="t")]}))

    assert {
        "type": "json_schema",
        "json_schema": {"name": "N", "schema": {**SCHEMA, "additionalProperties": False}, "strict": True},
    } == alone["response_format"]
    assert "S" == alone["messages"][0]["content"]
    assert "response_format" not in beside
    assert beside["messages"][0]["content"].startswith("S\n\nAnswer with one JSON object")
    assert '"integer"' in beside["messages"][0]["content"]
    assert unsaid["messages"][0]["content"].startswith("Answer with")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
        ),
        ({"type": "input_file", "file_id": "f"}, {"type": "file", "file": {"file_id": "f"}}),
        (
            {"type": "input_audio", "input_audio": {"data": "AA=="}},
            {"type": "input_audio", "input_audio": {"data": "AA=="}},
        ),
        ({"type": "input_file", "file_url": "https://x"}, None),
        ({"type": "input_image", "file_id": "f"}, None),
    ],
)
def test_parts(part, expected):
    """Files are sent in this interface's form; what it has none for is refused before anything is sent."""
    request = ASKED.model_copy(update={"items": [user_item([part])]})
    if expected is None:
        with pytest.raises(ModelRequestRefused, match="no form"):
            sent(request)
    else:
        assert [expected] == sent(request)["messages"][0]["content"]


@pytest.mark.parametrize(
    "item",
    [{"type": "item_reference", "id": "x"}, {"role": "user", "content": 3}, {"role": "user", "content": [3]}],
)
def test_items_without_a_form_are_refused(item):
    """What isn't an item is refused, and so is what only another interface knows."""
    with pytest.raises(ModelRequestRefused):
        sent(ASKED.model_copy(update={"items": [item]}))


def test_a_reply_is_read():
    """A reply has its text, calls, usage and reason."""
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"n":1}'}}
    got = ask(reply({**MESSAGE, "tool_calls": [call], "reasoning_content": "Hm."}, "tool_calls"))

    assert ("Hello there", "Hm.", "tool_calls", "chat_1", "local-7b") == (
        got.content, got.thinking, got.stop_reason, got.response_id, got.model,
    )  # fmt: skip
    assert [assistant_item("Hello there"), call_item("c1", "add", '{"n":1}')] == got.items
    assert (9, 12, 21, 4, 5) == (
        got.usage.input_tokens, got.usage.output_tokens, got.usage.total_tokens, got.usage.cache_read_input_tokens,
        got.usage.reasoning_tokens,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("message", "finish_reason", "stop_reason"),
    [
        (MESSAGE, "stop", "stop"),
        (MESSAGE, "length", "length"),
        (MESSAGE, "content_filter", "content_filter"),
        ({"content": None, "refusal": "No."}, "stop", "refusal"),
        ({"tool_calls": [{"function": {"name": "t"}}]}, "stop", "tool_calls"),
        ({"tool_calls": [{"function": {"name": "t"}}]}, "function_call", "tool_calls"),
    ],
)
def test_why_it_stopped(message, finish_reason, stop_reason):
    """A reply says in our words why it ended, whatever the server's habit."""
    assert stop_reason == ask(reply(message, finish_reason)).stop_reason
    assert stop_reason == pieces([chunk(message), chunk({}, finish_reason), "[DONE]"])[-1].response.stop_reason


def test_a_stream_is_put_together():
    """Pieces of text and calls add up to the reply; usage that comes after the end is taken."""
    got = pieces(
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"reasoning": "Hm."}),
            chunk({"content": "Hello"}),
            chunk({"content": " there"}),
            chunk(
                {
                    "tool_calls": [
                        {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}
                    ]
                }
            ),
            chunk({"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "mul", "arguments": '{"b"'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]}),
            chunk({"tool_calls": [{"index": 1, "function": {"arguments": ":2}"}}]}),
            chunk({}, "tool_calls"),
            {"id": "chat_1", "choices": [], "usage": USAGE},
            "[DONE]",
        ]
    )
    whole = got[-1].response

    assert [ThinkingDelta("Hm."), TextDelta("Hello"), TextDelta(" there")] == got[:3]
    assert [ToolCallDelta(call) for call in whole.tool_calls] + [Finished(whole)] == got[3:]
    assert [("c1", '{"a":1}'), ("c2", '{"b":2}')] == [(c.call_id, c.function.arguments) for c in whole.tool_calls]
    assert (21, "Hello there", "chat_1") == (whole.usage.total_tokens, whole.content, whole.response_id)


def test_a_stream_asks_for_its_usage():
    """Usage is asked for, unless the program says something else."""
    server = Server(sse([chunk({"content": "a"}, "stop")]))
    provider = server.provider("openai", llm_api="chat_completions")
    stream(provider, ASKED)
    stream(provider, ASKED.model_copy(update={"provider_kwargs": {"stream_options": {}}}))

    assert [{"include_usage": True}, {}] == [body["stream_options"] for body in server.bodies]


def test_servers_that_say_less():
    """Calls without number or id, in one piece or in several, are told apart; content may be a list of parts."""
    got = pieces(
        [
            chunk({"tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}),
            chunk({"tool_calls": [{"function": {"arguments": "}"}}]}),
            chunk({"tool_calls": [{"function": {"name": "b"}}]}),
            chunk({"content": [{"type": "text", "text": "x"}]}, "stop"),
        ]
    )[-1].response

    assert [("call_0", "a", "{}"), ("call_1", "b", "{}")] == [
        (call.call_id, call.function.name, call.function.arguments) for call in got.tool_calls
    ]
    assert ("x", 0) == (got.content, got.usage.total_tokens)


def test_what_its_maker_wants_back():
    """Signed reasoning and extra fields of calls go back to the model that made them, and to no other."""
    details = [{"type": "reasoning.encrypted", "data": "x"}]
    extra = {"google": {"thought_signature": "y"}}
    call = {"id": "c1", "type": "function", "function": {"name": "t", "arguments": "{}"}}
    message = {"content": "a", "reasoning_details": details, "tool_calls": [{**call, "extra_content": extra}]}
    got = ask(reply(message, "tool_calls"))
    items = [user_item("Hi"), *got.items, output_item("c1", "1")]
    again = sent(ASKED.model_copy(update={"items": items}))["messages"]
    other = sent(ASKED.model_copy(update={"items": items, "model": "other"}))["messages"]

    assert {"role": "assistant", **message} == again[1]
    assert {"role": "assistant", "content": "a", "tool_calls": [call]} == other[1]
    assert 3 == len(again) == len(other)


def test_what_others_thought_is_left_out():
    """Opaque items of other interfaces aren't sent."""
    items = [user_item("Hi"), provider_item("openai", "local", {"type": "reasoning"}), assistant_item("a")]

    assert ["user", "assistant"] == [m["role"] for m in sent(ASKED.model_copy(update={"items": items}))["messages"]]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(MESSAGE, None), ModelReplyTruncated),
        ({"choices": []}, ModelReplyMalformed),
        ({"choices": [{"finish_reason": "stop"}]}, ModelReplyMalformed),
        ([], ModelReplyMalformed),
        ({"error": {"message": "overloaded", "code": 500}}, ModelUnavailable),
    ],
)
def test_what_is_no_reply(answer, error):
    """What isn't a whole reply is an error and never taken for one."""
    with pytest.raises(error):
        ask(answer)


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([], ModelReplyTruncated),
        ([chunk({"content": "a"})], ModelReplyTruncated),
        ([chunk({"content": "a"}), "[DONE]"], ModelReplyTruncated),
        ([[1]], ModelReplyMalformed),
        ([chunk({"content": "a"}), {"error": {"message": "m", "type": "server_error"}}], ModelUnavailable),
    ],
)
def test_streams_that_are_no_reply(events, error):
    """A stream without its end is no reply, also when it says that it is done."""
    with pytest.raises(error):
        pieces(events)
