"""
JSON from outside, taken for what it turns out to be.

Servers and files are believed nothing: each place that reads one says what it expects, and gets None where that isn't
so. (Type checkers know nothing of what is in a `dict` that they saw by `isinstance`; here it becomes the JSON that it
is.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

from polos.regular import read_regular

__all__ = [
    "TextMender", "a_list", "a_number", "a_text", "an_object", "json_file", "parse_json", "texts_mended",
]  # fmt: skip

FILE_BYTES_MAX: Final = 64 << 20


def parse_json(text: str | bytes) -> Any:
    """
    Parse JSON that somebody else wrote.

    Raises:
        ValueError: it is none, or brackets stand in brackets in brackets without end.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_file(path: Path) -> Any:
    """
    Read a file of JSON, in UTF-8.

    Raises:
        OSError: it can't be read, is no regular file, or is longer than `FILE_BYTES_MAX`.
        ValueError: it is no JSON.
    """
    return parse_json(read_regular(path, bytes_max=FILE_BYTES_MAX).decode())


def an_object(value: object) -> dict[str, Any] | None:
    """Give a JSON object, None for anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def a_list(value: object) -> list[Any] | None:
    """Give a JSON array, None for anything else."""
    return value if isinstance(value, list) else None  # pyright: ignore[reportUnknownVariableType]  # of anything


def a_text(value: object) -> str | None:
    """Give a text, None for anything else."""
    return value if isinstance(value, str) else None


def a_number(value: object) -> int | None:
    """Give a whole number that isn't negative, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def texts_mended(value: Any) -> Any:
    """
    Give JSON that can be written: half of a surrogate pair becomes the sign for what can't be read.

    A reply may hold one where a model was cut off within an emoji; there is no UTF-8 for it, so no log could hold it.
    """
    if isinstance(value, str):
        return _mended(value)
    as_object, as_list = an_object(value), a_list(value)
    if as_object is not None:
        return {texts_mended(key): texts_mended(part) for key, part in as_object.items()}
    return value if as_list is None else [texts_mended(part) for part in as_list]


def _mended(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Two halves that came one after the other become the character that they are.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class TextMender:
    """Mends a text that comes in pieces: half a character is kept back until its other half has come."""

    def __init__(self) -> None:
        """Begin with nothing kept back."""
        self._kept = ""

    def take(self, piece: str) -> str:
        """Take a piece; gives what can be passed on, maybe nothing."""
        text = self._kept + piece
        self._kept = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return _mended(text.removesuffix(self._kept))

    def rest(self) -> str:
        """Give what is kept back when no other half will come."""
        text, self._kept = self._kept, ""
        return _mended(text)
