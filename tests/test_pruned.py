"""
Deltas that the archive doesn't keep: what stands in their place, and that nothing else is missing.

What is pruned is the payload of chunks, in the segment. The leaf of each stays in the log as that of any archived
record, so what is verified doesn't change; the fold doesn't either, since a chunk still says how many deltas it had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, PolosClient, Retention, WorkflowContext, events, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.evolve import evolve
from polos.engine.projections import run_stream
from polos.engine.state import RunState
from polos.errors import StoreDamaged
from polos.features import archive
from polos.points import ARCHIVE_POINTS, arm
from polos.runtime.archived import open_archived
from polos.runtime.folding import FOLD
from polos.runtime.settings import Settings
from polos.store.check import verify
from polos.store.log import Position, Record, Version
from polos.store.segments import decode_segment, encode_segment, record_leaf
from polos.testing.simulation import Simulation
from polos.testing.world import Crashed
from polos.types.events import StreamEvent

from tests import test_retention as retention

HOUR = 3600.0
POLICY = Retention(max_age_seconds=0, keep_deltas=False)


async def say(ctx: WorkflowContext, texts: list[str]) -> str:
    """Send texts, some of them in a chunk of their own."""
    for text in texts:
        ctx.step.emit("text_delta", {"content": text})
    loop = asyncio.get_running_loop()
    gathered = loop.create_future()
    loop.call_later(0.06, gathered.set_result, None)
    await gathered
    ctx.step.emit("text_delta", {"content": "secret end"})
    return "what was said"


@workflow(id="pruned_talk", retention=Retention(max_age_seconds=HOUR, keep_deltas=False))
async def talk(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Send deltas, and give something."""
    return await ctx.step.run("say", say, ctx, payload["texts"])


@workflow(id="pruned_parent", retention=POLICY)
async def parent(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Have a child that sends deltas; the policy of the root counts."""
    return await ctx.step.invoke_and_wait("child", talk, payload)


@workflow(id="pruned_not", retention=Retention(max_age_seconds=1))
async def keeps(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Say nothing of deltas."""
    return await ctx.step.run("say", say, ctx, payload["texts"])


def world() -> Simulation:
    """Give a world with an engine."""
    return Simulation([talk, parent], settings=Settings(inbox_poll_seconds=0))


def without_deltas(event: e.Event) -> e.Event:
    """Give an event as the archive is to have it."""
    return replace(event, deltas=(), pruned=len(event.deltas)) if isinstance(event, e.StreamChunk) else event


def folded(run: str, history: list[tuple[e.Event, int]]) -> RunState:
    """Fold a run."""
    state = RunState(run=run)
    for event, time_us in history:
        evolve(state, event, time_us=time_us)
    return state


def check(sim: Simulation) -> None:
    """Each archived run has all of its history, but its deltas; it folds to the same state and rows."""
    sim.audit.check_rows()
    for run in retention.archived(sim):
        with sim.store.log.reader() as reader:
            opened = open_archived(reader, sim.store.blobs, run)
            history = [(decode(one.type, one.schema_version, one.payload), one.time_us)
                       for one in opened.stream(run_stream(run))]  # fmt: skip
        before = [(event, time_us) for event, time_us, _ in sim.audit.histories[run]]
        assert [(without_deltas(event), time_us) for event, time_us in before] == history
        assert folded(run, before) == folded(run, history)


def test_deltas_are_pruned_and_nothing_else():
    """A chunk keeps the number of its deltas; all else of the run, its state among it, is as it was."""
    with world() as sim:
        run = sim.create(talk, {"texts": ["secret", "words"]}).run
        sim.run_for(HOUR / 2)
        assert [] == retention.archived(sim)
        sim.run_for(HOUR)

        check(sim)
        assert [run] == retention.archived(sim)
        assert [2] == [seal.pruned for seal in retention.seals(sim)]
        (segment,) = retention.seals(sim)[0].segments
        kept = [one for one in decode_segment(sim.store.blobs.get(segment)) if one.type == "StreamChunk"]
        assert not [one for one in kept if b"secret" in one.payload]
        assert [2, 1] == [one.pruned for one in _chunks(sim, run)]


def _chunks(sim: Simulation, run: str) -> Iterator[e.StreamChunk]:
    with sim.store.log.reader() as reader:
        for one in open_archived(reader, sim.store.blobs, run).stream(run_stream(run)):
            event = decode(one.type, one.schema_version, one.payload)
            if isinstance(event, e.StreamChunk):
                yield event


def test_a_policy_that_says_nothing_of_deltas_keeps_them():
    """Deltas are kept by default, and what a policy shows doesn't change."""
    with Simulation([keeps], settings=Settings(inbox_poll_seconds=0)) as sim:
        sim.create(keeps, {"texts": ["kept"]})
        sim.run_for(60)

        retention.check(sim)
        assert [0] == [seal.pruned for seal in retention.seals(sim)]
    assert "Retention(max_age_seconds=None, max_count=0, statuses=('completed', 'failed', 'cancelled'))" == repr(
        Retention(max_count=0)
    )
    assert POLICY != Retention(max_age_seconds=0)


@pytest.mark.parametrize("point", ARCHIVE_POINTS)
def test_a_kill_while_deltas_are_pruned_loses_nothing_else(point: str):
    """Killed at any step of it, the next engine ends with the same archive."""
    deaths: list[str] = []

    def die(reached: str) -> None:
        if reached == point and not deaths:
            deaths.append(reached)
            raise Crashed

    with world() as sim:
        runs = [sim.create(talk, {"texts": ["a", "b"]}).run, sim.create(parent, {"texts": ["c"]}).run]
        arm(die)
        try:
            sim.run_for(2 * HOUR)
            if not sim.alive:
                sim.start()
            sim.run_for(0)
            check(sim)
        finally:
            arm(None)
        sim.run_for(HOUR)

        assert [point] == deaths
        check(sim)
        assert set(runs) <= set(retention.archived(sim))
        assert 4 == sum(seal.pruned for seal in retention.seals(sim))


async def stream(client: PolosClient | Polos, run: str, after: int) -> list[StreamEvent]:
    """Read the stream of a run from behind a number."""
    follow = events.stream_workflow(client, "pruned_parent", run, last_sequence_id=after)
    return [event async for event in follow]


def test_readers_are_told_of_what_was_pruned(tmp_path: Path):
    """Who resumes in front of pruned deltas or among them learns how many are gone, and then what the step gave."""

    async def main() -> tuple[list[StreamEvent], list[StreamEvent], dict[int, list[StreamEvent]], list[Any]]:
        async with Polos(tmp_path) as polos:
            handle = await parent.invoke(polos, {"texts": [f"secret {n}" for n in range(20)]})
            live = await stream(polos, handle.id, 0)
            while not archive.list(polos):
                await asyncio.sleep(0)
            later = await stream(polos, handle.id, 0)
            resumed = {event.sequence_id: await stream(polos, handle.id, event.sequence_id) for event in live}
            read = await archive.read(polos, handle.id)
            said = [event["data"] for event in read.events if event["type"] == "StreamChunk"]
            return live, later, resumed, said

    live, later, resumed, said = asyncio.run(main())
    pruned = [event for event in later if event.event_type == "deltas_pruned"]

    assert [20, 1] == [event.data["count"] for event in pruned]
    assert [("say", 0), ("say", 20)] == [(event.data["step_key"], event.data["chunk_index"]) for event in pruned]
    rest = [event for event in later if event.event_type != "deltas_pruned"]
    assert [event for event in live if event.event_type != "text_delta"] == rest
    for number, found in resumed.items():
        assert [event for event in later if event.sequence_id > number] == found
    assert [(0, 20), (20, 1)] == [(data["first_index"], data["pruned"]) for data in said]
    assert not [data for data in said if "deltas" in data]
    report = verify(tmp_path, fold=FOLD)
    assert report.ok, report.damage


def test_a_payload_of_another_type_is_never_believed():
    """Only chunks may be pruned: a segment in which something else was is damaged; a chunk's leaf stays its own."""
    chunk, step = (
        Record(
            position=Position(at), stream="run/r", version=Version(at), type=kind, schema_version=1, time_us=1,
            payload=b'{"whole":true}',
        )
        for at, kind in enumerate(("StreamChunk", "StepCompleted"), 1)
    )  # fmt: skip
    found = list(decode_segment(encode_segment([chunk, step], {1: b"instead"})))

    assert [b"instead", step.payload] == [one.payload for one in found]
    assert [record_leaf(chunk), record_leaf(step)] == [record_leaf(one) for one in found]
    with pytest.raises(StoreDamaged, match="record 2, a StepCompleted, isn't what was written"):
        list(decode_segment(encode_segment([chunk, step], {2: b"instead"})))


@pytest.mark.parametrize("given", [0, 1, None, "no"])
def test_keep_deltas_is_yes_or_no(given: Any):
    """What is neither is refused by name."""
    with pytest.raises(TypeError, match="keep_deltas of a Retention must be True or False"):
        Retention(max_count=1, keep_deltas=given)
