"""
Each event triggers exactly once, whatever happens to the engine in between.

A program publishes on a handful of topics while engines are killed at any tick of their world, commits fail in every
way they can, runs are evicted, and triggers are paused. What the runs of a trigger were created with, put one behind
the other in the order of the trigger's firings, must be the events of its topics: all that count, each once, in order.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from polos import EventPayload, Queue, WorkflowContext, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.patterns import matches
from polos.engine.projections import TRIGGER_PREFIX, topic_stream
from polos.store.faults import Fault
from polos.testing.simulation import Simulation

from tests.campaign import SEED, scaled

TOPICS = ("a", "a/b", "a/b/c", "d")


@workflow(id="each", trigger_on_event="a")
async def each(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """One event."""


@workflow(id="in threes", trigger_on_event="a/**", batch_size=3, batch_timeout_seconds=5)
async def in_threes(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Up to three events of a pattern."""


def picky(event: EventPayload) -> bool:
    """Refuse some, fail on others."""
    number = event.data["n"]
    if number % 7 == 3:
        raise ValueError(number)
    return bool(number % 3)


@workflow(id="picked", trigger_on_event="*/**", trigger_filter=picky, batch_size=2)
async def picked(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """What a filter lets through, two at most."""


@workflow(id="held up", trigger_on_event="d", queue=Queue("held up", 1, max_queued=1))
async def held_up(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """A queue that is nearly always full."""
    await ctx.step.wait_for("pause", seconds=3)


WORKFLOWS = (each, in_threes, picked, held_up)


def counts(workflow_id: str, number: int) -> bool:
    """Tell whether an event counts for a trigger."""
    return workflow_id != "picked" or (number % 7 != 3 and number % 3 != 0)


def expected(sim: Simulation, workflow_id: str, topic: str) -> list[int]:
    """Give the numbers of the events that count for a trigger, by position."""
    found: list[tuple[int, int]] = []
    with sim.store.log.reader() as reader:
        for key, _ in reader.rows(("topic",)):
            if matches(topic, str(key[1])):
                for record in reader.stream(topic_stream(str(key[1]))):
                    event: Any = decode(record.type, record.schema_version, record.payload)
                    found.append((record.position, event.data["n"]))
    return [number for _, number in sorted(found) if counts(workflow_id, number)]


def handed_out(sim: Simulation, workflow_id: str) -> list[list[int]]:
    """Give the numbers of the events that the runs of a trigger got, by the order of its firings."""
    found: list[list[int]] = []
    with sim.store.log.reader() as reader:
        for record in reader.stream(TRIGGER_PREFIX + workflow_id):
            event = decode(record.type, record.schema_version, record.payload)
            if isinstance(event, e.TriggerFired):
                assert event.run in sim.audit.histories, f"run {event.run} was fired, and isn't there"
                created = sim.audit.histories[event.run][0][0]
                assert isinstance(created, e.RunCreated)
                payload: Any = created.input
                found.append([item["data"]["n"] for item in payload.get("events", [payload])])
    return found


def revive(sim: Simulation) -> None:
    """Begin the next life, if the last one ended; it may die as it begins."""
    while not sim.alive:
        sim.start()


def disturb(sim: Simulation, chance: Random) -> None:
    """Let something happen to the engine."""
    revive(sim)
    match chance.randrange(8):
        case 0:
            sim.recover()
        case 1:
            sim.world.crash_at.add(sim.world.ticks + chance.randrange(1, 12))
        case 2:
            sim.plan.next(chance.choice(list(Fault)))
        case 3:
            sim.evict()
        case 4:
            name = chance.choice(WORKFLOWS).id
            sim.send("trigger", trigger=name, paused=chance.random() < 0.4)
        case _:
            sim.run_for(chance.choice([0.0, 0.001, 0.5, 6.0]))


@pytest.mark.parametrize("number", range(scaled(40, 3_000)))
def test_each_event_triggers_exactly_once(number: int) -> None:
    """Under crashes, failed commits and batch boundaries every event that counts is handed out once, in order."""
    chance = Random(SEED * 1_000_003 + number)
    with Simulation(WORKFLOWS, seed=number, latency_us_max=chance.choice([0, 20_000])) as sim:
        sim.run_for(1)
        count = 0
        for _ in range(chance.randrange(5, 30)):
            topic = chance.choice(TOPICS)
            several = range(count, count + chance.choice([1, 1, 2, 5]))
            count = several.stop
            sim.send("publish", topic=topic, events=[{"data": {"n": one}} for one in several])
            for _ in range(chance.randrange(4)):
                disturb(sim, chance)
            revive(sim)
        sim.world.crash_at.clear()
        revive(sim)
        sim.plan.never()
        for one in WORKFLOWS:
            sim.send("trigger", trigger=one.id, paused=False)
        sim.settle()

        for one in WORKFLOWS:
            got = handed_out(sim, one.id)
            assert expected(sim, one.id, one.trigger_on_event or "") == [number for batch in got for number in batch]
            assert max((len(batch) for batch in got), default=0) <= one.batch_size
