"""Tests of polos.llm.messages and digests: one form for every provider, and digests that stay the same."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polos.llm import LLMRequest, ToolSpec, canonical_json, digest_of, request_digest, request_outline
from polos.llm.jsonish import a_list, a_number, a_text, an_object, texts_mended
from polos.llm.messages import (
    TokenUsage,
    assistant_item,
    call_item,
    is_model_made,
    item_text,
    items_of,
    output_item,
    provider_item,
    tool_call_of,
    user_item,
)
from polos.types import Usage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip

ASKED = LLMRequest(
    model="m", provider="p", system="Be kind.", items=[user_item("Hi")], tools=[ToolSpec(name="add")], temperature=0.5
)


def test_digest_is_of_canonical_json():
    """A digest is SHA-256 over sorted JSON without blanks, so anybody can compute it again."""
    assert b'{"a":[1,1.0,"\xc3\xa9"],"b":null}' == canonical_json({"b": None, "a": [1, 1.0, "é"]})
    assert "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862" == digest_of({"a": 1})
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of(1) != digest_of(1.0)


@given(JSON)
def test_digest_survives_writing_and_reading(value):
    """A message that was written and read again has the digest that it had."""
    assert digest_of(value) == digest_of(orjson.loads(orjson.dumps(value)))
    assert digest_of(value) == digest_of(json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"provider": "q"},
        {"system": None},
        {"system": "Be brief."},
        {"items": [user_item("Hi!")]},
        {"items": [user_item("Hi"), user_item("Hi")]},
        {"tools": []},
        {"tools": [ToolSpec(name="add", description="sums")]},
        {"output_schema": {"type": "object"}},
        {"temperature": 0.6},
        {"temperature": None},
        {"top_p": 0.5},
        {"max_output_tokens": 5},
        {"provider_kwargs": {"seed": 1}},
    ],
)
def test_whatever_is_asked_is_in_the_digest(change):
    """Two requests that ask different things have different digests."""
    assert request_digest(ASKED) != request_digest(ASKED.model_copy(update=change))


def test_how_it_travels_is_not_in_the_digest():
    """The same request streamed and not streamed is one request."""
    assert request_digest(ASKED) == request_digest(ASKED.model_copy(update={"stream": True}))


def test_an_outline_stands_for_its_request():
    """The outline holds a digest for each message instead of the message, and has the digest of the request."""
    outline = request_outline(ASKED)

    assert [digest_of(user_item("Hi"))] == outline["items"]
    assert "Be kind." not in str(outline)
    assert {"temperature": 0.5} == outline["settings"]
    assert request_digest(ASKED) == request_digest(json.loads(json.dumps(outline)))


def test_an_outline_as_it_is_kept():
    """An outline is a fixed form: what isn't there is None, and its version is 1."""
    empty = LLMRequest(model="m")
    full = ASKED.model_copy(update={"output_schema": {"a": 1}, "output_schema_name": "N"})
    nothing = {"system": None, "tools": None, "output_schema": None}

    assert {"version": 1, "provider": "", "model": "m", "settings": {}, "items": [], **nothing} == request_outline(
        empty
    )
    assert {
        "version": 1,
        "provider": "p",
        "model": "m",
        "settings": {"temperature": 0.5},
        "items": [digest_of(user_item("Hi"))],
        "system": digest_of("Be kind."),
        "tools": digest_of([{"name": "add"}]),
        "output_schema": digest_of(["N", {"a": 1}]),
    } == request_outline(full)
    assert empty.stream is False


def test_kept_digests_need_no_messages():
    """Digests of items that the caller kept are taken as they are: nothing is computed twice."""
    kept = [digest_of(item) for item in ASKED.items]

    assert request_digest(ASKED) == request_digest(ASKED, item_digests=kept)
    assert request_digest(ASKED) != request_digest(ASKED, item_digests=["another"])


def test_a_request_survives_writing_and_reading():
    """A request is JSON and comes back equal."""
    assert ASKED == LLMRequest.model_validate_json(ASKED.model_dump_json())


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            {"type": "function", "name": "add", "description": "sums", "parameters": {"type": "object"}},
            ToolSpec(name="add", description="sums", parameters={"type": "object"}),
        ),
        (
            {"type": "function", "function": {"name": "add", "description": None, "strict": True}},
            ToolSpec(name="add", strict=True),
        ),
        ({"type": "web_search"}, ToolSpec(name="web_search", native={"type": "web_search"})),
        (
            {"type": "web_search_20250305", "name": "web_search"},
            ToolSpec(name="web_search", native={"type": "web_search_20250305", "name": "web_search"}),
        ),
        (ToolSpec(name="x"), ToolSpec(name="x")),
    ],
)
def test_tools_are_read_in_each_form(told, expected):
    """Tools come flat, nested, as specs, or as a provider's own, which is passed through."""
    assert expected == ToolSpec.of(told)


def test_items_of_input():
    """A text is what a user says; a list is taken as it is, and is a list of its own."""
    given_items = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}]

    assert [{"role": "user", "content": "Hi"}] == items_of("Hi")
    assert given_items == items_of(given_items)
    assert items_of(given_items) is not given_items


def test_text_of_items():
    """The text of an item is that of its parts; what has none has none."""
    assert "Hi" == item_text(user_item("Hi"))
    assert "ab" == item_text({"role": "user", "content": [{"text": "a"}, {"type": "input_image"}, {"text": "b"}]})
    assert "" == item_text(call_item("c", "add", "{}"))
    assert "" == item_text({"role": "user", "content": None})


def test_who_made_an_item():
    """What a model made is told apart from what it was given."""
    made = [
        assistant_item("x"),
        {"role": "assistant", "content": "x"},
        call_item("c", "n", "{}"),
        provider_item("p", "m", {}),
    ]
    given_to_it = [user_item("x"), output_item("c", "x"), {"role": "system", "content": "x"}]

    assert [True] * 4 + [False] * 3 == [is_model_made(item) for item in [*made, *given_to_it]]


def test_tool_call_of_an_item():
    """A tool call names what its result is to name."""
    call = tool_call_of({**call_item("c1", "add", "{}"), "id": "fc_1"})

    assert ("fc_1", "c1", "add", "{}") == (call.id, call.call_id, call.function.name, call.function.arguments)


def test_usage_of_a_call_is_a_usage():
    """What a provider knows besides doesn't change the shape that programs know."""
    more = TokenUsage(input_tokens=1, output_tokens=2, total_tokens=3, reasoning_tokens=2)

    assert isinstance(more, Usage)
    assert {
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    } == set(Usage().model_dump())


def test_half_a_character_is_mended():
    """Half of a surrogate pair, which nothing can write, becomes the sign for what can't be read."""
    mended = texts_mended({"a\ud83d": ["\ud83d!", 1, None, {"b": "ok"}]})

    assert {"a\ufffd": ["\ufffd!", 1, None, {"b": "ok"}]} == mended
    assert canonical_json(mended)


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (an_object, {"a": 1}, {"a": 1}),
        (an_object, [1], None),
        (a_list, [1], [1]),
        (a_list, {"a": 1}, None),
        (a_list, "ab", None),
        (a_text, "a", "a"),
        (a_text, 1, None),
        (a_number, 0, 0),
        (a_number, 7, 7),
        (a_number, -1, None),
        (a_number, True, None),
        (a_number, 1.5, None),
        (a_number, "7", None),
    ],
)
def test_json_from_outside_is_taken_for_what_it_is(read, value, expected):
    """What a server says is taken if it is of the kind that is wanted, and is nothing otherwise."""
    assert expected == read(value)
