"""
What code uses of what is around it: names of its module, cells of its closure, modules that it imports.

It is read off the code as Python has compiled it, so it is about what is run, whatever the source says. Of a name it
matters what is done to it at once: ``counter.calls += 1`` changes what others find at ``counter``.
"""

from __future__ import annotations

import dis
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import CodeType
from typing import Final, final

__all__ = ["Kind", "Use", "uses"]


@final
class Kind(Enum):
    """How code uses something."""

    NAME = "a name of its module, or a builtin"
    CELL = "a variable of a function around it, or one that functions in it use"
    ASSIGNED = "such a variable, which it assigns to"
    IMPORT = "a module"
    OUT_OF_SIGHT = "what can't be told from the code, or assigned to by its name"


@final
@dataclass(frozen=True, slots=True)
class Use:
    """
    One use.

    Attributes:
        kind: of what.
        name: its name, or for what is out of sight what is done, in words.
        attribute: the attribute that is asked for at once, if one is.
        changes: whether an attribute of it may be assigned to.
    """

    kind: Kind
    name: str
    attribute: str | None = None
    changes: bool = False


_KINDS: Final = {
    "LOAD_GLOBAL": Kind.NAME,
    "LOAD_NAME": Kind.NAME,
    "LOAD_FROM_DICT_OR_GLOBALS": Kind.NAME,
    "LOAD_DEREF": Kind.CELL,
    "LOAD_CLASSDEREF": Kind.CELL,
    "LOAD_FROM_DICT_OR_DEREF": Kind.CELL,
    "STORE_DEREF": Kind.ASSIGNED,
    "DELETE_DEREF": Kind.ASSIGNED,
    "IMPORT_NAME": Kind.IMPORT,
}
_ASSIGNS: Final = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_ASKS: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_CHANGES: Final = frozenset({"STORE_ATTR", "DELETE_ATTR", "COPY"})  # a copy is of what an attribute is added up in
_BETWEEN: Final = frozenset({"PUSH_NULL", "NOP"})
_PLAIN_SPECIALS: Final = frozenset(
    {"__init__", "__post_init__", "__str__", "__repr__", "__eq__", "__hash__", "__name__"}
)
# Ways from what is at hand to what others hold: of frames, coroutines, functions, classes, tracebacks and caches.
_AWAY: Final = re.compile(r"__\w+__|(?:cr|gi|ag|f|tb|co)_[a-z]+|mro|cache_clear")


@lru_cache(maxsize=4096)
def uses(code: CodeType) -> tuple[Use, ...]:
    """Give what code uses; not that of functions in it, which are constants of it."""
    found: list[Use] = []
    steps = [step for step in dis.get_instructions(code) if step.opname not in _BETWEEN]
    for step, behind in zip(steps, [*steps[1:], None], strict=True):
        name, then = str(step.argval), "" if behind is None else behind.opname
        if step.opname in _KINDS:
            asked = str(behind.argval) if behind is not None and then in _ASKS else None
            found.append(Use(_KINDS[step.opname], name, asked, then in _CHANGES))
        elif step.opname in _ASSIGNS:
            found.append(Use(Kind.OUT_OF_SIGHT, f"assigns to the global {name}"))
        elif step.opname in _ASKS | _CHANGES and name not in _PLAIN_SPECIALS and _AWAY.fullmatch(name):
            found.append(Use(Kind.OUT_OF_SIGHT, f"uses an attribute {name}"))
    return tuple(found)
