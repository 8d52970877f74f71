"""Publishing events, from the engine's process and from others."""

from __future__ import annotations

import asyncio

import pytest
from polos.errors import PolosUsageError
from polos.features import events as features
from polos.runtime.client import PolosClient

from tests.histories import FakeEngine, FakeStore, History, Owner, eventually, run_id

pytestmark = pytest.mark.anyio

A, B = run_id(1), run_id(2)


@pytest.fixture
def history() -> History:
    """An empty history in memory."""
    return History()


@pytest.fixture
def client(history: History) -> PolosClient:
    """A client of a store that nobody owns."""
    return PolosClient.over(FakeStore(history.log))


async def test_publishing_in_the_engines_process(history: History):
    """The answer carries the sequence ids; the command says who publishes."""
    store = FakeStore(history.log)
    client = PolosClient.over(store)
    engine = FakeEngine(store, lambda _id, _command: {"outcome": "published", "detail": {"sequence_ids": [4096]}})

    number = await features.publish(client, "orders", features.EventData(event_type="new", data={"n": 1}), B, A)

    assert 4096 == number
    assert [
        {
            "kind": "publish",
            "topic": "orders",
            "events": [{"event_type": "new", "data": {"n": 1}}],
            "run": B,
            "root": A,
        }
    ] == [command for _, command in engine.commands]


async def test_publishing_from_another_process(history: History):
    """The sequence ids are found at the end of the topic, whatever came behind."""
    store = FakeStore(history.log)
    client = PolosClient.over(store)
    owner = Owner(history, store)
    history.publish("orders", {"n": 0})
    async with asyncio.TaskGroup() as tasks:
        batch = [features.EventData(data={"n": number}) for number in (1, 2)]
        asked = tasks.create_task(features.batch_publish(client, "orders", batch))
        await eventually(store.inbox.pending)
        (item,) = store.inbox.pending()
        history.publish("orders", {"n": 1}, {"n": 2}, origin=item.command_id)
        history.publish("orders", {"n": 3})
        owner.take("published")

    assert [2 * 4096, 3 * 4096] == asked.result()


async def test_publishing_nothing(client: PolosClient):
    """No events need no engine."""
    assert [] == await features.batch_publish(client, "orders", [])


async def test_publishing_nonsense(client: PolosClient):
    """A topic without a name, and data that isn't JSON, are refused before anything is written."""
    with pytest.raises(PolosUsageError, match="topic"):
        await features.publish(client, "", features.EventData())
    with pytest.raises(TypeError, match="event's data"):
        await features.publish(client, "orders", features.EventData(data={"n": object()}))


async def test_the_mirror():
    """The object `events` in the module offers the module's four functions."""
    assert (features.publish, features.batch_publish, features.stream_topic, features.stream_workflow) == (
        features.events.publish,
        features.events.batch_publish,
        features.events.stream_topic,
        features.events.stream_workflow,
    )
