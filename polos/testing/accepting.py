"""Whether recordings take over what the code does now: `pytest --polos-accept`, for whoever is asked to compare."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

__all__ = ["ACCEPTING", "REWRITTEN"]

ACCEPTING: Final[ContextVar[bool]] = ContextVar("polos_accepting", default=False)
REWRITTEN: Final[list[str]] = []  # files, until the plugin has taken them to say so
