"""
What an agent gives and keeps: its result, its turns, its settings as hooks see them.

A result holds data of the program's own types, as a model's structured answer or what a tool returned. Their paths
stand beside them, and reading a recorded result makes objects of those types again, wherever it is read; a type that
isn't found any more leaves plain JSON, as the data is the program's either way.
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from polos.errors import ValueRefused
from polos.types.llm import ToolCall, ToolResult, Usage
from polos.value_checks import is_plain
from polos.values import decode, encode

__all__ = ["AgentConfig", "AgentResult", "Step", "TypedToolResult", "typed"]

_log = logging.getLogger("polos")


def typed(value: Any, path: str | None) -> Any:
    """
    Give JSON as what it was.

    Args:
        value: JSON, or the object itself.
        path: path of its type; None if it has none.

    Returns:
        An object of that type; the value as it is if the type isn't found or doesn't fit any more.
    """
    if path is None or value is None or not is_plain(value):
        return value
    try:
        return decode(value, type=path)
    except ValueRefused as refused:
        _log.warning("a value of type %s is given as plain JSON: %s", path, refused)
        return value


class TypedToolResult(ToolResult):
    """A tool's result, as an object of the type that its path names."""

    @model_validator(mode="after")
    def _typed(self) -> TypedToolResult:
        self.result = typed(self.result, self.result_schema)
        return self


class Step(BaseModel):
    """
    One turn of an agent: a reply of the model, and what came of the tools that it asked for.

    ```python run
    from polos import Step, Usage

    print(Step(step=1, content="It rains.", usage=Usage(total_tokens=12)).content)
    ```

    Attributes:
        step: its number, from 1.
        content: the text of the reply.
        tool_calls: the tools that the model asked for.
        tool_results: what came of them, in the same order.
        usage: tokens of the turn.
        raw_output: the reply as items of the conversation.
    """

    step: int
    content: str | None = None
    tool_calls: list[ToolCall] = Field(default_factory=list[ToolCall])
    tool_results: list[TypedToolResult] = Field(default_factory=list[TypedToolResult])
    usage: Usage | None = None
    raw_output: Any = None


class AgentResult(BaseModel):
    """
    How a run of an agent ended.

    ```python run
    from polos.types import AgentResult

    result = AgentResult(agent_run_id="run", result="It rains.", total_steps=1)
    print(result.result, result.usage.total_tokens)
    ```

    Attributes:
        agent_run_id: the run.
        result: its answer: text, or an object of the agent's output schema.
        result_schema: path of that object's type; None for text.
        tool_results: what came of every tool call, in order.
        total_steps: how many turns it took.
        usage: tokens of all its calls of models, and of those of an agent that it handed over to; agents that it asked
            are counted in theirs.
        stop_reason: why it ended: `completed`, `max_steps`, `budget`, or the name of a stop condition; `length`,
            `content_filter` or `refusal`, where the model didn't say all that it would have; or `handoff`, where an
            agent that it handed over to completed the answer. Where that agent ended otherwise, it is that reason.
        cost_microdollars: what its calls cost, in millionths of a dollar, those of agents that it asked included; None
            if a price isn't known.
        spent_tokens: tokens of all those calls.
        calls: how many there were.
    """

    model_config = ConfigDict(extra="ignore")

    agent_run_id: str
    result: Any = None
    result_schema: str | None = None
    tool_results: list[TypedToolResult] = Field(default_factory=list[TypedToolResult])
    total_steps: int = 0
    usage: Usage = Field(default_factory=Usage)
    stop_reason: str | None = None
    cost_microdollars: int | None = None
    spent_tokens: int = 0
    calls: int = 0

    _as_json: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _typed(self) -> AgentResult:
        if not self._as_json:
            self.result = typed(self.result, self.result_schema)
        return self

    def plain(self) -> AgentResult:
        """Give the result with its answer as JSON; it stays so when it is validated again."""
        made = self.model_copy(update={"result": encode(self.result, what="result of the agent")[0].value})
        made._as_json = True  # noqa: SLF001  # our own
        return made


class AgentConfig(BaseModel):
    """
    An agent's settings, as hooks and guardrails see them.

    ```python run
    from polos import AgentConfig

    print(AgentConfig(name="poet", provider="openai", model="small").model)
    ```

    Attributes:
        name: the agent's id.
        provider: the model's provider.
        model: the model.
        tools: the tools as the model is told of them.
        system_prompt: what the model is told first.
        max_output_tokens: limit for each reply.
        temperature: of the model.
        top_p: of the model.
        provider_base_url: where the provider is, if not at its own address.
        provider_llm_api: which interface of the provider is used.
        provider_kwargs: what else is sent with each request.
        output_schema: JSON schema of the answer.
        output_schema_name: its name.
        guardrail_max_retries: how often a reply that a guardrail refused is asked for anew.
    """

    name: str
    provider: str
    model: str
    tools: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    system_prompt: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    provider_base_url: str | None = None
    provider_llm_api: str | None = None
    provider_kwargs: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    output_schema_name: str | None = None
    guardrail_max_retries: int | None = None
