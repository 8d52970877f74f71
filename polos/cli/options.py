"""
What every command takes, and how a command gets at the data directory.

The parser needs this module to print help, so the store is imported where a command opens it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import orjson
from cyclopts import Parameter

from polos import checking
from polos.cli.outcomes import BadCommandLine
from polos.clock import SystemClock

if TYPE_CHECKING:
    from polos.runtime.listing import Wanted
    from polos.store.directory import Store

__all__ = ["Name", "Options", "Runs", "parse_value"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _is_name(_type: Any, value: object) -> None:
    checking.optional_name("it", value)


# Checked here, where it is a mistake in typing; further down it would be one of the program that calls.
Name: TypeAlias = Annotated[str, Parameter(validator=_is_name)]


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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Runs:
    """Which runs are meant."""

    status: Annotated[Name | None, Parameter(help="A status, or a reason to wait such as suspend or diverged.")] = None
    workflow: Annotated[Name | None, Parameter(help="Only runs of this workflow.")] = None
    parent: Annotated[Name | None, Parameter(help="Only children of this run.")] = None
    tag: Annotated[Name | None, Parameter(help="Only runs with this tag.")] = None
    since: Annotated[Name | None, Parameter(help="Created then or later: 1h, 2d, or an instant.")] = None
    until: Annotated[Name | None, Parameter(help="Created before then.")] = None
    queue: Annotated[Name | None, Parameter(help="Only runs of this queue.")] = None
    session: Annotated[Name | None, Parameter(help="Only runs of this session.")] = None
    user: Annotated[Name | None, Parameter(help="Only runs of this user.")] = None

    def in_time(self, options: Options) -> Runs:
        """
        Give the same with times as instants; before the store is opened, since a mistake in typing needs none.

        Raises:
            BadCommandLine: a time is none.
        """
        since, until = _instant(self.since, "--since", options), _instant(self.until, "--until", options)
        return replace(self, since=since, until=until)

    def wanted(self, store: Store, options: Options) -> Wanted:
        """
        Give the runs that are meant, as the client takes them.

        Raises:
            BadCommandLine: there is no such status.
            UnknownRun: there is no such parent.
        """
        from polos.runtime.reads import STATUSES

        if self.status is not None and self.status not in STATUSES:
            raise BadCommandLine(f"--status is one of {', '.join(STATUSES)}; not {self.status!r}", "polos ls --help")
        found: Wanted = {
            "status": self.status,
            "workflow_id": self.workflow,
            "parent": None if self.parent is None else options.find(store, self.parent),
            "tag": self.tag,
            "since": self.since,
            "until": self.until,
            "queue": self.queue,
            "session_id": self.session,
            "user_id": self.user,
        }
        return found

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return self == Runs()


def _instant(text: str | None, what: str, options: Options) -> str | None:
    """
    Give an instant as RFC 3339: of a length of time before now, or of what is one already.

    Raises:
        BadCommandLine: it is neither.
    """
    from polos.runtime.reads import microseconds, rfc3339

    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if found is not None:
        return rfc3339(max(options.now_us() - round(float(found[1]) * _UNITS[found[2]] * 1e6), 0))
    try:
        return rfc3339(microseconds(text, what))
    except (ValueError, OverflowError) as error:
        raise BadCommandLine(f"{error}, or a length of time such as 1h", "polos ls --help") from None


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
