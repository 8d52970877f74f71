"""Starting many runs at once, as a function beside the client's method."""

from __future__ import annotations

from typing import Protocol

from polos.runtime.handle import ExecutionHandle
from polos.types import BatchWorkflowInput

__all__ = ["batch_invoke"]


class BatchClient(Protocol):
    """What `batch_invoke` needs of a client: `PolosClient` and `Polos` both have it."""

    async def batch_invoke(
        self, workflows: list[BatchWorkflowInput], session_id: str | None = None, user_id: str | None = None
    ) -> list[ExecutionHandle]:
        """Start many runs in one commit."""
        ...


async def batch_invoke(
    client: BatchClient,
    workflows: list[BatchWorkflowInput],
    session_id: str | None = None,
    user_id: str | None = None,
) -> list[ExecutionHandle]:
    """
    Start many runs in one commit, durably when it returns; the handles come in the order of `workflows`.

    Raises:
        RuntimeError: called inside a run; there it is `ctx.step.batch_invoke`.
        ValueError: a workflow isn't registered in this program.
    """
    from polos.context import current_context

    if current_context() is not None:
        raise RuntimeError("batch_invoke() starts root runs; inside a workflow use ctx.step.batch_invoke()")
    return await client.batch_invoke(workflows, session_id=session_id, user_id=user_id)
