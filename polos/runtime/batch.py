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

    ```python run
    import asyncio, tempfile
    from polos import BatchWorkflowInput, Polos, batch_invoke, events, workflow

    @workflow
    async def square(ctx, payload: dict):
        return payload["n"] ** 2

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                wanted = [BatchWorkflowInput(id="square", payload={"n": n}) for n in range(3)]
                for handle in await batch_invoke(polos, wanted):
                    async for event in events.stream_workflow(polos, "square", handle.id):
                        print(event.event_type, event.data)

    asyncio.run(main())
    ```

    Raises:
        RuntimeError: called inside a run; there it is `ctx.step.batch_invoke`.
        ValueError: a workflow isn't registered in this program.
    """
    from polos.context import current_context

    if current_context() is not None:
        raise RuntimeError("batch_invoke() starts root runs; inside a workflow use ctx.step.batch_invoke()")
    return await client.batch_invoke(workflows, session_id=session_id, user_id=user_id)
