"""Recorded runs of agents as tests: what the model is told, what it may call, what it costs, and its replies again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from polos import Agent, HookResult, Polos, WorkflowContext, tool
from polos.llm import Reply, default_prices, script
from polos.memory.types import CompactionConfig
from polos.testing import RecordedRun, RunDiffers, assert_replays, model_of, record_run
from pydantic import BaseModel

pytestmark = pytest.mark.anyio

SAYS: list[Any] = [Reply(text="Let me see.", tool_calls=[("recorded_add", {"a": 1, "b": 2})]), "Three."]


class Sum(BaseModel):
    """What the tool takes."""

    a: int
    b: int


@tool(id="recorded_add", description="Add.")
async def add(ctx: WorkflowContext, input: Sum) -> int:
    """Add two numbers."""
    return input.a + input.b


def agent(**options: Any) -> Agent:
    """Make the agent that is recorded, or one that differs."""
    script("gpt-5-2025-01-01", SAYS)
    script("gpt-5-mini-2025-01-01", SAYS)
    settings: dict[str, Any] = {"model": "gpt-5-2025-01-01", "system_prompt": "You add.", "tools": [add]}
    settings["provider"] = "scripted"
    return Agent(id="recorded_adder", **{**settings, **options})


async def recorded(tmp_path: Path, asked: Agent, text: str = "One and two?", *, tree: bool = False) -> RecordedRun:
    """Run an agent and take its run from the log."""
    async with Polos(tmp_path / "data") as polos:
        run = (await asked.run(polos, text)).agent_run_id
        with polos.engine.store.log.reader() as reader:
            return record_run(reader, run, tree=tree)


async def test_the_same_agent_replays(tmp_path: Path):
    """Nothing is called, and nothing differs."""
    assert_replays(await recorded(tmp_path, agent()), agent())


async def test_a_tree_replays_but_for_its_tools(tmp_path: Path):
    """A tool's body isn't deterministic: its run is in the file, is named as not replayed, and the agent's still is."""
    recording = await recorded(tmp_path, agent(), tree=True)

    assert ["recorded_add"] == list(recording.direct_runs().values())
    assert [recording.run] == recording.runs()
    assert_replays(recording, agent())
    with pytest.raises(RunDiffers):
        assert_replays(recording, agent(system_prompt="You multiply."))


async def test_a_model_in_a_tool_is_played_too(tmp_path: Path):
    """What isn't replayed may have asked a model as well, so its replies are among those of the recording."""
    recording = await recorded(tmp_path, agent(), tree=True)
    tool = next(iter(recording.direct_runs()))
    moved = tuple(replace(one, run=tool) if one.version > 1 else one for one in recording.records)

    assert len(model_of(recording).calls) == len(model_of(replace(recording, records=moved)).calls)


def louder(ctx: Any, told: Any) -> Any:
    """Change what a tool is given."""
    return HookResult.continue_with(modified_payload={"b": 5})


@pytest.mark.parametrize(
    ("options", "types"),
    [
        ({"system_prompt": "You multiply."}, {"PromptChanged"}),
        ({"tools": []}, {"ToolsChanged"}),
        ({"model": "gpt-5-mini-2025-01-01"}, {"ModelChanged", "CostChanged"}),
        ({"temperature": 0.5}, {"ModelChanged"}),
        ({"on_tool_start": louder}, {"ExtraStep"}),
    ],
)
async def test_what_differs_is_told_by_its_kind(tmp_path: Path, options: dict[str, Any], types: set[str]):
    """Prompt, tools, model and settings, and calls that are new: each difference has a type, and shows both sides."""
    recording = await recorded(tmp_path, agent())
    with pytest.raises(RunDiffers) as differs:
        assert_replays(recording, agent(**options))

    found = {type(one).__name__ for one in differs.value.differences}
    assert types <= found
    assert "ArgumentsChanged" not in {type(one).__name__ for one in differs.value.differences if "llm_" in one.step}
    if options == {"system_prompt": "You multiply."}:
        assert "You multiply." in str(differs.value)
        assert "You add." in str(differs.value)


async def test_one_cause_is_told_once(tmp_path: Path):
    """Another prompt goes into each call: it is told with both texts, at the agent's line, and where else it shows."""
    recording = await recorded(tmp_path, agent())
    other = agent(system_prompt="You multiply.")
    with pytest.raises(RunDiffers) as differs:
        assert_replays(recording, other)

    text = str(differs.value)
    assert 2 == len(differs.value.differences)
    assert 1 == text.count("PromptChanged: ")
    assert "the same once more: recorded value 'request:llm_generate:2'" in text
    assert {other.defined_at} == {one.line for one in differs.value.differences}
    assert f"{__file__}:{agent.__code__.co_firstlineno + 6}" == other.defined_at


async def test_other_prices_are_another_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A call that costs something else by today's prices is told, with both amounts."""
    recording = await recorded(tmp_path, agent())
    dearer = default_prices().with_prices({"gpt-5": {"input": 100, "output": 100}})
    monkeypatch.setattr("polos.agents.asking.default_prices", lambda: dearer)
    with pytest.raises(RunDiffers) as differs:
        assert_replays(recording, agent())

    assert 2 == [type(one).__name__ for one in differs.value.differences].count("CostChanged")


async def test_a_recorded_model_answers_the_same(tmp_path: Path):
    """Played again with its recorded replies an agent gives the same answer, and every reply is asked for."""
    recording = model_of(await recorded(tmp_path, agent()))
    again = agent(provider="recorded", provider_settings={"recording": recording})
    async with Polos(tmp_path / "again") as polos:
        found = await again.run(polos, "One and two?")

    assert ("Three.", ()) == (found.result, recording.left)


async def test_a_recorded_model_tells_the_first_difference(tmp_path: Path):
    """The first request that isn't what it was fails the run, with the part that differs."""
    recording = model_of(await recorded(tmp_path, agent()))
    again = agent(provider="recorded", provider_settings={"recording": recording}, system_prompt="You multiply.")
    async with Polos(tmp_path / "again") as polos:
        with pytest.raises(RuntimeError, match="call 0 of the recording differs in system"):
            await again.run(polos, "One and two?")


async def test_calls_beside_the_conversation_are_played_too(tmp_path: Path):
    """Summaries and rules in plain words are calls of the recording like the others."""

    def reply(request: Any) -> Reply | str:
        asked = str(request.items[-1]["content"]) if "content" in request.items[-1] else ""
        if request.output_schema is not None:
            return '{"passed": true, "reason": "fine"}'
        if asked.startswith("Summarise"):
            return "They add."
        turns = sum(1 for item in request.items if item.get("type") == "function_call_output")
        if turns < 1:
            return Reply(text="x" * 400, tool_calls=[("recorded_add", {"a": 1, "b": 2})])
        return "Three."

    def asked(provider: str, **settings: Any) -> Agent:
        script("talker", reply)
        return Agent(
            id="recorded_talker", provider=provider, model="talker", tools=[add], guardrails="Be kind.",
            compaction=CompactionConfig(max_conversation_tokens=60, min_recent_messages=2), provider_settings=settings,
        )  # fmt: skip

    whole = model_of(await recorded(tmp_path, asked("scripted")))
    calls = len(whole.calls)
    again = asked("recorded", recording=whole)
    async with Polos(tmp_path / "again") as polos:
        found = await again.run(polos, "One and two?")

    assert calls >= 5
    assert ("Three.", ()) == (found.result, whole.left)
