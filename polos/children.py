"""
Requests for child runs: what a run is created with when another run asks for it.

A child is asked for by its parent's name for it (the step key), inherits session, user and deployment, and belongs
to the tree of its parent. What makes it up is computed here from the context and the definition alone, so that
replay computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel

from polos.calls import optional_text, positive, text
from polos.checking import short
from polos.context import Port, WorkflowContext
from polos.definition import Workflow
from polos.engine import events as e
from polos.engine.json import Json
from polos.errors import PolosInternalError, StepExecutionError, ValueRefused
from polos.outcomes import child_result, rfc3339
from polos.registry import get_workflow
from polos.types.types import BatchStepResult, BatchWorkflowInput
from polos.values import digest_arguments, encode

if TYPE_CHECKING:
    from polos.runtime.handle import ExecutionHandle

__all__ = [
    "INITIAL_STATE_BYTES_MAX",
    "ChildOptions",
    "ChildRequest",
    "batch_requests",
    "child_request",
    "encode_initial_state",
    "ended",
    "handle",
    "settled",
]

INITIAL_STATE_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOptions:
    """How a child run differs from what its workflow says."""

    initial_state: BaseModel | dict[str, Any] | None = None
    queue: str | None = None
    concurrency_key: str | None = None
    run_timeout_seconds: float | None = None
    detached: bool = False
    tags: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRequest:
    """A child run to ask for."""

    workflow: Workflow[Any]
    event: e.ChildStarted
    spec: e.RunCreated


def child_request(
    context: WorkflowContext,
    port: Port,
    name: str,
    workflow: str | Workflow[Any],
    payload: object,
    options: ChildOptions,
    *,
    wanted: bool,
) -> ChildRequest:
    """
    Make the request for a child run.

    Args:
        context: the parent's context.
        port: the parent's code.
        name: the request's name.
        workflow: the child's definition, or its id.
        payload: what it is given.
        options: what else was said.
        wanted: whether the parent waits for the end.

    Raises:
        StepExecutionError: there is no such workflow.
        ValueError: the payload is missing, or the initial state too big.
        TypeError: the payload isn't JSON, or an argument is of the wrong type.
    """
    definition = _definition(workflow)
    positive("run_timeout_seconds", options.run_timeout_seconds)
    if options.queue is not None:
        short("queue", options.queue)
    optional_text("concurrency_key", options.concurrency_key)
    for tag in options.tags:
        text("a tag", tag)
    record = definition.encode_payload(payload)
    spec = _spec(context, name, definition, record, options, wanted=wanted)
    event = e.ChildStarted(
        cause=port.cause,
        name=name,
        child=port.new_run_id(),
        workflow=definition.id,
        wanted=wanted,
        detached=options.detached,
        digest=digest_arguments((record,), {}),
    )
    return ChildRequest(workflow=definition, event=event, spec=spec)


def _spec(
    context: WorkflowContext, name: str, definition: Workflow[Any], record: Json, options: ChildOptions, *, wanted: bool
) -> e.RunCreated:
    seconds = options.run_timeout_seconds
    seconds = definition.run_timeout_seconds if seconds is None else seconds
    queue = options.queue or definition.queue_name
    return e.RunCreated(
        workflow=definition.id,
        input=record,
        root=context.root_execution_id,
        root_workflow=context.root_workflow_id,
        parent=context.execution_id,
        step=name,
        wanted=wanted,
        detached=options.detached,
        run_timeout_us=None if seconds is None else round(seconds * 1e6),
        initial_state=encode_initial_state(options.initial_state),
        queue=queue,
        queue_limit=definition.queue_concurrency_limit if queue == definition.queue_name else None,
        concurrency_key=options.concurrency_key,
        session=context.session_id,
        user=context.user_id,
        listed=context.session_id != context.root_execution_id or context.user_id is not None,
        tags=(*definition.tags, *(tag for tag in options.tags if tag not in definition.tags)),
        deployment=context.deployment_id,
        kind=definition.workflow_type,
    )


def encode_initial_state(state: object) -> Json:
    """
    Give an initial state as it is recorded.

    Args:
        state: a model, a dict or None.

    Raises:
        ValueError: it has more than a megabyte.
        TypeError: it is neither a model nor a dict, or isn't JSON.
    """
    if state is None:
        return None
    if not isinstance(state, BaseModel | dict):
        raise TypeError(f"initial_state must be a Pydantic model or a dict, it is {state!r}")
    try:
        encoded, _ = encode(
            cast("object", state), hint=type(state) if isinstance(state, BaseModel) else None, what="initial state"
        )
    except ValueRefused as refused:
        raise TypeError(f"initial_state isn't JSON: {refused}") from refused
    if encoded.size_bytes > INITIAL_STATE_BYTES_MAX:
        raise ValueError(
            f"initial_state has {encoded.size_bytes:,} bytes as JSON, and the limit is {INITIAL_STATE_BYTES_MAX:,}"
        )
    return encoded.value


def handle(context: WorkflowContext, port: Port, step_key: str, recorded: e.Event) -> ExecutionHandle:
    """
    Make the handle of a child from the request as it is recorded.

    Args:
        context: the parent's context.
        port: the parent's code.
        step_key: the key that the program gave.
        recorded: the request; in replay the recorded one, whose child id counts.
    """
    from polos.runtime.handle import ExecutionHandle

    if not isinstance(recorded, e.ChildStarted):
        raise PolosInternalError(f"run {context.execution_id}: the start of {step_key!r} is recorded as {recorded!r}")
    return ExecutionHandle(
        id=recorded.child,
        workflow_id=recorded.workflow,
        created_at=rfc3339(port.fact_us),
        parent_execution_id=context.execution_id,
        root_workflow_id=context.root_workflow_id,
        root_execution_id=context.root_execution_id,
        session_id=context.session_id,
        user_id=context.user_id,
        step_key=step_key,
    )


def _definition(workflow: str | Workflow[Any]) -> Workflow[Any]:
    if isinstance(workflow, Workflow):
        return workflow
    short("workflow", workflow)
    found = get_workflow(workflow)
    if found is None:
        raise StepExecutionError(f"no workflow {workflow!r} is registered in this program")
    return found


def batch_requests(
    context: WorkflowContext, port: Port, step_key: str, inputs: Sequence[BatchWorkflowInput], *, wanted: bool
) -> list[ChildRequest]:
    """Make the requests of a batch, each with a name of its own; raises before any is made if one is wrong."""
    made: list[ChildRequest] = []
    for index, one in enumerate(inputs):
        if said := [*one.when(), *one.once()]:
            raise ValueError(f"{', '.join(said)} of a batch hold for root runs; a child is one of its parent's")
        options = ChildOptions(
            initial_state=one.initial_state, queue=one.queue, concurrency_key=one.concurrency_key,
            run_timeout_seconds=one.run_timeout_seconds, tags=one.tags,
        )  # fmt: skip
        name = port.name(f"{step_key}[{index}]", step_key)
        made.append(child_request(context, port, name, one.id, one.payload, options, wanted=wanted))
    return made


async def ended(port: Port, request: ChildRequest) -> Any:
    """Ask for a child and wait for its result."""
    fact = await port.ask(request.event, spec=request.spec)
    return child_result(request.event.name, request.workflow.id, fact, request.workflow.result_hint)


async def settled(port: Port, request: ChildRequest) -> BatchStepResult:
    """Ask for a child and wait for its end, whichever it is."""
    try:
        result = await ended(port, request)
    except StepExecutionError as error:
        return BatchStepResult(workflow_id=request.workflow.id, success=False, error=error.reason)
    return BatchStepResult(workflow_id=request.workflow.id, success=True, result=result)
