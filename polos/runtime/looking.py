"""Looking at many runs at once: the part of a client that only reads, and needs no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from polos.errors import PolosUsageError, UnknownRun
from polos.runtime import reads
from polos.runtime.archived import reader_of
from polos.runtime.listing import ExecutionPage, Wanted, count_runs, list_page, run_filter
from polos.runtime.usage import usage_of

if TYPE_CHECKING:
    from polos.runtime.connection import StoreConnection
    from polos.types.usage import UsageReport

__all__ = ["LooksAtRuns"]


class LooksAtRuns:
    """What a client tells of many runs."""

    def _connection(self) -> StoreConnection:
        raise NotImplementedError

    async def list_executions(
        self, *, limit: int = 100, cursor: str | None = None, **wanted: Unpack[Wanted]
    ) -> ExecutionPage:
        """
        Give runs, the newest first, without payload, result and error; no engine is needed.

        Args:
            limit: runs on a page, at most 10,000.
            cursor: `cursor` of the page before.
            wanted: which runs, by `status`, `workflow_id`, `parent`, `tag`, `since`, `until`, `queue`, `session_id` and
                `user_id`, as told at `polos.runtime.listing.Wanted`. All but times and `queue` have an index, of which
                one is read; what else is asked for is looked up run by run.
        """
        store = self._connection().store
        page = list_page(store.log, store.inbox, run_filter(wanted), limit=limit, cursor=cursor)
        return ExecutionPage([reads.listed(row) for row in page.rows], page.cursor)

    async def count_executions(self, **wanted: Unpack[Wanted]) -> dict[str, int]:
        """
        Count runs by status, those that have none as 0; no engine is needed. `wanted` as for `list_executions`.

        With `status`, `since` and `until` alone an index is counted; else each run is looked up.
        """
        store, found = self._connection().store, run_filter(wanted)
        pending = reads.pending_runs(store.inbox)  # looked at first: what leaves it meanwhile is in the log by then
        with store.log.reader() as reader:
            return count_runs(reader, found, pending)

    async def usage(self, *, execution_id: str | None = None, **wanted: Unpack[Wanted]) -> UsageReport:
        """
        Sum up what calls of models used and cost; no engine is needed.

        Args:
            execution_id: a run, with all runs below it; nothing else may be given then.
            wanted: which runs, as for `list_executions`: `session_id`, `user_id`, `workflow_id`, `since` and so on.

        Returns:
            Tokens, calls and money, by model and together. Those of a tree that was archived are read from the archive;
            a filter counts archived runs no more.

        Raises:
            UnknownRun: there is no run `execution_id`.
        """
        if execution_id is not None and wanted:
            raise PolosUsageError("usage is of one run with all below it, or of runs by filter; give one of the two")
        store = self._connection().store
        if execution_id is not None:
            with reader_of(store, execution_id) as reader:
                if reads.run_row(reader, execution_id) is None:
                    raise UnknownRun(f"there is no run {execution_id!r} in {store.path}")
                return usage_of(reader, reads.tree_runs(reader, execution_id))
        with store.log.reader() as reader:
            return usage_of(reader, (row.run for row in reads.runs_of(reader, run_filter(wanted))))
