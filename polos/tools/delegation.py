"""
Agents as tools of other agents.

The call is a run of the tool, in which the agent runs as a child: it can be approved, queued and given a time like any
tool, and has the session, and so the memory, of its own talks in that session. What it used is told to the agent that
asked, whose budget it is counted against; the model is told the answer alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from polos.agents.budget import Budget
from polos.agents.structured import json_of
from polos.context import WorkflowContext
from polos.llm.messages import fit_name
from polos.tools.tool import Tool

if TYPE_CHECKING:
    from polos.agents.agent import Agent

__all__ = ["AgentTool", "Delegated"]


class Question(BaseModel):
    """What an agent is asked by another."""

    input: str = Field(description="What the agent is asked to do, with everything that it needs to know.")
    budget: Budget | None = Field(default=None, exclude=True)


class Delegated(BaseModel):
    """
    What came of asking an agent.

    Attributes:
        result: its answer, as JSON.
        tokens: of all its calls of models.
        calls: how many there were.
        microdollars: what they cost; None if a price isn't known.
    """

    result: Any = None
    tokens: int = 0
    calls: int = 0
    microdollars: int | None = None


class AgentTool(Tool):
    """An agent, as a tool; made by `Agent.as_tool`."""

    def __init__(self, agent: Agent, name: str | None = None, description: str | None = None, **options: Any) -> None:
        """
        Make a tool of an agent.

        Args:
            agent: the agent.
            name: what models call it; `ask_` and the agent's id by default, as far as models take that.
            description: what models are told of it; the agent's own by default.
            **options: what else `Tool` takes.
        """
        known_as = name or fit_name("ask_", agent.id)

        async def ask(ctx: WorkflowContext, input: Question) -> Delegated:
            told: dict[str, Any] = {} if input.budget is None else {"budget": input.budget}
            found = await ctx.step.agent_invoke_and_wait("agent", agent.with_input(input.input, **told))
            return Delegated(
                result=json_of(found.result),
                tokens=found.spent_tokens,
                calls=found.calls,
                microdollars=found.cost_microdollars,
            )

        ask.__module__ = agent.func.__module__
        ask.__name__ = ask.__qualname__ = known_as
        schema = {
            "type": "object",
            "properties": {"input": {"type": "string", "description": Question.model_fields["input"].description}},
            "required": ["input"],
        }
        told = description or agent.description or f"Ask the agent {agent.id}."
        super().__init__(known_as, told, schema, ask, names={"Question": Question, "Delegated": Delegated}, **options)
        self.agent = agent
