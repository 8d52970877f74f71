"""
Child runs asked for by `ctx.step`, one by one and in batches.

What a child inherits, what is refused before anything is asked for, and what a child's end means to its parent.
"""

from __future__ import annotations

from typing import Any

import pytest
from polos import registry
from polos.context import WorkflowContext
from polos.definition import workflow
from polos.engine import events as e
from polos.errors import PolosInternalError, StepExecutionError
from polos.types import BatchStepResult, BatchWorkflowInput
from pydantic import BaseModel

from tests.fakeport import FakePort, context, play


class Receipt(BaseModel):
    """A step's typed result."""

    cents: int


FAILURE = e.Failure(type="ValueError", message="no money", traceback="Traceback: no money")


def charge(cents: int) -> Receipt:
    return Receipt(cents=cents)


async def fetch(url: str) -> str:
    return f"body of {url}"


@pytest.fixture(autouse=True)
def _workflows(monkeypatch: pytest.MonkeyPatch):
    """Give each test a registry of its own, with a child workflow in it."""
    monkeypatch.setattr(registry, "_workflows", {})

    @workflow(id="ship", tags=["logistics"], run_timeout_seconds=60, queue={"name": "ships", "concurrency_limit": 2})
    async def ship(ctx: WorkflowContext, payload: dict[str, Any]) -> Receipt:
        return Receipt(cents=1)


# ------------------------------------------------------------------------------------------- children


def test_invoke_starts_a_child():
    """A child is asked for with all that it inherits and all that was said, and its handle is complete."""
    port = FakePort()
    ctx = context(port, root_execution_id="run-0", root_workflow_id="shop")
    made = play(
        ctx,
        lambda ctx: ctx.step.invoke(
            "send",
            "ship",
            {"to": "x"},
            {"count": 1},
            "fast",
            "customer-1",
            30,
            detached=True,
            tags=["logistics", "vip"],
        ),
    )

    assert port.specs == [
        e.RunCreated(
            workflow="ship", input={"to": "x"}, root="run-0", root_workflow="shop", parent="run-1", step="send",
            wanted=False, detached=True, run_timeout_us=30_000_000, initial_state={"count": 1}, queue="fast",
            queue_limit=None, concurrency_key="customer-1", session="session-1", user="user-1", listed=True,
            tags=("logistics", "vip"), deployment="blue",
        )
    ]  # fmt: skip
    asked = port.asked[0]
    assert isinstance(asked, e.ChildStarted)
    assert (asked.name, asked.child, asked.workflow, asked.wanted, asked.detached) == (
        "send", "child-1", "ship", False, True,
    )  # fmt: skip
    assert made.to_dict() | {"accepted": True} == {
        "id": "child-1", "workflow_id": "ship", "created_at": "2026-01-01T00:00:00.000000+00:00",
        "parent_execution_id": "run-1", "root_workflow_id": "shop", "root_execution_id": "run-0",
        "session_id": "session-1", "user_id": "user-1", "step_key": "send", "accepted": True,
    }  # fmt: skip


def test_invoke_uses_what_the_workflow_says():
    """Without options a child has the queue, limit, timeout and tags of its definition."""
    port = FakePort()
    play(context(port), lambda ctx: ctx.step.invoke("send", registry.get_all_workflows()["ship"], {}))
    spec = port.specs[0]

    assert spec is not None
    assert (spec.queue, spec.queue_limit, spec.run_timeout_us, spec.tags) == ("ships", 2, 60_000_000, ("logistics",))


def test_invoke_gives_the_recorded_child():
    """In replay the child is the one in the record, not the one whose id was just made."""
    port = FakePort()
    port.answer(e.ChildStarted(cause=7, name="send", child="recorded", workflow="ship", wanted=False))

    assert play(context(port), lambda ctx: ctx.step.invoke("send", "ship", {})).id == "recorded"


def test_a_start_that_isnt_one_is_our_bug():
    """What is recorded for a start and is no start is reported as a defect of polos."""
    port = FakePort()
    port.answer(e.TimerFired(name="send"))

    with pytest.raises(PolosInternalError, match="the start of 'send' is recorded as"):
        play(context(port), lambda ctx: ctx.step.invoke("send", "ship", {}))


def test_invoke_and_wait_gives_the_typed_result():
    """A child's result is read by the annotation of its workflow."""
    port = FakePort()
    port.answer(e.ChildFinished(name="send", child="child-1", status="completed", result={"cents": 9}))
    result = play(context(port), lambda ctx: ctx.step.invoke_and_wait("send", "ship", {}))

    assert result == Receipt(cents=9)
    assert port.specs[0] is not None
    assert port.specs[0].wanted


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(FAILURE, "failed", "no money"), (None, "cancelled", "run child-1 of workflow 'ship' was cancelled")],
)
def test_a_child_that_didnt_complete_raises(error: e.Failure | None, status: str, message: str):
    """A failed child raises its own error, a cancelled one that it was cancelled (D17)."""
    port = FakePort()
    port.answer(e.ChildFinished(name="send", child="child-1", status=status, error=error))

    with pytest.raises(StepExecutionError) as caught:
        play(context(port), lambda ctx: ctx.step.invoke_and_wait("send", "ship", {}))

    assert str(caught.value) == message
    assert caught.value.error_type == (error and error.type)


def test_children_that_cant_be_are_refused():
    """An unknown workflow, a missing payload, one that isn't JSON: each is refused and nothing is asked for."""
    port = FakePort()
    cases: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        (("nowhere", {}), {}, StepExecutionError, "no workflow 'nowhere' is registered"),
        ((3, {}), {}, TypeError, "workflow must be a text, it is 3"),
        (("ship",), {}, ValueError, "takes a payload, and none was given"),
        (("ship", {"x": object()}), {}, TypeError, "isn't JSON"),
        (("ship", {}), {"run_timeout_seconds": 0}, ValueError, "run_timeout_seconds must be positive"),
        (("ship", {}), {"queue": ""}, ValueError, "queue must not be empty"),
        (("ship", {}), {"concurrency_key": 5}, TypeError, "concurrency_key must be a text"),
        (("ship", {}), {"tags": [None]}, TypeError, "a tag must be a text"),
        (("ship", {}), {"initial_state": "x"}, TypeError, "initial_state must be a Pydantic model or a dict"),
        (("ship", {}), {"initial_state": {"x": object()}}, TypeError, "initial_state isn't JSON"),
        (("ship", {}), {"initial_state": {"x": "y" * 1_100_000}}, ValueError, "the limit is 1,048,576"),
    ]

    for arguments, options, error, message in cases:
        with pytest.raises(error, match=message):
            play(context(port), lambda ctx: ctx.step.invoke("send", *arguments, **options))  # noqa: B023
    assert port.asked == []


@pytest.mark.parametrize("direct", [False, True])
def test_batch_invoke_asks_for_all_at_once(direct: bool):
    """A batch is one request an item, in order, each with a name of its own, all before anything else runs."""
    port = FakePort(direct=direct)
    items = [BatchWorkflowInput(id="ship", payload={"n": n}, run_timeout_seconds=n + 1) for n in range(3)]
    handles = play(context(port), lambda ctx: ctx.step.batch_invoke("all", items))

    assert [made.id for made in handles] == ["child-1", "child-2", "child-3"]
    assert [made.step_key for made in handles] == ["all"] * 3
    assert port.names == ["all[0]", "all[1]", "all[2]"]
    assert [spec and (spec.input, spec.run_timeout_us) for spec in port.specs] == [
        ({"n": n}, (n + 1) * 1_000_000) for n in range(3)
    ]


@pytest.mark.parametrize("waits", [False, True])
def test_each_child_of_a_batch_says_where_it_stands(waits: bool):
    """Queue, key and tags are those of the item; when a child begins is its parent's affair."""
    port = FakePort()
    if waits:
        port.answer(*(e.ChildFinished(name=f"all[{n}]", child=f"child-{n + 1}", status="cancelled") for n in range(2)))
    items = [
        BatchWorkflowInput(id="ship", payload={}, queue="slow", concurrency_key="ada", tags=("big",)),
        BatchWorkflowInput(id="ship", payload={}),
    ]
    play(context(port), lambda ctx: (ctx.step.batch_invoke_and_wait if waits else ctx.step.batch_invoke)("all", items))
    first, plain = (spec for spec in port.specs if spec is not None)

    assert ("slow", "ada", (*plain.tags, "big")) == (first.queue, first.concurrency_key, first.tags)
    assert plain.concurrency_key is None
    assert "slow" != plain.queue
    for said in ({"priority": 1}, {"start_after": 5.0}, {"queue": ""}):
        with pytest.raises(ValueError, match=next(iter(said))):
            play(
                context(FakePort()),
                lambda ctx: ctx.step.batch_invoke("all", [BatchWorkflowInput(id="ship", payload={}, **said)]),  # noqa: B023
            )


def test_batch_invoke_and_wait_gives_every_end():
    """Ends come in the order of the requests, and a failure is a result."""
    port = FakePort()
    port.answer(
        e.ChildFinished(name="all[0]", child="child-1", status="completed", result={"cents": 1}),
        e.ChildFinished(name="all[1]", child="child-2", status="failed", error=FAILURE),
        e.ChildFinished(name="all[2]", child="child-3", status="cancelled"),
    )
    items = [BatchWorkflowInput(id="ship", payload={}) for _ in range(3)]

    assert play(context(port), lambda ctx: ctx.step.batch_invoke_and_wait("all", items)) == [
        BatchStepResult(workflow_id="ship", success=True, result=Receipt(cents=1)),
        BatchStepResult(workflow_id="ship", success=False, error="no money"),
        BatchStepResult(workflow_id="ship", success=False, error="run child-3 of workflow 'ship' was cancelled"),
    ]


def test_an_empty_batch_is_nothing():
    """A batch of nothing gives an empty list and asks for nothing."""
    port = FakePort()

    async def body(ctx: WorkflowContext) -> Any:
        return await ctx.step.batch_invoke("a", []), await ctx.step.batch_invoke_and_wait("b", [])

    assert play(context(port), body) == ([], [])
    assert port.asked == []


def test_a_batch_with_one_mistake_starts_nothing():
    """One unknown workflow in a batch, and none of it is asked for."""
    port = FakePort()
    items = [BatchWorkflowInput(id="ship", payload={}), BatchWorkflowInput(id="nowhere", payload={})]

    for method in ("batch_invoke", "batch_invoke_and_wait"):
        with pytest.raises(StepExecutionError, match="no workflow 'nowhere'"):
            play(context(port), lambda ctx: getattr(ctx.step, method)("all", items))  # noqa: B023
    assert port.asked == []
