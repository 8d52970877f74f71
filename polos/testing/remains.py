"""
What a crash leaves behind, kept so that several lives can begin with it.

Scenarios of a sweep differ in where their first life ends; up to there all of them are the same, and the same as the
undisturbed run. So what each of their crashes would leave is taken from one such run as it comes past the points, and
only the lives that recover from it are lived; in the same way, recoveries that are to be crashed at several points are
lived once. What is kept is what a process can leave: the log with blobs and
commands, the time, the ledger of calls, which no crash takes back, and the files of the outside.

Nothing that is kept only in memory is among it, as it wouldn't be after a crash; but in one process a fake may well be
kept there, and only the program knows. So this is done where the caller asks for it. The files are put back where they
were, for a step may have recorded their path. An outside that is large, that has more in it than files and directories,
or that can't be read and written by its owner isn't kept; and the room for all of them together has an end, since a
history of n steps has n points, each with all that was before it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from polos.testing.clock import VirtualClock
from polos.testing.outside import Place, take_away
from polos.testing.store import MemoryStore
from polos.testing.sweep_calls import CallLedger
from polos.testing.sweep_points import CrashPoint

__all__ = ["ENTRIES_MAX", "FILES_BYTES_MAX", "FILES_MAX", "Collector", "File", "Remains", "files_in"]

ENTRIES_MAX: Final = 200_000  # of all kept stores together; files take room, too
FILES_BYTES_MAX: Final = 1_000_000  # of one outside
FILES_MAX: Final = 100  # as above
_ENTRY_BYTES: Final = 100  # that one of the log takes, about
_PRIVATE: Final = 0o700  # as `Place` makes it


@final
@dataclass(frozen=True, slots=True)
class File:
    """A file of the outside, or a directory if it has no content."""

    content: bytes | None
    mode: int
    times_ns: tuple[int, int]

    @property
    def written(self) -> tuple[object, ...]:
        """What somebody has written; when it was read last is no part of that."""
        return self.content, self.mode, self.times_ns[1]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """
    What there is after a crash.

    Attributes:
        store: log, blobs and commands; to be copied by who goes on with them.
        ledger: the calls that were made; as above.
        now_us: when it was.
        cuts: how many events of runs there were at each crash before it.
        place: the directory of the outside.
        files: what was in it, by path relative to it; parents come first.
    """

    store: MemoryStore
    ledger: CallLedger
    now_us: int
    cuts: tuple[int, ...]
    place: Path
    files: dict[str, File]

    @property
    def are_nothing(self) -> bool:
        """Whether an undisturbed run begins with the same, but for the time."""
        return self.store.is_new and not (self.ledger.notes or self.cuts or self.files)

    def put_back(self) -> None:
        """Have the outside be as it was."""
        there = self.place.is_dir()
        if not self.files and not there:
            return
        if not (there and _empties(self.place)):
            take_away(self.place)
            self.place.mkdir(mode=0o700, parents=True)
        for name, file in self.files.items():
            path = f"{self.place}/{name}"
            if file.content is None:
                os.mkdir(path)  # noqa: PTH102  # `Path` takes its time, here and below
                os.chmod(path, file.mode)  # noqa: PTH101
            else:
                with open(path, "xb", buffering=0) as new:  # noqa: PTH123
                    new.write(file.content)
                    os.fchmod(new.fileno(), file.mode)
        for name, file in reversed(self.files.items()):  # what is put into a directory changes its time
            os.utime(f"{self.place}/{name}", ns=file.times_ns)


@final
class Collector:
    """
    Takes the remains of a run at some of its points.

    Attributes:
        found: what was taken, by point.
    """

    def __init__(self, points: Collection[CrashPoint]) -> None:
        """
        Wait for points.

        Args:
            points: at which of them something is to be taken.
        """
        self._wanted = {(point.name, point.nth): point for point in points}
        self._room = ENTRIES_MAX
        self.found: dict[CrashPoint, Remains] = {}

    def taking(
        self, *, store: MemoryStore, ledger: CallLedger, clock: VirtualClock, cuts: Sequence[int], place: Place
    ) -> Callable[[str, int], None] | None:
        """
        Give what is to be told of each point that a life comes past; None if there is nothing to wait for.

        Args:
            store: what it makes durable.
            ledger: the calls that it makes.
            clock: its time.
            cuts: how many events there were at each crash before it.
            place: the outside.
        """
        if not self._wanted:
            return None

        def take(name: str, nth: int) -> None:
            point = self._wanted.get((name, nth))
            if point is None:
                return
            files = files_in(place.directory)
            if files is None:
                return
            needs = store.entries + sum(len(file.content or b"") for file in files.values()) // _ENTRY_BYTES
            if needs > self._room:
                return
            self._room -= needs
            self.found[point] = Remains(
                store=store.copy(), ledger=ledger.copy(), now_us=clock.now_us(), cuts=tuple(cuts),
                place=place.directory, files=files,
            )  # fmt: skip

        return take


def _empties(directory: Path) -> bool:
    """Take away what is in a directory, if it is nothing but files; tells whether it is as one that was just made."""
    if stat.S_IMODE(directory.stat().st_mode) != _PRIVATE:
        return False
    with os.scandir(directory) as found:
        entries = list(found)
    if not all(entry.is_file(follow_symlinks=False) for entry in entries):
        return False
    for entry in entries:
        os.unlink(entry.path)  # noqa: PTH108  # `Path` takes its time
    return True


def files_in(directory: Path) -> dict[str, File] | None:
    """Give what is in a directory, which may not be there, parents first; None if it can't be kept."""
    if not directory.is_dir():
        return {}
    found: dict[str, File] = {}
    left = FILES_BYTES_MAX
    folders = [""]
    try:
        while folders:
            folder = folders.pop()
            with os.scandir(f"{directory}/{folder}") as entries:
                there = sorted((entry.name, entry.path) for entry in entries)
            for name, path in there:
                status = os.lstat(path)
                left -= status.st_size
                plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
                if not (plain or stat.S_ISDIR(status.st_mode)) or left < 0 or len(found) >= FILES_MAX:
                    return None
                if status.st_mode & (needed := stat.S_IRUSR if plain else stat.S_IRWXU) != needed:
                    return None  # whoever owns it couldn't read it, or take it away again
                content = _read(path) if plain else None
                times_ns = status.st_atime_ns, status.st_mtime_ns
                found[f"{folder}{name}"] = File(content, stat.S_IMODE(status.st_mode), times_ns)
                if not plain:
                    folders.append(f"{folder}{name}/")
    except FileNotFoundError:  # a thread of a step's has removed it meanwhile
        return None
    return found


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # `Path` takes its time
        return file.read()
