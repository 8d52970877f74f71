"""
Putting views on a terminal: colours, columns, and where a value is cut.

What programs and people put into runs is shown, never obeyed: control characters, which could move a terminal's
cursor or change its colours, are made visible. Colours are left out where nobody sees them (a pipe, `NO_COLOR`), and
a pipe gets whole lines however long they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CUT_AT", "Printer", "ago", "coloured", "count", "cut", "duration", "plain", "value_text"]

CUT_AT: Final = 120  # characters of a value
_WIDE: Final = 100_000  # columns of a pipe
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_COLOURS: Final = {
    "completed": "green", "failed": "red", "crash": "bold red", "cancelled": "yellow", "pending_cancel": "yellow",
    "running": "cyan", "waiting": "magenta", "queued": "blue", "unknown": "bold red", "retried": "yellow",
    "expired": "yellow", "stopped": "yellow", "aside": "red",
}  # fmt: skip


def plain(text: str) -> str:
    """Give a text with its control characters made visible."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def cut(text: str, length: int | None = CUT_AT) -> str:
    """Give a text, cut in its middle if it is longer than that: both ends tell what it is."""
    if length is None or len(text) <= length:
        return text
    head = length * 2 // 3
    tail = length - head
    return f"{text[:head]} … {len(text) - head - tail:,} more characters … {text[-tail:]}"


def value_text(value: Any, length: int | None = CUT_AT) -> str:
    """Give a JSON value as text on one line."""
    return cut(plain(orjson.dumps(value, default=str).decode()), length)


def duration(seconds: float) -> str:
    """Give a length of time in the unit that reads best."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 86_400:.3g} days"


def count(number: int, what: str) -> str:
    """Give a number of things."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def ago(time_us: int, now_us: int) -> str:
    """Give an instant by its distance from now."""
    seconds = (now_us - time_us) / 1e6
    return f"in {duration(-seconds)}" if seconds < 0 else f"{duration(seconds)} ago"


class Printer:
    """Prints for people, or for programs."""

    def __init__(self, *, json: bool) -> None:
        """
        Take the form.

        Args:
            json: one JSON object a line.
        """
        self.json = json
        self._console = None if json else _console()

    def object(self, found: dict[str, Any]) -> None:
        """Print an object on a line of its own."""
        sys.stdout.write(orjson.dumps(found, default=str).decode() + "\n")
        sys.stdout.flush()  # who follows a log reads each line when it is there

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Print a line: texts, and texts with a style."""
        from rich.text import Text

        assert self._console is not None, "programs get objects"
        shown = Text()
        for part in parts:
            text, style = (part, "") if isinstance(part, str) else part
            shown.append(plain(text), style=style)
        self._console.print(shown, soft_wrap=True)

    def table(self, heads: Iterable[str], rows: Iterable[Iterable[str | tuple[str, str]]]) -> None:
        """Print rows in columns."""
        from rich.table import Table
        from rich.text import Text

        assert self._console is not None, "programs get objects"
        table = Table(box=None, pad_edge=False, header_style="dim", show_header=True)
        for head in heads:
            table.add_column(head, no_wrap=head in {"run", "at"}, overflow="fold")
        for row in rows:
            cells = [(part, "") if isinstance(part, str) else part for part in row]
            table.add_row(*(Text(plain(text), style=style) for text, style in cells))
        self._console.print(table)


def _console() -> Console:
    """Make what prints for people; programs don't wait for it to be imported."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDE
    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=width)


def coloured(word: str, text: str | None = None) -> tuple[str, str]:
    """Give a text in the colour of an outcome or status."""
    return word if text is None else text, _COLOURS.get(word, "")
