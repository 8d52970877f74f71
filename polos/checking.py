"""
Checks of plain arguments: texts and lengths of time, each refused with the name of the argument.

They stand by themselves because commands that only look into a store take such arguments too, and don't wait for what
else `polos.calls` needs to be imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, cast

__all__ = [
    "NAME_BYTES_MAX",
    "SECONDS_MAX",
    "count",
    "name",
    "not_negative",
    "optional_name",
    "optional_text",
    "positive",
    "short",
    "tags_of",
    "text",
    "writable",
]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# Moments are recorded as 64-bit numbers of microseconds.
SECONDS_MAX: Final = 1_000 * 365 * 86_400
# Topics, queues, triggers and schedules have streams of their own, and the log takes 65,535 bytes for a stream's name:
# a record with a longer one would be refused each time it is tried. This leaves room for a schedule's id, which holds
# two names, one of them quoted.
NAME_BYTES_MAX: Final = 10_000


def text(name: str, value: object) -> None:
    """Refuse what isn't a text, is empty, or can't be written: half of a surrogate pair has no UTF-8."""
    if isinstance(value, str) and value and value.isascii():
        return  # nearly all are that
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


def short(what: str, value: object) -> None:
    """Refuse what is no text, is empty, or is too long for what is found again by its name."""
    text(what, value)
    if len(str(value)) * 4 > NAME_BYTES_MAX and (size := len(str(value).encode())) > NAME_BYTES_MAX:
        raise ValueError(f"{what} must have at most {NAME_BYTES_MAX} bytes, it has {size}: {str(value)[:80]!r}")


def name(what: str, value: object) -> None:
    """Refuse what can't be a name that people type, read in tables and find again: it has no control characters."""
    short(what, value)
    found = _CONTROL.search(str(value))
    if found is not None:
        raise ValueError(f"{what} must have no control characters, it is {value!r}: {found[0]!r} is one")


def optional_name(what: str, value: object) -> None:
    """Refuse what is neither None nor a name."""
    if value is not None:
        name(what, value)


def optional_text(name: str, value: str | None) -> str | None:
    """Refuse what is neither None nor a text that can be written; gives it back."""
    if value is not None:
        text(name, value)
    return value


def count(what: str, value: object) -> None:
    """Refuse what is no whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, it is {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, it is {value!r}")


def tags_of(tags: object) -> tuple[str, ...]:
    """Give tags as they are recorded; refuse what isn't a sequence of names."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise TypeError(f"tags must be a sequence of texts, they are {tags!r}")
    found = tuple(cast("Iterable[str]", tags))
    for tag in found:
        name("each of tags", tag)
    return found


def not_negative(name: str, value: float | None) -> None:
    """Refuse a number of seconds that is negative or beyond all clocks; None is no number and passes."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(cast("object", value), int | float):
        raise TypeError(f"{name} must be a number of seconds, it is {value!r}")
    if not 0 <= value <= SECONDS_MAX:
        raise ValueError(f"{name} must not be negative, nor more than a thousand years; it is {value!r}")


def positive(name: str, value: float | None) -> None:
    """Refuse a number of seconds that isn't positive or is beyond all clocks; None is no number and passes."""
    if value is not None and (isinstance(value, bool) or not isinstance(cast("object", value), int | float)):
        raise TypeError(f"{name} must be a number of seconds, it is {value!r}")
    if value is not None and not 0 < value <= SECONDS_MAX:
        raise ValueError(f"{name} must be positive and at most a thousand years, it is {value!r}")
