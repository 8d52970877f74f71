"""
Lives of an agent that is killed, with a witness of what its model and its tools were asked.

The agent streams, calls three tools at once in each of its first turns, and has a reply cut off that it asks for
again. Whoever plays the model, and each tool, notes in the ledger that it was asked and how far the log was then. So
"a reply that is recorded is never asked for again" needs no guess about time. The model's last answer names a digest
of all that it was told: two runs with the same answer have the same transcript.

A reader lives with each engine. It notes each event of the stream when it has it, dies with the engine, and goes on
in the next life behind the number that it noted last.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

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

__all__ = ["CALLS", "TURNS", "Death", "Streams", "agent", "live", "read_streams", "streamed", "warm"]

TURNS = 3
CALLS = 3
CUT_TURN = 1  # its first attempt in each process is cut off


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


agent = Agent(
    id="crash_agent", provider="scripted", model="crash_agent", tools=[looks], stream_to_workflow=True,
    system_prompt="Look at everything.",
    model_retries=RetryPolicy(max_retries=50, base_delay_seconds=0.001, max_delay_seconds=0.001),
)  # fmt: skip


def warm() -> None:
    """Have everything imported and read that a life needs, in the process that victims are forked from."""
    for name in ("agents.loop", "agents.streaming", "llm.providers.scripted"):
        import_module(f"polos.{name}")
    default_prices()
    for one in (agent, looks):
        described(one)


@dataclass(frozen=True, slots=True)
class Death:
    """
    How a life ends.

    Attributes:
        point: the point at which it is killed; None for a moment, or not at all.
        nth: at which time it comes there.
    """

    point: str | None = None
    nth: int = 1


def live(directory: Path, number: int, death: Death) -> None:
    """Own the directory, have the agent run, read its stream, and wait for its end."""
    if death.point is not None:
        arm(die_at(death.point, death.nth))
    light()
    vars(deltas)["CHUNK_SECONDS"] = 0.002  # several chunks a reply, though replies are short
    asyncio.run(_live(directory, number))


async def _live(directory: Path, number: int) -> None:
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
        async for event in _stream(polos, run, last):
            os.write(notes, json.dumps(_outline(event)).encode() + b"\n")
        ledger.note("ended", run, (await polos.get_execution(run))["result"])


def _stream(polos: Any, run: str, last: int | None) -> Any:
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


def read_streams(directory: Path, run: str, *, all_cuts: bool) -> Streams:
    """Read the stream of an ended run: whole, and behind each of its events, or behind one in its middle."""
    return asyncio.run(_read_streams(directory, run, all_cuts=all_cuts))


async def _read_streams(directory: Path, run: str, *, all_cuts: bool) -> Streams:
    polos = PolosClient(data_dir=directory / "data")
    whole = [_outline(event) async for event in _stream(polos, run, None)]
    places = range(len(whole)) if all_cuts else [len(whole) // 2]
    rests = {place: [_outline(event) async for event in _stream(polos, run, whole[place][0])] for place in places}
    handle = ExecutionHandle(id=run, workflow_id=agent.id, root_workflow_id=agent.id, root_execution_id=run)
    return Streams(whole, rests, await StreamResult(handle, polos).text())
