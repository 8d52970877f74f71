"""
Today's engine on yesterday's log: started on every prefix that a crash could have left, it goes on.

What comes of a prefix needn't be what came of it then, for nobody sends what was sent then. What must hold is what
holds of any history: nothing diverges that didn't, nothing is done a second time, the rows stay those of the fold.
"""

from __future__ import annotations

from typing import Any

from polos.runtime.settings import Settings
from polos.testing.clock import START_US
from polos.testing.simulation import Simulation
from polos.testing.store import MemoryStore

from tests.golden.form import Case
from tests.golden.meaning import rows_of

__all__ = ["commits", "go_on", "open_case"]

_SETTINGS = Settings(inbox_poll_seconds=0, record_sources=False, deployment_id="golden")


def commits(case: Case) -> list[int]:
    """Give the positions at which an engine of one log can go on: where nothing is owed to another log."""
    records = case.records()
    return [at for at in case.expected["commits"] if not any(key[0] == "outbox" for key in rows_of(records[:at]))]


def open_case(case: Case, length: int | None = None) -> Simulation:
    """Give a world whose log holds a history, or so many records of it; its engine isn't started."""
    store = MemoryStore()
    records = case.records()[:length]
    unit = case.unit(store.blobs, rows_of(records).items(), length=length)
    store.log.append([unit], epoch=store.log.acquire())
    with store.log.reader() as reader:
        assert records[-1].position == reader.head().position
        assert case.lines[len(records) - 1].head == reader.head().chain.hex()
    sim = Simulation(case.workflows, seed=1_000, store=store, settings=_SETTINGS)
    sim.clock.jump(records[-1].time_us - START_US)
    return sim


def go_on(case: Case, length: int) -> dict[str, Any]:
    """Let today's engine go on from a prefix for ten days; tells what it recorded and which runs are left."""
    world = getattr(case.program, "WORLD", {})
    world.update(dict.fromkeys(world, False))
    with open_case(case, length) as sim:
        diverged = len(sim.audit.diverged)
        for _ in range(10):
            sim.run_for(86_400)
        sim.audit.check_rows()
        with sim.store.log.reader() as reader:
            head = reader.head().position
        return {"new": head - length, "diverged": sim.audit.diverged[diverged:], "living": sim.audit.living()}
