"""Names for parametrized cases that are the same in every process that collects them."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def stable_id(value: object) -> str:
    """Give a value's text without memory addresses."""
    return _ADDRESS.sub("", str(value) if isinstance(value, type) else repr(value))
