"""
An embedded durable-execution engine: workflows in plain async Python that survive a crash.

Public names are found when they are first used, so that `import polos` loads nothing else and stays fast. Type
checkers read the imports below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polos.agents.agent import Agent
    from polos.agents.batch import batch_agent_invoke
    from polos.agents.budget import Budget
    from polos.agents.context import AgentContext
    from polos.agents.stop_conditions import (
        ExecutedToolConfig,
        HasTextConfig,
        MaxStepsConfig,
        MaxTokensConfig,
        StopConditionContext,
        executed_tool,
        has_text,
        max_steps,
        max_tokens,
        stop_condition,
    )
    from polos.agents.streaming import AgentStreamHandle, StreamResult
    from polos.context import WorkflowContext, WorkflowState
    from polos.definition import Workflow, workflow
    from polos.engine.retry import RetryPolicy
    from polos.errors import StepExecutionError, WorkflowTimeoutError
    from polos.features import archive, events, queues, schedules, triggers
    from polos.middleware.guardrail import GuardrailContext, GuardrailResult, guardrail
    from polos.middleware.hook import HookAction, HookContext, HookResult, hook
    from polos.queueing import Queue, RateLimit, queue
    from polos.registry import get_all_workflows, get_workflow
    from polos.retention import Retention
    from polos.runtime.app import Polos
    from polos.runtime.batch import batch_invoke
    from polos.runtime.client import PolosClient
    from polos.runtime.handle import ExecutionHandle
    from polos.runtime.worker import Worker
    from polos.tools.ask_user import AskUserField, AskUserFieldOption, AskUserInput, create_ask_user_tool
    from polos.tools.tool import Tool, ToolApproval, tool
    from polos.tools.web_search import (
        WebSearchFunction,
        WebSearchOptions,
        WebSearchResult,
        WebSearchResultItem,
        WebSearchToolConfig,
        create_web_search_tool,
    )
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
    from polos.types.agents import AgentConfig, Step
    from polos.types.events import BatchEventPayload, EventPayload
    from polos.types.schedules import SchedulePayload

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentConfig",
    "AgentContext",
    "AgentStreamHandle",
    "AskUserField",
    "AskUserFieldOption",
    "AskUserInput",
    "BatchEventPayload",
    "BatchStepResult",
    "BatchWorkflowInput",
    "Budget",
    "Completed",
    "EventPayload",
    "ExecutedToolConfig",
    "ExecutionHandle",
    "GuardrailContext",
    "GuardrailResult",
    "HasTextConfig",
    "HookAction",
    "HookContext",
    "HookResult",
    "MaxStepsConfig",
    "MaxTokensConfig",
    "NotDone",
    "Polos",
    "PolosClient",
    "Queue",
    "RateLimit",
    "Retention",
    "RetryPolicy",
    "SchedulePayload",
    "Step",
    "StepExecutionError",
    "StillUnknown",
    "StopConditionContext",
    "StreamResult",
    "Tool",
    "ToolApproval",
    "ToolCall",
    "ToolCallFunction",
    "ToolResult",
    "Usage",
    "WebSearchFunction",
    "WebSearchOptions",
    "WebSearchResult",
    "WebSearchResultItem",
    "WebSearchToolConfig",
    "Worker",
    "Workflow",
    "WorkflowContext",
    "WorkflowState",
    "WorkflowTimeoutError",
    "__version__",
    "archive",
    "batch_agent_invoke",
    "batch_invoke",
    "create_ask_user_tool",
    "create_web_search_tool",
    "events",
    "executed_tool",
    "get_all_workflows",
    "get_workflow",
    "guardrail",
    "has_text",
    "hook",
    "max_steps",
    "max_tokens",
    "queue",
    "queues",
    "schedules",
    "stop_condition",
    "tool",
    "triggers",
    "workflow",
]

_HOMES = {
    "Agent": "polos.agents.agent",
    "AgentConfig": "polos.types.agents",
    "AgentContext": "polos.agents.context",
    "AgentStreamHandle": "polos.agents.streaming",
    "AskUserField": "polos.tools.ask_user",
    "AskUserFieldOption": "polos.tools.ask_user",
    "AskUserInput": "polos.tools.ask_user",
    "BatchEventPayload": "polos.types.events",
    "BatchStepResult": "polos.types",
    "BatchWorkflowInput": "polos.types",
    "Budget": "polos.agents.budget",
    "Completed": "polos.types",
    "EventPayload": "polos.types.events",
    "ExecutedToolConfig": "polos.agents.stop_conditions",
    "ExecutionHandle": "polos.runtime.handle",
    "GuardrailContext": "polos.middleware.guardrail",
    "GuardrailResult": "polos.middleware.guardrail",
    "HasTextConfig": "polos.agents.stop_conditions",
    "HookAction": "polos.middleware.hook",
    "HookContext": "polos.middleware.hook",
    "HookResult": "polos.middleware.hook",
    "MaxStepsConfig": "polos.agents.stop_conditions",
    "MaxTokensConfig": "polos.agents.stop_conditions",
    "NotDone": "polos.types",
    "Polos": "polos.runtime.app",
    "PolosClient": "polos.runtime.client",
    "Queue": "polos.queueing",
    "RateLimit": "polos.queueing",
    "Retention": "polos.retention",
    "RetryPolicy": "polos.engine.retry",
    "SchedulePayload": "polos.types.schedules",
    "Step": "polos.types.agents",
    "StepExecutionError": "polos.errors",
    "StillUnknown": "polos.types",
    "StopConditionContext": "polos.agents.stop_conditions",
    "StreamResult": "polos.agents.streaming",
    "Tool": "polos.tools.tool",
    "ToolApproval": "polos.tools.tool",
    "ToolCall": "polos.types",
    "ToolCallFunction": "polos.types",
    "ToolResult": "polos.types",
    "Usage": "polos.types",
    "WebSearchFunction": "polos.tools.web_search",
    "WebSearchOptions": "polos.tools.web_search",
    "WebSearchResult": "polos.tools.web_search",
    "WebSearchResultItem": "polos.tools.web_search",
    "WebSearchToolConfig": "polos.tools.web_search",
    "Worker": "polos.runtime.worker",
    "Workflow": "polos.definition",
    "WorkflowContext": "polos.context",
    "WorkflowState": "polos.context",
    "WorkflowTimeoutError": "polos.errors",
    "batch_agent_invoke": "polos.agents.batch",
    "batch_invoke": "polos.runtime.batch",
    "create_ask_user_tool": "polos.tools.ask_user",
    "create_web_search_tool": "polos.tools.web_search",
    "executed_tool": "polos.agents.stop_conditions",
    "get_all_workflows": "polos.registry",
    "get_workflow": "polos.registry",
    "guardrail": "polos.middleware.guardrail",
    "has_text": "polos.agents.stop_conditions",
    "hook": "polos.middleware.hook",
    "max_steps": "polos.agents.stop_conditions",
    "max_tokens": "polos.agents.stop_conditions",
    "queue": "polos.queueing",
    "stop_condition": "polos.agents.stop_conditions",
    "tool": "polos.tools.tool",
    "workflow": "polos.definition",
}


if not TYPE_CHECKING:  # a checker that saw this would take every misspelt name for a public one

    def __getattr__(name: str) -> Any:
        if name in ("archive", "events", "queues", "schedules", "triggers"):
            found: Any = import_module(f"polos.features.{name}")
        elif name in _HOMES:
            found = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'polos' has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
