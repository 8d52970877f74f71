"""Tests of the recorded model: the same answers to the same requests, and what differs otherwise."""

from __future__ import annotations

import asyncio

import pytest
from polos.errors import ContextTooLong, ModelError, PolosUsageError, RecordingDiffers
from polos.llm import (
    LLMDelta,
    LLMRequest,
    LLMResponse,
    ModelProvider,
    RecordedCall,
    Recording,
    ToolSpec,
    get_provider,
    request_digest,
)
from polos.llm.messages import Finished, TextDelta, assistant_item, user_item
from polos.llm.providers.recorded import RecordedProvider

FIRST = LLMRequest(model="m", provider="openai", items=[user_item("Hi")])
SECOND = FIRST.model_copy(update={"items": [user_item("Hi"), assistant_item("Hello"), user_item("And?")]})
HELLO = LLMResponse(content="Hello", items=[assistant_item("Hello")])


def recording() -> Recording:
    """Make a recording of two calls."""
    return Recording([RecordedCall.of(FIRST, HELLO), RecordedCall.of(SECOND, LLMResponse(content="No."))])


def ask(provider: ModelProvider, request: LLMRequest) -> LLMResponse:
    """Give the reply in one piece."""
    return asyncio.run(provider.generate(request))


def test_answers_are_the_recorded_ones():
    """The recorded requests get the recorded replies, each once, also when another provider is named now."""
    made = recording()
    provider = get_provider("recorded", recording=made)

    assert HELLO == ask(provider, FIRST)
    assert 1 == len(made.left)
    assert "No." == ask(provider, SECOND.model_copy(update={"provider": "recorded"})).content
    assert 0 == len(made.left)


def test_order_of_calls_made_at_once_does_not_count():
    """Calls that were under way together are found by what they asked."""
    provider = RecordedProvider(recording=recording())

    assert ["No.", "Hello"] == [ask(provider, one).content for one in (SECOND, FIRST)]


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        ({"model": "n"}, ("model",)),
        ({"system": "Be kind."}, ("system",)),
        ({"temperature": 0.1}, ("settings",)),
        ({"tools": [ToolSpec(name="t")]}, ("tools",)),
        ({"output_schema": {}}, ("output_schema",)),
        ({"items": [user_item("Hi"), user_item("Hi")]}, ("items[1]",)),
        ({"items": []}, ("items[0]",)),
        ({"items": [user_item("Ho")], "model": "n"}, ("model", "items[0]")),
        ({"provider": "another", "model": "n"}, ("model",)),
    ],
)
def test_the_first_difference_is_reported(change, paths):
    """A request that wasn't recorded is reported with its place in the recording and the parts that differ."""
    provider = RecordedProvider(recording=recording())

    with pytest.raises(RecordingDiffers, match="call 0 of the recording") as difference:
        ask(provider, FIRST.model_copy(update=change))
    assert (0, paths) == (difference.value.index, difference.value.paths)
    assert not difference.value.retryable


def test_a_call_too_many_is_reported():
    """A call more than was recorded is a difference of its own."""
    provider = RecordedProvider(recording=[RecordedCall.of(FIRST, HELLO)])
    ask(provider, FIRST)

    with pytest.raises(RecordingDiffers, match="once more than the 1 recorded") as difference:
        ask(provider, FIRST)
    assert (1, ()) == (difference.value.index, difference.value.paths)


def test_digests_alone_are_enough():
    """Without outlines calls are found all the same; a difference can't be said to be anywhere."""
    provider = RecordedProvider(recording=[RecordedCall(digest=request_digest(FIRST), response=HELLO)])

    with pytest.raises(RecordingDiffers, match="of another request"):
        ask(provider, SECOND)
    assert HELLO == ask(provider, FIRST)


def test_recorded_errors_are_raised():
    """A call that ended with an error ends so again."""
    provider = RecordedProvider(recording=[RecordedCall.of(FIRST, ContextTooLong("too long"))])

    with pytest.raises(ContextTooLong, match="too long"):
        ask(provider, FIRST)


def test_a_recording_streams():
    """A recorded reply can be streamed: its text in one piece, then the whole."""

    async def collect() -> list[LLMDelta]:
        return [piece async for piece in RecordedProvider(recording=recording()).stream(FIRST)]

    assert [TextDelta("Hello"), Finished(HELLO)] == asyncio.run(collect())


def test_a_recording_is_needed():
    """The provider can't be made without a recording."""
    with pytest.raises(PolosUsageError, match="recording"):
        get_provider("recorded")
    assert issubclass(RecordingDiffers, ModelError)
