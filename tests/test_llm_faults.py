"""
Tests of everything that goes wrong on the way to a model: each fault ends in the right error, and none in a reply.

All three interfaces are asked, in one piece and in many, through the real SDKs.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polos.errors import (
    ContextTooLong,
    ModelAccessDenied,
    ModelConnectionFailed,
    ModelContentRefused,
    ModelError,
    ModelRateLimited,
    ModelReplyMalformed,
    ModelReplyTruncated,
    ModelRequestRefused,
    ModelUnavailable,
)
from polos.llm import Finished, LLMRequest, ModelProvider, user_item
from polos.llm.providers.failures import retry_after_seconds, scrubbed

from tests.llm_lines import KEY, Body, Server, failing, generate, sse, stream
from tests.test_llm_anthropic import EVENTS as MESSAGES_EVENTS
from tests.test_llm_anthropic import REPLY as MESSAGES_REPLY
from tests.test_llm_anthropic import block, delta
from tests.test_llm_chat import chunk, reply
from tests.test_llm_openai import EVENTS as RESPONSES_EVENTS
from tests.test_llm_openai import REPLY as RESPONSES_REPLY

ASKED = LLMRequest(model="model-1", items=[user_item("Hi")])
TOOL_CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"n": "ä"}'}}
CHAT_EVENTS: list[Any] = [
    chunk({"role": "assistant", "content": "Grüße, "}),
    chunk({"content": "Wörld 🌍"}),
    chunk({"tool_calls": [TOOL_CALL]}),
    chunk({}, "tool_calls"),
    {"id": "chat_1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    "[DONE]",
]
STREAMS = {
    "responses": sse(RESPONSES_EVENTS, named=True),
    "chat": sse(CHAT_EVENTS),
    "messages": sse(MESSAGES_EVENTS, named=True),
}
WHOLE: dict[str, Any] = {
    "responses": RESPONSES_REPLY,
    "chat": reply({"content": "a"}),
    "messages": MESSAGES_REPLY,
}
# How many bytes of a stream may be missing at its end without anything being lost.
LAST = {
    "responses": 2,
    "chat": len(sse(CHAT_EVENTS[4:])) + 2,
    "messages": 2,
}
APIS = sorted(STREAMS)


def provider(server: Server, api: str, **more: Any) -> ModelProvider:
    """Give a provider that speaks this interface to a server."""
    if api == "messages":
        return server.provider("anthropic", **more)
    return server.provider("openai", llm_api="responses" if api == "responses" else "chat_completions", **more)


def failed(answer: Any, api: str, *, streamed: bool, seen: list[Any] | None = None, **more: Any) -> ModelError:
    """Give the error that an answer ends in."""
    asked = provider(Server(answer), api, **more)
    with pytest.raises(ModelError) as caught:
        _ = stream(asked, ASKED, seen) if streamed else generate(asked, ASKED)
    assert not any(isinstance(piece, Finished) for piece in seen or [])
    return caught.value


TOO_LONG = {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long"}}
REFUSED = {"type": "error", "error": {"type": "invalid_request_error", "message": "m"}}
INVALID = {"type": "response.failed", "response": {"error": {"code": "invalid_prompt"}}}


def said(api: str, message: str, kind: str = "", code: str | None = None) -> dict[str, Any]:
    """Make the body of an error as this interface has it."""
    error = {"message": message, "type": kind, "code": code}
    return {"type": "error", "error": error, "request_id": "r"} if api == "messages" else {"error": error}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "case",
    [
        (400, "bad", "invalid_request_error", None, ModelRequestRefused, False),
        (404, "no such model", "not_found_error", "model_not_found", ModelRequestRefused, False),
        (422, "bad", "", None, ModelRequestRefused, False),
        (401, "who?", "authentication_error", "invalid_api_key", ModelAccessDenied, False),
        (402, "pay", "billing_error", None, ModelAccessDenied, False),
        (403, "no", "permission_error", None, ModelAccessDenied, False),
        (429, "pay", "insufficient_quota", "insufficient_quota", ModelAccessDenied, False),
        (429, "slowly", "rate_limit_error", "rate_limit_exceeded", ModelRateLimited, True),
        (400, "x", "invalid_request_error", "context_length_exceeded", ContextTooLong, False),
        (
            400,
            "prompt is too long: 213462 tokens > 200000 maximum",
            "invalid_request_error",
            None,
            ContextTooLong,
            False,
        ),
        (400, "This model's maximum context length is 8192 tokens.", "", None, ContextTooLong, False),
        (400, "request (9000 tokens) exceeds the available context size", "", None, ContextTooLong, False),
        (413, "too large", "request_too_large", None, ContextTooLong, False),
        (400, "no", "invalid_request_error", "content_policy_violation", ModelContentRefused, False),
        (400, "no", "invalid_request_error", "content_filter", ModelContentRefused, False),
        (400, "flagged", "invalid_request_error", "invalid_prompt", ModelContentRefused, False),
        (408, "slow", "", None, ModelUnavailable, True),
        (409, "locked", "", None, ModelUnavailable, True),
        (500, "oops", "api_error", None, ModelUnavailable, True),
        (503, "oops", "", None, ModelUnavailable, True),
        (529, "busy", "overloaded_error", None, ModelUnavailable, True),
    ],
)
def test_a_status_is_an_error(case, api, streamed):
    """Each status, code and type of error is one class of ours, which says whether to try again."""
    status, message, kind, code, error, retryable = case
    raised = failed(failing(status, said(api, message, kind, code)), api, streamed=streamed)

    assert (error, retryable, status) == (type(raised), raised.retryable, raised.status)
    assert message in str(raised)
    assert ("anthropic" if api == "messages" else "openai", "model-1") == (raised.provider, raised.model)
    assert isinstance(raised, ModelRequestRefused) != raised.retryable


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("body", ["<html>Bad gateway</html>", "", {}, [], {"error": "text"}, {"error": None}])
def test_a_status_without_words(api, body):
    """An error whose body says nothing, as of a proxy, is told by its status alone."""
    for streamed in (False, True):
        assert ModelUnavailable is type(failed(failing(502, body), api, streamed=streamed))


@pytest.mark.parametrize("api", APIS)
def test_when_to_come_back(api):
    """`Retry-After` is read, and the provider's name of the request."""
    limited = failed(failing(429, {}, retry_after="2.5", x_request_id="req_1"), api, streamed=True)

    assert (2.5, "req_1") == (limited.retry_after_seconds, limited.request_id)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "2", "retry-after-ms": "150"}, 0.15),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 30),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT", "date": "today"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}, None),
    ],
)
def test_retry_after_is_read(headers, seconds):
    """Seconds, milliseconds and dates are read without a clock of ours; nonsense says nothing."""
    assert seconds == retry_after_seconds(headers)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_stream_that_is_cut_is_no_reply(api, share):
    """A stream that ends early without any error, which the SDKs take for an end, is truncated."""
    cut = STREAMS[api][: int((len(STREAMS[api]) - LAST[api]) * share)]
    # At the end of a line: within one, what is left is no JSON.
    cut = cut[: cut.rfind(b"\n\n") + 2] if b"\n\n" in cut else b""

    assert ModelReplyTruncated is type(failed(Body([cut]), api, streamed=True, seen=[]))


@pytest.mark.parametrize("api", APIS)
def test_a_connection_that_breaks_within_a_stream(api):
    """A connection that breaks in the middle is a failed connection, whichever exception the SDK lets through."""
    for error in (
        httpx2.RemoteProtocolError("peer closed connection without sending complete message body"),
        httpx2.ReadError(""),
        httpx2.ReadTimeout("too slow"),
    ):
        body = Body([STREAMS[api][:200]], end=error)
        raised = failed(body, api, streamed=True, seen=[])
        assert (ModelConnectionFailed, True, True) == (type(raised), raised.retryable, raised.maybe_happened)
        assert type(error).__name__ in str(raised)
        assert body.closed


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", APIS)
def test_a_connection_that_is_not_made(api, streamed):
    """A server that isn't there is a failed connection."""
    raised = failed(httpx2.ConnectError("Connection refused"), api, streamed=streamed)

    assert ModelConnectionFailed is type(raised)
    assert "Connection refused" in str(raised)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("begun", [0, 300])
def test_a_stream_that_falls_silent(api, begun):
    """A stream from which nothing comes for longer than the setting allows is given up, at any of its places."""
    body = Body([STREAMS[api][:begun]], end="stall")

    async def listen() -> None:
        asked = provider(Server(WHOLE[api], body), api, idle_timeout_seconds=0.001)
        # What an SDK does once takes a while; afterwards it waits for nothing but the stream.
        await asked.generate(ASKED)
        async for piece in asked.stream(ASKED):
            assert not isinstance(piece, Finished)

    with pytest.raises(ModelConnectionFailed, match=r"0\.001 s, a limit that idle_timeout_seconds sets"):
        asyncio.run(listen())
    assert body.closed


@pytest.mark.parametrize("api", APIS)
def test_an_answer_that_never_comes(api):
    """An answer in one piece that doesn't come is given up after its own limit."""

    class Silent(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, stream=Body([], end="stall"))

    silent = httpx2.AsyncClient(transport=Silent())
    said_otherwise = ASKED.model_copy(update={"provider_kwargs": {"timeout": 0.002}})
    with pytest.raises(ModelConnectionFailed, match=r"0\.001 s, a limit that timeout_seconds sets"):
        generate(provider(Server(), api, timeout_seconds=0.001, http_client=silent), ASKED)
    with pytest.raises(ModelConnectionFailed, match=r"0\.002 s"):
        generate(provider(Server(), api, http_client=silent), said_otherwise)


@pytest.mark.parametrize("api", APIS)
def test_limits_reach_the_connection(api):
    """The limits of silence are the connection's, too, so that a socket isn't waited for longer."""
    server = Server(STREAMS[api])
    stream(provider(server, api, idle_timeout_seconds=7), ASKED)
    server.answers = [WHOLE[api]]
    generate(provider(server, api, timeout_seconds=9), ASKED)

    generate(provider(server, api), ASKED)

    assert [(7, 7), (9, 9), (600, 15)] == [
        tuple(request.extensions["timeout"][name] for name in ("read", "connect")) for request in server.requests
    ]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "garbage", [b"data: {not json}\n\n", b'data: {"type": "mes\n\n', b"data: \xff\xfe\n\n", b"data: 3\n\n"]
)
def test_bytes_that_are_no_event(api, garbage):
    """A malformed piece is malformed or leaves the reply without its end; it never becomes a part of it."""
    named = b"event: message_start\n" if api == "messages" else b""
    body = Body([STREAMS[api][:0], named + garbage])

    assert type(failed(body, api, streamed=True, seen=[])) in (ModelReplyMalformed, ModelReplyTruncated)
    if garbage.startswith(b"data: {"):
        assert ModelReplyMalformed is type(failed(Body([named + garbage]), api, streamed=True))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("answer", ["<html>hello</html>", '{"half": ', ""])
def test_answers_that_are_no_json(api, answer):
    """An answer with status 200 that is no JSON, as of a captive portal, is malformed."""
    for content_type in ("text/html", "application/json"):
        response = httpx2.Response(200, headers={"content-type": content_type}, content=answer)
        assert ModelReplyMalformed is type(failed(response, api, streamed=False))


@pytest.mark.parametrize(
    ("api", "event", "error"),
    [
        ("responses", {"type": "error", "code": "rate_limit_exceeded", "message": "m"}, ModelRateLimited),
        ("responses", {"type": "error", "error": {"code": "insufficient_quota", "message": "m"}}, ModelAccessDenied),
        ("responses", {"type": "error", "code": "context_length_exceeded", "message": "m"}, ContextTooLong),
        ("responses", {"type": "error", "message": "m"}, ModelUnavailable),
        ("responses", {"type": "response.failed", "response": {"error": {"code": "server_error"}}}, ModelUnavailable),
        ("responses", INVALID, ModelContentRefused),
        ("chat", {"error": {"type": "overloaded_error", "message": "m"}}, ModelUnavailable),
        ("chat", {"error": {"code": "context_length_exceeded", "message": "m"}}, ContextTooLong),
        ("messages", {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, ModelUnavailable),
        ("messages", {"type": "error", "error": {"type": "rate_limit_error", "message": "m"}}, ModelRateLimited),
        ("messages", REFUSED, ModelRequestRefused),
        ("messages", TOO_LONG, ContextTooLong),
    ],
)  # fmt: skip
def test_errors_within_a_stream(api, event, error):
    """An error that comes in the middle of a stream is told by its name, as its status was 200."""
    first = {"responses": RESPONSES_EVENTS[:2], "chat": CHAT_EVENTS[:2], "messages": MESSAGES_EVENTS[:2]}[api]

    assert error is type(failed(sse([*first, event], named=api != "chat"), api, streamed=True, seen=[]))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", APIS)
def test_no_key_is_ever_told(api, streamed, caplog):
    """A key, whole or masked, stands in no error, traceback, log line or representation."""
    masked = "sk-proj-abcd*******wxyz"
    text = f"Incorrect API key provided: {KEY} ({masked}). Authorization: Bearer abc.def-ghi"
    asked = provider(Server(failing(401, said(api, text))), api)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            with pytest.raises(ModelAccessDenied) as caught:
                _ = stream(asked, ASKED) if streamed else generate(asked, ASKED)
            told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
            assert "Incorrect API key provided: [key] ([key])" in told
            assert not [secret for secret in (KEY, masked, "abc.def-ghi") if secret in told]
            assert caught.value.__cause__ is None
    assert KEY not in caplog.text + repr(asked)


def test_long_texts_are_cut():
    """An error holds at most 2,000 characters of what a server says."""
    assert 2_001 == len(scrubbed("x" * 10_000, ()))
    assert "abc" == scrubbed("abc", ("", "a"))


def test_a_key_of_any_form_is_taken_out():
    """The key that was used is taken out of a text, also where it doesn't look like one."""
    assert "wrong: [key]!" == scrubbed("wrong: hunter2!", ("hunter2",))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at these places."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@pytest.mark.parametrize("api", APIS)
@given(places=st.lists(st.integers(0, 10**6), max_size=40))
@settings(max_examples=60)
def test_any_chunking_gives_the_same_reply(api, places):
    """However the network cuts the bytes of a stream, within characters too, the pieces and the reply are the same."""
    whole = stream(provider(Server(STREAMS[api]), api), ASKED)

    assert whole == stream(provider(Server(Body(cut(STREAMS[api], places))), api), ASKED)


@pytest.mark.parametrize("api", APIS)
def test_one_byte_at_a_time(api):
    """A stream that comes byte by byte is the same reply."""
    data = STREAMS[api]

    assert stream(provider(Server(data), api), ASKED) == stream(
        provider(Server(Body([data[n : n + 1] for n in range(len(data))])), api), ASKED
    )


@pytest.mark.parametrize("api", APIS)
@given(share=st.floats(0, 1))
@settings(max_examples=60)
def test_any_prefix_is_an_error(api, share):
    """Wherever a stream is cut, also within a line, the rest is no reply."""
    data = STREAMS[api][: int((len(STREAMS[api]) - LAST[api] - 1) * share)]

    assert failed(Body([data]), api, streamed=True, seen=[]).retryable


def big(api: str, *, text: str = "", calls: int = 0) -> tuple[Any, list[Any]]:
    """Make a reply with so much text and so many calls, and its stream."""
    parts = [text[n : n + 1_000] for n in range(0, len(text), 1_000)]
    arguments = '{"n": 1}'
    if api == "responses":
        output: list[Any] = [
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
        ]
        done = [
            {"type": "function_call", "call_id": f"c{n}", "name": "t", "arguments": arguments} for n in range(calls)
        ]
        whole: Any = {"id": "r", "status": "completed", "output": [*(output if text else []), *done]}
        events: list[Any] = [{"type": "response.output_text.delta", "delta": part} for part in parts]
        events += [{"type": "response.output_item.done", "item": item} for item in whole["output"]]
        return whole, [*events, {"type": "response.completed", "response": whole}]
    if api == "chat":
        told = [{"index": n, "id": f"c{n}", "function": {"name": "t", "arguments": arguments}} for n in range(calls)]
        events = [chunk({"content": part}) for part in parts] + [chunk({"tool_calls": [call]}) for call in told]
        return reply({"content": text or None, "tool_calls": told}), [*events, chunk({}, "stop")]
    uses = [{"type": "tool_use", "id": f"c{n}", "name": "t", "input": {"n": 1}} for n in range(calls)]
    said_first = [{"type": "text", "text": text}] if text else []
    whole = {"type": "message", "content": [*said_first, *uses], "stop_reason": "end_turn", "usage": {}}
    events = [{"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}]
    if text:
        events += block(0, {"type": "text", "text": ""}, *(delta(0, "text_delta", text=part) for part in parts))
    for number, use in enumerate(uses, start=len(said_first)):
        events += block(number, {**use, "input": {}}, delta(number, "input_json_delta", partial_json=arguments))
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}
    return whole, [*events, end, {"type": "message_stop"}]


@pytest.mark.parametrize("api", APIS)
def test_a_reply_of_a_megabyte(api):
    """A reply of 1 MB comes whole, in one piece and in a thousand."""
    text = "wörd 🌍 " * 100_000
    whole, events = big(api, text=text)
    pieces = stream(provider(Server(sse(events, named=api != "chat")), api), ASKED)

    assert text == generate(provider(Server(whole), api), ASKED).content
    assert text == pieces[-1].response.content  # type: ignore[union-attr]  # the last one is the end
    assert len(text) // 1_000 + 1 == len(pieces)


@pytest.mark.parametrize("api", APIS)
def test_two_hundred_calls_in_a_turn(api):
    """200 calls in one turn are 200 calls in their order, each announced once."""
    whole, events = big(api, calls=200)
    pieces: list[Any] = stream(provider(Server(sse(events, named=api != "chat")), api), ASKED)
    calls = [f"c{n}" for n in range(200)]

    assert calls == [call.call_id for call in generate(provider(Server(whole), api), ASKED).tool_calls]
    assert calls == [piece.tool_call.call_id for piece in pieces[:-1]]
    assert calls == [call.call_id for call in pieces[-1].response.tool_calls]


@pytest.mark.parametrize("api", APIS)
def test_a_character_in_two_pieces(api):
    """A character whose halves come in two pieces is one character, and a piece of its own is never half of one."""
    _, events = big(api, text="x" * 999 + "\ud83c" + "\udf0d" + "y")
    pieces: list[Any] = stream(provider(Server(sse(events, named=api != "chat")), api), ASKED)

    assert "x" * 999 + "🌍y" == pieces[-1].response.content
    assert ["x" * 999, "🌍y"] == [piece.text for piece in pieces[:-1]]


@pytest.mark.parametrize("api", APIS)
def test_half_a_character_can_be_recorded(api):
    """A model that was cut within an emoji leaves half of a pair, which is mended before anybody records it."""
    from polos.llm import canonical_json

    whole, events = big(api, text="half \ud83d")
    pieces: list[Any] = stream(provider(Server(sse(events, named=api != "chat")), api), ASKED)

    assert "half \ufffd" == "".join(piece.text for piece in pieces[:-1])
    for got in (
        generate(provider(Server(whole), api), ASKED),
        pieces[-1].response,
    ):
        assert "half \ufffd" == got.content
        assert canonical_json(got.items)
