"""Properties of what is sent to models: nothing said is lost, nothing is changed, twice is the same."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polos.llm import Item, LLMRequest, ToolSpec, assistant_item, call_item, output_item, provider_item, user_item
from polos.llm.providers.anthropic_messages import messages_body
from polos.llm.providers.openai_chat import chat_body
from polos.llm.providers.openai_responses import responses_body

BODIES: dict[str, Any] = {
    "responses": responses_body,
    "chat": lambda request: chat_body(request, own_server=False),
    "messages": lambda request: messages_body(request, streamed=False),
}
WORDS = st.text("abc é🌍\n", max_size=8).map(lambda text: text + "!")
PARTS = st.one_of(
    WORDS.map(lambda text: {"type": "input_text", "text": text}),
    WORDS.map(lambda text: {"type": "text", "text": text}),
    st.just({"type": "input_image", "image_url": "https://x/a.png"}),
)
IDS = st.text("ab:._-", min_size=1, max_size=4)
ITEMS = st.one_of(
    WORDS.map(user_item),
    st.lists(PARTS, min_size=1, max_size=3).map(user_item),
    WORDS.map(assistant_item),
    WORDS.map(lambda text: {"role": "assistant", "content": text}),
    WORDS.map(lambda text: {"role": "developer", "content": text}),
    st.builds(call_item, IDS, st.just("add"), st.sampled_from(["{}", '{"n": 1}', "no json", "[]"])),
    st.builds(output_item, IDS, WORDS),
    st.builds(
        provider_item,
        st.sampled_from(["openai", "anthropic"]),
        st.sampled_from(["m", "n"]),
        st.just({"type": "thinking"}),
    ),
)
REQUESTS = st.builds(
    LLMRequest,
    model=st.just("m"),
    system=st.none() | WORDS,
    items=st.lists(ITEMS, max_size=12),
    tools=st.lists(st.builds(ToolSpec, name=st.sampled_from("ab"), strict=st.none() | st.booleans()), max_size=2),
    output_schema=st.none() | st.just({"type": "object", "properties": {"a": {"type": "string", "default": ""}}}),
    provider_kwargs=st.sampled_from(
        [{}, {"text": {"verbosity": "low"}}, {"output_config": {"effort": "low"}}, {"include": ["x"]}]
    ),
)


def texts(items: list[Item]) -> list[str]:
    """List what was said in a conversation."""
    said = [item.get("content", item.get("output")) for item in items if item.get("type") != "provider_item"]
    flat = [part for one in said for part in (one if isinstance(one, list) else [{"text": one}])]
    return [str(part["text"]) for part in flat if part.get("text")]


def strings(value: Any) -> list[str]:
    """List every text in JSON."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in inner for text in strings(part)]


@pytest.mark.parametrize("api", BODIES)
@given(request=REQUESTS)
def test_nothing_said_is_lost(api, request):
    """Whatever somebody said stands in the body, in every interface, in its order among what the same side said."""
    body = BODIES[api](request)
    sent = "\x00".join(strings(body))

    assert [] == [text for text in filter(None, [request.system, *texts(request.items)]) if text not in sent]


@pytest.mark.parametrize("api", BODIES)
@given(request=REQUESTS)
def test_nothing_of_the_program_is_changed(api, request):
    """Writing a body changes nothing of the request, and writing it again gives the same."""
    before = copy.deepcopy(request)
    first = json.dumps(BODIES[api](request))

    assert before == request
    assert first == json.dumps(BODIES[api](request))


@pytest.mark.parametrize("api", BODIES)
@given(request=REQUESTS)
def test_what_others_thought_is_in_no_body(api, request):
    """Opaque items are sent to the model that made them and to nobody else."""
    mine = sum(
        item.get("type") == "provider_item"
        and (item["provider"], item["model"]) == ("anthropic" if api == "messages" else "openai", "m")
        for item in request.items
    )

    assert (0 if api == "chat" else mine) == strings(BODIES[api](request)).count("thinking")


@given(request=REQUESTS)
def test_turns_of_anthropic_alternate(request):
    """Sides take turns, results of tools come first on the user's, and no block is without words."""
    turns = messages_body(request, streamed=False)["messages"]

    assert all(one["role"] != next_one["role"] for one, next_one in pairwise(turns))
    for turn in turns:
        assert turn["content"]
        kinds = [block["type"] == "tool_result" for block in turn["content"]]
        assert kinds == sorted(kinds, reverse=True)
        assert all(block.get("text", "!").strip() for block in turn["content"])
