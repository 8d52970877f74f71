"""Tests of the scripted model: replies by turn, errors, delays, streams, files."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polos.errors import ContextTooLong, ModelRateLimited, ModelReplyTruncated, PolosUsageError
from polos.llm import (
    Attempts,
    Finished,
    Item,
    LLMDelta,
    LLMRequest,
    LLMResponse,
    ModelProvider,
    Reply,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    get_provider,
    script,
)
from polos.llm.messages import assistant_item, output_item, user_item
from polos.llm.providers.scripted import ScriptedProvider
from polos.llm.scripts import ScriptEnded


def asked(model: str, *items: Item, **more: Any) -> LLMRequest:
    """Make a request of a scripted model."""
    return LLMRequest(model=model, provider="scripted", items=list(items) or [user_item("Hi")], **more)


def reply_to(request: LLMRequest, provider: ModelProvider | None = None) -> LLMResponse:
    """Give the reply in one piece."""
    return asyncio.run((provider or ScriptedProvider()).generate(request))


def pieces_for(request: LLMRequest, provider: ModelProvider | None = None) -> list[LLMDelta]:
    """Give the reply in its pieces."""

    async def collect() -> list[LLMDelta]:
        return [piece async for piece in (provider or ScriptedProvider()).stream(request)]

    return asyncio.run(collect())


def test_replies_go_by_the_turn():
    """Reply n answers the conversation that holds n turns of the model, however often and by whom it is asked."""
    script("by-turn", ["first", "second"])
    begun = asked("by-turn")
    gone_on = asked("by-turn", user_item("Hi"), assistant_item("first"), user_item("And?"))

    assert ["first", "second", "first"] == [reply_to(one).content for one in (begun, gone_on, begun)]


def test_calls_of_one_turn_are_one_turn():
    """A turn that wants two tools called is one turn, and their results belong to nobody's."""
    script("two-tools", [Reply(text="Wait.", tool_calls=[("a", {"n": 1}), ("b", "not json")], thinking="hm"), "done"])
    first = reply_to(asked("two-tools"))
    calls = [output_item(call, "ok") for call in first.tool_calls]
    second = reply_to(asked("two-tools", user_item("Hi"), *first.items, *calls))

    assert ["call_0_0", "call_0_1"] == [call.call_id for call in first.tool_calls]
    assert ['{"n": 1}', "not json"] == [call.function.arguments for call in first.tool_calls]
    assert ("tool_calls", "stop", "hm") == (first.stop_reason, second.stop_reason, first.thinking)
    assert "done" == second.content


def test_a_script_that_ends_says_so():
    """A conversation that is longer than its script fails with what to do, and isn't answered with anything."""
    script("short", [])

    with pytest.raises(ScriptEnded, match="'short' has 0 replies"):
        reply_to(asked("short"))


def test_a_function_answers():
    """A function of the request, async or not, answers in the place of a list; a text answers everything."""

    async def late(request):
        return Reply(text=request.items[-1]["content"] + "?")

    script("function", lambda request: request.items[-1]["content"] + "!")
    script("coroutine", late)
    script("constant", "yes")

    assert ["Hi!", "Hi?", "yes"] == [reply_to(asked(name)).content for name in ("function", "coroutine", "constant")]


def test_attempts_are_of_one_request():
    """Attempts answer one request after another time by time, and the last one for ever."""
    script("flaky", [Attempts([ModelRateLimited("later", retry_after_seconds=2), "now"])])
    provider = ScriptedProvider()

    with pytest.raises(ModelRateLimited) as limited:
        reply_to(asked("flaky"), provider)
    again = [reply_to(asked("flaky"), provider).content for _ in range(2)]

    assert 2 == limited.value.retry_after_seconds
    assert ["now", "now"] == again
    with pytest.raises(ModelRateLimited):
        reply_to(asked("flaky", user_item("Another request")), provider)


def test_a_stream_is_its_reply_in_pieces():
    """Pieces add up to the reply, which comes last; without chunks there is one piece a word."""
    script("streamed", [Reply(thinking="hm", text="one two  three ", tool_calls=[("t", {})])])
    pieces = pieces_for(asked("streamed"))
    whole = reply_to(asked("streamed"))

    assert [ThinkingDelta("hm"), TextDelta("one"), TextDelta(" two"), TextDelta("  three ")] == pieces[:4]
    assert [ToolCallDelta(whole.tool_calls[0]), Finished(whole)] == pieces[4:]


@given(text=st.text("ab \n", max_size=12))
def test_pieces_are_the_text(text):
    """Pieces add up to the text, whatever blanks are in it."""
    script("blanks", [text])

    assert text == "".join(piece.text for piece in pieces_for(asked("blanks")) if isinstance(piece, TextDelta))


def test_what_a_script_thinks_is_opaque():
    """Thinking comes back as an item for its maker alone."""
    script("thinker", [Reply(thinking="hm", text="a")])

    assert {
        "type": "provider_item",
        "provider": "scripted",
        "model": "thinker",
        "item": {"type": "thinking", "thinking": "hm"},
    } == reply_to(asked("thinker")).items[0]


def test_chunks_are_what_a_stream_gives():
    """Chunks are the pieces of the text, and the text if it isn't given."""
    script("chunked", [Reply(chunks=["ab", "", "c"])])

    assert [TextDelta("ab"), TextDelta("c")] == pieces_for(asked("chunked"))[:2]
    assert "abc" == reply_to(asked("chunked")).content


@pytest.mark.parametrize("cut_after", [0, 1, 2, 9])
def test_a_cut_reply_is_no_reply(cut_after):
    """A reply that is cut gives the pieces before the cut and never its end, streamed or not."""
    script("cut", [Reply(chunks=["a", "b"], cut_after=cut_after)])
    pieces: list[LLMDelta] = []

    async def collect() -> None:
        async for piece in ScriptedProvider().stream(asked("cut")):
            pieces.append(piece)  # noqa: PERF401  # what came before the error is what counts

    with pytest.raises(ModelReplyTruncated):
        asyncio.run(collect())
    with pytest.raises(ModelReplyTruncated):
        reply_to(asked("cut"))
    assert [TextDelta("a"), TextDelta("b")][: min(cut_after, 2)] == pieces


def test_an_error_ends_a_stream_after_its_pieces():
    """An error comes where the reply would end, streamed, and at once otherwise."""
    script("failing", [Reply(chunks=["a"], error=ContextTooLong("too long"))])
    pieces: list[LLMDelta] = []

    async def collect() -> None:
        async for piece in ScriptedProvider().stream(asked("failing")):
            pieces.append(piece)  # noqa: PERF401  # what came before the error is what counts

    with pytest.raises(ContextTooLong):
        asyncio.run(collect())
    with pytest.raises(ContextTooLong):
        reply_to(asked("failing"))
    assert [TextDelta("a")] == pieces


def test_delays_are_waited_by_who_is_told_to():
    """A delay is waited before the reply and before each piece, by the pause that was given: no clock is looked at."""
    waited = []

    async def pause(seconds):
        waited.append(seconds)

    script("slow", [Reply(chunks=["a", "b"], delay_seconds=1000)])
    provider = ScriptedProvider(pause=pause)
    reply_to(asked("slow"), provider)
    pieces_for(asked("slow"), provider)

    assert [1000] * 4 == waited


def test_delays_are_of_the_running_loop():
    """Without a pause of its own the loop's time is waited for; a call that is cancelled leaves no alarm behind."""
    script("napping", [Reply(text="a", delay_seconds=0.0001)])
    script("sleeping", [Reply(text="a", delay_seconds=1e9)])

    async def give_up() -> list[Any]:
        loop: Any = asyncio.get_running_loop()
        task = asyncio.ensure_future(ScriptedProvider().generate(asked("sleeping")))
        while not loop._scheduled:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [alarm for alarm in loop._scheduled if not alarm.cancelled()]

    assert "a" == reply_to(asked("napping")).content
    assert [] == asyncio.run(give_up())


def test_usage_is_counted_or_told():
    """What a script doesn't say of usage is counted from the request, the same each time."""
    script("counting", [Reply(text="abcd", usage={"output_tokens": 7, "cache_read_input_tokens": 2})])
    short, longer = (reply_to(asked("counting", user_item("Hi" * n))).usage for n in (1, 100))

    assert (7, 2) == (short.output_tokens, short.cache_read_input_tokens)
    assert short.input_tokens + 7 == short.total_tokens
    assert short.input_tokens + 49 <= longer.input_tokens
    assert short == reply_to(asked("counting")).usage


def test_replies_from_a_file(tmp_path):
    """A file holds the same replies, errors included."""
    told = {
        "replies": [
            {"text": "a", "tool_calls": [{"name": "add", "arguments": {"n": 1}}, {"name": "stop"}]},
            {"attempts": [{"error": {"type": "ModelRateLimited", "message": "later", "retry_after_seconds": 2}}, "b"]},
        ]
    }
    path = tmp_path / "replies.json"
    path.write_text(json.dumps(told))
    provider = get_provider("scripted")
    first = reply_to(asked(str(path)), provider)
    later = asked(str(path), user_item("Hi"), *first.items, output_item("call_0_0", "1"))

    assert [("add", '{"n": 1}'), ("stop", "{}")] == [(c.function.name, c.function.arguments) for c in first.tool_calls]
    with pytest.raises(ModelRateLimited, match="later"):
        reply_to(later, provider)
    assert "b" == reply_to(later, provider).content


def test_a_file_of_texts(tmp_path):
    """A list alone is a script, too."""
    path = tmp_path / "replies.json"
    path.write_text('["a", {"text": "b"}]')

    assert "a" == reply_to(asked(str(path))).content
    assert "b" == reply_to(asked(str(path), user_item("Hi"), assistant_item("a"), user_item("?"))).content


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "3",
        "{}",
        '["a", 3]',
        '[{"txt": "a"}]',
        '[{"error": {"type": "Nonsense"}}]',
        '[{"error": {"type": "StoreFull"}}]',
        '[{"error": {}}]',
        '[{"attempts": []}]',
        '[{"tool_calls": [{}]}]',
        '[{"chunks": ["a"], "text": "b"}]',
    ],
)
def test_files_that_are_no_scripts_are_refused(tmp_path, text):
    """A file that is no script is refused with its name."""
    path = tmp_path / "replies.json"
    path.write_text(text)

    with pytest.raises(PolosUsageError, match=r"replies\.json is no script"):
        reply_to(asked(str(path)))


@pytest.mark.parametrize("name", ["nobody", "missing.json"])
def test_scripts_that_are_not_there_are_refused(name, tmp_path):
    """A model that no script has the name of is refused."""
    with pytest.raises(PolosUsageError, match=name):
        reply_to(asked(name if name == "nobody" else str(tmp_path / name)))


def test_contradictions_are_refused():
    """A reply that contradicts itself can't be made."""
    with pytest.raises(ValueError, match="chunks"):
        Reply(text="a", chunks=["b"])
    with pytest.raises(ValueError, match="delay_seconds"):
        Reply(delay_seconds=-1)
    with pytest.raises(ValueError, match="replies"):
        Attempts([])
