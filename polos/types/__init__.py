"""Public data types."""

from __future__ import annotations

from polos.types.agents import AgentConfig, AgentResult, Step
from polos.types.answers import Completed, NotDone, Reconciled, ResumeEvent, StillUnknown
from polos.types.bulk import BulkResult
from polos.types.llm import ToolCall, ToolCallFunction, ToolResult, Usage
from polos.types.types import BatchStepResult, BatchWorkflowInput

__all__ = [
    "AgentConfig",
    "AgentResult",
    "BatchStepResult",
    "BatchWorkflowInput",
    "BulkResult",
    "Completed",
    "NotDone",
    "Reconciled",
    "ResumeEvent",
    "Step",
    "StillUnknown",
    "ToolCall",
    "ToolCallFunction",
    "ToolResult",
    "Usage",
]
