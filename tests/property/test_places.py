"""
Answers that tell their place: code sees it before the record is in the log, and it is the record's in the end.

The engine counts what it hands to the writer. Whatever comes in between, that count is right, or the unit is refused
and decided anew: commits that fail, engines that die, runs that are read again, large payloads that let others pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from polos import Polos, WorkflowContext, events, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import run_stream
from polos.store.faults import Fault
from polos.store.log import Log, Record
from polos.store.reader import EntryReader
from polos.testing import Simulation

ROUNDS = 4


@workflow(id="places_seen")
async def seen(ctx: WorkflowContext) -> list[int]:
    """Give the places that it was told of, each passed through a step."""
    found: list[int] = []
    for number in range(ROUNDS):
        asked = ctx.step.suspend(f"ask-{number}", {}) if number % 2 else ctx.step.wait_for_event(f"{number}", "places")
        found.append(await ctx.step.run(f"keep-{number}", _keep, (await asked).sequence_id))
    return found


async def _keep(place: int) -> int:
    await asyncio.sleep(0)
    return place


def places(log: Log, run: str) -> list[int]:
    """Give the places of the answers that a run got, as the log has them."""
    found: list[int] = []
    with log.reader() as reader:
        for record in reader.stream(run_stream(run)):
            event = decode(record.type, record.schema_version, record.payload)
            if isinstance(event, e.WaitSatisfied):
                found.append((record.position - event.back) * 4096 if event.sequence_id is None else event.sequence_id)
    return found


def disturb(sim: Simulation, chance: Random, runs: list[str]) -> None:
    """Let one thing happen, most often an answer."""
    if not sim.alive:
        sim.start()
    match chance.randrange(12):
        case 0:
            sim.plan.next(chance.choice(list(Fault)))
        case 1:
            sim.crash()
        case 2:
            sim.evict()
        case 3:
            sim.run_for(chance.choice([0.000_05, 0.000_4, 0.01]))
        case 4:
            sim.run_turns(chance.randrange(8))
        case 5 | 6:
            sim.send("publish", topic="places", events=[{"data": {}}] * chance.randint(1, 2))
        case _:
            sim.send("resume", run=chance.choice(runs), key=f"ask-{chance.choice([1, 3])}", data=None)


@pytest.mark.parametrize("seed", range(12))
def test_what_was_told_is_where_it_is(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """In every course of things: at the end each place that a run was told of is its answer's, and none was refused."""
    chance = Random(seed)
    with Simulation([seen], seed=seed, latency_us_max=300) as sim:
        runs = [sim.create(seen, None).run for _ in range(4)]
        sim.settle()
        for _ in range(60):
            disturb(sim, chance, runs)
        for _ in range(ROUNDS):
            if not sim.alive:
                sim.start()
            sim.settle()
            sim.send("publish", topic="places", events=[{"data": {}}])
            for run in runs:
                sim.send("resume", run=run, key="ask-1", data=None)
                sim.send("resume", run=run, key="ask-3", data=None)
        sim.settle()

        for run in runs:
            told = places(sim.store.log, run)
            assert ROUNDS == len(told)
            assert told == sim.result(run)
    assert "L3" not in caplog.text


@workflow(id="places_followed")
async def followed(ctx: WorkflowContext) -> list[int]:
    """Take one event after another, each behind the last."""
    found: list[int] = []
    for number in range(8):
        event = await ctx.step.wait_for_event(f"{number}", "places", since=found[-1] if found else 0)
        found.append(event.sequence_id)
        if number % 3 == 0:
            await ctx.step.run(f"keep-{number}", _keep, event.sequence_id)
    return found


@pytest.mark.parametrize("seed", range(16))
def test_who_follows_a_topic_misses_nothing(seed: int) -> None:
    """With `since` a run gets event after event, however they are published and whatever fails meanwhile."""
    chance = Random(seed)
    with Simulation([seen, followed], seed=seed, latency_us_max=300) as sim:
        sim.send("publish", topic="places", events=[{"data": {}}])
        runs = [sim.create(followed, None).run for _ in range(3)]
        sim.settle()
        for _ in range(40):
            disturb(sim, chance, runs)
        for _ in range(8):
            if not sim.alive:
                sim.start()
            sim.settle()
            sim.send("publish", topic="places", events=[{"data": {}}] * chance.randint(1, 3))
        sim.settle()

        with sim.store.log.reader() as reader:
            published = [record.position * 4096 for record in reader.stream("topic/places")]
        assert [published[:8]] * 3 == [sim.result(run) for run in runs]


def test_an_event_published_while_the_wait_is_on_its_way_comes_behind_earlier_ones() -> None:
    """The wait found nobody who looked back for it yet, and the log has an event that it is to get first."""
    with Simulation([followed]) as sim:
        sim.send("publish", topic="places", events=[{"data": {}}])
        sim.settle()
        run = sim.create(followed, None).run
        sim.send("publish", topic="places", events=[{"data": {}}] * 7)
        sim.settle()

        with sim.store.log.reader() as reader:
            published = [record.position * 4096 for record in reader.stream("topic/places")]
        assert published == sim.result(run)


def test_who_catches_up_with_a_long_topic_reads_little_of_it_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first event behind a place is found by halving, so that a long topic isn't read again for each event."""
    read: list[str] = []
    stream = EntryReader.stream

    def reading(self: EntryReader, name: str, **options: Any) -> Iterator[Record]:
        for record in stream(self, name, **options):
            read.append(name)
            yield record

    with Simulation([followed]) as sim:
        for _ in range(10):
            sim.send("publish", topic="places", events=[{"data": {}}] * 100)
        sim.settle()
        monkeypatch.setattr(EntryReader, "stream", reading)
        run = sim.create(followed, None).run
        sim.settle()

        assert 8 == len(sim.result(run))
    assert 8 <= read.count("topic/places") <= 8 * 13  # 1,000 is halved ten times; one more is given, one looked for


@pytest.mark.parametrize("fault", list(Fault))
def test_who_follows_is_told_of_what_a_failed_commit_has_kept(fault: Fault) -> None:
    """Nobody heard that the events are durable, and nothing else is published that would have the run looked at."""
    with Simulation([followed]) as sim:
        run = sim.create(followed, None).run
        sim.send("publish", topic="places", events=[{"data": {}}])
        sim.settle()
        sim.plan.next(fault)
        sim.send("publish", topic="places", events=[{"data": {}}])
        sim.send("publish", topic="places", events=[{"data": {}}] * 6)
        sim.settle()

        assert 8 == len(sim.result(run))


def test_who_waits_for_an_earlier_event_is_answered_after_a_crash() -> None:
    """Killed when the wait was durable and nobody had looked back: the next engine does."""
    for ticks in range(1, 12):
        with Simulation([followed]) as sim:
            sim.send("publish", topic="places", events=[{"data": {}}] * 8)
            sim.settle()
            sim.world.crash_at.add(sim.world.ticks + ticks)
            run = sim.create(followed, None).run
            sim.settle()
            if not sim.alive:
                sim.start()
                sim.settle()
            with sim.store.log.reader() as reader:
                exists = reader.version(run_stream(run))
            if exists:
                assert 8 == len(sim.result(run))


@workflow(id="places_large")
async def large(ctx: WorkflowContext) -> int:
    """Have results that become blobs, so that others overtake them."""
    for number in range(10):
        await ctx.step.run(f"large-{number}", lambda: "large " * 30_000)
    return 0


def test_what_was_told_is_where_it_is_beside_large_payloads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a directory, with the writer's threads, while units wait for their blobs and others pass them."""

    async def main() -> list[tuple[Any, list[int]]]:
        async with Polos(data_dir=tmp_path) as polos:
            others = [await large.invoke(polos) for _ in range(5)]
            handles = [await seen.invoke(polos) for _ in range(5)]
            ended = asyncio.gather(*(polos._wait_ended(handle.id) for handle in (*handles, *others)))
            while not ended.done():
                await events.publish(polos, "places", events.EventData())
                for handle in handles:
                    for key in ("ask-1", "ask-3"):
                        found = await polos.get_execution(handle.id)
                        if found["status"] == "waiting":
                            await polos.resume(seen.id, handle.id, key, None)
            log = polos._connection().store.log
            return [((await polos.get_execution(handle.id))["result"], places(log, handle.id)) for handle in handles]

    for result, told in asyncio.run(main()):
        assert ROUNDS == len(told)
        assert told == result
    assert "L3" not in caplog.text
