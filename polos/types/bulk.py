"""What came of doing something to many runs at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

__all__ = ["REFUSED_KEPT", "BulkResult"]

REFUSED_KEPT: Final = 1_000  # so that the answer about a million runs isn't one itself


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult:
    """
    What came of an operation on many runs.

    Attributes:
        accepted: how many runs it was done to, durably.
        kept: how many commands are kept for the next engine, since none is running.
        refused: runs that refused, and why; the first thousand of them.
        refused_count: how many refused.
    """

    accepted: int = 0
    kept: int = 0
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    refused_count: int = 0
