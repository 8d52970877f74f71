"""Mistakes in what programs say of agents: each is told where it is made, by the name of what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from polos import (
    Agent,
    Polos,
    StopConditionContext,
    WorkflowContext,
    batch_agent_invoke,
    max_steps,
    max_tokens,
    tool,
)
from polos.engine import events as e
from polos.engine.retry import RetryPolicy
from polos.memory.types import CompactionConfig
from polos.testing.simulation import Simulation
from polos.types.agents import Step

from tests.agents.stage import call, events, make_agent

pytestmark = pytest.mark.anyio


@tool(id="definitions_idle")
async def idle(ctx: WorkflowContext) -> str:
    """Do nothing."""
    return "nothing"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tools": idle}, "tools must be a list"),
        ({"tools": "definitions_idle"}, "tools must be a list"),
        ({"handoffs": "somebody"}, "handoffs must be a list"),
        ({"stop_conditions": 3}, "stop_conditions must be a list"),
        ({"compaction": 80_000}, "compaction must be a CompactionConfig"),
        ({"budget": 3}, "budget must be a Budget"),
        ({"model_retries": 3}, "model_retries must be a RetryPolicy"),
        ({"provider_settings": "key"}, "provider_settings must be a dict"),
        ({"temperature": "warm"}, "temperature must be a number"),
        ({"top_p": True}, "top_p must be a number"),
        ({"system_prompt": 3}, "system_prompt must be a text"),
        ({"description": 3}, "description must be a text"),
        ({"max_output_tokens": 1.5}, "max_output_tokens must be a whole number"),
        ({"max_output_tokens": 0}, "max_output_tokens must be at least 1"),
        ({"max_parallel_tools": "2"}, "max_parallel_tools must be a whole number"),
        ({"guardrail_max_retries": "2"}, "guardrail_max_retries must be a whole number"),
        ({"guardrail_max_retries": True}, "guardrail_max_retries must be a whole number"),
        ({"guardrail_max_retries": -1}, "guardrail_max_retries must not be negative"),
        ({"provider": "openai", "provider_llm_api": "chat"}, "provider_llm_api must be one of"),
        ({"stop_conditions": [max_tokens]}, "max_tokens needs its settings"),
    ],
)
def test_a_mistake_is_told_where_it_is_made(wrong: dict[str, Any], told: str):
    """An argument that makes no sense is refused with its name, before anything runs."""
    with pytest.raises((TypeError, ValueError), match=told):
        Agent(**{"id": "definitions_wrong", "provider": "scripted", "model": "wrong", **wrong})


def test_settings_may_be_dicts():
    """Settings that are models may be given by their fields, and zero retries are none."""
    agent = make_agent(
        "definitions_dicts", [], compaction={"max_conversation_tokens": 5}, budget={"calls": 1},
        guardrail_max_retries=0, model_retries=RetryPolicy(max_retries=0),
    )  # fmt: skip

    assert CompactionConfig(max_conversation_tokens=5) == agent.compaction
    assert (1, 0, 0) == (
        agent.budget and agent.budget.calls,
        agent.guardrail_max_retries,
        agent.model_retries.max_retries,
    )


def test_a_condition_without_settings_has_its_own():
    """A stop condition that needs no settings may be given as it is."""
    (condition,) = make_agent("definitions_bare", [], stop_conditions=max_steps).stop_conditions
    turns = [Step(step=number) for number in range(20)]

    assert [False, True] == [condition(StopConditionContext(steps=turns[:count])) for count in (19, 20)]


@pytest.mark.parametrize("asked", [None, 5, {"role": "user", "content": "Go."}, ["Go."], [5]], ids=str)
def test_what_is_no_input(asked: Any):
    """Who asks with something else than text or messages is told what is wanted."""
    agent = make_agent("definitions_asked", ["Never said."])
    with Simulation([agent]) as sim:
        run = sim.create(agent, {"input": asked}).run
        sim.settle()
        failed = sim.audit.end_of(run)

    assert isinstance(failed, e.RunFailed)
    assert (
        f"agent 'definitions_asked' needs an input: text, or a list of messages; it was given {asked!r}"
        == failed.error.message
    )


@pytest.mark.parametrize(
    ("provider", "settings", "told"),
    [
        ("nobody", {}, "no model provider is called 'nobody'"),
        ("openai", {"provider_settings": {"api_kye": "k"}}, "has no setting api_kye"),
        ("openai", {"provider_base_url": "ftp://here"}, "base_url must begin with http"),
        ("anthropic", {"provider_llm_api": "responses"}, "has no setting llm_api"),
    ],
)
def test_a_provider_that_is_not_there_is_asked_once(provider: str, settings: dict[str, Any], told: str):
    """What a provider can't be is a mistake of the program: no second attempt is made."""
    agent = Agent(id="definitions_nobody", provider=provider, model="m", **settings)
    with Simulation([agent]) as sim:
        run = sim.create(agent, {"input": "Go."}).run
        sim.settle()
        failed = sim.audit.end_of(run)
        attempts = events(sim, e.StepAttemptFailed, run)

    assert isinstance(failed, e.RunFailed)
    assert told in failed.error.message
    assert [] == attempts


async def test_a_batch_of_what_are_no_agents(tmp_path: Path):
    """A batch that holds something else starts nothing."""
    agent = make_agent("definitions_batch", [call("definitions_idle"), "Done."], tools=[idle])
    async with Polos(tmp_path) as polos:
        with pytest.raises(TypeError, match=r"with what agent\.with_input gives, not with <Agent"):
            await batch_agent_invoke(polos, [agent.with_input("Go."), agent])  # type: ignore[list-item]  # the mistake
        assert 0 == sum((await polos.count_executions()).values())
