"""
What type checkers must say about versions, pinning, draining and retention.

Checked by mypy and pyright, never run; as in `public_api`, a `type: ignore` is a mistake that must be found.
"""

from __future__ import annotations

from typing import assert_type

from polos import Polos, Retention, Worker, Workflow, WorkflowContext, workflow


@workflow(id="typed_deployed", version="2024-06", pin=True, retention=Retention(max_count=3, keep_deltas=False))
async def deployed(ctx: WorkflowContext) -> int:
    """Be pinned."""
    return 1


assert_type(deployed, Workflow[int])
assert_type(Retention(max_age_seconds=1.5, statuses=["failed"]).keep_deltas, bool)
Retention(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # keywords alone
Retention(max_count=1, keep_deltas="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def leaving(engine: Polos, worker: Worker) -> None:
    """Drain."""
    assert_type(await engine.drain(), tuple[str, ...])
    assert_type(await engine.drain(timeout_seconds=2), tuple[str, ...])
    await worker.drain(1.5)
    await engine.drain("soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
