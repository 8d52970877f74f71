"""Public data types."""

from __future__ import annotations

from polos.types.answers import Completed, NotDone, Reconciled, ResumeEvent, StillUnknown
from polos.types.bulk import BulkResult
from polos.types.llm import ToolCall, ToolCallFunction, ToolResult, Usage
from polos.types.types import BatchStepResult, BatchWorkflowInput

__all__ = [
    "BatchStepResult",
    "BatchWorkflowInput",
    "BulkResult",
    "Completed",
    "NotDone",
    "Reconciled",
    "ResumeEvent",
    "StillUnknown",
    "ToolCall",
    "ToolCallFunction",
    "ToolResult",
    "Usage",
]
