"""
What of Python, of polos and of pydantic keeps nothing in memory, however it is used.

A list of what is known, for `polos.testing.program_memory`: whatever isn't in it is taken to keep something. Left out
is what changes a state of the process (``decimal.getcontext``, ``random``), what reaches outside (``open``, ``os``,
``print``, which a test may capture), and what gets at things by names in texts or at what others hold (``getattr``,
``globals``, ``vars``, ``type``).
"""

from __future__ import annotations

import builtins
import datetime as dt
import re
import sys
import sysconfig
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Final
from uuid import UUID

__all__ = ["WHOLE_MODULES", "is_harmless", "is_of_library"]

_CONSTANTS: Final = frozenset({
    type(None), type(...), type(NotImplemented), object, bool, int, float, complex, str, bytes, range, re.Pattern,
    dt.date, dt.datetime, dt.time, dt.timedelta, dt.timezone, Decimal, Fraction, UUID,
})  # fmt: skip
_BUILTINS: Final = (
    "abs aiter all anext any ascii bin bool bytearray bytes callable chr classmethod complex dict divmod enumerate "
    "filter float format frozenset hash hex int isinstance issubclass iter len list map max min next object oct ord "
    "pow property range repr reversed round set slice sorted staticmethod str sum super tuple zip"
)
_MODULES: Final = {  # by module; a star is everything in it
    "abc": "ABC abstractmethod",
    "asyncio": "ALL_COMPLETED CancelledError Event FIRST_COMPLETED FIRST_EXCEPTION Lock Queue Semaphore TaskGroup "
    "TimeoutError as_completed create_task gather run shield sleep timeout timeout_at to_thread wait wait_for",
    "base64": "*",
    "collections": "Counter OrderedDict defaultdict deque",
    "contextlib": "nullcontext suppress",
    "copy": "copy deepcopy",
    "dataclasses": "asdict astuple replace",
    "datetime": "*",
    "decimal": "Decimal InvalidOperation",
    "enum": "Enum Flag IntEnum IntFlag StrEnum",
    "fractions": "Fraction",
    "functools": "partial reduce",
    "hashlib": "blake2b blake2s md5 sha1 sha256 sha512",
    "itertools": "*",
    "json": "JSONDecodeError dumps loads",
    "math": "*",
    "operator": "*",
    "polos.context": "WorkflowContext WorkflowState",
    "polos.engine.retry": "RetryPolicy",
    "polos.errors": "*",
    "polos.testing.outside": "Outside",
    "polos.types": "BatchStepResult BatchWorkflowInput Completed NotDone StillUnknown",
    "pydantic": "BaseModel ValidationError",
    "re": "compile escape findall finditer fullmatch match search split sub",
    "secrets": "randbelow token_bytes token_hex token_urlsafe",
    "statistics": "*",
    "string": "*",
    "textwrap": "dedent fill indent shorten wrap",
    "time": "monotonic monotonic_ns perf_counter perf_counter_ns sleep time time_ns",
    "typing": "*",
    "uuid": "UUID uuid4 uuid5",
}
WHOLE_MODULES: Final = frozenset(module for module, names in _MODULES.items() if names == "*")
_KINDS: Final = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES: Final = tuple({
    f"{Path(folder)}/"
    for folder in (*(sysconfig.get_path(kind) for kind in _KINDS), str(Path(__file__).parents[1]))
})  # fmt: skip


def is_harmless(what: object) -> bool:
    """Tell whether it is a constant, or a function or class that keeps nothing and reaches nothing outside."""
    kind = type(what)
    return kind in _CONSTANTS or kind.__module__ == "typing" or id(what) in _known(len(sys.modules))


@lru_cache(maxsize=1)
def _known(_imported: int) -> dict[int, object]:
    """Give functions and classes by their ids, of those modules that somebody has imported; more when there are."""
    found = {id(value): value for value in (getattr(builtins, name) for name in _BUILTINS.split())}
    for module, names in _MODULES.items():
        if module not in sys.modules:
            continue
        there = vars(sys.modules[module])
        for name in there if module in WHOLE_MODULES else names.split():
            value = there.get(name, getattr(sys.modules[module], name, None))
            if isinstance(value, type | FunctionType | BuiltinFunctionType):
                before = getattr(value, "__wrapped__", value)  # asyncio's, if polos has put its own in its place
                found |= {id(value): value, id(before): before}
    return found


def is_of_library(module: str, file: str | None = None) -> bool:
    """
    Tell whether code is Python's, polos's, or was installed; if nobody knows where it comes from, it is.

    Args:
        module: name of its module; of no account if there is a file.
        file: where it was compiled from, if it is code.
    """
    if module == "__main__" and file is None:
        return False
    where = file or getattr(sys.modules.get(module), "__file__", None)
    return where is None or where.startswith(("<", *_LIBRARIES))
