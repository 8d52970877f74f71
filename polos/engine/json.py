"""The one alias for values at the JSON edge."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Json", "printable"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def printable(text: str) -> str:
    """Give a text that can be written: half of a surrogate pair has no UTF-8, so it is shown as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()
