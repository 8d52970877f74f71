"""
How a step is to be called: what `ctx.step.run` was given, checked and sorted.

Mistakes in it are the caller's and are found at the call, before anything is recorded: a policy that makes no sense
would otherwise show when a step fails for the first time.

Keywords that tell the engine something share one list with those meant for the function. Programs were written when
there were fewer of ours, so a keyword that came later (`OURS`) and that the function itself takes by name goes to
the function, as it always did.
"""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import FunctionType
from typing import Any, Final, cast

from polos.checking import SECONDS_MAX, optional_text, positive, text, writable
from polos.engine.retry import RetryPolicy
from polos.replay.facts import StepCall
from polos.values import copy_arguments, return_hint

__all__ = [
    "EFFECTS",
    "MISSING",
    "OURS",
    "SECONDS_MAX",
    "Options",
    "function_name",
    "optional_text",
    "positive",
    "read_options",
    "sort_arguments",
    "step_call",
    "text",
    "writable",
]

EFFECTS: Final = ("idempotent", "at_most_once", "pure")
# Stands for an argument that was not given, where None may be given.
MISSING: Final[Any] = object()
OURS: Final = ("jitter", "retry_on", "non_retryable", "timeout_seconds", "effect", "reconcile")

Options = dict[str, Any]
_Exceptions = tuple[type[BaseException], ...]


def read_options(func: Callable[..., Any], keywords: dict[str, Any]) -> Options:
    """
    Take our own keywords out of those that a call was given.

    Args:
        func: the function of the step.
        keywords: the keywords of the call; those that are left are the function's.
    """
    given = [name for name in OURS if name in keywords]
    if not given:
        return {}
    own = _parameters(func)
    return {name: keywords.pop(name) for name in given if name not in own}


def step_call(
    key: str, func: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any], *,
    max_retries: int, base_delay: float, max_delay: float, options: Options,
) -> StepCall:  # fmt: skip
    """
    Make the call of a step.

    Args:
        key: the step's name.
        func: the function.
        args: its positional arguments.
        keywords: its named ones.
        max_retries: attempts after the first.
        base_delay: seconds before the second attempt.
        max_delay: no delay is longer.
        options: what `read_options` took.

    Raises:
        ValueError: a number makes no sense; names the argument.
        TypeError: an argument is of the wrong type; names it.
    """
    # The workflow goes on while the step waits to be called; what it changes meanwhile must not reach the step, or a
    # crash in between would call it with something else.
    copied, copied_keywords = copy_arguments(args, dict(keywords))
    effect = "idempotent"
    timeout_seconds = reconcile = None
    if options:
        effect, timeout_seconds, reconcile = _checked(options)
        policy = _own_policy(max_retries, base_delay, max_delay, options, effect)
    else:
        policy = _policy(max_retries, base_delay, max_delay, 0.0, None, ())
    return StepCall(
        key=key,
        func=func,
        args=copied,
        kwargs=copied_keywords,
        policy=policy,
        timeout_seconds=timeout_seconds,
        effect=effect,
        reconcile=reconcile,
        hint=return_hint(func),
        context=contextvars.copy_context(),
    )


def _checked(options: Options) -> tuple[str, float | None, Callable[..., Any] | None]:
    effect = options.get("effect", "idempotent")
    if effect not in EFFECTS:
        raise ValueError(f"effect must be one of {', '.join(EFFECTS)}; it is {effect!r}")
    reconcile = options.get("reconcile")
    if reconcile is not None and not callable(reconcile):
        raise TypeError(f"reconcile must be callable, it is {reconcile!r}")
    if reconcile is not None and effect != "at_most_once":
        raise ValueError(f"reconcile is asked about steps with effect='at_most_once'; this one is {effect!r}")
    positive("timeout_seconds", options.get("timeout_seconds"))
    return effect, options.get("timeout_seconds"), reconcile


def _own_policy(max_retries: int, base_delay: float, max_delay: float, options: Options, effect: str) -> RetryPolicy:
    retry_on = options.get("retry_on")
    if effect == "at_most_once" and retry_on is None:
        retry_on = ()  # what was raised says nothing about whether the effect happened
    return _policy(
        max_retries,
        base_delay,
        max_delay,
        options.get("jitter", 0.0),
        None if retry_on is None else _exceptions("retry_on", retry_on),
        _exceptions("non_retryable", options.get("non_retryable", ())),
    )


def function_name(func: Callable[..., Any]) -> tuple[str, str]:
    """Give a function's bare name and its full one, for people and for reports."""
    if type(func) is FunctionType and type(func.__module__) is str:  # nearly all are that
        return func.__name__, f"{func.__module__}.{func.__qualname__}"
    while isinstance(func, partial):
        func = func.func
    named: Any = func if hasattr(func, "__qualname__") else type(func)
    # Methods of built-in types have no module of their own, and some built-in functions have None.
    owner = getattr(named, "__objclass__", None)
    module = getattr(named, "__module__", None) or getattr(owner, "__module__", None) or "builtins"
    return named.__name__, f"{module}.{named.__qualname__}"


def sort_arguments(
    step_key: object, func: object, args: tuple[Any, ...]
) -> tuple[str | None, Callable[..., Any], tuple[Any, ...]]:
    """
    Sort what `ctx.step.run` was given: a key first, or the function.

    Args:
        step_key: what stood first.
        func: what stood second, `MISSING` if nothing did.
        args: what followed.

    Returns:
        The key if there is one, the function, its arguments.

    Raises:
        TypeError: one of them isn't what it must be.
        ValueError: the key is empty.
    """
    if callable(step_key):
        return None, step_key, args if func is MISSING else (func, *args)
    text("step_key", step_key)
    if not callable(func):
        what = "is missing" if func is MISSING else f"must be callable, it is {func!r}"
        raise TypeError(f"func of step {step_key!r} {what}")
    return cast("str", step_key), func, args


@lru_cache(maxsize=256, typed=True)  # typed: True is no number of retries, and 1 may be known already
def _policy(
    max_retries: int, base_delay: float, max_delay: float, jitter: float,
    retry_on: _Exceptions | None, non_retryable: _Exceptions,
) -> RetryPolicy:  # fmt: skip
    if isinstance(max_retries, bool) or not isinstance(cast("object", max_retries), int) or max_retries < 0:
        raise ValueError(f"max_retries must be a number from 0, it is {max_retries!r}")
    for name, value in (("base_delay", base_delay), ("max_delay", max_delay)):
        if not 0 <= value <= SECONDS_MAX:
            raise ValueError(f"{name} must not be negative, nor more than a thousand years; it is {value!r}")
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter must be between 0 and 1, it is {jitter!r}")
    return RetryPolicy(
        max_retries=max_retries,
        base_delay_seconds=base_delay,
        max_delay_seconds=max_delay,
        jitter=jitter,
        retry_on=retry_on,
        non_retryable=non_retryable,
    )


def _exceptions(name: str, given: object) -> _Exceptions:
    found: tuple[object, ...] = tuple(cast("list[object]", given)) if isinstance(given, list | tuple) else (given,)
    for kind in found:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"{name} must hold exception types, it holds {kind!r}")
    return cast("_Exceptions", found)


def _parameters(func: Callable[..., Any]) -> tuple[str, ...]:
    """Give the names that a function takes by keyword; those that only `**kwargs` would take don't count."""
    if type(func) is FunctionType and not func.__dict__:
        # What a signature would say, for a small part of the time: nothing wraps it, so its code tells.
        code = func.__code__
        return code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # many functions written in C have no signature
        return ()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(parameter.name for parameter in parameters if parameter.kind in named)
