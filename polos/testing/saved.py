"""
Failing schedules as files: beside the test, readable, to be committed.

What was found once is played first ever after, on every machine, so a file holds what is needed to play it (the
decisions) and what is needed to know whether it still fits (what each departure from the natural course was, in
words). A test that has changed may come to other options at the same point. Such a schedule is *stale*: it proves
nothing any more, and whoever changed the test is told so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from polos.errors import PolosUsageError
from polos.regular import read_regular
from polos.testing.schedules import Taken

__all__ = ["FOLDER", "SavedSchedule", "load_all", "save"]

FOLDER: Final = "explored"
FORMAT: Final = 1
_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSchedule:
    """
    A schedule that failed once.

    Attributes:
        test: which test.
        decisions: the choices.
        departures: what each choice that isn't 0 was, by its number.
        failure: how it failed.
        seed: from which it was drawn.
        happened: the course of events, for readers.
    """

    test: str
    decisions: list[int]
    departures: dict[int, str]
    failure: str
    seed: str
    happened: list[str] = field(default_factory=list[str])

    def misfit(self, taken: Sequence[Taken]) -> str | None:
        """Tell what is different now in the choices that were made by it; None if it still fits."""
        for at, label in self.departures.items():
            now = taken[at].label if at < len(taken) else None
            if now != label:
                return f"choice {at} was {label!r} and is {now!r} now"
        return None


def _path(folder: Path, test: str, decisions: Sequence[int]) -> Path:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", test).strip("-")
    digest = hashlib.sha256(json.dumps(list(decisions)).encode()).hexdigest()[:8]
    return folder / f"{name[:150]}-{digest}.json"


def save(folder: Path, schedule: SavedSchedule) -> Path:
    """
    Write a schedule; gives its file.

    Raises:
        OSError: it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, schedule.test, schedule.decisions)
    found = {
        "format": FORMAT,
        "test": schedule.test,
        "failure": schedule.failure,
        "seed": schedule.seed,
        "happened": schedule.happened,
        "departures": {str(at): label for at, label in schedule.departures.items()},
        "decisions": schedule.decisions,
    }
    path.unlink(missing_ok=True)  # whatever it is: a fifo would be waited for
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load_all(folder: Path, test: str) -> list[tuple[Path, SavedSchedule]]:
    """
    Read the schedules of a test, in the order of their names.

    Raises:
        PolosUsageError: one can't be understood.
    """
    if not folder.is_dir():
        return []
    prefix = _path(folder, test, []).name[:-13]  # without the digest
    found: list[tuple[Path, SavedSchedule]] = []
    for path in sorted(folder.glob("*.json")):
        if path.name[:-13] == prefix:
            schedule = _load(path)
            if schedule.test == test:
                found.append((path, schedule))
    return found


def _load(path: Path) -> SavedSchedule:
    try:
        raw: Any = json.loads(read_regular(path, bytes_max=_BYTES_MAX).decode())
        if raw["format"] != FORMAT:
            raise PolosUsageError(
                f"{path} was written by another polos (format {raw['format']}, this one knows {FORMAT})"
            )
        return SavedSchedule(
            test=str(raw["test"]),
            decisions=[_index(index) for index in cast("list[Any]", raw["decisions"])],
            departures={_index(int(at)): str(label) for at, label in cast("dict[str, Any]", raw["departures"]).items()},
            failure=str(raw["failure"]),
            seed=str(raw["seed"]),
            happened=[str(line) for line in cast("list[Any]", raw["happened"])],
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise PolosUsageError(f"{path} is no saved schedule ({error!r}); delete it, or restore it") from error


def _index(value: Any) -> int:
    """Take a place among choices or options; a negative one would count from their end, and mean another."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no index")
    return value
