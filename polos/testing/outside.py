"""
What steps act upon, for tests: a ledger outside of the engine that no crash takes back.

Effects happen in a bank, a mailbox, somebody's database. A test needs a stand-in that doesn't crash with the process,
so an `Outside` is a file of one line a note, in the directory of the scenario that is under way: each scenario of a
sweep begins with an empty one, and what a killed process wrote is there for the next. Beside a sweep notes are kept in
memory, so that the functions of steps can be used in other tests, too.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from polos.errors import PolosUsageError
from polos.regular import read_regular
from polos.testing.patience import Interrupted, is_lost
from polos.testing.program_threads import is_refused

__all__ = ["Outside", "Place", "take_away", "whole_lines"]

_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def whole_lines(written: bytes) -> list[str]:
    """
    Give the lines of a file to which each is written with a newline at both ends.

    The kernel may break off a write where a page ends, if the process is killed in it. What it has written of a line
    then stands by itself, and counts for nothing: whoever wrote it never got to know that it was written.
    """
    lines: list[str] = []
    for line in written.split(b"\n"):
        try:
            json.loads(line)
        except ValueError:  # nothing, or the beginning of an object or a list, which is none
            continue
        lines.append(line.decode())
    return lines


def take_away(directory: Path) -> None:
    """
    Remove a directory with everything in it, as far as that can be done.

    Steps may have left directories that their owner may not change, or not even look into. Of those he is the owner
    still, so they are opened first; without that a user who isn't root would be left with them for ever.
    """
    with suppress(OSError):
        os.rmdir(directory)  # noqa: PTH106  # as a rule there is nothing in it, and all that follows takes its time
        return
    _open(directory)
    for folder, folders, _ in os.walk(directory):  # looks into a directory only after it was named here
        for name in folders:
            _open(Path(folder, name))
    shutil.rmtree(directory, ignore_errors=True)


def _open(directory: Path) -> None:
    """Let its owner change a directory, if it is one, is still there, and is ours."""
    if directory.is_dir() and not directory.is_symlink():  # what a link leads to is none of ours
        with suppress(OSError):
            directory.chmod(0o700)


@final
class Place:
    """The directory of the scenario that is under way in this process, made when somebody asks for it."""

    current: Place | None = None  # of the one sweep that runs in a process; see `sweep.SWEEPING`

    def __init__(self, path: Path, *, made: bool = False) -> None:
        """Say where it will be, or is."""
        self._path = path
        self._text = f"{path}/"
        self.made = made  # whether it may be there
        self.dead = False  # the process that the scenario is about is gone: it writes nothing any more

    @property
    def directory(self) -> Path:
        """Where it is, or would be."""
        return self._path

    @property
    def path(self) -> Path:
        """The directory, private to the user."""
        self.made = True
        if not self._path.is_dir():
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._path

    def append(self, name: str, line: bytes) -> None:
        """Write a line at the end of a file, which is made if it isn't there, as is the directory."""
        file = f"{self._text}{name}"
        if not self.made:
            _ = self.path
        try:
            descriptor = os.open(file, _APPEND, 0o600)
        except FileNotFoundError:  # the program has taken the directory away
            _ = self.path
            descriptor = os.open(file, _APPEND, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Take no more notes until the next life begins."""
        self.dead = True


@final
class Outside:
    """
    An append-only ledger of what steps did.

    ```python run
    from polos.testing import Outside

    bank = Outside("bank")

    async def charge(order: int, cents: int) -> None:
        bank.note("charged", order=order, cents=cents)

    bank.note("charged", order=7, cents=100)
    print(bank.notes("charged"), bank.count("refunded"))
    ```
    """

    def __init__(self, name: str = "outside") -> None:
        """
        Name a ledger; two of the same name are one.

        Args:
            name: of its file.
        """
        if not name or not all(character.isalnum() or character in "-_" for character in name):
            raise PolosUsageError(f"an Outside is named by letters, digits, - and _; this is {name!r}")
        self._name = name
        self._memory: list[str] = []

    def note(self, kind: str, **data: Any) -> None:
        """
        Write something down.

        Args:
            kind: what happened.
            **data: and to what; JSON.

        Durable:
            when it returns, for a killed process; a power cut may lose it.
        """
        if is_lost():
            raise Interrupted  # the scenario that it was about is over, and this one is another
        if is_refused(kind):
            return
        line = json.dumps({"kind": kind, **data})
        place = Place.current
        if place is None:
            self._memory.append(line)
        elif not place.dead:
            place.append(f"{self._name}.jsonl", f"\n{line}\n".encode())

    def notes(self, kind: str | None = None, *, directory: Path | None = None) -> list[dict[str, Any]]:
        """
        Give what was written down, in order.

        Args:
            kind: only this; None for everything.
            directory: of a scenario; None for the one under way.
        """
        where = directory if directory is not None else (Place.current.path if Place.current is not None else None)
        lines = self._memory
        if where is not None:
            file = self._file(where)
            lines = whole_lines(read_regular(file)) if file.exists() else []
        found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [note for note in found if kind is None or note["kind"] == kind]

    def count(self, kind: str) -> int:
        """Tell how often something was written down."""
        return len(self.notes(kind))

    def _file(self, directory: Path) -> Path:
        return directory / f"{self._name}.jsonl"
