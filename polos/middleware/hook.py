"""
Hooks: functions of the program that are called around a run, a turn of an agent or a tool call.

A hook may do I/O, so it is a step: called, retried and recorded like any other, and in replay its recorded answer
counts. What it answers is kept as plain JSON, so that the log doesn't depend on classes that only the hook knows.
It looks at copies; what it wants to change it says in its answer.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Self, TypeVar, cast, final, overload

from pydantic import BaseModel, ConfigDict, Field

from polos.context import WorkflowContext, is_async
from polos.definition_checks import Hook
from polos.engine.json import Json
from polos.errors import StepExecutionError
from polos.types.agents import AgentConfig, Step
from polos.types.as_dict import AsDict
from polos.values import encode

__all__ = [
    "Hook",
    "HookAction",
    "HookContext",
    "HookResult",
    "Told",
    "call_hooks",
    "changed",
    "hook",
    "plain_answer",
    "two_parameters",
]

_Func = TypeVar("_Func", bound=Callable[..., Any])


class HookAction(StrEnum):
    """
    What a hook wants to happen.

    ```python run
    from polos import HookAction, HookResult

    print(HookResult.fail("no card").action == HookAction.FAIL)
    ```
    """

    CONTINUE = "continue"
    FAIL = "fail"


class HookContext(AsDict):
    """
    What a hook is told.

    ```python run
    from polos import HookContext, HookResult, hook

    @hook
    def shout(ctx, told: HookContext) -> HookResult:
        return HookResult.continue_with(modified_payload={"name": told.current_payload["name"].upper()})

    print(shout(None, HookContext(workflow_id="greet", current_payload={"name": "ada"})).modified_payload)
    ```

    Attributes:
        workflow_id: the workflow, agent or tool.
        session_id: its session.
        user_id: its user.
        agent_config: the agent's settings; None outside an agent.
        steps: the turns of the agent so far.
        current_tool: the tool that is called.
        current_payload: what is given to the run, turn or tool.
        current_output: what came of it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    workflow_id: str
    session_id: str | None = None
    user_id: str | None = None
    agent_config: AgentConfig | None = None
    steps: list[Step] = Field(default_factory=list[Step])
    current_tool: str | None = None
    current_payload: Any = None
    current_output: Any = None


class HookResult(AsDict):
    """
    What a hook answers.

    ```python run
    from polos import HookResult

    print(HookResult.continue_with(modified_output="shorter").modified_output, HookResult.fail("no").error_message)
    ```

    Attributes:
        action: whether the run goes on.
        modified_payload: fields of the payload that are to be others.
        modified_output: what the output is to be instead; None leaves it.
        error_message: why it fails.
    """

    action: HookAction = HookAction.CONTINUE
    modified_payload: dict[str, Any] | None = None
    modified_output: Any = None
    error_message: str | None = None

    @classmethod
    def continue_with(cls, **modifications: Any) -> Self:
        """Go on, with changes; the names are those of the fields."""
        unknown = sorted(set(modifications) - set(cls.model_fields))
        if unknown:
            raise TypeError(f"{cls.__name__}.continue_with has no {', '.join(unknown)}")
        return cls(action=HookAction.CONTINUE, **modifications)

    @classmethod
    def fail(cls, error_message: str) -> Self:
        """Have what was about to happen fail, with this message."""
        return cls(action=HookAction.FAIL, error_message=error_message)


@overload
def hook(func: _Func) -> _Func: ...


@overload
def hook() -> Callable[[_Func], _Func]: ...


def hook(func: Any = None) -> Any:
    """
    Mark a function as a hook; gives it back.

    ```python run
    from polos import HookResult, hook, workflow

    @hook
    def check(ctx, told):
        return HookResult.continue_with() if told.current_payload.get("name") else HookResult.fail("who?")

    @workflow(id="greet", on_start=check)
    async def greet(ctx, payload: dict):
        return f"Hello, {payload['name']}!"
    ```

    Args:
        func: takes a context and a `HookContext`, gives a `HookResult`; async or not.

    Raises:
        TypeError: it doesn't take two parameters.
    """
    if func is None:
        return hook
    two_parameters(func, "hook", "(ctx, hook_context)")
    return func


def two_parameters(func: Callable[..., Any], what: str, form: str) -> None:
    """Refuse a function that doesn't take exactly two parameters."""
    count = len(inspect.signature(func).parameters)
    if count != 2:
        name = getattr(func, "__qualname__", repr(func))
        raise TypeError(f"{what} {name} must take two parameters {form}, it takes {count}")


async def call_hooks(
    ctx: WorkflowContext,
    name: str,
    hooks: Sequence[Hook],
    told: HookContext,
    *,
    left: Callable[[Any, Json], Any] | None = None,
) -> HookResult:
    """
    Call hooks one after another, each with what those before it changed.

    Args:
        ctx: of the run.
        name: what the steps are called: `{name}.{function}.{number}`.
        hooks: the hooks.
        told: what the first is told.
        left: gives the output after a hook said what it is to be, from the one before; without it, it is that.

    Returns:
        Their changes together.

    Raises:
        StepExecutionError: one of them wants the run to fail, or failed itself.
    """
    merged = HookResult()
    for number, one in enumerate(hooks):
        called = getattr(one, "__name__", type(one).__name__)
        record = await ctx.step.run(f"{name}.{called}.{number}", plain_answer(one, HookResult), ctx, Told(told))
        answer = HookResult.from_dict(record)
        if answer.action == HookAction.FAIL:
            raise StepExecutionError(answer.error_message or f"hook {called!r} refused")
        if answer.modified_payload is not None:
            merged.modified_payload = {**(merged.modified_payload or {}), **answer.modified_payload}
            told = told.model_copy(update={"current_payload": changed(told.current_payload, answer.modified_payload)})
        if answer.modified_output is not None:
            output = answer.modified_output
            merged.modified_output = output if left is None else left(told.current_output, output)
            told = told.model_copy(update={"current_output": merged.modified_output})
    return merged


def changed(payload: Any, changes: dict[str, Any]) -> Any:
    """Give a payload with some fields changed; a model stays one."""
    if isinstance(payload, BaseModel):
        return type(payload).model_validate({**payload.model_dump(by_alias=True, round_trip=True), **changes})
    return {**cast("dict[str, Any]", payload or {}), **changes}


@final
class Told:
    """
    What a function is told, handed to its step as it is.

    The turns of a long conversation would be copied and digested at every step that is told of them, in replay, too.
    So they are copied when the function is called, which is once.
    """

    __slots__ = ("value",)

    def __init__(self, value: BaseModel) -> None:
        """Hold what is told."""
        self.value = value

    def copy(self) -> Any:
        """Give a copy of it, for the function to keep."""
        return self.value.model_copy(deep=True)


def plain_answer(func: Callable[..., Any], kind: type[HookResult]) -> Callable[..., Any]:
    """
    Make a function of a hook that gives its answer as JSON.

    Args:
        func: the hook.
        kind: what it has to answer with; anything else is a refusal.
    """

    def plain(answer: Any) -> dict[str, Json]:
        if not isinstance(answer, HookResult):
            name = getattr(func, "__qualname__", repr(func))
            wrong = f"{name} must answer with a {kind.__name__}, it gave {type(answer).__name__}"
            answer = kind.fail(wrong)
        output = encode(answer.modified_output, what="modified_output")[0].value
        return cast("dict[str, Json]", answer.model_copy(update={"modified_output": output}).to_dict())

    if is_async(func):

        @functools.wraps(func)
        async def asynchronous(ctx: WorkflowContext, told: Told) -> dict[str, Json]:
            return plain(await func(ctx, told.copy()))

        call: Callable[..., Any] = asynchronous
    else:

        @functools.wraps(func)
        def synchronous(ctx: WorkflowContext, told: Told) -> dict[str, Json]:
            return plain(func(ctx, told.copy()))

        call = synchronous
    call.__annotations__ = {"return": dict[str, Any]}
    return call
