"""
Data that programs exchange with workflows: requests for batches of runs, and their results.

Pydantic models, because programs build, validate and dump them; field names are those that programs already use.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, cast

from pydantic import BaseModel, Field

from polos.once import Once, SingletonPolicy
from polos.types.llm import ToolCall, ToolCallFunction, ToolResult, Usage

__all__ = ["BatchStepResult", "BatchWorkflowInput", "ToolCall", "ToolCallFunction", "ToolResult", "Usage"]


Seconds = Annotated[float, Field(strict=True)]  # True and "5" are mistakes here as everywhere
Whole = Annotated[int, Field(strict=True)]
Moment = Annotated[datetime, Field(strict=True)]  # "2030" would be half an hour into 1970


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
        queue: its queue, else the workflow's own.
        concurrency_key: counted for itself within the queue.
        tags: beside those of the workflow.
        priority: as at `invoke`, like all that follow; for root runs, not for children.
        start_after: see there.
        start_at: see there.
        idempotency_key: see there.
        singleton: see there.
        singleton_policy: see there.
        debounce_seconds: see there.
        debounce_key: see there.
        debounce_max_seconds: see there.
    """

    id: str
    payload: Any = None
    initial_state: Any = None
    run_timeout_seconds: float | None = None
    queue: str | None = None
    concurrency_key: str | None = None
    tags: Sequence[str] = ()
    priority: Whole | None = None
    start_after: Seconds | None = None
    start_at: Moment | None = None
    idempotency_key: str | None = None
    singleton: str | None = None
    singleton_policy: SingletonPolicy | None = None
    debounce_seconds: Seconds | None = None
    debounce_key: str | None = None
    debounce_max_seconds: Seconds | None = None

    def when(self) -> dict[str, Any]:
        """Give what was said of when the run begins."""
        given = {"priority": self.priority, "start_after": self.start_after, "start_at": self.start_at}
        return {name: value for name, value in given.items() if value is not None}

    def once(self) -> Once:
        """Give what was said of there being one run instead of two."""
        given = {name: getattr(self, name) for name in Once.__annotations__}
        return cast("Once", {name: value for name, value in given.items() if value is not None})


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
