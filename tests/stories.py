"""
Histories written by hand: a log that holds exactly these events, at exactly these times.

What a view says about a poisoned run or a step of unknown outcome shouldn't need a process that dies three times to be
tested. Times are in seconds behind `BEGIN`; rows are written with the events, as an engine does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polos.engine import events as e
from polos.engine.state import RunState
from polos.runtime.unit import Resident, Unit
from polos.store.directory import open_store
from polos.store.log import Log
from polos.store.memory import MemoryLog

__all__ = ["BEGIN", "Story", "at", "created", "story_on_disk"]

BEGIN = 1_800_000_000_000_000  # 2027-01-15T08:00:00Z


def at(seconds: float) -> int:
    """Give an instant in microseconds."""
    return BEGIN + round(seconds * 1e6)


def created(run: str, workflow: str = "order", **fields) -> e.RunCreated:
    """Make the first event of a run."""
    wanted = {"workflow": workflow, "root": run, "root_workflow": workflow, **fields}
    return e.RunCreated(**wanted)


class Story:
    """A log, written event by event."""

    def __init__(self, log: Log | None = None) -> None:
        self.log: Log = log or MemoryLog()
        self._epoch = self.log.acquire()
        self._states: dict[str, RunState] = {}

    def tell(self, run: str, *events: tuple[float, e.Event]) -> Story:
        """Append events to a run's stream, or with an empty run to that of the engine."""
        for seconds, event in events:
            unit = Unit(now_us=at(seconds))
            if run:
                resident = Resident(self._states.setdefault(run, RunState(run=run)))
                unit.append(resident, event)
            else:
                unit.append_system("engine", event)
            self.log.append([unit.sealed()], epoch=self._epoch)
        return self


@contextmanager
def story_on_disk(directory: Path) -> Iterator[Story]:
    """Open a data directory to write a story into; nobody owns it afterwards."""
    with open_store(directory) as store:
        store.acquire_ownership()
        yield Story(store.log)
