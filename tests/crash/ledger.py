"""
What really happened, told by somebody whom the engine doesn't know.

The log says what the engine believes. Whether a step was called twice, or an answer given that nothing stands for,
only an outside witness can say: a file that each effect, and each caller that got an answer, appends one line to. A
line is one short `write` to a descriptor opened with O_APPEND, so lines stand in the order in which things happened,
from however many processes and threads. The kernel may break off a write where a page ends, when the process is killed
in it; so what is long is noted by its digest, and a line begins with a newline, too: what was torn stands by itself, is
known by its missing end, and is taken for what it is, a process that died before it had told anything.

A line of a step's call holds how far the log was just then. With that, "never called after its completion is
recorded" needs no guess about time: the completion stands at a position, and no call may have seen that far.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

__all__ = ["LINE_BYTES_MAX", "Excerpt", "Ledger", "Line", "short"]

LINE_BYTES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened: what (`call`, `done`, `told`...), to whom, and more about it."""

    kind: str
    key: str
    more: Any


def short(value: Any) -> Any:
    """Give a value, or its digest if it is long."""
    text = json.dumps(value, sort_keys=True)
    return value if len(text) < LINE_BYTES_MAX // 2 else hashlib.sha256(text.encode()).hexdigest()


def _is_torn(line: bytes) -> bool:
    """Tell whether the beginning of a line is all there is of it; no beginning of a JSON list is one."""
    try:
        json.loads(line)
    except ValueError:
        return b'["'.startswith(line[:2])
    return False


def _whole_lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as lines:
        for line in (one.rstrip(b"\n") for one in lines):
            if line and not _is_torn(line):
                yield Line(*json.loads(line))


@final
class Ledger:
    """An append-only file of what happened."""

    def __init__(self, directory: Path) -> None:
        """Open the ledger of a directory, making it."""
        self.path = directory / "ledger"
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, kind: str, key: str, more: Any = None) -> None:
        """Append a line."""
        line = b"\n" + json.dumps([kind, key, short(more)]).encode() + b"\n"
        assert len(line) <= LINE_BYTES_MAX, "a long line may be cut short"
        written = os.write(self._descriptor, line)
        assert len(line) == written, "a line is written whole, or it is no witness"

    def lines(self, *kinds: str) -> list[Line]:
        """Give the lines of these kinds, or all, in the order in which they were written."""
        return [line for line in _whole_lines(self.path) if not kinds or line.kind in kinds]

    def calls(self, key: str) -> list[Line]:
        """Give the calls of a step."""
        return [line for line in self.lines("call") if line.key == key]

    def by_run(self) -> dict[str, list[Line]]:
        """Give all lines by the run that they are about; those of steps are about the run, too."""
        found: dict[str, list[Line]] = {}
        for line in _whole_lines(self.path):
            found.setdefault(line.key.partition("/")[0], []).append(line)
        return found


@final
class Excerpt:
    """Some lines of a ledger."""

    def __init__(self, lines: Iterable[Line]) -> None:
        """Take the lines, in the order in which they were written, at least those of each key."""
        self._lines = tuple(lines)

    def lines(self, *kinds: str) -> list[Line]:
        """Give the lines of these kinds, or all."""
        return [line for line in self._lines if not kinds or line.kind in kinds]
