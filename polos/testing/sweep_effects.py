"""
Whose effects a sample of crash points tries first.

The bug that most workflows have is an effect that happens twice: the function came back, the process died, and nothing
says that it did. One moment of a step shows it, ``after_effect_before_outcome``, of about eight that it has; so of a
few points drawn from many, as often as not none is the one that matters. Which step such a moment belongs to is noted
in the undisturbed run, and a sample begins with one moment of each function: the same function is as careless in each
step. Then come names, for a program may have a single function that calls whatever service it is told to. Numbers and
ids in a name tell steps of a loop apart, and nothing else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, final

from polos.testing.sweep_points import CrashPoint

__all__ = ["Effect", "effect_of", "first_of"]

_NUMBER: Final = re.compile(r"\d+")


@final
@dataclass(frozen=True, slots=True)
class Effect:
    """
    What may have happened at a point, as far as it is told apart from others.

    Attributes:
        function: code of the function that came back, or the type of the object that was called.
        name: of the step, without numbers.
        failed: whether it raised.
    """

    function: object
    name: str
    failed: bool


def effect_of(func: Callable[..., Any], name: str, *, failed: bool) -> Effect:
    """
    Say what a step that came back may have done.

    Args:
        func: its function, as the program gave it.
        name: its name.
        failed: whether it raised.
    """
    inner: Any = func
    while isinstance(inner, partial):
        inner = inner.func
    function: object = inner.__class__
    if inspect.isroutine(inner):
        inner = inspect.unwrap(inner)  # a decorator's own code is the same for all
        function = getattr(inner, "__code__", inner)
    return Effect(function, _NUMBER.sub("#", name), failed)


def first_of(effects: Mapping[CrashPoint, Effect], room: int, chance: Random) -> list[CrashPoint]:
    """
    Draw the points that a sample begins with.

    Args:
        effects: of all points at which one has happened and isn't recorded.
        room: so many at most. Functions may take all of it, names half: what is left is for other kinds of points.
        chance: draws.
    """
    functions: dict[object, list[CrashPoint]] = {}
    names: dict[tuple[object, str], list[CrashPoint]] = {}
    for point, effect in effects.items():
        functions.setdefault(effect.function, []).append(point)
        names.setdefault((effect.function, effect.name), []).append(point)
    found = _one_of_each(list(functions.values()), effects, room, chance)
    had = {(effects[point].function, effects[point].name) for point in found}
    others = [points for kind, points in names.items() if kind not in had]
    return found + _one_of_each(others, effects, max(0, room // 2 - len(found)), chance)


def _one_of_each(
    kinds: list[list[CrashPoint]], effects: Mapping[CrashPoint, Effect], room: int, chance: Random
) -> list[CrashPoint]:
    """Draw a point of each kind, one that came back well if there is one; of as many kinds as there is room for."""
    drawn = kinds if len(kinds) <= room else chance.sample(kinds, room)
    found: list[CrashPoint] = []
    for points in drawn:
        well = [point for point in points if not effects[point].failed]
        found.append(chance.choice(well or points))
    return found
