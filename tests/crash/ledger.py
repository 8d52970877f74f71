"""
What really happened, told by somebody whom the engine doesn't know.

The log says what the engine believes. Whether a step was called twice, or an answer given that nothing stands for,
only an outside witness can say: a file that each effect, and each caller that got an answer, appends one line to. A
line is one `write` to a descriptor opened with O_APPEND, so a killed process leaves whole lines, in the order in
which things happened, from however many processes and threads.

A line of a step's call holds how far the log was just then. With that, "never called after its completion is
recorded" needs no guess about time: the completion stands at a position, and no call may have seen that far.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

__all__ = ["Ledger", "Line"]


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened: what (`call`, `done`, `told`...), to whom, and more about it."""

    kind: str
    key: str
    more: Any


@final
class Ledger:
    """An append-only file of what happened."""

    def __init__(self, directory: Path) -> None:
        """Open the ledger of a directory, making it."""
        self.path = directory / "ledger"
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, kind: str, key: str, more: Any = None) -> None:
        """Append a line."""
        line = json.dumps([kind, key, more]).encode() + b"\n"
        written = os.write(self._descriptor, line)
        assert len(line) == written, "a line is written whole, or it is no witness"

    def lines(self, *kinds: str) -> list[Line]:
        """Give the lines of these kinds, or all, in the order in which they were written."""
        found = [Line(*json.loads(line)) for line in self.path.read_bytes().splitlines()]
        return [line for line in found if not kinds or line.kind in kinds]

    def calls(self, key: str) -> list[Line]:
        """Give the calls of a step."""
        return [line for line in self.lines("call") if line.key == key]
