"""
What an agent's run makes of the faults of a server: asked again if that may help, each attempt on record, or an error.

The server is a mock on a real socket, reached by both official SDKs; its journal says how often it was asked.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from llmock.scenarios import Reply, ToolCall
from polos import Agent, Polos, RetryPolicy, WorkflowContext, tool
from polos.engine import events as e
from polos.engine.codec import decode
from pydantic import BaseModel

pytestmark = pytest.mark.anyio

APIS: dict[str, dict[str, Any]] = {
    "responses": {"provider": "openai"},
    "chat": {"provider": "openai", "provider_llm_api": "chat_completions"},
    "messages": {"provider": "anthropic"},
}
MODES = [(api, streams) for api in APIS for streams in (False, True)]
TEXT = "It will rain, and then it will not."


class Number(BaseModel):
    """What the tool takes."""

    number: int


@tool(id="faults_tool", description="Take a number.")
async def takes(ctx: WorkflowContext, input: Number) -> int:
    """Give it back."""
    return input.number


class Setting:
    """An agent, a server, and what came of a run."""

    def __init__(self, mock: Any, place: Path, api: str, *, streams: bool) -> None:
        mock.tool_mode("off")
        self.mock = mock
        self.place = place
        self.agent = Agent(
            id="faults_agent", model="model-1", tools=[takes], stream_to_workflow=streams,
            model_retries=RetryPolicy(max_retries=2, base_delay_seconds=0.001, max_delay_seconds=0.002),
            **APIS[api],
        )  # fmt: skip
        self.history: list[tuple[Any, int]] = []

    async def run(self) -> Any:
        """Run the agent; gives its result, or the error."""
        async with Polos(self.place) as polos:
            try:
                return await self.agent.run(polos, "Will it rain?")
            except RuntimeError as error:
                return error
            finally:
                with polos.engine.store.log.reader() as reader:
                    self.history = [
                        (decode(one.type, one.schema_version, one.payload), one.time_us) for one in reader.records()
                    ]

    @property
    def attempts(self) -> list[str]:
        """How each attempt to call the model ended, by the log."""
        found: list[str] = []
        for event, _ in self.history:
            if isinstance(event, e.StepAttemptFailed | e.StepFailed):
                found.append(event.error.type)
            elif isinstance(event, e.StepCompleted) and event.name.startswith("llm_"):
                found.append("completed")
        return found


@pytest.fixture(scope="module", autouse=True)
def _sdks() -> None:
    """Have both SDKs loaded, which takes longer than what is waited for here."""
    for name in ("openai", "anthropic"):
        import_module(name)


@pytest.fixture(params=MODES, ids=str)
def setting(request, llmock, tmp_path):
    """Every interface, with replies in one piece and in many."""
    api, streams = request.param
    return Setting(llmock, tmp_path, api, streams=streams)


@pytest.fixture(params=APIS)
def streaming(request, llmock, tmp_path):
    """Every interface, with replies in many pieces."""
    return Setting(llmock, tmp_path, request.param, streams=True)


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, "ModelRateLimited"), (500, "ModelUnavailable"), (503, "ModelUnavailable"), (529, "ModelUnavailable")],
)
async def test_a_server_that_is_busy_is_asked_again(setting, status, error):
    """A status that passes is tried again, no sooner than the server says, each attempt on record and each one sent."""
    setting.mock.fail(status, times=2, retry_after=0.1).reply(TEXT)
    found = await setting.run()

    assert TEXT == found.result
    assert [error, error, "completed"] == setting.attempts
    assert [status, status, 200] == [request.status for request in setting.mock.requests]
    waits = [event.due_us - time for event, time in setting.history if isinstance(event, e.StepAttemptFailed)]
    assert all(wait >= 50_000 for wait in waits)  # the policy alone has 2 ms, and the record comes a moment later


async def test_a_server_that_stays_away_fails_the_run(setting):
    """When no attempt is left the run fails with the last error."""
    setting.mock.outage(status=503)
    found = await setting.run()

    assert "after 2 retries" in str(found)
    assert ["ModelUnavailable"] * 3 == setting.attempts
    assert 3 == len(setting.mock.requests)


@pytest.mark.parametrize(("status", "error"), [(400, "ModelRequestRefused"), (401, "ModelAccessDenied")])
async def test_what_is_refused_is_not_asked_again(setting, status, error):
    """A request that can't succeed is made once."""
    setting.mock.fail(status, times=None)
    found = await setting.run()

    assert isinstance(found, RuntimeError)
    assert [error] == setting.attempts
    assert 1 == len(setting.mock.requests)


async def test_a_conversation_that_is_too_long_is_not_asked_again(setting):
    """Nor is one that doesn't fit the model."""
    setting.mock.context_overflow(times=None)

    assert isinstance(await setting.run(), RuntimeError)
    assert ["ContextTooLong"] == setting.attempts


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("truncate", "ModelReplyTruncated"),
        ("disconnect", "ModelConnectionFailed"),
        ("corrupt", "ModelReplyMalformed"),
        ("stall", "ModelConnectionFailed"),
    ],
)
async def test_a_stream_that_breaks_is_made_again(streaming, fault, error):
    """A stream that is cut, dropped, damaged or silent is no reply: it is asked for again, and announced anew."""
    if fault == "stall":
        streaming.agent.provider_settings = {"idle_timeout_seconds": 0.6}
    getattr(streaming.mock, fault)(after_chunks=4)
    streaming.mock.reply(TEXT, times=2)
    found = await streaming.run()

    assert TEXT == found.result
    assert [error, "completed"] == streaming.attempts
    chunks = [event for event, _ in streaming.history if isinstance(event, e.StreamChunk)]
    deltas: list[Any] = [delta for chunk in chunks for delta in chunk.deltas]
    begun = [place for place, delta in enumerate(deltas) if delta["event_type"] == "stream_start"]
    assert 2 == len(begun)
    assert TEXT == "".join(delta["content"] for delta in deltas[begun[1] :] if delta["event_type"] == "text_delta")


async def test_a_reply_of_a_megabyte(setting):
    """A very long reply is kept whole."""
    text = " ".join(["word" * 25_000] * 10)
    setting.mock.reply(text)
    found = await setting.run()

    assert text == found.result
    assert len(text) > 1_000_000
    assert ["completed"] == setting.attempts


async def test_two_hundred_calls_in_a_turn(setting):
    """All calls of a turn are made, and all results go back in their order."""
    calls = tuple(ToolCall("faults_tool", {"number": number}) for number in range(200))
    setting.mock.add(Reply(tool_calls=calls)).reply(TEXT)
    found = await setting.run()

    assert (TEXT, list(range(200))) == (found.result, [one.result for one in found.tool_results])
    assert ["completed"] * 2 == setting.attempts
    assert 2 == len(setting.mock.requests)


async def test_a_call_that_takes_too_long_is_given_up(setting):
    """A call has a limit, whatever its connection does meanwhile; it is made again, and the late answer is no reply."""
    setting.agent.model_timeout_seconds = 0.3
    setting.mock.delay(0.5).reply("Too late.").reply(TEXT, times=None)
    found = await setting.run()

    assert TEXT == found.result
    assert ("TimeoutError", "completed") == (setting.attempts[0], setting.attempts[-1])


async def test_a_stream_that_goes_on_and_on_is_given_up(streaming):
    """The limit of a call holds for a stream that is never silent, too."""
    streaming.agent.model_timeout_seconds = 0.3
    streaming.mock.pace(30).reply("word " * 60, times=3)
    found = await streaming.run()

    assert "after 2 retries" in str(found)
    assert ["TimeoutError"] * 3 == streaming.attempts
    assert not any(request.completed for request in streaming.mock.requests)


async def test_a_run_that_is_cancelled_in_a_stream_ends_the_call(streaming):
    """Whoever cancels the run in the middle of a reply pays for no more of it: the server sees the connection end."""
    streaming.mock.pace(20).reply("word " * 500)
    async with Polos(streaming.place) as polos:
        reply = await streaming.agent.stream(polos, "Will it rain?")
        async for chunk in reply.text_chunks:
            assert chunk.startswith("word")
            break
        assert await reply.handle.cancel(polos)
        with pytest.raises(RuntimeError, match="cancelled"):
            await reply.result()
    (asked,) = streaming.mock.requests

    assert not asked.completed
    assert asked.chunks_sent < 300


async def test_a_reader_that_stops_reading_stops_nothing(streaming):
    """Who leaves in the middle of a reply leaves the run to it: the reply is recorded whole."""
    streaming.mock.pace(2).reply("word " * 30)
    async with Polos(streaming.place) as polos:
        reply = await streaming.agent.stream(polos, "Will it rain?")
        async for _ in reply.text_chunks:
            break
        found = await reply.result()

    assert "word " * 30 == found.result
    assert [True] == [request.completed for request in streaming.mock.requests]
