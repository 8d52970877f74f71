"""Streams: what each record shows, in order, from any place, live, and until the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from polos.engine import events as e
from polos.errors import StoreClosed, UnknownRun
from polos.features import events as features
from polos.features.events import StreamEvent
from polos.runtime import streams
from polos.runtime.client import PolosClient
from polos.runtime.connection import Command

from tests.histories import FakeEngine, FakeStore, History, Owner, created, run_id

pytestmark = pytest.mark.anyio

A, B, C = run_id(1), run_id(2), run_id(3)
BROKEN = e.Failure(type="ValueError", message="no card")
TREE = f"workflow/order/{A}"


@pytest.fixture
def history() -> History:
    """An empty history in memory."""
    return History()


@pytest.fixture
def client(history: History) -> PolosClient:
    """A client of a store that nobody owns."""
    return PolosClient.over(FakeStore(history.log))


@pytest.fixture(params=["scan", "merge"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by scanning the log and by merging streams, in batches so small that they matter."""
    monkeypatch.setattr(streams, "BATCH_RECORDS", 2)
    monkeypatch.setattr(streams, "SCANS_FOR_EACH_STREAM", 1_000_000 if request.param == "scan" else 0)


async def take(stream: AsyncIterator[StreamEvent], count: int) -> list[StreamEvent]:
    """Give the next events of a stream."""
    return [await anext(stream) for _ in range(count)]


async def everything(stream: AsyncIterator[StreamEvent]) -> list[StreamEvent]:
    """Give all events of a stream that ends."""
    return [event async for event in stream]


def kinds(events: list[StreamEvent]) -> list[str | None]:
    return [event.event_type for event in events]


# ---------------------------------------------------------------------------------------- trees


def long_story(history: History) -> None:
    """Record a tree of three runs with events, among records of others."""
    history.begin(A, input={"n": 1})
    history.begin(C, "other")
    history.run(A, e.StepScheduled(cause=2, name="s", function="f", digest="d"))
    history.run(B, created(A, "ship", parent=A), e.RunStarted(attempt=1))
    history.run(C, e.StateChanged(cause=2))
    history.publish(TREE, {"news": 1}, event_type="custom")
    history.run(A, e.StepCompleted(name="s", attempt=1, value=1))
    history.publish("elsewhere", {})
    history.run(B, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok", data={}))
    history.run(B, e.WaitSatisfied(name="ok", kind="suspend", key="ok", data={"y": 1}))
    history.end(B, "shipped")
    history.end(C)
    history.end(A, "done")
    history.publish(TREE, {"late": 1}, event_type="late")


STORY = [
    "workflow_start",
    "step_start",
    "workflow_start",
    "custom",
    "step_finish",
    "suspend_ok",
    "resume_ok",
    "workflow_finish",
    "workflow_finish",
]


@pytest.mark.parametrize("batch", [2, 512])
async def test_everything(history: History, client: PolosClient, monkeypatch: pytest.MonkeyPatch, batch: int):
    """Following everything shows every run and every topic, in order, from any place, as the single streams do."""
    monkeypatch.setattr(streams, "BATCH_RECORDS", batch)
    long_story(history)
    follow = client._connection()

    found = await take(streams.follow_all(follow, after=0), 13)
    later = streams.follow_all(follow, after=None)
    history.begin(run_id(4))
    (begun,) = await take(later, 1)

    assert ["elsewhere"] == [event.topic for event in found if event.event_type is None]
    of_tree = [event for event in found if event.topic == TREE]
    alone = await everything(features.stream_workflow(client, "order", A, last_sequence_id=0))
    assert [(event.id, event.event_type) for event in alone] == [(event.id, event.event_type) for event in of_tree[:-1]]
    assert ["workflow_start", "workflow_finish"] == kinds([event for event in found if "other" in event.topic])
    assert found[6:] == await take(streams.follow_all(follow, after=found[5].sequence_id), 7)
    assert ("workflow_start", run_id(4)) == (begun.event_type, begun.data["_metadata"]["execution_id"])
    await later.aclose()  # type: ignore[attr-defined]  # an async generator


@pytest.mark.usefixtures("both_ways")
async def test_a_tree_from_the_beginning(history: History, client: PolosClient):
    """From sequence 0 everything of the tree comes in order, nothing of others, and the end ends it."""
    long_story(history)

    found = await everything(features.stream_workflow(client, "order", A, last_sequence_id=0))

    assert STORY == kinds(found)
    assert {TREE} == {event.topic for event in found}
    assert sorted({event.sequence_id for event in found}) == [event.sequence_id for event in found]
    assert [{"n": 1}, None] == [event.data["payload"] for event in found if event.event_type == "workflow_start"]
    assert found == await everything(features.stream_workflow(client, "order", A, from_sequence=0))


@pytest.mark.usefixtures("both_ways")
async def test_every_sequence_id_resumes(history: History, client: PolosClient):
    """Going on behind any event gives exactly the rest."""
    long_story(history)
    found = await everything(features.stream_workflow(client, "order", A, last_sequence_id=0))

    for place, event in enumerate(found):
        behind = features.stream_workflow(client, "order", A, last_sequence_id=event.sequence_id)
        assert found[place + 1 :] == await everything(behind)
        at = features.stream_workflow(client, "order", A, from_sequence=event.sequence_id)
        assert found[place:] == await everything(at)


@pytest.mark.usefixtures("both_ways")
async def test_every_sequence_id_inside_a_chunk_resumes(history: History, client: PolosClient):
    """Going on in the middle of a chunk gives the rest of the chunk."""
    history.begin(A)
    deltas: tuple[Any, ...] = tuple({"event_type": "text_delta", "content": str(n)} for n in range(5))
    history.run(A, e.StepScheduled(cause=2, name="llm", function="ask", digest="d"))
    history.run(A, e.StreamChunk(name="llm", attempt=1, first_index=0, deltas=deltas))
    history.end(A)
    found = await everything(features.stream_workflow(client, "order", A, last_sequence_id=0))

    assert 8 == len(found)
    for place, event in enumerate(found):
        behind = features.stream_workflow(client, "order", A, last_sequence_id=event.sequence_id)
        assert found[place + 1 :] == await everything(behind)


@pytest.mark.parametrize("seed", range(8))
async def test_scanning_and_merging_give_the_same(
    history: History, client: PolosClient, monkeypatch: pytest.MonkeyPatch, seed: int
):
    """Whichever way records are found, from wherever: the same events in the same order."""
    chance = random.Random(seed)
    history.begin(A)
    runs = [A]
    for number in range(60):
        match chance.randrange(4):
            case 0:
                run = run_id(100 + number)
                history.run(run, created(A, "child", parent=chance.choice(runs)), e.RunStarted(attempt=1))
                runs.append(run)
            case 1:
                history.publish(chance.choice([TREE, "other"]), {"n": number}, {"m": number})
            case 2:
                history.run(chance.choice(runs), e.StateChanged(cause=2))
            case _:
                name = f"s{number}"
                scheduled = e.StepScheduled(cause=2, name=name, function="f", digest="d")
                history.run(chance.choice(runs), scheduled, e.StepCompleted(name=name, attempt=1, value=number))
    history.end(A)
    monkeypatch.setattr(streams, "BATCH_RECORDS", chance.randrange(1, 9))
    after = chance.choice([0, chance.randrange(history.head())]) * 4096
    given: list[list[StreamEvent]] = []
    for scanned in (10_000, 4, 0):
        monkeypatch.setattr(streams, "SCANS_FOR_EACH_STREAM", scanned)
        given.append(await everything(features.stream_workflow(client, "order", A, last_sequence_id=after)))

    assert given[0] == given[1] == given[2]
    assert "workflow_finish" == given[0][-1].event_type


# --------------------------------------------------------------------------------- without a cursor


async def test_unanswered_suspends_come_again(history: History, client: PolosClient):
    """Without a cursor the suspends of the tree that wait come first, answered ones never, then what follows."""
    history.begin(A)
    history.run(A, e.WaitStarted(cause=2, name="done", kind="suspend", key="done", data={}))
    history.run(A, e.WaitSatisfied(name="done", kind="suspend", key="done", data={}))
    history.run(B, created(A, "ship", parent=A), e.RunStarted(attempt=1))
    history.run(B, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok", data={"of": "b"}))
    history.run(A, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok", data={"of": "a"}))
    stream = features.stream_workflow(client, "order", A)
    history.run(A, e.WaitStarted(cause=2, name="new", kind="suspend", key="new", data={}))
    history.end(A)

    found = await everything(stream)

    assert ["suspend_ok", "suspend_ok", "suspend_new", "workflow_finish"] == kinds(found)
    assert ["b", "a"] == [event.data["of"] for event in found[:2]]
    assert [B, A] == [event.data["_metadata"]["execution_id"] for event in found[:2]]
    assert found[2:] == await everything(
        features.stream_workflow(client, "order", A, last_sequence_id=found[1].sequence_id)
    )


async def test_a_stream_begins_at_its_call(history: History, client: PolosClient):
    """What happens between the call and the first look at the stream isn't lost, and what was before isn't repeated."""
    history.begin(A)
    history.publish(TREE, {"n": 1}, event_type="before")
    stream = features.stream_workflow(client, "order", A)
    history.publish(TREE, {"n": 2}, event_type="after")
    history.end(A)

    assert ["after", "workflow_finish"] == kinds(await everything(stream))


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        (e.RunCompleted(cause=2), "workflow_finish"),
        (e.RunFailed(cause=2, error=BROKEN), "workflow_failed"),
        (e.RunCancelled(cause=2, by="ann"), "workflow_cancelled"),
    ],
)
async def test_a_run_that_has_ended(history: History, client: PolosClient, end: e.Event, shown: str):
    """A stream of an ended run gives its end, whichever it was, and ends; so does one from behind the end."""
    history.begin(A)
    history.run(A, end)
    history.begin(B, "other")

    found = await everything(features.stream_workflow(client, "order", A))

    assert [shown] == kinds(found)
    assert [] == await everything(features.stream_workflow(client, "order", A, last_sequence_id=found[0].sequence_id))


async def test_a_childs_end_doesnt_end_the_roots_stream(history: History, client: PolosClient):
    """A stream of a child shows the tree and ends with the child; that of the root goes on to the root's end."""
    long_story(history)

    of_child = await everything(features.stream_workflow(client, "ship", B, last_sequence_id=0))

    assert STORY[:-1] == kinds(of_child)


async def test_successors_go_on_under_the_handle(history: History, client: PolosClient):
    """A stream goes on through successors and ends with the last one's end, which names the run that began."""
    history.begin(A)
    history.run(A, e.RunContinued(cause=2, successor=B, workflow="order"))
    history.run(B, created(A, continues=A, chain=A), e.RunStarted(attempt=1))
    before = features.stream_workflow(client, "order", A, last_sequence_id=0)
    live = features.stream_workflow(client, "order", A)
    history.end(B, "done")

    found = await everything(before)

    assert ["workflow_start", "workflow_finish"] == kinds(found)
    assert A == found[-1].data["_metadata"]["execution_id"]
    assert found[-1:] == await everything(live)
    assert found[-1:] == await everything(features.stream_workflow(client, "order", A))


async def test_a_run_that_waits_in_the_inbox(history: History):
    """A run that no engine has seen yet is streamed from its beginning."""
    store = FakeStore(history.log)
    client = PolosClient.over(store)
    handle = await client.invoke("order", {"n": 1})
    assert not handle.accepted
    stream = features.stream_workflow(client, "order", handle.id)
    owner = Owner(history, store)
    owner.take()
    history.run(handle.id, created(handle.id, input={"n": 1}), e.RunStarted(attempt=1))
    history.end(handle.id)

    assert ["workflow_start", "workflow_finish"] == kinds(await everything(stream))


async def test_an_unknown_run(client: PolosClient):
    """A run that neither log nor inbox has is an error at the call, not a stream that never begins."""
    with pytest.raises(UnknownRun):
        features.stream_workflow(client, "order", A)


async def test_from_a_moment_on(history: History, client: PolosClient):
    """A timestamp stands for the events recorded after it; a sequence id counts before it."""
    long_story(history)
    found = await everything(features.stream_workflow(client, "order", A, last_sequence_id=0))
    for event in found:
        assert event.created_at is not None
        behind = features.stream_workflow(client, "order", A, last_timestamp=event.created_at)
        later = [other for other in found if str(other.created_at) > event.created_at]
        assert later == await everything(behind)

    moment = datetime(2025, 1, 1, tzinfo=UTC)
    assert found == await everything(features.stream_workflow(client, "order", A, last_timestamp=moment))
    both = features.stream_workflow(client, "order", A, found[-2].sequence_id, moment)
    assert found[-1:] == await everything(both)


# ------------------------------------------------------------------------------------------ live


def accepted(_id: str, _command: Command) -> dict[str, Any]:
    return {"outcome": "accepted"}


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("here", [True, False])
async def test_events_come_as_they_happen(history: History, here: bool):
    """A stream that is up to date gives each event when it is recorded, with the engine here or elsewhere."""
    store = FakeStore(history.log)
    client = PolosClient.over(store)
    if here:
        FakeEngine(store, accepted)
    history.begin(A)
    stream = features.stream_workflow(client, "order", A)
    waiting = asyncio.ensure_future(take(stream, 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    history.publish(TREE, {"n": 1}, event_type="first")
    assert ["first"] == kinds(await waiting)
    waiting = asyncio.ensure_future(take(stream, 2))
    await asyncio.sleep(0)
    history.run(B, created(A, "ship", parent=A), e.RunStarted(attempt=1))
    history.end(A)
    assert ["workflow_start", "workflow_finish"] == kinds(await waiting)

    assert [] == await everything(stream)


async def test_a_stream_that_is_given_up(history: History, client: PolosClient):
    """Leaving a stream in the middle leaves nothing behind: no view is open while the consumer works."""
    long_story(history)
    async for _ in features.stream_workflow(client, "order", A, last_sequence_id=0):
        break

    assert 0 == history.log._readers  # type: ignore[attr-defined]


async def test_a_store_that_is_closed(history: History, client: PolosClient):
    """A stream that waits when its log is closed says so."""
    history.begin(A)
    waiting = asyncio.ensure_future(take(features.stream_workflow(client, "order", A), 1))
    await asyncio.sleep(0)
    history.log.close()

    with pytest.raises(StoreClosed):
        await waiting


# ---------------------------------------------------------------------------------------- topics


async def test_a_topic(history: History, client: PolosClient):
    """A topic's stream has its own events only, from anywhere on."""
    history.publish("orders", {"n": 1}, {"n": 2}, event_type="new")
    history.publish("refunds", {"n": 3})
    history.publish("orders", {"n": 4})

    found = await take(features.stream_topic(client, "orders", last_sequence_id=0), 3)

    assert [1, 2, 4] == [event.data["n"] for event in found]
    assert [("orders", "new")] * 2 == [(event.topic, event.event_type) for event in found[:2]]
    behind = features.stream_topic(client, "orders", last_sequence_id=found[0].sequence_id)
    assert found[1:] == await take(behind, 2)


async def test_a_topic_from_now_on(history: History, client: PolosClient):
    """Without a cursor a topic begins with what is published after the call."""
    history.publish("orders", {"n": 1})
    stream = features.stream_topic(client, "orders")
    history.publish("orders", {"n": 2})
    (first,) = await take(stream, 1)
    waiting = asyncio.ensure_future(take(stream, 1))
    await asyncio.sleep(0)
    history.publish("orders", {"n": 3})

    assert [2, 3] == [event.data["n"] for event in (first, *await waiting)]


async def test_all_topics(history: History, client: PolosClient):
    """Without a topic every published event comes, and nothing else."""
    history.publish("orders", {"n": 1})
    history.begin(A)
    history.publish("refunds", {"n": 2})

    found = await take(features.stream_topic(client, from_sequence=0), 2)

    assert ["orders", "refunds"] == [event.topic for event in found]


async def test_the_topic_of_a_tree(history: History, client: PolosClient):
    """The topic of a tree shows the tree's events, and what comes behind its end."""
    long_story(history)

    found = await take(features.stream_topic(client, TREE, last_sequence_id=0), len(STORY) + 1)

    assert [*STORY, "late"] == kinds(found)


@pytest.mark.parametrize("batch", [1, 2, 3])
async def test_a_topic_in_small_batches(
    history: History, client: PolosClient, monkeypatch: pytest.MonkeyPatch, batch: int
):
    """Batches of any size lose and repeat nothing."""
    monkeypatch.setattr(streams, "BATCH_RECORDS", batch)
    for number in range(10):
        history.publish("orders", {"n": number})
        history.publish("other", {})

    assert list(range(10)) == [
        event.data["n"] for event in await take(features.stream_topic(client, "orders", last_sequence_id=0), 10)
    ]
    assert 20 == len(await take(features.stream_topic(client, from_sequence=0), 20))
