"""
What of Python, of polos and of pydantic keeps nothing in memory, however it is used.

A list of what is known, for `polos.testing.program_memory`: whatever isn't in it is taken to keep something. Left out
is what changes a state of the process (``decimal.getcontext``, ``random``), what reaches outside (``open``, ``os``,
``print``, which a test may capture), and what gets at things by names in texts or at what others hold (``getattr``,
``operator.attrgetter``, ``typing.get_type_hints``, ``type``). What somebody has put in the place of one of these isn't
taken for it.
"""

from __future__ import annotations

import builtins
import datetime as dt
import json
import os
import re
import secrets
import sys
import sysconfig
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Final
from uuid import UUID

__all__ = ["are_tools_changed", "has_changed", "is_harmless", "is_of_library", "learn"]

_CONSTANTS: Final = frozenset({
    type(None), type(...), type(NotImplemented), object, bool, int, float, complex, str, bytes, range, re.Pattern,
    dt.date, dt.timedelta, dt.timezone, Decimal, Fraction, UUID,
})  # fmt: skip
_BUILTINS: Final = (
    "abs aiter all anext any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter float "
    "format frozenset hash hex int isinstance issubclass iter len list map max min next object oct ord pow range repr "
    "reversed round set slice sorted str sum tuple zip"
)
_MODULES: Final = {
    "asyncio": "CancelledError Event Lock Queue Semaphore TaskGroup TimeoutError as_completed create_task gather run "
    "shield sleep timeout to_thread wait wait_for",
    "base64": "b16decode b16encode b32decode b32encode b64decode b64encode urlsafe_b64decode urlsafe_b64encode",
    "collections": "Counter OrderedDict defaultdict deque",
    "contextlib": "nullcontext suppress",
    "copy": "copy deepcopy",
    "dataclasses": "asdict astuple replace",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal InvalidOperation",
    "enum": "Enum IntEnum StrEnum",
    "fractions": "Fraction",
    "functools": "partial reduce",
    "hashlib": "blake2b blake2s md5 sha1 sha256 sha512",
    "itertools": "accumulate batched chain combinations compress count cycle dropwhile filterfalse groupby islice "
    "pairwise permutations product repeat starmap takewhile tee zip_longest",
    "json": "JSONDecodeError dumps loads",
    "math": "ceil cos dist exp fabs factorial floor fmod fsum gcd hypot isclose isfinite isinf isnan isqrt lcm log "
    "log10 log2 pow prod sin sqrt tan trunc",
    "operator": "add and_ concat contains eq floordiv ge gt itemgetter le lt mod mul ne neg not_ or_ pow sub truediv",
    "polos.context": "WorkflowContext WorkflowState",
    "polos.step": "Step",
    "polos.engine.retry": "RetryPolicy",
    "polos.errors": "StepExecutionError WorkflowTimeoutError",
    "polos.testing.outside": "Outside",
    "polos.types": "BatchStepResult BatchWorkflowInput Completed NotDone StillUnknown",
    "pydantic": "BaseModel ValidationError",
    "re": "escape findall finditer fullmatch match search split sub",
    "secrets": "randbelow token_bytes token_hex token_urlsafe",
    "statistics": "fmean mean median mode pstdev pvariance stdev variance",
    "textwrap": "dedent fill indent shorten wrap",
    "time": "monotonic monotonic_ns perf_counter perf_counter_ns sleep time time_ns",
    "typing": "cast",
    "uuid": "UUID uuid4 uuid5",
}
_LATER: Final = frozenset({"__annotations__", "__annotations_cache__", "__slotnames__"})
_KINDS: Final = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES: Final = tuple({
    f"{Path(folder)}/"
    for folder in (*(sysconfig.get_path(kind) for kind in _KINDS), str(Path(__file__).parents[1]))
})  # fmt: skip


def is_harmless(what: object) -> bool:
    """Tell whether it is a constant, or a function or class that keeps nothing and reaches nothing outside."""
    if isinstance(what, dt.datetime | dt.time):
        return type(what) in {dt.datetime, dt.time} and type(what.tzinfo) in {type(None), dt.timezone}
    return type(what) in _CONSTANTS or id(what) in _known


def learn() -> None:
    """Get to know what the list names, as far as modules are imported and nobody has put others in their places."""
    global _unknown  # noqa: PLW0603  # what is known once stays so
    still: list[tuple[str, str]] = []
    for module, name in _unknown:
        value = vars(sys.modules[module]).get(name) if module in sys.modules else None
        if not _is_genuine(value, module):
            still.append((module, name))
            continue
        before = getattr(value, "__wrapped__", value)  # asyncio's, if polos has put its own in its place
        _known.update({id(value): value, id(before): before})
        if isinstance(value, type):
            _shapes[value] = _shape(value)
    _unknown = still


def has_changed(known: type) -> bool:
    """Tell whether somebody has put something else in the place of a part of one of these classes."""
    before = _shapes.get(known)
    if before is None:
        return False
    now = _shape(known)
    return now.keys() != before.keys() or any(now[name] is not part for name, part in before.items())


def _shape(known: type) -> dict[str, object]:
    """Give the parts of a class, but for what Python writes there itself if it is asked, or an object copied."""
    return {name: part for name, part in vars(known).items() if name not in _LATER}


def are_tools_changed() -> bool:
    """Tell whether somebody has put something else in the place of what functions of the list draw from."""
    return any(vars(module).get(name) is not value for module, name, value in _TOOLS)


def _is_genuine(value: object, module: str) -> bool:
    """Tell whether it is the module's own, not what a test has put there."""
    of = getattr(value, "__module__", None) or module
    if of != "builtins" and of.lstrip("_").partition(".")[0] != module.partition(".")[0]:
        return False
    match value:
        case FunctionType():
            return is_of_library(of, value.__code__.co_filename) and not value.__code__.co_filename.startswith("<")
        case BuiltinFunctionType():
            return value.__self__ is None or isinstance(value.__self__, ModuleType)
        case type():
            return True
        case _:
            return False


_known: dict[int, object] = {id(value): value for value in (vars(builtins)[name] for name in _BUILTINS.split())}
_shapes: dict[type, dict[str, object]] = {}
_unknown = [(module, name) for module, names in _MODULES.items() for name in names.split()]
_TOOLS: Final = [
    (os, "urandom", os.urandom), (secrets, "token_bytes", secrets.token_bytes),
    (secrets, "randbelow", secrets.randbelow), (time, "time", time.time), (time, "monotonic", time.monotonic),
    (json.JSONEncoder, "default", json.JSONEncoder.default),
]  # fmt: skip


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
