"""
An embedded durable-execution engine: workflows in plain async Python that survive a crash.

Public names are found when they are first used, so that `import polos` loads nothing else and stays fast. Type
checkers read the imports below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polos.context import WorkflowContext, WorkflowState
    from polos.definition import Workflow, workflow
    from polos.engine.retry import RetryPolicy
    from polos.errors import StepExecutionError, WorkflowTimeoutError
    from polos.features import events, queues, schedules, triggers
    from polos.queueing import Queue, RateLimit, queue
    from polos.registry import get_all_workflows, get_workflow
    from polos.retention import Retention
    from polos.runtime.app import Polos
    from polos.runtime.batch import batch_invoke
    from polos.runtime.client import PolosClient
    from polos.runtime.handle import ExecutionHandle
    from polos.runtime.worker import Worker
    from polos.types import (
        BatchStepResult,
        BatchWorkflowInput,
        Completed,
        NotDone,
        StillUnknown,
        ToolCall,
        ToolCallFunction,
        ToolResult,
        Usage,
    )
    from polos.types.events import BatchEventPayload, EventPayload
    from polos.types.schedules import SchedulePayload

__version__ = "0.1.0"

__all__ = [
    "BatchEventPayload",
    "BatchStepResult",
    "BatchWorkflowInput",
    "Completed",
    "EventPayload",
    "ExecutionHandle",
    "NotDone",
    "Polos",
    "PolosClient",
    "Queue",
    "RateLimit",
    "Retention",
    "RetryPolicy",
    "SchedulePayload",
    "StepExecutionError",
    "StillUnknown",
    "ToolCall",
    "ToolCallFunction",
    "ToolResult",
    "Usage",
    "Worker",
    "Workflow",
    "WorkflowContext",
    "WorkflowState",
    "WorkflowTimeoutError",
    "__version__",
    "batch_invoke",
    "events",
    "get_all_workflows",
    "get_workflow",
    "queue",
    "queues",
    "schedules",
    "triggers",
    "workflow",
]

_HOMES = {
    "BatchEventPayload": "polos.types.events",
    "BatchStepResult": "polos.types",
    "BatchWorkflowInput": "polos.types",
    "Completed": "polos.types",
    "EventPayload": "polos.types.events",
    "ExecutionHandle": "polos.runtime.handle",
    "NotDone": "polos.types",
    "Polos": "polos.runtime.app",
    "PolosClient": "polos.runtime.client",
    "Queue": "polos.queueing",
    "RateLimit": "polos.queueing",
    "Retention": "polos.retention",
    "RetryPolicy": "polos.engine.retry",
    "SchedulePayload": "polos.types.schedules",
    "StepExecutionError": "polos.errors",
    "StillUnknown": "polos.types",
    "ToolCall": "polos.types",
    "ToolCallFunction": "polos.types",
    "ToolResult": "polos.types",
    "Usage": "polos.types",
    "Worker": "polos.runtime.worker",
    "Workflow": "polos.definition",
    "WorkflowContext": "polos.context",
    "WorkflowState": "polos.context",
    "WorkflowTimeoutError": "polos.errors",
    "batch_invoke": "polos.runtime.batch",
    "get_all_workflows": "polos.registry",
    "get_workflow": "polos.registry",
    "queue": "polos.queueing",
    "workflow": "polos.definition",
}


if not TYPE_CHECKING:  # a checker that saw this would take every misspelt name for a public one

    def __getattr__(name: str) -> Any:
        if name in ("events", "queues", "schedules", "triggers"):
            found: Any = import_module(f"polos.features.{name}")
        elif name in _HOMES:
            found = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'polos' has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
