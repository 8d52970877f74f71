"""
Guardrails: what looks at each reply of a model before the agent does anything with it.

A guardrail may let the reply pass, change it, or refuse it. A refusal is told to the model, which is asked anew, a
few times; then the run fails. There are two kinds: a function, which is a step like a hook, and a text, a rule in
plain words that the agent's own model is asked about. A text is judged in a call of its own, recorded and paid for
like any other, with a name of its own: several texts are several calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast, overload

from pydantic import BaseModel, ConfigDict, Field

from polos.middleware.hook import HookResult, two_parameters
from polos.types.agents import AgentConfig, Step
from polos.types.as_dict import AsDict
from polos.types.llm import ToolCall

__all__ = [
    "Guardrail",
    "GuardrailContext",
    "GuardrailEvaluationResult",
    "GuardrailResult",
    "guardrail",
    "read_guardrails",
]

Guardrail = Callable[..., Any] | str
_Func = TypeVar("_Func", bound=Callable[..., Any])


class GuardrailContext(AsDict):
    """
    What a guardrail is told.

    ```python run
    from polos import GuardrailContext, GuardrailResult, guardrail

    @guardrail
    def short(ctx, told: GuardrailContext) -> GuardrailResult:
        return GuardrailResult.continue_with() if len(told.content or "") < 80 else GuardrailResult.fail("too long")

    print(short(None, GuardrailContext(content="Yes.")).action.value)
    ```

    Attributes:
        content: the text of the reply.
        tool_calls: the tools that the model asked for.
        agent_workflow_id: the agent.
        agent_run_id: its run.
        session_id: its session.
        user_id: its user.
        llm_config: the agent's settings.
        steps: the turns before this one.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    content: str | None = None
    tool_calls: list[ToolCall] | None = None
    agent_workflow_id: str | None = None
    agent_run_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    llm_config: AgentConfig | None = None
    steps: list[Step] = Field(default_factory=list[Step])


class GuardrailResult(HookResult):
    """
    What a guardrail answers.

    ```python run
    from polos import GuardrailResult

    print(GuardrailResult.continue_with(modified_content="[address removed]").modified_content)
    ```

    Attributes:
        modified_content: what the text is to be instead.
        modified_tool_calls: the tools that are to be called instead.
        modified_llm_config: settings for the turns that follow.
    """

    modified_content: str | None = None
    modified_tool_calls: list[ToolCall] | None = None
    modified_llm_config: AgentConfig | None = None


class GuardrailEvaluationResult(BaseModel):
    """
    What a model answers about a rule in plain words.

    Attributes:
        passed: whether the reply keeps the rule.
        reason: why, or why not.
    """

    passed: bool
    reason: str


@overload
def guardrail(func: _Func) -> _Func: ...


@overload
def guardrail() -> Callable[[_Func], _Func]: ...


def guardrail(func: Any = None) -> Any:
    r"""
    Mark a function as a guardrail; gives it back.

    ```python run
    import re
    from polos import GuardrailResult, guardrail

    @guardrail
    def redact(ctx, told):
        return GuardrailResult.continue_with(modified_content=re.sub(r"\d{3}-\d{4}", "[number]", told.content or ""))
    ```

    Args:
        func: takes a context and a `GuardrailContext`, gives a `GuardrailResult`; async or not.

    Raises:
        TypeError: it doesn't take two parameters.
    """
    if func is None:
        return guardrail
    two_parameters(func, "guardrail", "(ctx, guardrail_context)")
    return func


def read_guardrails(value: Guardrail | Sequence[Guardrail] | None) -> list[Guardrail]:
    """
    Give guardrails as a list.

    Args:
        value: a function, a text, a list of both, or None.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return []
    if isinstance(value, str) or callable(value):
        return [value]
    if not isinstance(cast("object", value), list | tuple):
        raise TypeError(f"Invalid guardrails type: guardrails must be a function, a text or a list, not {value!r}")
    for one in value:
        if not isinstance(one, str) and not callable(cast("object", one)):
            raise TypeError(f"Invalid guardrail type: a guardrail is a function or a text, not {one!r}")
    return list(value)
