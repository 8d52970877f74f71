"""More runs to be looked at than fit into memory: each is read once, and nobody is read for ever."""

from __future__ import annotations

import gc

import pytest
from polos import RetryPolicy, WorkflowContext, workflow
from polos.runtime.loading import Loader
from polos.runtime.settings import Settings
from polos.runtime.unit import Resident, Unit
from polos.testing.simulation import Simulation
from polos.testing.world import Crashed

FEW = Settings(inbox_poll_seconds=0, resident_runs_max=2, drain_work_max=1)
RUNS = 60


@workflow(id="crowd", retries=RetryPolicy(base_delay_seconds=60, max_delay_seconds=60))
async def crowd(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    """Fail at first, then give the payload."""
    if payload.get("fails") and ctx.retry_count == 0:
        raise ConnectionError("not the first time")
    return payload["number"]


def reading_is_bounded(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let an engine that reads runs again and again die of it, instead of going on for ever."""
    whole = Loader._load
    read: list[str] = []

    def load(self: Loader, run: str) -> Resident:
        read.append(run)
        if len(read) > most:
            raise Crashed
        return whole(self, run)

    monkeypatch.setattr(Loader, "_load", load)


def test_runs_without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that wait for their code are read once after a restart, however many, and go on when it is there."""
    reading_is_bounded(monkeypatch, 10 * RUNS)
    with Simulation([crowd], settings=FEW) as sim:
        known = dict(sim.workflows)
        sim.crash()
        sim.workflows.clear()
        sim.start()
        runs = [sim.create(crowd, {"number": number}).run for number in range(RUNS)]
        sim.settle()
        assert ["no_code"] * RUNS == [sim.audit.states[run].aside for run in runs if run in sim.audit.states]
        sim.recover()
        sim.settle()
        assert sim.alive, "runs are read for ever"
        sim.crash()
        sim.workflows.update(known)
        sim.start()
        sim.settle()

        assert sim.alive, "runs are read for ever"
        assert [] == sim.audit.living()


def test_retries_that_are_due_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that come due while nobody owns the log begin after a restart, each run read a few times at most."""
    with Simulation([crowd], settings=FEW) as sim:
        for number in range(RUNS):
            sim.create(crowd, {"number": number, "fails": 1})
        sim.run_for(1)
        assert RUNS == len(sim.audit.living())
        sim.crash()
        sim.clock.advance(3_600_000_000)
        reading_is_bounded(monkeypatch, 6 * RUNS)
        sim.start()
        sim.settle()

        assert sim.alive, "runs are read for ever"
        assert [] == sim.audit.living()


@workflow(id="patient")
async def patient(ctx: WorkflowContext) -> None:
    """Do a step, and wait for somebody."""
    await ctx.step.run("first", int)
    await ctx.step.wait_for_signal("go")


def test_a_run_that_waits_holds_nothing_of_what_was_decided() -> None:
    """When all of a run is durable, the units that it was in are gone, and its code has no dictionary of attributes."""
    gc.collect()  # what other tests have left for the collector may have runs of the same ids
    with Simulation([patient]) as sim:
        runs = [sim.create(patient, None).run for _ in range(5)]
        sim.settle()
        residents = [sim.engine.residents[run] for run in runs]

        units = [found for found in gc.get_objects() if isinstance(found, Unit)]

        assert [] == [unit for unit in units if not unit.residents.keys().isdisjoint(runs)]
        assert [False] * 5 == [hasattr(resident.code, "__dict__") for resident in residents]
        assert [()] * 5 == [resident.facts for resident in residents]
