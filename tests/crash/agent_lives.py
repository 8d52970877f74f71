"""
Lives of an agent that is killed, with a witness of what its model and its tools were asked.

The agent calls three tools at once in each of its first turns, and has a reply cut off that it asks for again. Whoever
plays the model, and each tool, notes in the ledger that it was asked and how far the log was then. So "a reply that is
recorded is never asked for again" needs no guess about time. The model's last answer names a digest of all that it
was told: two runs with the same answer have the same transcript.

There is one agent whose model is a script in its own process, and some that reach a server by both official SDKs
(`tests.crash.mock_model`), which has a journal of what it was asked.

A reader lives with each engine. It notes each event of the stream when it has it, dies with the engine, and goes on
in the next life behind the number that it noted last.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2
from polos import Agent, Polos, PolosClient, StreamResult, WorkflowContext, events, tool
from polos.engine.retry import RetryPolicy
from polos.llm import LLMRequest, Reply, script
from polos.llm.digests import digest_of
from polos.llm.prices import default_prices
from polos.points import arm
from polos.runtime import deltas
from polos.runtime.handle import ExecutionHandle
from polos.types.events import StreamEvent
from pydantic import BaseModel

from tests.crash.engine_lives import described, die_at, light
from tests.crash.load import witness
from tests.crash.mock_model import CALLS, CUT_TURN, TURNS

__all__ = ["OVER_HTTP", "Death", "Streams", "agent", "live", "read_streams", "streamed", "warm"]

_PROVIDERS = ("scripted", "openai", "anthropic")
_ssl_context = functools.cache(httpx2.create_ssl_context)  # a tenth of a second a life, for a server without TLS


class Question(BaseModel):
    """What the tool takes."""

    number: str


def model(request: LLMRequest) -> Reply:
    """Play the model: ask for tools, and say in the end what it was told."""
    key = witness.note_call()
    turn = sum(1 for item in request.items if item.get("role") == "assistant")
    witness.ledger.note("asked", key.partition("/")[0], digest_of([request.system, *request.items]))
    if turn == TURNS - 1:
        return Reply(text=f"I was told {digest_of(request.items)}.", delay_seconds=0.0005)
    calls = [("crash_agent_tool", {"number": f"{turn}.{number}"}) for number in range(CALLS)]
    cut = 2 if turn == CUT_TURN and witness.first_time(key) else None
    return Reply(text=f"turn {turn} of the model", tool_calls=calls, delay_seconds=0.0005, cut_after=cut)


script("crash_agent", model)


async def look(number: str) -> str:
    """Have an effect, in a step of the tool."""
    witness.call()
    return f"seen: {number}"


@tool(id="crash_agent_tool", description="Look at something.")
async def looks(ctx: WorkflowContext, input: Question) -> str:
    """Note that it was begun; have an effect; give what depends on the arguments alone."""
    witness.note_head("begun", ctx.execution_id)
    return await ctx.step.run("look", look, input.number)


def _agent(name: str, **options: Any) -> Agent:
    retries = RetryPolicy(max_retries=50, base_delay_seconds=0.001, max_delay_seconds=0.001)
    return Agent(
        id=name, model="crash_agent", tools=[looks], system_prompt="Look at everything.", model_retries=retries,
        max_output_tokens=1_000, **options,
    )  # fmt: skip


agent = _agent("crash_agent", provider="scripted", stream_to_workflow=True)

# What reaches a server, by the interface and by how the reply comes.
_APIS: dict[str, dict[str, Any]] = {
    "responses": {"provider": "openai"},
    "chat": {"provider": "openai", "provider_llm_api": "chat_completions"},
    "messages": {"provider": "anthropic"},
}
OVER_HTTP = {
    f"{api}-{'sse' if streams else 'json'}": _agent(
        f"crash_agent_{api}_{streams}", stream_to_workflow=streams, **options
    )
    for api, options in _APIS.items()
    for streams in (True, False)
}


def warm() -> None:
    """Have everything imported and read that a life needs, in the process that victims are forked from."""
    for name in ("agents.loop", "agents.streaming", *(f"llm.providers.{one}" for one in _PROVIDERS)):
        import_module(f"polos.{name}")
    for name in ("openai", "anthropic"):
        import_module(name)
    _ssl_context(verify=True, cert=None, trust_env=True)
    default_prices()
    for one in (agent, *OVER_HTTP.values(), looks):
        described(one)


@dataclass(frozen=True, slots=True)
class Death:
    """
    How a life ends.

    Attributes:
        point: the point at which it is killed; None for a moment, or not at all.
        nth: at which time it comes there.
        seconds: after which time it is killed, wherever it is then; None for not at all.
    """

    point: str | None = None
    nth: int = 1
    seconds: float | None = None


def live(directory: Path, number: int, death: Death, agent: Agent = agent) -> None:
    """Own the directory, have an agent run, read its stream, and wait for its end."""
    if death.point is not None:
        arm(die_at(death.point, death.nth))
    light()
    vars(import_module("httpx2._transports.default"))["create_ssl_context"] = _ssl_context
    vars(deltas)["CHUNK_SECONDS"] = 0.002  # several chunks a reply, though replies are short
    asyncio.run(_live(directory, number, agent))


async def _live(directory: Path, number: int, agent: Agent) -> None:
    async with Polos(data_dir=directory / "data", inbox_poll_seconds=0.002) as polos:
        ledger = witness.use(directory, str(number), polos.engine.store.log)
        found = [row["id"] for row in await polos.list_executions() if row["workflow_id"] == agent.id]
        if found:
            run = found[0]
        else:
            run = (await agent.invoke(polos, {"input": "Go on."})).id
            ledger.note("created", run)
        notes = os.open(directory / "read", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        read = streamed(directory)
        last = read[-1][0] if read else None
        async for event in _stream(polos, agent, run, last):
            os.write(notes, json.dumps(_outline(event)).encode() + b"\n")
        ledger.note("ended", run, (await polos.get_execution(run))["result"])


def _stream(polos: Any, agent: Agent, run: str, last: int | None) -> Any:
    if last is None:
        return events.stream_workflow(polos, agent.id, run, from_sequence=0)
    return events.stream_workflow(polos, agent.id, run, last_sequence_id=last)


def _outline(event: StreamEvent) -> list[Any]:
    data = event.data
    said = data.get("content") if event.event_type == "text_delta" else data.get("step")
    return [event.sequence_id, event.event_type, data.get("step_key"), data.get("chunk_index"), said]


def streamed(directory: Path) -> list[list[Any]]:
    """Give what the readers noted: number, kind, step, number of the delta, and what it says."""
    path = directory / "read"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


@dataclass(frozen=True, slots=True)
class Streams:
    """
    A run's stream, read in several ways.

    Attributes:
        whole: at once.
        rests: behind some of its events, by their places.
        text: the answer, as `StreamResult.text` puts it together.
    """

    whole: list[list[Any]]
    rests: dict[int, list[list[Any]]]
    text: str


def read_streams(directory: Path, run: str, *, all_cuts: bool, agent: Agent = agent) -> Streams:
    """Read the stream of an ended run: whole, and behind each of its events, or behind one in its middle."""
    return asyncio.run(_read_streams(directory, run, agent, all_cuts=all_cuts))


async def _read_streams(directory: Path, run: str, agent: Agent, *, all_cuts: bool) -> Streams:
    polos = PolosClient(data_dir=directory / "data")
    whole = [_outline(event) async for event in _stream(polos, agent, run, None)]
    places = range(len(whole)) if all_cuts else [len(whole) // 2]
    rests = {
        place: [_outline(event) async for event in _stream(polos, agent, run, whole[place][0])] for place in places
    }
    handle = ExecutionHandle(id=run, workflow_id=agent.id, root_workflow_id=agent.id, root_execution_id=run)
    return Streams(whole, rests, await StreamResult(handle, polos).text())
