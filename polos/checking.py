"""
Checks of plain arguments: texts and lengths of time, each refused with the name of the argument.

They stand by themselves because commands that only look into a store take such arguments too, and don't wait for what
else `polos.calls` needs to be imported.
"""

from __future__ import annotations

from typing import Final, cast

__all__ = ["SECONDS_MAX", "optional_text", "positive", "text", "writable"]

# Moments are recorded as 64-bit numbers of microseconds.
SECONDS_MAX: Final = 1_000 * 365 * 86_400


def text(name: str, value: object) -> None:
    """Refuse what isn't a text, is empty, or can't be written: half of a surrogate pair has no UTF-8."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, it is {value!r}")
    if not value:
        raise ValueError(f"{name} must not be empty")
    writable(name, value)


def writable(name: str, value: str | None) -> None:
    """Refuse a text that can't be written, and what is none; it may be empty, or missing."""
    if value is None:
        return
    if not isinstance(cast("object", value), str):
        raise TypeError(f"{name} must be a text, it is {value!r}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} must be a text that can be written, it is {value!r}: {error.reason}") from error


def optional_text(name: str, value: str | None) -> str | None:
    """Refuse what is neither None nor a text that can be written; gives it back."""
    if value is not None:
        text(name, value)
    return value


def positive(name: str, value: float | None) -> None:
    """Refuse a number of seconds that isn't positive or is beyond all clocks; None is no number and passes."""
    if value is not None and (isinstance(value, bool) or not isinstance(cast("object", value), int | float)):
        raise TypeError(f"{name} must be a number of seconds, it is {value!r}")
    if value is not None and not 0 < value <= SECONDS_MAX:
        raise ValueError(f"{name} must be positive and at most a thousand years, it is {value!r}")
