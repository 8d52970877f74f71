"""Deltas of steps: shown at once here, durable in chunks everywhere, each once however a reader comes to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, PolosClient, WorkflowContext, events, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.errors import PolosUsageError, ValueRefused
from polos.runtime.deltas import Previews
from polos.testing.simulation import Simulation
from polos.types.events import StreamEvent

pytestmark = pytest.mark.anyio

_go_on: dict[str, asyncio.Event] = {}
calls: list[int] = []


async def talk(ctx: WorkflowContext, texts: list[str], *, gate: str | None = None) -> str:
    """Send texts, wait if there is something to wait for, send them again."""
    for text in texts:
        ctx.step.emit("text_delta", {"content": text})
    if gate is not None:
        await _go_on[gate].wait()
        for text in texts:
            ctx.step.emit("text_delta", {"content": text.upper()})
    return "".join(texts)


def talk_in_thread(ctx: WorkflowContext, texts: list[str]) -> str:
    """Send texts from a thread."""
    for text in texts:
        ctx.step.emit("text_delta", {"content": text})
    return "".join(texts)


def talk_twice(ctx: WorkflowContext, texts: list[str]) -> str:
    """Fail at the first call, after the texts were sent."""
    calls.append(1)
    ctx.step.emit("stream_start")
    for text in texts:
        ctx.step.emit("text_delta", {"content": text})
    if len(calls) == 1:
        raise OSError("cut off")
    return "".join(texts)


@workflow(id="deltas_talks")
async def talks(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """One step that talks, on the loop or in a thread."""
    if payload.get("thread"):
        return await ctx.step.run("talk", talk_in_thread, ctx, payload["texts"])
    return await ctx.step.run("talk", talk, ctx, payload["texts"], gate=payload.get("gate"))


@workflow(id="deltas_fails_once")
async def fails_once(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """A step that talks, fails, and talks again."""
    return await ctx.step.run("talk", talk_twice, ctx, payload["texts"], base_delay=0.01)


@workflow(id="deltas_two_at_once")
async def two_at_once(ctx: WorkflowContext, payload: dict[str, Any]) -> list[str]:
    """Two steps that talk at the same time."""
    return await asyncio.gather(
        *(ctx.step.run(f"talk {n}", talk, ctx, payload["texts"], gate=payload["gate"]) for n in range(2))
    )


async def hold(ctx: WorkflowContext) -> None:
    """Send one delta when told so, and end when told so."""
    await _go_on["begin"].wait()
    ctx.step.emit("text_delta", {"content": "a"})
    await _go_on["end"].wait()


@workflow(id="deltas_holds")
async def holds(ctx: WorkflowContext) -> None:
    """A step that is held while its delta is shown."""
    await ctx.step.run("talk", hold, ctx)


def told(found: list[StreamEvent]) -> list[tuple[str, int, str]]:
    """Give step, number and text of each delta."""
    return [
        (event.data["step_key"], event.data["chunk_index"], event.data["content"])
        for event in found
        if event.event_type == "text_delta"
    ]


def chunks(sim: Simulation) -> list[e.StreamChunk]:
    """Give the chunks in the log."""
    with sim.store.log.reader() as reader:
        found = [decode(r.type, r.schema_version, r.payload) for r in reader.records() if r.type == "StreamChunk"]
    return [event for event in found if isinstance(event, e.StreamChunk)]


async def stream(polos: Any, handle: Any, **options: Any) -> list[StreamEvent]:
    """Read the stream of a run to its end."""
    follow = events.stream_workflow(polos, handle.workflow_id, handle.id, **options)
    return [event async for event in follow]


@pytest.mark.parametrize("thread", [False, True])
async def test_every_reader_gets_every_delta_once(tmp_path: Path, thread: bool):
    """Previews, chunks while they come, and the log afterwards give the same deltas in the same order."""
    async with Polos(tmp_path) as polos:
        handle = await talks.invoke(polos, {"texts": list("abc"), "thread": thread})
        live = await stream(polos, handle, from_sequence=0, previews=True)
        later = await stream(polos, handle, from_sequence=0)

    assert [("talk", 0, "a"), ("talk", 1, "b"), ("talk", 2, "c")] == told(live) == told(later)
    assert not any(event.preview for event in later)
    assert "preview" not in later[0].model_dump()
    assert [event.event_type for event in live][-2:] == ["step_finish", "workflow_finish"]


async def test_a_preview_comes_before_the_step_ends(tmp_path: Path):
    """Deltas are shown while the step runs; to several readers, each of which gets the rest as well."""
    _go_on.update(begin=asyncio.Event(), end=asyncio.Event())
    async with Polos(tmp_path) as polos:
        handle = await holds.invoke(polos)
        readers = [events.stream_workflow(polos, holds.id, handle.id, from_sequence=0, previews=True) for _ in "12"]
        for reader in readers:
            assert ["workflow_start", "step_start"] == [(await anext(reader)).event_type for _ in "12"]
        waiting = [asyncio.ensure_future(anext(reader)) for reader in readers]
        await asyncio.sleep(0)
        _go_on["begin"].set()
        shown = await asyncio.gather(*waiting)
        _go_on["end"].set()
        rest = [[event.event_type async for event in reader] for reader in readers]

    assert [(True, (handle.id, "talk", 0))] * 2 == [(event.preview, event.delta) for event in shown]
    assert [["step_finish", "workflow_finish"]] * 2 == rest


@pytest.mark.parametrize("previews", [False, True])
async def test_a_reader_goes_on_behind_any_event(tmp_path: Path, previews: bool):
    """Cut at any public event, in the middle of a chunk too, a reader misses no delta and gets none twice."""
    _go_on["cut"] = asyncio.Event()
    async with Polos(tmp_path) as polos:
        handle = await two_at_once.invoke(polos, {"texts": list("ab"), "gate": "cut"})
        whole: list[StreamEvent] = []
        async for event in events.stream_workflow(polos, two_at_once.id, handle.id, from_sequence=0, previews=previews):
            whole.append(event)
            if len(told(whole)) == 4:
                _go_on["cut"].set()
        cuts = [await stream(polos, handle, last_event=event) for event in whole]

    assert 8 == len(told(whole)) == len(set(told(whole)))
    for place, rest in enumerate(cuts):
        assert sorted(told(whole)) == sorted(told(whole[: place + 1]) + told(rest))
        assert whole[-1].event_type == rest[-1].event_type if rest else place == len(whole) - 1


async def test_a_number_resumes_in_another_process(tmp_path: Path):
    """A client with a store of its own reads chunks; the number of each event is enough to go on behind it."""
    async with Polos(tmp_path) as polos:
        handle = await talks.invoke(polos, {"texts": list("abcd")})
        await handle.get(polos)
        await talks.run(polos, {"texts": []})
    client = PolosClient(data_dir=tmp_path)
    whole = await stream(client, handle, from_sequence=0, previews=True)
    rests = [await stream(client, handle, last_sequence_id=event.sequence_id) for event in whole]

    assert list("abcd") == [content for _, _, content in told(whole)]
    assert [told(whole[place + 1 :]) for place in range(len(whole))] == [told(rest) for rest in rests]


async def test_a_reader_of_previews_that_never_became_durable_misses_nothing(tmp_path: Path):
    """Deltas that were shown and died with the process: the next attempt's have their numbers, and are shown."""
    _go_on["dies"] = asyncio.Event()
    async with Polos(tmp_path / "one", stop_grace_seconds=0.001) as polos:
        engine: Any = polos.engine
        handle = await talks.invoke(polos, {"texts": list("ab"), "gate": "dies"})
        stream_ = events.stream_workflow(polos, talks.id, handle.id, from_sequence=0, previews=True)
        seen = [await anext(stream_)]
        while len(told(seen)) < 2:
            seen.append(await anext(stream_))
        # The chunk of these two is never decided: as if the process had died before.
        for attempt in engine.performer.in_flight.values():
            attempt.deltas._gathered.clear()
    async with Polos(tmp_path / "one") as polos:
        _go_on["dies"] = asyncio.Event()
        _go_on["dies"].set()
        rest = await stream(polos, handle, last_event=seen[-1])

    assert [True, True] == [event.preview for event in seen if event.delta]
    assert list("abAB") == [content for _, _, content in told(rest)]


def test_chunks_gather_what_comes_within_their_time():
    """However many deltas a step sends, a chunk is recorded for the time that it took, before the outcome."""
    with Simulation([talks]) as sim:
        _go_on["gather"] = asyncio.Event()
        sim.create(talks, {"texts": [str(n) for n in range(500)], "gate": "gather"})
        sim.run_for(0.06)
        first = chunks(sim)
        _go_on["gather"].set()
        sim.settle()

        assert [(0, 500)] == [(chunk.first_index, len(chunk.deltas)) for chunk in first]
        assert [(0, 500), (500, 500)] == [(chunk.first_index, len(chunk.deltas)) for chunk in chunks(sim)]


def test_a_flood_is_cut_into_chunks_that_a_record_has_room_for():
    """More deltas than a record shows events become several chunks."""
    with Simulation([talks]) as sim:
        sim.create(talks, {"texts": ["x"] * 5_000})
        sim.settle()

        assert [(0, 2_000), (2_000, 2_000), (4_000, 1_000)] == [(c.first_index, len(c.deltas)) for c in chunks(sim)]


def test_a_later_attempt_counts_on():
    """The deltas of a failed attempt stay, and the next attempt's have other numbers."""
    calls.clear()
    with Simulation([fails_once]) as sim:
        sim.create(fails_once, {"texts": ["a", "b"]})
        sim.run_for(60)

        assert [(1, 0, 3), (2, 3, 3)] == [(c.attempt, c.first_index, len(c.deltas)) for c in chunks(sim)]


def test_a_crash_in_the_middle_counts_on():
    """Called again after a crash, a step doesn't give numbers away that a reader may have seen."""
    with Simulation([talks]) as sim:
        _go_on["crash"] = asyncio.Event()
        run = sim.create(talks, {"texts": ["a", "b"], "gate": "crash"})
        sim.run_for(0.06)
        sim.crash()
        _go_on["crash"] = asyncio.Event()  # of the next loop
        _go_on["crash"].set()
        sim.recover()
        sim.settle()

        assert [(0, 2), (2, 4)] == [(chunk.first_index, len(chunk.deltas)) for chunk in chunks(sim)]
        assert "ab" == sim.result(run.run)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda ctx: ctx.step.emit("", {}), ValueError, "event_type must not be empty"),
        (lambda ctx: ctx.step.emit(1, {}), TypeError, "event_type must be a text"),
        (lambda ctx: ctx.step.emit("x", [1]), TypeError, "must be a dict or a model"),
        (lambda ctx: ctx.step.emit("x", {"x": object()}), ValueRefused, "data of the delta 'x'"),
    ],
)
async def test_what_cannot_be_sent(tmp_path: Path, call: Callable[[Any], None], error: type[Exception], says: str):
    """A delta that can't be recorded is refused at the line that sends it."""
    found: list[BaseException] = []

    def send(ctx: WorkflowContext) -> None:
        try:
            call(ctx)
        except Exception as refusal:
            found.append(refusal)
            raise

    @workflow(id="deltas_refused")
    async def refused(ctx: WorkflowContext) -> None:
        with pytest.raises(Exception, match=says):
            await ctx.step.run("send", send, ctx, max_retries=0)

    async with Polos(tmp_path) as polos:
        await refused.run(polos)

    assert [error] == [type(one) for one in found]


async def test_a_body_sends_no_deltas(tmp_path: Path):
    """Outside the function of a step there is nothing that a delta could belong to."""

    @workflow(id="deltas_of_a_body")
    async def body(ctx: WorkflowContext) -> str:
        with pytest.raises(PolosUsageError, match="for the function of a step"):
            ctx.step.emit("text_delta", {})
        return "refused"

    async with Polos(tmp_path) as polos:
        assert "refused" == await body.run(polos)


def test_nobody_is_left_in_the_list_of_readers():
    """A reader that goes away, also two times, leaves nothing behind."""
    previews = Previews()
    first, second = previews.subscribe("root", print), previews.subscribe("root", print)
    first()
    first()
    second()

    assert {} == previews._readers
