"""
A second opinion on what providers speak: the same questions to another mock server than the one of the tests.

A mock server shows what its author knows of an interface, so what both agree on is worth more. This one is `aimock`, a
package of npm; it isn't installed for the tests, and `make cross-check` has it installed and runs this. Each interface
is asked by itself, and by an agent on an engine, with replies in one piece and in many; the server's journal says how
often it was asked.

    python -m tests.cross_check .cross-check/node_modules/.bin/llmock
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from polos import Agent, Polos, tool
from polos.context import WorkflowContext
from polos.errors import ModelRateLimited
from polos.llm import (
    Finished,
    LLMRequest,
    LLMResponse,
    TextDelta,
    ToolCallDelta,
    ToolSpec,
    get_provider,
    output_item,
    user_item,
)
from pydantic import BaseModel

HELLO = "Hello! How can I help you today? A longer text to be cut in pieces."
THOUGHT = "Done: äöü 🌍 thinking."
WARM = "It is 21 degrees."
CALLS = [
    {"id": "call_w1", "name": "cross_weather", "arguments": {"city": "Paris"}},
    {"id": "call_w2", "name": "cross_clock", "arguments": {}},
]
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "input_tokens": 11, "output_tokens": 7}
SLOWLY = {"message": "slowly", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
FIXTURES: list[dict[str, Any]] = [  # the first that matches answers
    *({"match": {"toolCallId": call["id"]}, "response": {"content": WARM}} for call in CALLS),  # whichever is the last
    {"match": {"userMessage": "weather"}, "response": {"content": "Let me look.", "toolCalls": CALLS}},
    {"match": {"userMessage": "think"}, "response": {"content": THOUGHT, "reasoning": "Hm, let me see."}},
    {"match": {"userMessage": "limit"}, "response": {"error": SLOWLY, "status": 429}},
    {"match": {"userMessage": "json"}, "response": {"content": '{"n": 3}'}},
    {"match": {"userMessage": "hello"}, "response": {"content": HELLO, "usage": USAGE}},
]
TOOLS = [
    ToolSpec(
        name="cross_weather",
        parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    ),
    ToolSpec(name="cross_clock"),
]
APIS: dict[str, dict[str, Any]] = {
    "responses": {"provider": "openai"},
    "chat": {"provider": "openai", "provider_llm_api": "chat_completions"},
    "messages": {"provider": "anthropic"},
}


class City(BaseModel):
    """What the weather is asked of."""

    city: str


@tool(id="cross_weather", description="The weather of a city.")
async def weather(ctx: WorkflowContext, input: City) -> str:
    """Tell the weather."""
    return f"21 degrees in {input.city}"


@tool(id="cross_clock", description="The time.")
async def clock(ctx: WorkflowContext) -> str:
    """Tell the time."""
    return "noon"


class Interface:
    """One interface of the server, with replies in one piece or in many."""

    def __init__(self, url: str, api: str, *, streams: bool) -> None:
        self.url = url
        self.options = APIS[api]
        self.streams = streams
        self.name = f"{api}, {'in many pieces' if streams else 'in one piece'}"
        self.model = "claude-sonnet-4-5" if api == "messages" else "gpt-5"
        self.settings = {"api_key": "no key", "base_url": url if api == "messages" else f"{url}/v1"}

    async def ask(self, *items: Any, **more: Any) -> LLMResponse:
        """Ask a provider; pieces must add up to the whole."""
        api = self.options.get("provider_llm_api")
        provider = get_provider(self.options["provider"], llm_api=api, **self.settings)
        request = LLMRequest(model=self.model, items=list(items), **more)
        try:
            if not self.streams:
                return await provider.generate(request)
            pieces = [piece async for piece in provider.stream(request)]
        finally:
            await provider.aclose()
        end = pieces[-1]
        assert isinstance(end, Finished)
        assert (end.response.content or "") == "".join(one.text for one in pieces if isinstance(one, TextDelta))
        assert end.response.tool_calls == [one.tool_call for one in pieces if isinstance(one, ToolCallDelta)]
        return end.response

    async def text(self) -> None:
        """A text, whole, with its usage."""
        reply = await self.ask(user_item("hello"))
        assert (HELLO, "stop") == (reply.content, reply.stop_reason)
        assert (11, 7) == (reply.usage.input_tokens, reply.usage.output_tokens)

    async def tools(self) -> None:
        """Two calls in a turn, and their results in another order."""
        reply = await self.ask(user_item("weather?"), tools=TOOLS)
        assert ("Let me look.", "tool_calls") == (reply.content, reply.stop_reason)
        assert [{"city": "Paris"}, {}] == [json.loads(call.function.arguments) for call in reply.tool_calls]
        outputs = [output_item(call, "21") for call in reversed(reply.tool_calls)]
        assert WARM == (await self.ask(user_item("weather?"), *reply.items, *outputs, tools=TOOLS)).content

    async def thinking(self) -> None:
        """What it thought, beside what it said, in any alphabet."""
        reply = await self.ask(user_item("think"))
        assert (THOUGHT, "Hm, let me see.") == (reply.content, reply.thinking)

    async def schema(self) -> None:
        """An answer in a form."""
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        assert '{"n": 3}' == (await self.ask(user_item("json"), output_schema=schema)).content

    async def limit(self) -> None:
        """A refusal for the moment, with when to come back."""
        with pytest.raises(ModelRateLimited) as refused:
            await self.ask(user_item("limit"))
        assert refused.value.retry_after_seconds

    async def agent(self) -> None:
        """A whole run of an agent, by as many requests as it has turns."""
        agent = Agent(
            id=f"cross-{self.name}", model=self.model, tools=[weather, clock], stream_to_workflow=self.streams,
            provider_settings=self.settings, **self.options,
        )  # fmt: skip
        before = len(self.journal())
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                found = await agent.run(polos, "weather?")
        assert (WARM, 2) == (found.result, found.total_steps)
        assert ["21 degrees in Paris", "noon"] == [one.result for one in found.tool_results]
        assert 2 == len(self.journal()) - before

    def journal(self) -> list[Any]:
        """Give what the server was asked."""
        with urllib.request.urlopen(f"{self.url}/__aimock/journal", timeout=10) as answer:
            found: list[Any] = json.loads(answer.read())
            return found


@contextmanager
def served(program: str) -> Iterator[str]:
    """Have the server run; gives its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        fixtures = Path(folder) / "fixtures.json"
        fixtures.write_text(json.dumps({"fixtures": FIXTURES}))
        command = [program, "--port", str(port), "--fixtures", str(fixtures), "--log-level", "silent"]
        with subprocess.Popen(command) as server:
            try:
                _wait(url, server)
                yield url
            finally:
                server.terminate()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/__aimock/journal", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the server doesn't answer")


def main(program: str) -> None:
    """Ask everything by every interface, and say what differs from what the tests' own server says."""
    right, wrong = 0, 0
    with served(program) as url:
        for one in (Interface(url, api, streams=streams) for api in APIS for streams in (False, True)):
            checks: list[Callable[[], Awaitable[None]]] = [
                one.text, one.tools, one.thinking, one.schema, one.limit, one.agent,
            ]  # fmt: skip
            for check in checks:
                try:
                    asyncio.run(_awaited(check))
                except Exception as error:  # each check is told of, whatever came of those before
                    wrong += 1
                    print(f"{one.name}: {(check.__doc__ or '').strip()} {type(error).__name__}: {error}")
                else:
                    right += 1
    print(f"{right} passed, {wrong} failed")
    if wrong:
        raise SystemExit(1)


async def _awaited(check: Callable[[], Awaitable[None]]) -> None:
    await check()


if __name__ == "__main__":
    main(sys.argv[1])
