"""Handles: what they show, and whom they ask."""

from __future__ import annotations

import logging

import pytest
from polos import registry
from polos.context import WorkflowContext
from polos.definition import workflow
from polos.engine import events as e
from polos.errors import PolosUsageError
from polos.runtime.client import ExecutionHandle, PolosClient
from pydantic import BaseModel

from tests.histories import FakeStore, History, run_id

pytestmark = pytest.mark.anyio

A = run_id(1)


class Order(BaseModel):
    """What the workflow of these tests gives."""

    number: int = 0


@pytest.fixture(autouse=True)
def definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with one workflow, for this test only."""
    monkeypatch.setattr(registry, "_workflows", {})

    @workflow(id="order")
    async def order(ctx: WorkflowContext) -> Order:
        return Order()


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


async def test_get_shows_what_programs_know(history: History, client: PolosClient):
    """A handle gives exactly the documented keys, its result typed as the workflow declares."""
    history.begin(A)
    history.run(A, e.RunCompleted(cause=2, result={"number": 5}))
    handle = ExecutionHandle(id=A, root_workflow_id="order").remembering(client)

    assert {
        "status": "completed",
        "result": Order(number=5),
        "error": None,
        "created_at": "2026-01-01T00:00:00.000000+00:00",
        "completed_at": "2026-01-01T00:00:01.000000+00:00",
        "parent_execution_id": None,
        "root_workflow_id": "order",
        "root_execution_id": A,
        "output_schema_name": None,
        "step_key": None,
    } == await handle.get()
    assert {"number": 5} == (await client.get_execution(A))["result"]


async def test_get_by_the_recorded_type(history: History, client: PolosClient):
    """The result of a workflow that isn't registered here is typed by what is recorded."""
    history.begin(A, "elsewhere")
    history.run(A, e.RunCompleted(cause=2, result={"number": 5}, result_type=f"{Order.__module__}.Order"))

    assert Order(number=5) == (await ExecutionHandle(id=A).get(client))["result"]


async def test_get_of_a_result_that_no_longer_fits(
    history: History, client: PolosClient, caplog: pytest.LogCaptureFixture
):
    """A record that the declared type can't read any more is given as plain JSON, with a warning."""
    history.begin(A)
    history.run(A, e.RunCompleted(cause=2, result={"number": "many"}))
    with caplog.at_level(logging.WARNING, logger="polos"):
        found = await ExecutionHandle(id=A).get(client)

    assert {"number": "many"} == found["result"]
    assert [f"the result of run {A}"] == [record.getMessage()[: 18 + len(A)] for record in caplog.records]


async def test_get_of_a_run_that_has_no_result(history: History, client: PolosClient):
    """A run under way has no result, and no type is asked of it."""
    history.begin(A)

    found = await ExecutionHandle(id=A).get(client)
    assert ("running", None) == (found["status"], found["result"])


async def test_a_handle_out_of_storage_needs_a_client(client: PolosClient, history: History):
    """A handle that was stored and read again has its fields, and says when it is asked without a client."""
    history.begin(A)
    stored = ExecutionHandle(id=A, workflow_id="order").remembering(client).model_dump_json()
    handle = ExecutionHandle.model_validate_json(stored)
    for asked in (handle.get(), handle.cancel(), handle.signal("go"), handle.query(), handle.update("set")):
        with pytest.raises(PolosUsageError, match="remembers no client"):
            await asked

    assert "running" == (await handle.get(client))["status"]
    assert await handle.query(client=client) is None
