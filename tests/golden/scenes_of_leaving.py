"""
The scenes in which something leaves and comes back: an engine that is drained, runs that are evicted.

See `tests.golden.scenes`. Neither leaves an event of its own: what they show is that the history goes on behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from polos.runtime.app import _record_start
from polos.runtime.draining import drain
from polos.testing.simulation import Simulation

__all__ = ["OF_LEAVING"]


def draining(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.drained, None)
    waits = sim.create(program.waiting, None).run
    sim.run_for(3)  # one is in its second step, the other waits
    for seconds in (60, 0.5):
        leaving = sim.loop.create_task(drain(sim.engine, seconds))
        later = sim.create(program.drained, None, queue="golden tenant").run
        sim.send("signal", run=waits, name="go", data="meanwhile")
        sim.run_for(10)
        assert (not leaving.result()) == (seconds == 60)
        assert "RunStarted" not in sim.stream(later)
        sim.stop()
        sim.start()
        _record_start(sim.engine, clean=True)
        sim.run_for(1)  # what came meanwhile begins: it is under way when the next one is to leave
    sim.settle()


def evicted(sim: Simulation, program: ModuleType) -> None:
    first, second = (sim.create(program.evicted, None).run for _ in range(2))
    sim.settle()
    for run, name in ((first, "go"), (second, "go"), (first, "beside")):
        assert sim.evict()
        sim.send("signal", run=run, name=name, data=name)
        sim.run_for(1_000)
    for _ in range(4):
        sim.evict()
        sim.run_for(2_000)  # the children end, and one wait is over
    for run in (first, second):
        if run in sim.audit.living():
            sim.send("resume", run=run, key="answer", data="an answer")
    sim.settle()


OF_LEAVING: tuple[Callable[[Simulation, ModuleType], None], ...] = (draining, evicted)
