"""
Stop conditions: what ends an agent's loop before the model does.

A condition is a function of the turns so far, asked after each turn in which tools were called, and asked as a step,
so that one that looks at the world gives the same answer in replay. One that takes settings is called with them when
the agent is defined, and what that gives is the condition.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field

from polos.context import is_async
from polos.middleware.hook import Told
from polos.types.agents import Step
from polos.types.as_dict import AsDict

__all__ = [
    "ExecutedToolConfig",
    "HasTextConfig",
    "MaxStepsConfig",
    "MaxTokensConfig",
    "StopCondition",
    "StopConditionContext",
    "asked_condition",
    "condition_name",
    "executed_tool",
    "has_text",
    "is_computed",
    "max_steps",
    "max_tokens",
    "settled",
    "stop_condition",
]

StopCondition = Callable[..., Any]
_NEEDS_SETTINGS = "__stop_condition_needs_settings__"


class StopConditionContext(AsDict):
    """
    What a stop condition is told.

    ```python run
    from polos import Step, StopConditionContext, stop_condition

    @stop_condition
    def twice(ctx: StopConditionContext) -> bool:
        return len(ctx.steps) >= 2

    print(twice(StopConditionContext(steps=[Step(step=1)])))
    ```

    Attributes:
        steps: the turns so far.
        agent_id: the agent.
        agent_run_id: its run.
    """

    steps: list[Step] = Field(default_factory=list[Step])
    agent_id: str | None = None
    agent_run_id: str | None = None


def stop_condition(func: Callable[..., Any]) -> Any:
    """
    Make a stop condition of a function.

    ```python run
    from pydantic import BaseModel
    from polos import Step, StopConditionContext, stop_condition

    class Limit(BaseModel):
        calls: int

    @stop_condition
    def called_often(ctx: StopConditionContext, config: Limit) -> bool:
        return sum(len(step.tool_calls) for step in ctx.steps) >= config.calls

    condition = called_often(Limit(calls=1))
    print(condition(StopConditionContext(steps=[Step(step=1)])))
    ```

    Args:
        func: takes a `StopConditionContext` and, if it wants settings, a second parameter that is a Pydantic model;
            says whether the loop ends. Async or not.

    Returns:
        Without settings the function; with settings a function of them: a model, a dict, or named fields.

    Raises:
        TypeError: it takes something else.
    """
    config = _read(func)
    if config is None:
        mark(func, func, None)
        return func
    required = [name for name, field in config.model_fields.items() if field.is_required()]

    @functools.wraps(func)
    def configured(settings: Any = None, /, **named: Any) -> StopCondition:
        if settings is None and not named and required:
            raise ValueError(f"{func.__name__} needs its settings ({', '.join(required)}): {config.__name__}(...)")
        given = settings if isinstance(settings, config) else config.model_validate({**(settings or {}), **named})
        return _bound(func, given)

    vars(configured)[_NEEDS_SETTINGS] = True
    return configured


def settled(condition: StopCondition) -> StopCondition:
    """
    Give a condition with its settings: one that was given none has what they are by default.

    Raises:
        ValueError: it needs settings.
    """
    return condition() if getattr(condition, _NEEDS_SETTINGS, False) else condition


def mark(made: Any, func: Callable[..., Any], config: BaseModel | None) -> None:
    """Note on a condition what it was made of."""
    made.__stop_condition_fn__ = func
    made.__stop_condition_name__ = func.__name__
    made.__stop_condition_config__ = config


def _bound(func: Callable[..., Any], config: BaseModel) -> StopCondition:
    if is_async(func):

        @functools.wraps(func)
        async def asynchronous(ctx: StopConditionContext) -> Any:
            return await func(ctx, config)

        made: Any = asynchronous
    else:

        @functools.wraps(func)
        def synchronous(ctx: StopConditionContext) -> Any:
            return func(ctx, config)

        made = synchronous
    mark(made, func, config)
    return typing.cast("StopCondition", made)


def condition_name(condition: StopCondition) -> str:
    """Give the name of a condition: that of its function."""
    return str(getattr(condition, "__stop_condition_name__", None) or getattr(condition, "__name__", "condition"))


def is_computed(condition: StopCondition) -> bool:
    """Tell whether a condition is one of those below: a computation on the turns, and nothing else."""
    return getattr(condition, "__stop_condition_fn__", None) in _COMPUTED


def asked_condition(condition: StopCondition) -> Callable[..., Any]:
    """Give the function of the step that asks a condition; it is told by a `Told`, and says yes or no."""
    if is_async(condition):

        @functools.wraps(condition)
        async def asynchronous(told: Told) -> bool:
            return bool(await condition(told.copy()))

        return asynchronous

    @functools.wraps(condition)
    def synchronous(told: Told) -> bool:
        return bool(condition(told.copy()))

    return synchronous


def _read(func: Callable[..., Any]) -> type[BaseModel] | None:
    name = getattr(func, "__qualname__", repr(func))
    parameters = list(inspect.signature(func).parameters.values())
    if len(parameters) not in (1, 2):
        raise TypeError(f"stop condition {name} must take a StopConditionContext and at most its settings")
    try:
        hints = typing.get_type_hints(func)
    except Exception as error:
        raise TypeError(f"the annotations of stop condition {name} can't be resolved: {error}") from error
    if hints.get(parameters[0].name) is not StopConditionContext:
        raise TypeError(f"parameter {parameters[0].name!r} of stop condition {name} must be a StopConditionContext")
    if len(parameters) == 1:
        return None
    config = hints.get(parameters[1].name)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise TypeError(f"parameter {parameters[1].name!r} of stop condition {name} must be a Pydantic model")
    return config


_COMPUTED: set[Any] = set()


def _computed(func: Callable[..., Any]) -> Any:
    _COMPUTED.add(func)
    return stop_condition(func)


class MaxTokensConfig(BaseModel):
    """
    Settings of `max_tokens`.

    ```python run
    from polos import MaxTokensConfig, max_tokens

    print(max_tokens(MaxTokensConfig(limit=10_000)).__name__)
    ```

    Attributes:
        limit: how many tokens all turns together may use.
    """

    limit: int


class MaxStepsConfig(BaseModel):
    """
    Settings of `max_steps`.

    ```python run
    from polos import MaxStepsConfig, max_steps

    print(max_steps(MaxStepsConfig(count=5)).__name__, MaxStepsConfig().count)
    ```

    Attributes:
        count: how many turns there may be.
    """

    count: int = 20


class ExecutedToolConfig(BaseModel):
    """
    Settings of `executed_tool`.

    ```python run
    from polos import ExecutedToolConfig, executed_tool

    print(executed_tool(ExecutedToolConfig(tool_names=["save"])).__name__)
    ```

    Attributes:
        tool_names: tools that all have to be called.
    """

    tool_names: list[str] = Field(default_factory=list[str])


class HasTextConfig(BaseModel):
    """
    Settings of `has_text`.

    ```python run
    from polos import HasTextConfig, has_text

    print(has_text(HasTextConfig(texts=["DONE"])).__name__)
    ```

    Attributes:
        texts: what all has to be said.
    """

    texts: list[str] = Field(default_factory=list[str])


@_computed
def max_tokens(ctx: StopConditionContext, config: MaxTokensConfig) -> bool:
    """
    End when all turns together have used so many tokens.

    ```python run
    from polos import max_tokens

    condition = max_tokens(limit=10_000)
    ```
    """
    return sum(step.usage.total_tokens for step in ctx.steps if step.usage is not None) >= config.limit


@_computed
def max_steps(ctx: StopConditionContext, config: MaxStepsConfig) -> bool:
    """
    End after so many turns; an agent that has this condition has no other limit of turns.

    ```python run
    from polos import max_steps

    condition = max_steps(count=5)
    ```
    """
    return len(ctx.steps) >= config.count


@_computed
def executed_tool(ctx: StopConditionContext, config: ExecutedToolConfig) -> bool:
    """
    End when all these tools have been called.

    ```python run
    from polos import executed_tool

    condition = executed_tool(tool_names=["save"])
    ```
    """
    called = {call.function.name for step in ctx.steps for call in step.tool_calls}
    return bool(config.tool_names) and set(config.tool_names) <= called


@_computed
def has_text(ctx: StopConditionContext, config: HasTextConfig) -> bool:
    """
    End when the model has said all these texts.

    ```python run
    from polos import has_text

    condition = has_text(texts=["DONE"])
    ```
    """
    said = "".join(step.content or "" for step in ctx.steps)
    return bool(config.texts) and all(text in said for text in config.texts)
