"""Long conversations: what is summarised, what is kept, and what a session remembers of it; conditions of one's own."""

from __future__ import annotations

from typing import Any

import pytest
from polos import Agent, StopConditionContext, WorkflowContext, stop_condition, tool
from polos.engine import events as e
from polos.errors import ModelRequestRefused
from polos.llm import LLMRequest, Reply
from polos.memory.types import CompactionConfig
from polos.testing.simulation import Simulation
from pydantic import BaseModel

from tests.agents.stage import make_agent

SHORT = CompactionConfig(max_conversation_tokens=200, max_summary_tokens=40, min_recent_messages=2)
told: list[LLMRequest] = []
summed: list[str] = []


@tool(id="memory_look")
async def look(ctx: WorkflowContext) -> str:
    """Give much."""
    return "rain " * 40


def talk(turns: int, summary: Any = "It rained.") -> Any:
    """Make replies that call a tool so many times; a request for a summary is answered by the summary."""

    def reply(request: LLMRequest) -> Any:
        content = request.items[0].get("content")
        if isinstance(content, str) and ("Summarise" in content or "Shorten" in content):
            summed.append(content)
            return summary(content) if callable(summary) else summary
        told.append(request)
        if len(told) <= turns:
            return Reply(text=f"turn {len(told)}", tool_calls=[("memory_look", {})] * 2)
        return "Done."

    return reply


def play(agent: Agent, *inputs: str, session: str | None = None) -> list[Any]:
    """Run an agent once for each input, one after another."""
    told.clear()
    summed.clear()
    found: list[Any] = []
    with Simulation([agent, look]) as sim:
        for one in inputs:
            run = sim.create(agent, {"input": one}, session=session).run
            sim.settle()
            end = sim.audit.end_of(run)
            found.append(end.error.message if isinstance(end, e.RunFailed) else sim.result(run))
    return found


def parted(items: list[Any]) -> set[str]:
    """Give the calls without a result and the results without a call."""
    calls = {item["call_id"] for item in items if item.get("type") == "function_call"}
    return calls ^ {item["call_id"] for item in items if item.get("type") == "function_call_output"}


@pytest.mark.parametrize("recent", [1, 2, 3, 4, 5])
def test_no_result_is_parted_from_its_call(recent: int):
    """Wherever the cut falls, what the model is sent holds both or none, and begins with the summary."""
    config = SHORT.model_copy(update={"min_recent_messages": recent})
    (found,) = play(make_agent(f"memory_cut_{recent}", talk(4), tools=[look], compaction=config), "Look.")

    assert "Done." == found["result"]
    assert summed
    assert [set()] * 5 == [parted(request.items) for request in told]
    assert "It rained." in str(told[-1].items[0])


def test_a_summary_is_part_of_the_next():
    """What was summarised before is told when it is summarised again, and one that is too long is shortened once."""

    def summary(content: str) -> str:
        return "short" if "Shorten" in content else f"summary {len(summed)} " + "x" * 200

    play(make_agent("memory_again", talk(5, summary), tools=[look], compaction=SHORT), "Look.")

    shortened = [one for one in summed if one.startswith("Shorten")]
    asked = [one for one in summed if not one.startswith("Shorten")]
    assert len(asked) == len(shortened) >= 2
    assert ["short" in one for one in asked] == [False] + [True] * (len(asked) - 1)
    assert all("summary" in one for one in shortened)


def test_without_a_summary_the_last_messages_go_on():
    """A model that can't summarise doesn't fail the run."""

    def summary(_: str) -> Any:
        return ModelRequestRefused("no")

    (found,) = play(make_agent("memory_none", talk(4, summary), tools=[look], compaction=SHORT), "Look.")

    assert "Done." == found["result"]
    assert [set()] * 5 == [parted(request.items) for request in told]
    assert len(told[-1].items) < 6


def test_a_session_remembers_the_summary():
    """The next run of the session begins with it and with what came since, not with what was summarised."""
    agent = make_agent("memory_session", talk(4), tools=[look], compaction=SHORT)
    first, second = play(agent, "Look.", "And now?", session="s")

    assert ("Done.", "Done.") == (first["result"], second["result"])
    items = told[-1].items
    assert "It rained." in str(items[0])
    assert ("And now?", set()) == (items[-1]["content"], parted(items))
    assert "Look." not in [item.get("content") for item in items]
    assert len(items) < 12


class Limit(BaseModel):
    """Configuration of a condition."""

    turns: int


@stop_condition
async def after(ctx: StopConditionContext, config: Limit) -> bool:
    """End after so many turns."""
    return len(ctx.steps) >= config.turns


@stop_condition
def at_once(ctx: StopConditionContext) -> bool:
    """End."""
    return bool(ctx.steps) and ctx.agent_id == "memory_stopped"


@stop_condition
def broken(ctx: StopConditionContext) -> bool:
    """Fail."""
    raise ValueError("no idea")


@pytest.mark.parametrize(
    ("condition", "reason", "turns"),
    [(after(Limit(turns=2)), "after", 2), (after(turns=3), "after", 3), (at_once, "at_once", 1)],
)
def test_a_condition_of_ones_own(condition: Any, reason: str, turns: int):
    """With and without configuration, async or not, it ends the loop and names what did."""
    (found,) = play(make_agent("memory_stopped", talk(8), tools=[look], stop_conditions=[condition]), "Look.")

    assert (reason, turns, f"turn {turns}") == (found["stop_reason"], found["total_steps"], found["result"])


def test_a_condition_that_raises_fails_the_run():
    """It is a step like any other; nobody goes on as if it had said no."""
    (found,) = play(make_agent("memory_broken", talk(8), tools=[look], stop_conditions=[broken]), "Look.")

    assert "no idea" in found
    assert 1 == len(told)


def test_what_is_not_said_of_shortening_is_as_by_default():
    """None stands for a setting that was left out."""
    given = CompactionConfig.model_validate(
        {"max_conversation_tokens": None, "enabled": None, "min_recent_messages": 4}
    )

    assert CompactionConfig(min_recent_messages=4) == given
