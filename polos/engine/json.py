"""The one alias for values at the JSON edge."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Json", "message_of", "printable"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def printable(text: str) -> str:
    """Give a text that can be written: half of a surrogate pair has no UTF-8, so it is shown as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def message_of(error: BaseException) -> str:
    """Give an exception's message as a text that can be written; one that fails to say what it says is still told."""
    try:
        text = str(error)
    except Exception as failed:  # noqa: BLE001  # the program's code, and what it was asked about has to be recorded
        text = f"its message can't be told: {type(error).__name__}.__str__ raised {type(failed).__name__}"
    return printable(text)
