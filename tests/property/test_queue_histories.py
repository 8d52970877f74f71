"""
What queues promise, on whole histories: at every single record of every log.

Runs of many kinds come into queues whose limits, rates and pauses change, while engines are killed at any tick of
their world, commits fail in every way they can, runs are evicted and cancelled and the clock jumps. Afterwards
`tests.queue_walk` goes through the log, record by record. Each test also says how much there was to look at: a
history in which no limit was ever reached would show nothing.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.engine.state import ENDED
from polos.runtime.settings import Settings
from polos.store.faults import Fault
from polos.testing.simulation import Simulation

from tests.campaign import SEED, scaled
from tests.queue_walk import QueueWalk, walk

SLOTS = 6
IDEMPOTENCY_SECONDS = 120.0
SETTINGS = Settings(
    inbox_poll_seconds=0, max_concurrent_workflows=SLOTS, idempotency_seconds=IDEMPOTENCY_SECONDS, resident_runs_max=12
)
QUEUES = ("lane", "narrow", "open")
KEYS = ("", "a", "b", "c")
# What may happen beside runs, cancellations and changes of limits: nothing; engines are killed and clocks jump; and
# commits fail as well, with outcomes unknown.
HAPPENS = {"calm": (3, 3, 5), "killed": (0, 1, 1, 3, 4, 5), "refused": (0, 1, 2, 2, 3, 4, 5)}


async def nap(seconds: float) -> None:
    """Take a while."""
    loop = asyncio.get_running_loop()
    waited = loop.create_future()
    alarm = loop.call_later(seconds, waited.set_result, None)
    try:
        await waited
    finally:
        alarm.cancel()


@workflow(id="history leaf")
async def leaf(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Work for a moment."""
    await ctx.step.run("nap", nap, payload["seconds"])


@workflow(id="history work")
async def work(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Do what the payload says, one thing after another."""
    for number, what in enumerate(payload["does"]):
        match what:
            case "wait":
                await ctx.step.wait_for(f"{number}", seconds=45)
            case "child":
                await ctx.step.invoke_and_wait(f"{number}", leaf, {"seconds": 1.0}, queue=payload["queue"])
            case "alone":
                await ctx.step.invoke(f"{number}", leaf, {"seconds": 2.0}, queue="lane", concurrency_key="a")
            case "both":
                await asyncio.gather(ctx.step.run(f"{number} l", nap, 0.5), ctx.step.run(f"{number} r", nap, 2.0))
            case "either":
                await asyncio.wait(
                    [
                        asyncio.ensure_future(ctx.step.run(f"{number} l", nap, 0.5)),
                        asyncio.ensure_future(ctx.step.wait_for(f"{number} r", seconds=30)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            case "sleep":
                await asyncio.sleep(1)
            case "fail":
                if ctx.retry_count == 0:
                    raise ConnectionError("the first attempt fails")
            case _:
                await ctx.step.run(f"{number}", nap, float(what))


@workflow(id="history direct", deterministic=False)
async def direct(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """A body that isn't replayed."""
    await ctx.step.run("before", nap, 1.0)
    await ctx.step.wait_for("pause", seconds=20)
    await ctx.step.run("after", nap, 1.0)


DOES = ("0.5", "1", "3", "wait", "child", "both", "sleep", "either", "alone", "fail")


def a_run(chance: Random) -> dict[str, Any]:
    """Draw what is said of a run."""
    options: dict[str, Any] = {"queue": chance.choice(QUEUES), "concurrency_key": chance.choice(KEYS) or None}
    if chance.random() < 0.2:
        options["priority"] = chance.choice([-1, 5])
    if chance.random() < 0.1:
        options["start_after"] = chance.choice([1.0, 40.0])
    if chance.random() < 0.15:
        options["singleton"] = chance.choice("xy")
        options["singleton_policy"] = chance.choice(["skip", "cancel_old", "queue"])
    if chance.random() < 0.15:
        options["idempotency_key"] = f"order {chance.randrange(6)}"
    return options


def new_limits(chance: Random) -> dict[str, Any]:
    """Draw what holds for a queue from now on."""
    changes: dict[str, Any] = {
        "concurrency_limit": chance.choice([None, 1, 2, 3]),
        "key_concurrency_limit": chance.choice([None, 1, 1, 2]),
        "max_queued": chance.choice([None, None, 3, 8]),
        "rate_limit": None,
        "rate_period_us": None,
        "key_rate_limit": None,
        "key_rate_period_us": None,
        "paused": chance.random() < 0.1,
    }
    for rate in ("rate", "key_rate"):
        if chance.random() < 0.3:
            changes |= {f"{rate}_limit": chance.choice([1, 2, 4]), f"{rate}_period_us": chance.choice([2, 10]) * 10**6}
    return changes


class Disturbed:
    """A simulation, and what happens to it; notes where the order of lines began anew."""

    def __init__(self, sim: Simulation, chance: Random) -> None:
        self.sim = sim
        self.chance = chance
        self.cuts: list[int] = []

    def cut(self) -> None:
        """The order of lines isn't what it was."""
        with self.sim.store.log.reader() as reader:
            self.cuts.append(reader.head().position)

    def revive(self) -> None:
        """Begin the next life, if the last one ended; it may die as it begins."""
        while not self.sim.alive:
            self.cut()
            self.sim.start()

    def send_some(self) -> None:
        """Ask for runs."""
        chance = self.chance
        for _ in range(chance.choice([1, 2, 5])):
            options = a_run(chance)
            if chance.random() < 0.15:
                self.sim.create(direct, {}, **options)
                continue
            does = [chance.choice(DOES) for _ in range(chance.randint(1, 3))]
            self.sim.create(work, {"does": does, "queue": chance.choice([None, "narrow"])}, **options)

    def change_limits(self) -> None:
        """Change what holds for a queue."""
        self.sim.send("queue", queue=self.chance.choice(QUEUES[:2]), changes=new_limits(self.chance), create=True)

    def disturb(self, mode: str) -> None:
        """Let something happen to the engine."""
        chance, sim = self.chance, self.sim
        self.revive()
        match chance.choice(HAPPENS[mode]):
            case 0:
                sim.crash()
            case 1:
                sim.world.crash_at.add(sim.world.ticks + chance.randrange(1, 12))
            case 2:
                self.cut()
                sim.plan.next(chance.choice(list(Fault)))
                sim.run_for(chance.choice([0.0, 1.0, 3.0]))
                self.cut()
            case 3:
                sim.evict()
            case 4:
                sim.clock.jump(chance.choice([-600, -1, 1, 30]) * 1_000_000)
            case _:
                living = sim.audit.living()
                if living:
                    sim.send("cancel", run=chance.choice(living))
        self.revive()

    def finish(self) -> None:
        """Lift all pauses and limits on what may wait, and let everything come to its end."""
        sim = self.sim
        sim.world.crash_at.clear()
        self.revive()
        sim.plan.never()
        self.cut()
        for name in QUEUES:
            sim.send("queue", queue=name, changes={"paused": False}, create=True)
        sim.settle()


def play(number: int, mode: str) -> tuple[Simulation, QueueWalk]:
    """Play a history, and walk through it."""
    chance = Random(f"{SEED} {number} {mode}")
    latency_us = chance.choice([0, 0, 50_000])
    with Simulation([work, leaf, direct], seed=number, settings=SETTINGS, latency_us_max=latency_us) as sim:
        disturbed = Disturbed(sim, chance)
        disturbed.change_limits()
        disturbed.change_limits()
        for _ in range(chance.randint(6, 20)):
            disturbed.revive()
            disturbed.send_some()
            if chance.random() < 0.3:
                disturbed.change_limits()
            sim.run_for(chance.choice([0.0, 0.2, 1.0, 5.0]))
            if chance.random() < 0.5:
                disturbed.disturb(mode)
        disturbed.finish()
        idempotency_us = round(IDEMPOTENCY_SECONDS * 1e6)
        made = QueueWalk(slots=SLOTS, idempotency_us=idempotency_us, turns=mode == "calm")
        return sim, walk(sim.store.log, made, cuts=disturbed.cuts)


@pytest.mark.parametrize("mode", HAPPENS)
@pytest.mark.parametrize("number", range(scaled(40, 2_000)))
def test_what_queues_promise_holds_at_every_record(number: int, mode: str) -> None:
    """Limits, rates, pauses, turns, singletons and idempotency keys hold everywhere, and every run comes to its end."""
    sim, found = play(number, mode)

    assert [] == found.wrong
    assert [] == [run for run, state in sim.audit.states.items() if state.phase not in ENDED]
    sim.audit.check_rows()
