"""
What code uses of what is around it: names of its module, cells of its closure, what it imports, and how.

It is read off the code as Python has compiled it, so it is about what is run, whatever the source says. Some of it says
by itself that the code may change what others hold, or get at it: attributes that are assigned to, private ones, and
those that lead from what is at hand to the engine, to a loop or to a frame.
"""

from __future__ import annotations

import dis
import re
from collections import Counter
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
    IMPORT = "what it imports"
    OUT_OF_SIGHT = "what can't be told from the code, or changes something"


@final
@dataclass(frozen=True, slots=True)
class Use:
    """
    One use.

    Attributes:
        kind: of what.
        name: its name, with its module if it is imported; for what is out of sight what is done, in words.
        attribute: the attribute that is asked for at once, if one is.
    """

    kind: Kind
    name: str
    attribute: str | None = None


_KINDS: Final = {
    "LOAD_GLOBAL": Kind.NAME,
    "LOAD_NAME": Kind.NAME,
    "LOAD_FROM_DICT_OR_GLOBALS": Kind.NAME,
    "LOAD_DEREF": Kind.CELL,
    "LOAD_CLASSDEREF": Kind.CELL,
    "LOAD_FROM_DICT_OR_DEREF": Kind.CELL,
    "STORE_DEREF": Kind.ASSIGNED,
    "DELETE_DEREF": Kind.ASSIGNED,
}
_ASKS: Final = frozenset({
    "LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "LOAD_SUPER_METHOD", "LOAD_ZERO_SUPER_ATTR",
    "LOAD_ZERO_SUPER_METHOD",
})  # fmt: skip
_BETWEEN: Final = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL"})
_REFUSED: Final = {
    "DELETE_ATTR": "takes an attribute away",
    "DELETE_GLOBAL": "takes a global away",
    "IMPORT_STAR": "imports everything of a module",
    "MATCH_CLASS": "matches attributes of classes",
    "STORE_GLOBAL": "assigns to a global",
}
_LOADS: Final = frozenset({"LOAD_DEREF", "LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK"})
_CONTEXTS: Final = frozenset({"context", "ctx"})  # what contexts are called
# Attributes that lead away: of contexts, definitions, models, tasks and loops, functions, frames and their like.
_AWAY: Final = re.compile(
    "(?!__(?:qual)?name__)_.*|(?:cr|gi|ag|f|tb|co)_[a-z]+|logger|port|require_port|emit|resources|channels|"
    "channel_context|cancel_event|trace|func|on_start|on_end|schedule|said_schedule|keywords|get_loop|get_coro|"
    "get_context|get_stack|print_stack|mro|cache_clear|register|model_fields|model_computed_fields|model_config"
)


@lru_cache(maxsize=4096)
def uses(code: CodeType) -> tuple[Use, ...]:
    """Give what code uses; not that of functions in it, which are constants of it."""
    steps: list[dis.Instruction] = []
    targets: set[int] = set()  # of jumps, by place in `steps`
    for step in dis.get_instructions(code):
        if step.is_jump_target:
            targets.add(len(steps))
        if step.opname not in _BETWEEN:
            steps.append(step)
    found = _changes(steps, targets)
    module = ""
    for at, step in enumerate(steps):
        name, behind = str(step.argval), steps[at + 1] if at + 1 < len(steps) else None
        if step.opname in _KINDS:
            asked = str(behind.argval) if behind is not None and behind.opname in _ASKS else None
            found.append(Use(_KINDS[step.opname], name, asked))
        elif step.opname in _REFUSED:
            found.append(Use(Kind.OUT_OF_SIGHT, _REFUSED[step.opname]))
        elif step.opname in _ASKS and _AWAY.fullmatch(name):
            found.append(Use(Kind.OUT_OF_SIGHT, f"uses an attribute {name}"))
        elif step.opname == "IMPORT_NAME":
            module = name
            if behind is None or behind.opname != "IMPORT_FROM" or steps[at - 2].argval != 0:  # else it is relative
                found.append(Use(Kind.OUT_OF_SIGHT, f"imports {name}"))
        elif step.opname == "IMPORT_FROM":
            found.append(Use(Kind.IMPORT, f"{module}.{name}"))
    return tuple(found)


def _changes(steps: list[dis.Instruction], targets: set[int]) -> list[Use]:
    """
    Say what attributes are assigned to, but for those of ``ctx.state``, which are recorded.

    ``ctx.state.done = 1`` loads `ctx` and `state` just before; ``ctx.state.done += 1`` long before, and then loads
    `done`, so there each assignment has to have one of these. Where code jumps in between, it may be another's.
    """
    names = [step.opname for step in steps]
    set_anew = {str(step.argval) for step in steps if step.opname.startswith("STORE_FAST")}

    def is_state(at: int) -> bool:
        """Tell whether what stands before this loads the attribute `state` of a context."""
        if at < 2 or targets & {at, at - 1}:
            return False
        variable, state = steps[at - 2 : at]
        loads = variable.opname in _LOADS and variable.argval in _CONTEXTS and variable.argval not in set_anew
        return loads and state.opname in _ASKS and state.argval == "state"

    added = Counter(
        str(step.argval)
        for at, step in enumerate(steps)
        if step.opname in _ASKS and names[at - 1] == "COPY" and at not in targets and is_state(at - 1)
    )
    found: list[Use] = []
    for at, step in enumerate(steps):
        if step.opname != "STORE_ATTR" or is_state(at):
            continue
        name = str(step.argval)
        is_sum = names[at - 1] == "SWAP" and at not in targets
        added[name] -= is_sum
        if not is_sum or added[name] < 0:
            found.append(Use(Kind.OUT_OF_SIGHT, f"assigns to an attribute {name}"))
    return found
