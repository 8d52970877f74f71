"""
Data that programs exchange with workflows: requests for batches of runs, and their results.

Pydantic models, because programs build, validate and dump them; field names are those that programs already use.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from polos.types.llm import ToolCall, ToolCallFunction, ToolResult, Usage

__all__ = ["BatchStepResult", "BatchWorkflowInput", "ToolCall", "ToolCallFunction", "ToolResult", "Usage"]


class BatchWorkflowInput(BaseModel):
    """
    One run of a batch to be started.

    ```python run
    from polos import BatchWorkflowInput

    orders = [BatchWorkflowInput(id="ship", payload={"order": number}) for number in range(3)]
    print(orders[2].payload)
    ```

    Attributes:
        id: id of the workflow.
        payload: what it is given.
        initial_state: what its `ctx.state` begins with.
        run_timeout_seconds: after which it is cancelled.
    """

    id: str
    payload: Any = None
    initial_state: Any = None
    run_timeout_seconds: float | None = None


class BatchStepResult(BaseModel):
    """
    How one run of a batch ended.

    ```python run
    from polos import BatchStepResult

    results = [
        BatchStepResult(workflow_id="review", success=True, result="fine"),
        BatchStepResult(workflow_id="review", success=False, error="too long"),
    ]
    print([one.result if one.success else one.error for one in results])
    ```

    Attributes:
        workflow_id: id of the workflow.
        success: whether it completed.
        result: what it returned, typed; None if it failed.
        error: why it failed, as text.
    """

    workflow_id: str
    success: bool
    result: Any = None
    error: str | None = None
