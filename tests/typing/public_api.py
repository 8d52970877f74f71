"""
What type checkers must say about the names that a program uses.

Checked by mypy and pyright, never run. A line with `type: ignore` is a mistake that a checker has to find: unused
ignores are errors, so a checker that stops finding it fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, assert_type

import polos
from polos import (
    BatchEventPayload,
    BatchStepResult,
    BatchWorkflowInput,
    Completed,
    EventPayload,
    ExecutionHandle,
    NotDone,
    Polos,
    PolosClient,
    RetryPolicy,
    StepExecutionError,
    StillUnknown,
    ToolCall,
    ToolCallFunction,
    ToolResult,
    Usage,
    Worker,
    Workflow,
    WorkflowContext,
    WorkflowState,
    WorkflowTimeoutError,
    batch_invoke,
    events,
    get_all_workflows,
    get_workflow,
    workflow,
)
from polos.types import Reconciled, ResumeEvent
from pydantic import BaseModel

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Order(BaseModel):
    """A payload."""

    number: int


class Counter(WorkflowState):
    """A state."""

    count: int = 0


def price(order: Order) -> float:
    """Be a plain step."""
    return order.number * 1.5


async def charge(cents: float) -> str:
    """Be an async step."""
    return f"{cents}"


def still_open(cents: float) -> Reconciled:
    """Be asked about a step."""
    return Completed("x") if cents > 2 else NotDone() if cents > 1 else StillUnknown()


# ------------------------------------------------------------------------------------------ definitions


@workflow
async def bare(ctx: WorkflowContext, payload: Order) -> str:
    """Use every method of ctx.step."""
    step = ctx.step
    assert_type(await step.run("price", price, payload), float)
    assert_type(await step.run("charge", charge, 1.0, max_retries=3, timeout_seconds=5), str)
    assert_type(await step.run(price, payload), float)
    assert_type(await step.run(charge, 1.0), str)
    assert_type(await step.run("reconciled", charge, 1.0, effect="at_most_once", reconcile=still_open), str)
    await step.run("charge", charge, 1.0, max_retries="3")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(await step.wait_for("nap", seconds=1), None)
    assert_type(await step.wait_until("later", NOON), None)
    answer = await step.suspend("ask", {"a": 1}, timeout=60)
    assert_type(answer, ResumeEvent)
    assert_type(answer.sequence_id, int)
    assert_type(answer.get("data", {}), Any)
    assert_type(await step.wait_for_event("event", "topic", since=1), EventPayload)
    assert_type(await step.wait_for_signal("go"), Any)
    assert_type(await step.invoke("i", bare, payload), ExecutionHandle)
    assert_type(await step.invoke_and_wait("w", bare, payload), str)
    assert_type(await step.invoke_and_wait("w", called, {"n": 1}), int)
    assert_type(await step.invoke_and_wait("w", plain), list[int])
    assert_type(await step.invoke_and_wait("w", "by id"), Any)
    inputs = [BatchWorkflowInput(id="bare", payload={}, queue="slow", tags=["big"], concurrency_key="ada", priority=1)]
    assert_type(await step.batch_invoke("b", inputs), list[ExecutionHandle])
    assert_type(await step.batch_invoke_and_wait("b", inputs), list[BatchStepResult])
    assert_type(await step.publish_event("p", "topic", {}), None)
    assert_type(await step.publish_workflow_event("p", {}), None)
    assert_type(await step.resume("r", "ask", "run", "bare", {}), None)
    assert_type(await step.uuid("u"), str)
    assert_type(await step.now("n"), int)
    assert_type(await step.random("r"), float)
    assert_type(step.idempotency_key, str)
    with step.trace("load", {"rows": 1}) as span:
        assert_type(span, Any)
    return "done"


@workflow(id="called", retries=RetryPolicy(max_retries=1), state_schema=Counter, tags=["a"], schedule=True)
async def called(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Use the context."""
    assert_type(ctx.execution_id, str)
    assert_type(ctx.session_id, str | None)
    assert_type(ctx.cancel_requested, bool)
    assert_type(ctx.patched("new"), bool)
    ctx.logger.info("hello %s", payload)
    ctx.on_query("state", lambda: 1)
    ctx.on_update("add", lambda data: data, validator=lambda data: None)
    ctx.on_update("add", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    if payload:
        ctx.continue_as_new({"page": 2})
    return 1


@workflow()
def plain(ctx: WorkflowContext) -> list[int]:
    """Run in a thread."""
    return []


workflow(id="x", shedule=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

assert_type(bare, Workflow[str])
assert_type(called, Workflow[int])
assert_type(plain, Workflow[list[int]])
assert_type(get_workflow("bare"), Workflow[Any] | None)
assert_type(get_all_workflows(), dict[str, Workflow[Any]])
polos.nothing  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnusedExpression]


def any_workflow(one: Workflow) -> str:
    """Take a definition whose result doesn't matter."""
    return one.id


any_workflow(bare)

# --------------------------------------------------------------------------------------------- starting


async def main(client: PolosClient, worker: Worker) -> None:
    """Start runs."""
    async with Polos(log_file="polos.log") as engine:
        assert_type(engine, Polos)
        assert_type(await bare.run(engine, Order(number=1)), str)
        assert_type(await called.run(client, {}, timeout=None), int)
        handle = await bare.invoke(client, {"number": 1}, session_id="s")
        assert_type(handle, ExecutionHandle)
        assert_type(await batch_invoke(client, [BatchWorkflowInput(id="bare")]), list[ExecutionHandle])
        assert_type(await events.publish(client, "topic", events.EventData(data={})), int)
    try:
        await worker.run()
    except StepExecutionError as error:
        assert_type(error.reason, str)
    except WorkflowTimeoutError as error:
        assert_type(error.waiting_reason, str | None)


def takes(item: BatchEventPayload) -> Callable[[], Awaitable[None]] | Coroutine[Any, Any, None] | None:
    """Use a trigger's payload."""
    assert_type(item.events[0].created_at, datetime)
    return None


def of_a_model(call: ToolCall, result: ToolResult) -> Usage:
    """Read what a model wanted, what came of it and what it used."""
    assert_type(call.function, ToolCallFunction)
    assert_type(call.call_id, str | None)
    assert_type(result.error, str | None)
    usage = Usage(input_tokens=1)
    assert_type(usage.cache_read_input_tokens, int | None)
    return usage
