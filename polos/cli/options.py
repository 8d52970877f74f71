"""
What every command takes, and how a command gets at the data directory.

The parser needs this module to print help, so the store is imported where a command opens it.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from cyclopts import Parameter

from polos.cli.outcomes import BadCommandLine
from polos.clock import SystemClock

if TYPE_CHECKING:
    from polos.store.directory import Store

__all__ = ["Options", "parse_value"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    data_dir: Annotated[Path | None, Parameter(help="The data directory; else $POLOS_DATA_DIR, else .polos.")] = None
    json: Annotated[bool, Parameter(negative=(), help="Print one JSON object a line, uncut.")] = False

    @property
    def directory(self) -> Path:
        """The data directory that is meant."""
        from polos.runtime.connection import resolve_data_dir

        return resolve_data_dir(self.data_dir)

    def command(self, text: str) -> str:
        """Complete a command to be typed next: it is to mean the same directory."""
        return text if self.data_dir is None else f"{text} --data-dir {shlex.quote(str(self.data_dir))}"

    @contextmanager
    def store(self) -> Generator[Store]:
        """
        Open the data directory to look at it; nothing is made, and no engine is disturbed.

        Raises:
            NotAPolosStore: there is none, or it holds something else.
            StoreDamaged: it wasn't closed cleanly, nobody owns it, and it is damaged.
        """
        from polos.store.directory import open_store

        with open_store(self.directory, read_only=True) as store:
            yield store

    def find(self, store: Store, text: str) -> str:
        """
        Give the run that somebody means.

        Raises:
            UnknownRun: there is no such run.
            PolosUsageError: several runs could be meant.
        """
        from polos.runtime import reads
        from polos.views import find_run

        pending = reads.pending_runs(store.inbox)  # first: what leaves the inbox meanwhile is in the log by then
        with store.log.reader() as reader:
            return find_run(reader, text, pending)

    def now_us(self) -> int:
        """Give the time."""
        return SystemClock().now_us()


def parse_value(text: str | None) -> Any:
    """
    Give a value of the command line: JSON if it is some, else the text itself.

    Raises:
        BadCommandLine: it isn't even text.
    """
    if text is None:
        return None
    if not _is_text(text):
        raise BadCommandLine("a value on the command line is UTF-8")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _is_text(text: str) -> bool:
    """Tell whether an argument was UTF-8: bytes that aren't come in as lone surrogates, which no record can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
