"""
The archive: trees of runs that have ended and left the log, as a retention policy said.

What is asked of one archived run, `get_execution`, streams and the command line answer as if it were still in the log.
Here stands what is asked of the archive itself. No engine is needed; `client` is a `Polos` or a `PolosClient`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from polos.runtime import reads
from polos.runtime.archived import ArchivedTree, archived_tree, list_archived
from polos.runtime.client import ExecutionPage
from polos.runtime.connection import StoreConnection

__all__ = ["ArchivedTree", "list", "read"]


class ArchiveClient(Protocol):
    """What these functions need of a client."""

    def _connection(self) -> StoreConnection:
        """Give the way to the store."""
        ...


async def read(client: ArchiveClient, execution_id: str) -> ArchivedTree:
    """
    Give the whole tree that an archived run belongs to: its runs, and all that was recorded of them.

    ```python run
    import asyncio, tempfile
    from polos import Polos, Retention, archive, workflow

    @workflow(retention=Retention(max_age_seconds=0))
    async def tell(ctx):
        return await ctx.step.run("tell", lambda: "once")

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                handle = await tell.invoke(polos)
                while not archive.list(polos):
                    await asyncio.sleep(0)
                tree = await archive.read(polos, handle.id)
                print([event["type"] for event in tree.events])

    asyncio.run(main())
    ```

    Raises:
        UnknownRun: there is no such run, or it isn't archived.
        BlobMissing: a segment of it isn't there.
        StoreDamaged: a segment of it isn't what was written.
    """
    return await asyncio.to_thread(archived_tree, client._connection().store, execution_id)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # ours, and offered for this


def list(  # noqa: A001  # `archive.list` is what one looks for
    client: ArchiveClient, *, workflow_id: str | None = None, limit: int = 100, cursor: str | None = None
) -> ExecutionPage:
    """
    Give archived runs, those with the newest ids first, in the shape of `list_executions`.

    An example stands at `read`.

    Args:
        client: a client.
        workflow_id: only runs of this workflow.
        limit: runs on a page, at most 10,000.
        cursor: `cursor` of the page before.

    Raises:
        PolosUsageError: the limit is out of range, or the cursor is none of ours.
    """
    with client._connection().store.log.reader() as reader:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        page = list_archived(reader, workflow_id, limit=limit, cursor=cursor)
    return ExecutionPage([reads.listed(row) for row in page.rows], page.cursor)
