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
import re
import sys
import sysconfig
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Final
from uuid import UUID

__all__ = ["is_harmless", "is_known", "is_of_library"]

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
_KINDS: Final = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES: Final = tuple({
    f"{Path(folder)}/"
    for folder in (*(sysconfig.get_path(kind) for kind in _KINDS), str(Path(__file__).parents[1]))
})  # fmt: skip


def is_harmless(what: object) -> bool:
    """Tell whether it is a constant, or a function or class that keeps nothing and reaches nothing outside."""
    if isinstance(what, dt.datetime | dt.time):
        return type(what) in {dt.datetime, dt.time} and type(what.tzinfo) in {type(None), dt.timezone}
    return type(what) in _CONSTANTS or id(what) in _known(len(sys.modules))


def is_known(path: str) -> bool:
    """Tell whether a name in a module, such as ``math.floor``, stands for such a function or class."""
    module, _, name = path.rpartition(".")
    return name in _MODULES.get(module, "").split()


@lru_cache(maxsize=1)
def _known(_imported: int) -> dict[int, object]:
    """Give functions and classes by their ids, of those modules that somebody has imported; more when there are."""
    found = {id(value): value for value in (getattr(builtins, name) for name in _BUILTINS.split())}
    for module, names in _MODULES.items():
        there = vars(sys.modules[module]) if module in sys.modules else {}
        for value in (there[name] for name in names.split() if name in there):
            if _is_genuine(value, module):
                before = getattr(value, "__wrapped__", value)  # asyncio's, if polos has put its own in its place
                found |= {id(value): value, id(before): before}
    return found


def _is_genuine(value: object, module: str) -> bool:
    """Tell whether it is the module's own, not what a test has put there."""
    match value:
        case FunctionType():
            return is_of_library(value.__module__, value.__code__.co_filename)
        case BuiltinFunctionType():
            return value.__self__ is None or isinstance(value.__self__, ModuleType)
        case type():
            return value.__module__ == "builtins" or (
                value.__module__.lstrip("_").partition(".")[0] == module.partition(".")[0]
            )
        case _:
            return False


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
