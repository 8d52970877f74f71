"""Usage of models over many runs: the sums of their rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import orjson

from polos.engine.usage import add_sums
from polos.store.log import Reader
from polos.types.usage import ModelUsage, UsageReport

__all__ = ["usage_of"]


def usage_of(reader: Reader, runs: Iterable[str]) -> UsageReport:
    """
    Sum up what runs used.

    Args:
        reader: the view.
        runs: their ids; each is counted for itself, without its children.
    """
    total: dict[str, dict[str, int]] = {}
    count = 0
    for run in runs:
        row = reader.row(("usage", run))
        if row is not None:
            count += 1
            add_sums(total, cast("dict[str, dict[str, int]]", orjson.loads(row)))
    together: dict[str, Any] = {}
    for sums in total.values():
        for name, number in sums.items():
            together[name] = together.get(name, 0) + number
    by_model = {model: ModelUsage(**sums) for model, sums in sorted(total.items())}
    return UsageReport(**together, by_model=by_model, runs=count)
