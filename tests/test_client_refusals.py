"""
What a client refuses by itself: arguments that no engine could take.

Whether an engine runs, and in which process, makes no difference: nothing is written, and the error names the argument.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, cast

import pytest
from polos import WorkflowContext, registry, workflow
from polos.features import events
from polos.features.events import EventData
from polos.runtime.client import PolosClient
from polos.runtime.connection import Answer, Command
from polos.types import BatchWorkflowInput

from tests.histories import FakeEngine, FakeStore, History, run_id

pytestmark = pytest.mark.anyio

A = run_id(1)
HALF = "a\ud800"  # half of a surrogate pair, which has no UTF-8


@pytest.fixture
def history() -> History:
    """An empty history in memory."""
    return History()


@pytest.fixture
def store(history: History) -> FakeStore:
    """A store that nobody owns."""
    return FakeStore(history.log)


@pytest.fixture
def client(store: FakeStore) -> PolosClient:
    """A client of that store."""
    return PolosClient.over(store)


def accepted(_id: str, _command: Command) -> Answer:
    return {"outcome": "accepted"}


async def order(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Give back what it was given."""
    return payload


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"workflow_id": HALF}, ValueError, "workflow_id"),
        ({"workflow_id": ""}, ValueError, "workflow_id"),
        ({"workflow_id": None}, TypeError, "workflow_id"),
        ({"queue_name": HALF}, ValueError, "queue_name"),
        ({"queue_name": "q", "queue_concurrency_limit": 0}, ValueError, "queue_concurrency_limit"),
        ({"concurrency_key": HALF}, ValueError, "concurrency_key"),
        ({"session_id": HALF}, ValueError, "session_id"),
        ({"user_id": HALF}, ValueError, "user_id"),
        ({"user_id": 5}, TypeError, "user_id"),
        ({"tags": ["fine", HALF]}, ValueError, "tags"),
        ({"tags": "shop"}, TypeError, "tags"),
        *(({"run_timeout_seconds": n}, ValueError, "run_timeout_seconds") for n in (0, -1, 1e18, float("nan"))),
    ],
)
async def test_invoke_refuses_arguments_that_no_run_can_have(
    store: FakeStore, client: PolosClient, options: dict[str, Any], error: type[Exception], named: str
):
    """An argument that an engine couldn't take is refused by its name, before anything is written."""
    with pytest.raises(error, match=rf"^(each of )?{named} "):
        await client.invoke(**{"workflow_id": "order", "payload": {}, **options})

    assert [] == list(store.inbox.pending())


async def test_an_empty_session_is_none(store: FakeStore, client: PolosClient):
    """Programs that have no session or user may say so by an empty text."""
    engine = FakeEngine(store, accepted)
    await client.invoke("order", {}, session_id="", user_id="")
    ((_, command),) = engine.commands

    assert cast("Any", command)["runs"][0]["created"]["session"] != ""


async def test_a_batch_refuses_arguments_that_no_run_can_have(
    store: FakeStore, client: PolosClient, monkeypatch: pytest.MonkeyPatch
):
    """A run of a batch is looked at like any other, and then none of the batch is started."""
    monkeypatch.setattr(registry, "_workflows", {})
    workflow(id="order")(order)
    items = [BatchWorkflowInput(id="order", payload={}), BatchWorkflowInput(id="order", run_timeout_seconds=-1)]
    with pytest.raises(ValueError, match=r"^run_timeout_seconds "):
        await client.batch_invoke(items)
    with pytest.raises(ValueError, match=r"^session_id "):
        await client.batch_invoke(items[:1], HALF)

    assert [] == list(store.inbox.pending())


async def test_commands_refuse_what_cannot_be_written(history: History, store: FakeStore, client: PolosClient):
    """A name or a remark that has no UTF-8 is refused by its name, before a command is put."""
    history.begin(A)
    asked: dict[str, list[Awaitable[Any]]] = {
        "suspend_step_key": [client.resume("order", A, HALF, {})],
        "name": [client.signal(A, HALF), client.query(A, HALF), client.update(A, HALF)],
        "step": [client.resolve(A, HALF, "not_done")],
        "message": [client.resolve(A, "pay", "failed", message=HALF)],
        "reason": [client.cancel_execution(A, reason=HALF)],
        "by": [
            client.cancel_execution(A, by=HALF),
            client.resolve(A, "pay", "failed", by=HALF),
            client.readmit(A, by=HALF),
        ],
        "topic": [events.publish(client, HALF, EventData(data={}))],
        "event_type": [events.publish(client, "shop", EventData(data={}, event_type=HALF))],
        "execution_id": [events.publish(client, "shop", EventData(data={}), HALF)],
        "root_execution_id": [events.publish(client, "shop", EventData(data={}), A, HALF)],
    }
    for name, each in asked.items():
        for one in each:
            with pytest.raises(ValueError, match=rf"^{name} must be a text that can be written"):
                await one
    with pytest.raises(ValueError, match=r"^topic must be a text that can be written"):
        events.stream_topic(client, HALF)
    with pytest.raises(TypeError, match=r"^by must be a text"):
        await client.readmit(A, by=cast("Any", 5))

    assert [] == list(store.inbox.pending())
