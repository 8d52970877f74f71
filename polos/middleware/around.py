"""Hooks around a run: what they change of its payload and of its result."""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel

from polos.context import WorkflowContext
from polos.definition import Workflow
from polos.engine.json import Json
from polos.middleware.hook import HookContext, call_hooks
from polos.values import decode

__all__ = ["with_hooks"]


async def with_hooks(definition: Workflow[Any], context: WorkflowContext, record: Json) -> Any:
    """
    Run a body between its hooks.

    Args:
        definition: what is run.
        context: of the attempt.
        record: the payload as JSON.

    Returns:
        The result, as the hooks leave it.

    Raises:
        StepExecutionError: a hook wants the run to fail.
    """
    payload: Any = (*definition.arguments(context, record)[1:], None)[0]
    told = HookContext(
        workflow_id=definition.id,
        session_id=context.session_id,
        user_id=context.user_id,
        agent_config=definition.hook_config,
        current_payload=definition.hook_payload(payload),
    )
    changes = (await call_hooks(context, "on_start", definition.on_start, told)).modified_payload
    if changes is not None:
        changes = definition.hook_changes(changes)
        record = cast("Json", {**record, **changes} if isinstance(record, dict) else changes)
        payload = (*definition.arguments(context, record)[1:], None)[0]
    result = await definition.call(context, definition.arguments(context, record), record)
    told = told.model_copy(update={"current_payload": definition.hook_payload(payload), "current_output": result})
    left = definition.hook_output
    output = (await call_hooks(context, "on_end", definition.on_end, told, left=left)).modified_output
    if output is None:
        return result
    return output if isinstance(output, BaseModel) else decode(output, hint=definition.result_hint)
