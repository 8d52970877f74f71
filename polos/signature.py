"""
What a workflow function takes, read from its signature when it is decorated.

A body is called with a context and, if it wants one, a payload, by a process that may be years and versions away
from the one that made the run. So a signature that can't be called so is refused where it is written, with the name
of the function and of the parameter, and not in production.

The payload's annotation is also the type that the recorded payload is read as. It may be postponed
(``from __future__ import annotations``) and may name classes of the function around it; both are resolved here,
once. A context whose annotation can't be resolved is let pass by its name, because its import commonly stands under
``TYPE_CHECKING``; a payload can't be, because then nobody would know what to make of the record.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pydantic import BaseModel

__all__ = ["Signature", "read_signature"]

_CONTEXTS: Final = ("WorkflowContext", "AgentContext")
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_EMPTY: Final = inspect.Parameter.empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """
    What a workflow function takes beside its context.

    Attributes:
        takes_payload: whether it takes a payload at all.
        hint: the payload's annotation, resolved.
        schema: the one model in that annotation, if there is exactly one.
        admits_none: whether a run may be started without a payload.
        has_default: whether the function says what it does without one.
    """

    takes_payload: bool = False
    hint: object = None
    schema: type[BaseModel] | None = None
    admits_none: bool = True
    has_default: bool = False


def read_signature(func: Callable[..., Any], names: Mapping[str, Any] | None = None) -> Signature:
    """
    Read what a workflow function takes.

    Args:
        func: the function.
        names: local names of the place where it is defined, for postponed annotations.

    Returns:
        The signature.

    Raises:
        TypeError: it can't be called with a context and a payload; names function and parameter.
    """
    called = getattr(func, "__qualname__", None) or repr(func)
    parameters = list(inspect.signature(func).parameters.values())
    if len(parameters) not in (1, 2):
        raise TypeError(
            f"workflow function {called} must take a context and at most one payload, it takes {len(parameters)} "
            f"parameters ({', '.join(parameter.name for parameter in parameters)})"
        )
    for parameter in parameters:
        if parameter.kind not in _POSITIONAL:
            raise TypeError(f"parameter {parameter.name!r} of workflow function {called} can't be given by position")
    namespace = {**_globals_of(func), **(names or {})}
    _check_context(called, parameters[0], namespace)
    return _read_payload(called, parameters[1], namespace) if len(parameters) == 2 else Signature()


def _globals_of(func: object) -> dict[str, Any]:
    """Give the names that a function's annotations were written among, through whatever wraps it."""
    for _ in range(20):  # a chain of wrappers that is longer is a ring
        if isinstance(func, partial):
            func = func.func
        elif hasattr(func, "__wrapped__"):
            func = getattr(func, "__wrapped__")  # noqa: B009  # any object that has it
        elif not hasattr(func, "__globals__") and not isinstance(func, types.MethodType):
            func = type(func).__call__
        else:
            break
    return getattr(func, "__globals__", {})


def _check_context(called: str, parameter: inspect.Parameter, namespace: dict[str, Any]) -> None:
    if parameter.annotation is _EMPTY:
        return
    try:
        found = _resolved(parameter.annotation, namespace)
    except Exception:  # noqa: BLE001  # evaluates the program's text, which raises whatever it likes
        found = parameter.annotation
    named = found.__name__ if isinstance(found, type) else str(found)
    above = [base.__name__ for base in found.__mro__] if isinstance(found, type) else []
    if any(context in name for context in _CONTEXTS for name in (named, *above)):
        return
    raise TypeError(
        f"parameter {parameter.name!r} of workflow function {called} must be a WorkflowContext or have no annotation, "
        f"it is annotated {_shown(parameter.annotation)}"
    )


def _read_payload(called: str, parameter: inspect.Parameter, namespace: dict[str, Any]) -> Signature:
    wanted = "must be annotated as a dict, a Pydantic model or a union that holds one of them"
    place = f"parameter {parameter.name!r} of workflow function {called}"
    has_default = parameter.default is not _EMPTY
    if parameter.annotation is _EMPTY:
        raise TypeError(f"{place} {wanted}; it has no annotation")
    try:
        hint = _resolved(parameter.annotation, namespace)
    except Exception as error:
        if str(parameter.annotation).lstrip("\"'").lower().startswith("dict"):
            # What stands in the brackets doesn't change that the payload is a dict.
            return Signature(takes_payload=True, hint=dict, admits_none=has_default, has_default=has_default)
        raise TypeError(
            f"{place} is annotated {_shown(parameter.annotation)}, which can't be resolved: {error}"
        ) from error
    members = _members(hint)
    if not any(_is_payload(member) for member in members):
        raise TypeError(f"{place} {wanted}; it is annotated {_shown(parameter.annotation)}")
    models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    return Signature(
        takes_payload=True,
        hint=hint,
        schema=models[0] if len(models) == 1 else None,
        admits_none=has_default or types.NoneType in members,
        has_default=has_default,
    )


def _resolved(annotation: object, namespace: dict[str, Any]) -> object:
    # Resolved one by one, so that a name that is missing in one annotation says nothing about the others.
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, namespace, include_extras=True)["it"]


def _members(hint: object) -> list[object]:
    """Give the members of a union, however it is written; else the one hint."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _members(typing.get_args(hint)[0])
    if origin is typing.Union or origin is types.UnionType:
        return [member for argument in typing.get_args(hint) for member in _members(argument)]
    return [hint]


def _is_payload(member: object) -> bool:
    if member is dict or typing.get_origin(member) is dict:
        return True
    return isinstance(member, type) and issubclass(member, BaseModel)


def _shown(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else repr(annotation)
