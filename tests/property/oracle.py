"""
What a program gives, worked out without an engine.

Only for programs that don't race with themselves (`generated.steady`): there the result follows from the tree alone.
Written from what the nodes mean, not from how `programs` does it; where the two disagree, one of them is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.property.programs import Node

__all__ = ["Raised", "expected"]


class Raised(Exception):
    """The program raises; `name` is the exception's class."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def expected(node: Node) -> Any:
    """
    Give a program's result.

    Raises:
        Raised: it fails.
    """
    kind, *rest = node
    constant = _CONSTANT.get(kind)
    return constant if constant is not None else _MEANING[kind](*rest)


def _caught(node: Node) -> Any:
    try:
        return expected(node)
    except Raised as raised:
        return f"caught {raised.name}"


def _step(base: str, fails: int, retries: int, takes_us: int, effect: str) -> str:
    if fails > retries:
        raise Raised("StepExecutionError")
    return f"ok {base}-{fails}-{retries}-{takes_us}-{effect}"


def _thread(base: str, fails: int, retries: int, takes_us: int, effect: str) -> str:
    return _step(f"thread{base}", fails, retries, takes_us, effect)


def _late(_base: str) -> str:
    raise Raised("StepExecutionError")


def _each(nodes: list[Node]) -> list[Any]:
    return [_caught(node) for node in nodes]


def _sorted(nodes: list[Node]) -> list[Any]:
    return sorted(_each(nodes), key=json.dumps)


def _taken(nodes: list[Node], taken: int, _cleanup: Node) -> list[Any]:
    return _each(nodes)[:taken]


def _within(node: Node, seconds: float) -> Any:
    if node[0] in ("signal", "suspend", "event") and node[1].startswith("never"):
        own = node[2]
        raise Raised("TimeoutError" if own is None or seconds < own else "StepExecutionError")
    return expected(node)


def _answer(name: str, timeout: float | None) -> Any:
    if name.startswith("never"):
        raise Raised("StepExecutionError")
    return name


def _child(node: Node, then: Node | None) -> Any:
    try:
        result = expected(node)
        return expected(then) if then else result
    except Raised:
        raise Raised("StepExecutionError") from None


def _batch(nodes: list[Node]) -> list[Any]:
    found: list[Any] = []
    for node in nodes:
        try:
            found.append(expected(node))
        except Raised:
            found.append("failed")
    return found


def _flaky(times: int) -> str:
    if times > 2:
        raise Raised("ValueError")
    return "lasted"


def _value(kind: str) -> str:
    return {"uuid": "str", "now": "int", "random": "float"}[kind]


def _raise(_text: str) -> str:
    raise Raised("StepExecutionError")


def _after(_node: Node, meanwhile: Node) -> str:
    expected(meanwhile)
    return "cancelled or not"


_CONSTANT: dict[str, Any] = {
    "failing_group": "the group failed",
    "sleep": "slept",
    "wait": "waited",
    "publish": "published",
    "orphan": "started",
    "state": "changed",
    "patched": True,
}

_MEANING: dict[str, Callable[..., Any]] = {
    "step": _step,
    "thread": _thread,
    "late": _late,
    "seq": lambda nodes: [expected(node) for node in nodes],
    "gather": _each,
    "group": _each,
    "try": _caught,
    "finally": lambda node, _cleanup: expected(node),
    "wait_for": _within,
    "timeout": _within,
    "signal": _answer,
    "suspend": _answer,
    "event": _answer,
    "child": _child,
    "batch": _batch,
    "value": _value,
    "generator": _taken,
    "closed_generator": _taken,
    "shield": expected,
    "as_completed": _sorted,
    "one_by_one": _sorted,
    "cancelled": _after,
    "left_behind": lambda _node, meanwhile: expected(meanwhile),
    "semaphore": lambda _limit, nodes: _each(nodes),
    "queue": _each,
    "flaky": _flaky,
    "raise": _raise,
}
