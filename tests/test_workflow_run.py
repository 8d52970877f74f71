"""
How a definition becomes runs: the body of an attempt, `invoke`, `run`.

On a client that only remembers what it was asked for.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from datetime import datetime
from typing import Any

import pytest
from polos import registry
from polos.context import WorkflowContext, current_context, current_step, enter_body
from polos.definition import Workflow, workflow
from polos.errors import (
    ExecutionCancelledError,
    ValueRefused,
    WorkflowTimeoutError,
)
from polos.runtime.watch import End
from polos.types.events import BatchEventPayload, EventPayload
from pydantic import BaseModel

from tests.fakeport import context


class Order(BaseModel):
    """A payload."""

    number: int = 0


class Line(BaseModel):
    """Another payload."""

    article: str


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})


# ------------------------------------------------------------------------------------------------ body


def test_a_body_gets_the_decoded_payload():
    """The recorded payload becomes what the function is annotated with, and shares nothing with the record."""
    seen: list[Any] = []

    @workflow
    async def with_model(ctx, payload: Order):
        seen.append(payload)

    @workflow
    async def with_dict(ctx, payload: dict):
        seen.append(payload)

    @workflow
    async def with_events(ctx, payload: BatchEventPayload):
        seen.append(payload.events[0].created_at)

    record: dict[str, Any] = {"number": 3}
    moment = "2026-01-01T00:00:00+00:00"
    asyncio.run(with_model.body(context(), record))
    asyncio.run(with_dict.body(context(), record))
    asyncio.run(
        with_events.body(context(), {"events": [{"id": "1", "sequence_id": 1, "topic": "t", "created_at": moment}]})
    )

    assert seen == [Order(number=3), {"number": 3}, datetime.fromisoformat(moment)]
    assert seen[1] is not record


def test_a_body_without_a_payload():
    """A function without a payload is called without one; a default stands in for none; an optional one is None."""

    @workflow
    async def none(ctx):
        return "none"

    @workflow
    async def default(ctx, payload: dict = {"n": 1}):  # noqa: B006
        return payload

    @workflow
    async def optional(ctx, payload: Order | None):
        return payload

    assert asyncio.run(none.body(context(), {"ignored": 1})) == "none"
    assert asyncio.run(default.body(context(), None)) == {"n": 1}
    assert asyncio.run(default.body(context(), {"n": 2})) == {"n": 2}
    assert asyncio.run(optional.body(context(), None)) is None


def test_a_payload_that_doesnt_fit_fails_the_body():
    """A recorded payload that isn't what the function takes is refused with the place."""

    @workflow
    async def typed(ctx, payload: Order): ...

    with pytest.raises(ValueRefused, match="number"):
        asyncio.run(typed.body(context(), {"number": "many"}))


def test_a_body_belongs_to_its_run():
    """In the body the context is the current one, and no step is, whoever woke the loop that started it."""
    ctx = context()
    found: list[Any] = []

    @workflow
    async def looks(ctx):
        found.extend([current_context(), current_step.get()])

    async def from_a_step() -> None:
        current_step.set("run-0/outer")
        await asyncio.create_task(looks.body(ctx, None))
        found.append(current_context())

    contextvars.copy_context().run(lambda: asyncio.run(from_a_step()))

    assert found == [ctx, None, None]


def test_a_plain_function_runs_in_a_thread():
    """A plain body runs in a thread, with the context variables of its run."""
    found: list[Any] = []

    @workflow
    def blocking(ctx: WorkflowContext, payload: dict):
        found.extend([threading.current_thread() is threading.main_thread(), current_context() is ctx])
        return payload["n"]

    assert asyncio.run(blocking.body(context(), {"n": 3})) == 3
    assert found == [False, True]


# ----------------------------------------------------------------------------------------- invoke, run


async def plain(ctx, payload: dict): ...


class FakeHandle:
    """A handle with nothing behind it."""

    id = "run-9"


class FakeClient:
    """A client that remembers what it was asked for."""

    def __init__(self, **ended: Any) -> None:
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.ended = ended
        self.waited: list[Any] = []

    async def invoke(self, *args: Any, **named: Any) -> FakeHandle:
        self.asked.append((args, named))
        return FakeHandle()

    async def _wait_end(self, run_id: str, timeout_seconds: float | None) -> End:
        self.waited.append((run_id, timeout_seconds))
        return End(**self.ended)


def take_order(**settings: Any) -> Workflow:
    """Define a workflow that takes an order."""

    @workflow(id="take", **settings)
    async def take(ctx, payload: Order) -> Order:
        return payload

    return take


def test_invoke_hands_everything_over():
    """A start is handed to the client with the recorded payload and what the workflow says of queue and tags."""
    client = FakeClient()
    take = take_order(queue={"name": "q", "concurrency_limit": 3}, tags=["t"], run_timeout_seconds=50)
    handle = asyncio.run(take.invoke(client, Order(number=4)))
    asyncio.run(take.invoke(client, {"number": 5}, "other", "key", "s", "u", {"n": 1}, 60))

    assert handle.id == "run-9"
    assert client.asked == [
        (("take", {"number": 4}), {
            "queue_name": "q", "queue_concurrency_limit": 3, "concurrency_key": None, "session_id": None,
            "user_id": None, "initial_state": None, "run_timeout_seconds": 50, "tags": ("t",),
                "priority": 0, "start_after": None, "start_at": None,
        }),
        (("take", {"number": 5}), {
            "queue_name": "other", "queue_concurrency_limit": None, "concurrency_key": "key", "session_id": "s",
            "user_id": "u", "initial_state": {"n": 1}, "run_timeout_seconds": 60, "tags": ("t",),
                "priority": 0, "start_after": None, "start_at": None,
        }),
    ]  # fmt: skip


EVENT: dict[str, Any] = {
    "id": "e", "sequence_id": 1, "topic": "orders", "event_type": None, "data": {},
    "created_at": "2026-01-01T00:00:00Z",
}  # fmt: skip


def test_payloads_that_are_refused():
    """No payload where one is taken, and one that isn't JSON, are refused before anything is asked for."""
    client = FakeClient()
    take = take_order()
    triggered: Workflow = workflow(id="t", trigger_on_event="orders")(plain)
    batched: Workflow = workflow(id="b", trigger_on_event="orders", batch_size=2)(plain)

    with pytest.raises(ValueError, match="'take' takes a payload, and none was given"):
        asyncio.run(take.invoke(client))
    with pytest.raises(TypeError, match=r"payload of workflow 'take' isn't JSON.*object"):
        asyncio.run(take.invoke(client, {"number": object()}))
    with pytest.raises(ValueError, match=r"'t' is triggered by events: its payload must have 'events', or be an event"):
        asyncio.run(triggered.invoke(client, {"n": 1}))
    with pytest.raises(ValueError, match=r"'b' is triggered by events: its payload must have 'events'$"):
        asyncio.run(batched.invoke(client, EVENT))
    with pytest.raises(ValueError, match="run_timeout_seconds must be positive"):
        asyncio.run(take.invoke(client, {"number": 1}, run_timeout_seconds=0))
    assert client.asked == []


def test_payloads_that_are_accepted():
    """Falsy payloads count; one that nobody takes is dropped; one that may be missing may be missing."""
    client = FakeClient()
    nothing: Workflow = workflow(id="nothing")(lambda ctx: None)

    @workflow
    async def maybe(ctx, payload: Order | None): ...

    triggered: Workflow = workflow(id="t", trigger_on_event="orders")(plain)
    batch = BatchEventPayload(events=[])

    for made, payload in (
        (workflow(plain), {}), (nothing, object()), (maybe, None), (triggered, {"events": []}), (triggered, batch),
        (triggered, EVENT), (triggered, EventPayload(**EVENT)), (take_order(), [1, "two"]),
    ):  # fmt: skip
        asyncio.run(made.invoke(client, payload))

    given = [args[1] for args, _ in client.asked]
    assert given == [{}, None, None, {"events": []}, {"events": []}, EVENT, EVENT, [1, "two"]]


def test_a_local_model_can_be_a_payload():
    """A model that can't be imported is a payload all the same: its type stands in the annotation."""

    class Local(BaseModel):
        number: int

    @workflow
    async def local(ctx, payload: Local): ...

    client = FakeClient()
    asyncio.run(local.invoke(client, Local(number=2)))

    assert client.asked[0][0] == ("local", {"number": 2})


def test_runs_dont_start_others_behind_the_log():
    """Inside a run, invoke and run refuse and name what to use instead."""
    take = take_order()
    client = FakeClient()

    async def inside() -> None:
        enter_body(context())
        with pytest.raises(RuntimeError, match=r"'take' can't be started.*ctx\.step\.invoke"):
            await take.invoke(client, {"number": 1})
        with pytest.raises(RuntimeError, match=r"ctx\.step\.invoke_and_wait"):
            await take.run(client, {"number": 1})

    asyncio.run(inside())

    assert client.asked == []


def test_run_gives_the_typed_result():
    """The result is read by the function's annotation; the timeout is the run's as well."""
    client = FakeClient(status="completed", result={"number": 7})

    assert asyncio.run(take_order().run(client, {"number": 7})) == Order(number=7)
    assert client.waited == [("run-9", 600.0)]
    assert client.asked[0][1]["run_timeout_seconds"] == 600.0


def test_run_without_a_timeout_waits_for_ever():
    """None for a timeout waits without end, and leaves the workflow's own limit in force."""
    client = FakeClient(status="completed", result=None)

    @workflow(run_timeout_seconds=9)
    async def slow(ctx): ...

    assert asyncio.run(slow.run(client, timeout=None)) is None
    assert client.waited == [("run-9", None)]
    assert client.asked[0][1]["run_timeout_seconds"] == 9


@pytest.mark.parametrize(
    ("ended", "error", "message"),
    [
        ({"status": "failed", "error": "boom"}, RuntimeError, "^Workflow execution failed: boom$"),
        ({"status": "cancelled", "by": "timeout"}, WorkflowTimeoutError, "run-9 didn't end within 5 s"),
        ({"status": "cancelled", "by": "ann"}, ExecutionCancelledError, "'take' was cancelled by ann"),
    ],
)
def test_run_raises_how_a_run_ended(ended: dict[str, Any], error: type[Exception], message: str):
    """A failed run, one out of time and a cancelled one are three kinds of error (D16)."""
    with pytest.raises(error, match=message):
        asyncio.run(take_order().run(FakeClient(**ended), {"number": 1}, timeout=5))


def test_run_refuses_a_timeout_that_isnt_ahead():
    """A timeout of nothing is a mistake, not a run that is cancelled at once."""
    with pytest.raises(ValueError, match="timeout must be positive and at most a thousand years, it is 0"):
        asyncio.run(take_order().run(FakeClient(), {"number": 1}, timeout=0))
