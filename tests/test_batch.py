"""What an item of a batch may say of its run, beside what it is given."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest
from polos import WorkflowContext, registry, workflow
from polos.runtime.client import PolosClient
from polos.types import BatchWorkflowInput

from tests.histories import FakeEngine, FakeStore, History

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with one workflow, for this test only."""
    monkeypatch.setattr(registry, "_workflows", {})

    @workflow(id="order", tags=("shop",), queue="till")
    async def order(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        return None


@pytest.fixture
def store() -> FakeStore:
    """A store that nobody owns."""
    return FakeStore(History().log)


@pytest.fixture
def client(store: FakeStore) -> PolosClient:
    """A client of that store."""
    return PolosClient.over(store, deployment_id="d")


async def test_each_item_of_a_batch_says_where_it_stands(store: FakeStore, client: PolosClient):
    """Queue, key, priority, tags and the moment to begin are those of the item, and not of its neighbours."""
    engine = FakeEngine(store, lambda _id, _command: {"outcome": "accepted"})
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    items = [
        BatchWorkflowInput(id="order", payload={}, queue="slow", concurrency_key="ada", priority=7, tags=("big",)),
        BatchWorkflowInput(id="order", payload={}, start_at=moment),
        BatchWorkflowInput(id="order", payload={}),
    ]
    await client.batch_invoke(items)
    ((_, command),) = engine.commands
    first, later, plain = (run["created"] for run in cast("Any", command)["runs"])

    said = ("queue", "concurrency_key", "priority", "tags")

    assert ["slow", "ada", 7, [*plain["tags"], "big"]] == [first[name] for name in said]
    assert round(moment.timestamp() * 1e6) == later["start_after_us"]
    assert [plain[name] for name in said] == [later[name] for name in said] != [first[name] for name in said]
    assert plain["start_after_us"] is None


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"queue": ""}, "queue"),
        ({"queue": 5}, "queue"),
        ({"concurrency_key": ""}, "concurrency_key"),
        ({"priority": True}, "priority"),
        ({"priority": 2**40}, "priority"),
        ({"tags": "big"}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"start_after": -1}, "start_after"),
        ({"start_after": 1, "start_at": datetime(2030, 1, 1, tzinfo=UTC)}, "start_after"),
    ],
)
async def test_an_item_that_makes_no_sense_starts_nothing(
    store: FakeStore, client: PolosClient, said: dict[str, Any], error: str
):
    """As at `invoke`: the mistake is told by name, and nothing of the batch is started."""
    with pytest.raises(ValueError, match=error):
        await client.batch_invoke([
            BatchWorkflowInput(id="order", payload={}), BatchWorkflowInput(id="order", payload={}, **said)
        ])  # fmt: skip

    assert [] == list(store.inbox.pending())
