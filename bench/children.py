"""
Children: one parent that begins many at once and waits for all of them.

Run as `python -m bench children`. The children of a batch are created in one commit; each then begins, ends, and tells
its parent. The floor writes as many events, all children at once, and its parent waits for their futures.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from bench import floor
from bench.measures import Budget, Sample, Subject, compare, measured
from polos import Polos, WorkflowContext, workflow
from polos.types import BatchWorkflowInput

__all__ = ["engine", "main"]

CHILDREN = 1_000


@workflow(id="bench_child")
async def child(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    return payload["number"] + ctx.retry_count


@workflow(id="bench_parent")
async def parent(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    wanted = [BatchWorkflowInput(id=child.id, payload={"number": number}) for number in range(payload["children"])]
    return len(await ctx.step.batch_invoke_and_wait("all", wanted))


def engine(folder: Path, children: int) -> Sample:
    """Run it on the engine, through its public API."""

    async def main() -> Sample:
        async with Polos(data_dir=folder, max_concurrent_workflows=children + 1) as polos:
            await parent.run(polos, {"children": 1})
            with measured(children, folder) as sample:
                assert children == await parent.run(polos, {"children": children})
        return sample

    return asyncio.run(main())


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the table."""
    children = max(round(CHILDREN * scale), 1)
    subjects = [
        Subject("floor, loop's thread", partial(floor.children, count=children, kind=floor.Floor)),
        Subject("floor, writer thread", partial(floor.children, count=children, kind=floor.ThreadedFloor)),
        Subject("engine", partial(engine, children=children), Budget(per_second=8_000)),
    ]
    compare(f"children: a parent with {children:,} of them", subjects, root=root, rounds=rounds)
