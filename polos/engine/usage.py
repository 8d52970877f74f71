"""
What calls of models used, summed up by model: by run in its state, by session or user over runs.

A call is recorded as a value of the run (`ValueRecorded` of kind `usage`), once, whatever happens to the process or to
the attempt. Sums are of integers: tokens, calls, and money in millionths of a dollar. A call whose price nobody knows
adds nothing to the money and is counted as `unpriced_calls`, so that a sum says how much it leaves out.
"""

from __future__ import annotations

from typing import Final

from polos.engine.json import Json

__all__ = ["REQUEST", "USAGE", "add_sums", "count_usage"]

# Kinds of `ValueRecorded`: what a call of a model asked, and what it used.
REQUEST: Final = "request"
USAGE: Final = "usage"
_TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_tokens",
)

Sums = dict[str, dict[str, int]]


def count_usage(sums: Sums, call: Json) -> None:
    """
    Add one call.

    Args:
        sums: by model; changed in place.
        call: `model`, `microdollars` (None if the price isn't known) and the tokens; what is no number counts nothing.
    """
    told: dict[str, Json] = call if isinstance(call, dict) else {}
    of = sums.setdefault(str(told.get("model")), {})
    of["calls"] = of.get("calls", 0) + 1
    for name in _TOKENS:
        number = told.get(name)
        if isinstance(number, int):
            of[name] = of.get(name, 0) + number
    cost = told.get("microdollars")
    if isinstance(cost, int):
        of["microdollars"] = of.get("microdollars", 0) + cost
    else:
        of["unpriced_calls"] = of.get("unpriced_calls", 0) + 1


def add_sums(total: Sums, other: Sums) -> None:
    """Add the sums of one run to others."""
    for model, sums in other.items():
        of = total.setdefault(model, {})
        for name, number in sums.items():
            of[name] = of.get(name, 0) + number
