"""
Whether all that a check can see outlives a process.

Scenarios of a sweep can begin with what another run left behind only if nobody misses what that run kept in memory.
Code of steps doesn't: two undisturbed runs, one after the other in the same process, have shown what of their results
hangs on such things, and that isn't compared. A `check` may: it may count what a list of its module holds, and half of
that would be missing. So its code is looked at before it is run. It is plain if whatever it names is a constant, an
`Outside`, a function of Python's own library that looks at its arguments alone, or a plain function again. Where that
can't be told it isn't plain, and nothing is lost but time.

A constant of a module may be assigned anew by a step. So it is noted what was named, for comparing.
"""

from __future__ import annotations

import builtins
import datetime as dt
import dis
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Final, cast, final
from uuid import UUID
from zoneinfo import ZoneInfo

from polos.testing.outside import Outside

__all__ = ["Seen"]

_CONSTANTS: Final = (
    bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), range,
    Decimal, UUID, re.Pattern, dt.date, dt.datetime, dt.time, dt.timedelta, dt.timezone, ZoneInfo,
)  # fmt: skip
_MODULES: Final = frozenset(
    {
        "builtins", "collections", "collections.abc", "dataclasses", "datetime", "decimal", "enum", "fractions",
        "functools", "itertools", "json", "math", "operator", "re", "statistics", "string", "textwrap", "types",
        "typing", "uuid", "zoneinfo",
    }
)  # fmt: skip  # of these, what is called acts on its arguments alone
_KIT: Final = ("polos", "pytest", "_pytest")  # a check may say what is wrong with these
_ACTS: Final = frozenset(
    {"__import__", "breakpoint", "compile", "delattr", "eval", "exec", "globals", "input", "open", "setattr"}
)
# What it imports isn't seen here; and what it assigns, steps may assign, too, and the check may set it back.
_REFUSED: Final = frozenset(dis.opmap[name] for name in ("IMPORT_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"))
_ASSIGNS_OUTSIDE: Final = dis.opmap["STORE_DEREF"]


class _NotPlain(Exception):  # a way out of a walk, not an error
    """Something is named that may be kept in memory."""


@final
class Seen:
    """What a check names besides its arguments."""

    def __init__(self, check: Callable[..., object] | None) -> None:
        """
        Look at the code of a check.

        Args:
            check: the function; None for no check, which sees nothing.
        """
        self._check = check
        self._found = self._named()

    @property
    def is_plain(self) -> bool:
        """Whether all of it outlives a process."""
        return self._found is not None

    def is_unchanged(self) -> bool:
        """Tell whether it is plain, and each name stands for what it stood for in the beginning."""
        found, now = self._found, self._named()
        if found is None or now is None or len(found) != len(now):
            return False
        return all(one is other for one, other in zip(found, now, strict=True))

    def _named(self) -> list[object] | None:
        found: list[object] = []
        if self._check is None:
            return found
        try:
            _walk(self._check, found, set())
        except _NotPlain:
            return None
        return found


def _walk(value: object, found: list[object], known: set[int]) -> None:
    """Note a value and what it leads to, each once."""
    found.append(value)
    if isinstance(value, Outside) or type(value) in _CONSTANTS or id(value) in known:
        return
    known.add(id(value))
    if isinstance(value, Enum):
        _walk(value.value, found, known)
    elif isinstance(value, FunctionType) and not _is_of(value.__module__, _KIT):
        for named in _of_function(value):
            _walk(named, found, known)
    elif isinstance(value, partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            _walk(part, found, known)
    elif type(value) is tuple or type(value) is frozenset:
        for item in cast("Iterable[object]", value):
            _walk(item, found, known)
    elif not _acts_on_arguments(value):
        raise _NotPlain


def _acts_on_arguments(value: object) -> bool:
    """Tell whether something of a library can't have anything of the program's in it."""
    if isinstance(value, ModuleType):
        return value.__name__ in _MODULES or _is_of(value.__name__, _KIT)
    if isinstance(value, MethodType):
        return False
    if isinstance(value, BuiltinFunctionType | FunctionType | type):
        module = value.__module__ or ""
        return (module in _MODULES or _is_of(module, _KIT)) and value.__name__ not in _ACTS
    return False


def _is_of(module: str | None, packages: tuple[str, ...]) -> bool:
    return (module or "").partition(".")[0] in packages


def _of_function(function: FunctionType) -> Iterator[object]:
    """Give what the code of a function names."""
    if vars(function):  # a place to count calls in
        raise _NotPlain
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # nothing was put into it yet
            raise _NotPlain from None
    for code in _codes(function.__code__):
        operations = set(code.co_code[::2])
        if operations & _REFUSED or (code.co_freevars and _ASSIGNS_OUTSIDE in operations):
            raise _NotPlain
        for name in code.co_names:  # of attributes, too: one that is called like a variable is taken for it
            if name in function.__globals__:
                yield function.__globals__[name]
            elif name in vars(builtins):
                yield getattr(builtins, name)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
