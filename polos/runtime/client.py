"""
The way into a data directory for every program that isn't the engine, and for the engine's own.

Reads go straight to the log, in read transactions that hold up nobody. Commands go through the
connection (`polos.runtime.connection`), which knows whether the engine is in this process. The client
makes the ids of runs and commands itself: so a command that is sent again is the same command, and a
caller can hold the handle of a run that no engine has seen yet.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from polos.calls import text, writable
from polos.clock import Clock, RunIds, SystemClock
from polos.engine import events as e
from polos.engine.json import Json
from polos.errors import PolosUsageError, RunArchived, StepExecutionError, UnknownRun
from polos.once import Once
from polos.runtime import reads
from polos.runtime.addressing import Told, address, resume_address, tell
from polos.runtime.archived import archived_execution, archived_row
from polos.runtime.awaiting import wait_ended, wait_update
from polos.runtime.bulk import cancel_many, resume_many, retry_many
from polos.runtime.connection import (
    CLIENT_TIMEOUT_SECONDS,
    ClientStore,
    Command,
    StoreConnection,
    api_url_of,
    connect,
    is_local,
    resolve_data_dir,
)
from polos.runtime.handle import ExecutionHandle, handles_of
from polos.runtime.listing import ExecutionPage, Wanted
from polos.runtime.looking import LooksAtRuns
from polos.runtime.starting import recorded, root_run
from polos.runtime.watch import End
from polos.store.log import Log
from polos.values import decode

if TYPE_CHECKING:
    from pathlib import Path

    from polos.types import BatchWorkflowInput, BulkResult

__all__ = ["ExecutionHandle", "ExecutionPage", "PolosClient", "resolve_data_dir"]


class PolosClient(LooksAtRuns):
    """
    A client of the data directory; nothing is opened before the first use.

    A second process, such as one in which somebody approves orders, needs the directory and nothing else:

    ```python run
    import asyncio, tempfile
    from polos import Polos, PolosClient, events, workflow

    @workflow
    async def order(ctx, payload: dict):
        decision = await ctx.step.suspend("approval", {"amount": payload["amount"]})
        return decision.data["approved"]

    async def approve(folder):
        async with PolosClient(data_dir=folder) as client:
            for run in await client.list_executions(status="suspend"):
                await client.resume(run["workflow_id"], run["id"], "approval", {"approved": True})

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                handle = await order.invoke(polos, {"amount": 12})
                async for event in events.stream_workflow(polos, "order", handle.id):
                    if event.event_type == "suspend_approval":
                        await approve(folder)
                print((await handle.get())["result"])

    asyncio.run(main())
    ```

    Attributes:
        api_url: where approval pages are.
        api_key: as given.
        project_id: as given.
        deployment_id: recorded with every run.
        data_dir: the data directory.
        client_timeout_seconds: how long an engine in another process may take to answer.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        project_id: str | None = None,
        deployment_id: str | None = None,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        client_timeout_seconds: float = CLIENT_TIMEOUT_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        """
        Take where the data directory is.

        Args:
            api_url: kept for programs that name a server on this machine; other hosts need `data_dir`.
            api_key: kept, not needed with a data directory.
            project_id: kept, not needed with a data directory.
            deployment_id: recorded with every run.
            data_dir: the directory; else `POLOS_DATA_DIR`, else `.polos` in the working directory.
            client_timeout_seconds: how long an engine in another process may take to answer.
            clock: where time and ids come from.
        """
        self.api_url: str = api_url_of(api_url)
        self.api_key: str | None = api_key or os.environ.get("POLOS_API_KEY")
        self.project_id: str = project_id or os.environ.get("POLOS_PROJECT_ID") or "default"
        self.deployment_id: str = deployment_id or os.environ.get("POLOS_DEPLOYMENT_ID") or "default"
        self.data_dir: Path = resolve_data_dir(data_dir)
        self.client_timeout_seconds = client_timeout_seconds
        self._named = data_dir is not None or not api_url
        self._clock: Clock = clock or SystemClock()
        self._run_ids = RunIds(self._clock)
        self._opened: StoreConnection | None = None
        self._opening = threading.Lock()

    @classmethod
    def over(cls, store: ClientStore, *, clock: Clock | None = None, **settings: Any) -> PolosClient:
        """Make a client of a store that is open already, and that the client doesn't close."""
        client = cls(data_dir=store.path, clock=clock, **settings)
        client._opened = StoreConnection(store, clock=clock, timeout_seconds=client.client_timeout_seconds)
        client._owns_store = False
        return client

    _owns_store = True

    # -------------------------------------------------------------------------- opening and closing

    def close(self) -> None:
        """Close what was opened; the next use opens it again."""
        with self._opening:
            opened = self._opened
            if opened is not None and self._owns_store:
                self._opened = None
                opened.store.close()

    async def __aenter__(self) -> Self:
        """Give itself."""
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _connection(self) -> StoreConnection:
        """Give the way to the engine, opening the data directory on first use."""
        opened = self._opened
        if opened is not None:
            return opened
        with self._opening:
            if self._opened is None:
                self._check_address()
                self._opened = self._connect()
            return self._opened

    def _connect(self) -> StoreConnection:
        return connect(self.data_dir, clock=self._clock, timeout_seconds=self.client_timeout_seconds)

    def _log(self) -> Log:
        """Give the log, to read."""
        return self._connection().store.log

    def _check_address(self) -> None:
        """Refuse an address on another machine: this client speaks to a directory."""
        if not self._named and not is_local(self.api_url):
            raise PolosUsageError(
                f"api_url={self.api_url!r} is on another machine, but this client works on a directory; pass data_dir"
            )

    # ------------------------------------------------------------------------------------- starting

    async def invoke(  # noqa: PLR0917  # the order that programs use
        self,
        workflow_id: str,
        payload: Any = None,
        queue_name: str | None = None,
        queue_concurrency_limit: int | None = None,
        concurrency_key: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        initial_state: Any = None,
        run_timeout_seconds: float | None = None,
        *,
        priority: int = 0,
        start_after: float | None = None,
        start_at: datetime | None = None,
        tags: Sequence[str] = (),
        **once: Unpack[Once],
    ) -> ExecutionHandle:
        """
        Start a run; it exists, durably, when this returns.

        Args:
            workflow_id: id of the workflow, agent or tool. One that no engine knows yet waits for its code.
            payload: the input, JSON or a model.
            queue_name: the queue, else the workflow's own.
            queue_concurrency_limit: the queue's limit.
            concurrency_key: the limit holds for each key.
            session_id: the session, else that of the surrounding run, else a new one.
            user_id: the user, else that of the surrounding run.
            initial_state: `ctx.state` to begin with, at most 1 MB as JSON.
            run_timeout_seconds: the run is cancelled after that.
            priority: the higher, the sooner it gets its turn in its queue; children inherit it.
            start_after: seconds after which it may begin.
            start_at: moment from which on it may begin; UTC if it names no zone.
            tags: by which the run can be found.
            once: `idempotency_key`, `singleton`, `debounce_seconds` and what goes with them; see `polos.once.Once`.

        Returns:
            The handle, of a run that was there already if `once` says so; with `accepted=False` if no engine is
            running: the run starts with the next one.

        Raises:
            TypeError: the payload or the state can't be recorded, or a name is no text.
            ValueError: the state is over the limit, a name is empty or can't be written, a number isn't positive.
            QueueFull: as many runs wait in the queue as may.
        """
        run = self._root_run(
            workflow_id, payload, queue=queue_name, queue_limit=queue_concurrency_limit,
            concurrency_key=concurrency_key, session=session_id, user=user_id, initial_state=initial_state,
            seconds=run_timeout_seconds, priority=priority, start_after=start_after, start_at=start_at, tags=tags,
            **once,
        )  # fmt: skip
        return (await self._create([run], session_id))[0]

    async def batch_invoke(
        self, workflows: list[BatchWorkflowInput], session_id: str | None = None, user_id: str | None = None
    ) -> list[ExecutionHandle]:
        """
        Start many runs in one commit: all of them exist, or none.

        Raises:
            ValueError: a workflow isn't registered in this program.
            TypeError: an item is no `BatchWorkflowInput`.
        """
        from polos.registry import get_workflow

        runs: list[e.RunCreated] = []
        for item in workflows:
            if not hasattr(item, "once"):
                raise TypeError(f"each of workflows must be a BatchWorkflowInput, it is {item!r}")
            if get_workflow(item.id) is None:
                raise ValueError(f"Workflow '{item.id}' not found")
            runs.append(
                self._root_run(
                    item.id,
                    item.payload,
                    session=session_id,
                    user=user_id,
                    initial_state=item.initial_state,
                    seconds=item.run_timeout_seconds,
                    queue=item.queue,
                    concurrency_key=item.concurrency_key,
                    tags=item.tags,
                    **item.when(),
                    **item.once(),
                )
            )
        return await self._create(runs, session_id) if runs else []

    def _root_run(self, workflow_id: str, payload: Any, **given: Any) -> e.RunCreated:
        return root_run(
            workflow_id, payload, clock=self._clock, ids=self._run_ids, deployment=self.deployment_id, **given
        )

    async def _create(self, runs: list[e.RunCreated], session_id: str | None) -> list[ExecutionHandle]:
        answer = await self._connection().create(runs)
        created_at = reads.rfc3339(self._clock.now_us())
        return handles_of(answer, runs, client=self, session=session_id, created_at=created_at)

    # -------------------------------------------------------------------------------------- reading

    async def get_execution(self, execution_id: str) -> dict[str, Any]:
        """
        Give all that is known of a run, its result as plain JSON; no engine is needed.

        An archived run is read from the archive; `archived_at` tells.

        Raises:
            UnknownRun: there is no such run.
            BlobMissing: the run was archived, and its segment isn't there.
        """
        store = self._connection().store
        with store.log.reader() as reader:
            if reads.run_row(reader, execution_id) is not None:
                return reads.execution(reader, execution_id)
            is_archived = archived_row(reader, execution_id) is not None
        if is_archived:
            return await asyncio.to_thread(archived_execution, store, execution_id)
        for pending in reads.pending_runs(store.inbox):
            if pending.row.run == execution_id:
                return reads.pending_execution(pending)
        with store.log.reader() as reader:  # an engine may have taken it out of the inbox between the two looks
            return reads.execution(reader, execution_id)

    # ----------------------------------------------------------------------------------- addressing

    async def resume(
        self,
        suspend_workflow_id: str,  # noqa: ARG002  # the run's id says enough, but programs pass it
        suspend_execution_id: str,
        suspend_step_key: str,
        data: Any,
        *,
        all: bool = False,
    ) -> None:
        """
        Answer a suspend; durable when it returns, or kept for the next engine if none is running.

        Args:
            suspend_workflow_id: the workflow; the run's id says enough, so it isn't looked at.
            suspend_execution_id: the suspended run, or the root of its tree.
            suspend_step_key: the key it was suspended with; without `#n` the oldest open wait of that key.
            data: the answer, JSON or a model.
            all: answer every open wait of that key in the tree.

        Raises:
            UnknownRun: there is no such run.
            CommandRefused: the run has ended, or keeps too many answers that nobody waits for.
        """
        text("suspend_step_key", suspend_step_key)
        value = recorded(data, "answer")
        command: Command = {"kind": "resume", "key": suspend_step_key, "data": value, "all": all}
        await tell(
            self._connection(),
            lambda store: resume_address(store, suspend_execution_id, suspend_step_key, every=all),
            lambda run, _: {**command, "run": run},
        )

    async def signal(self, execution_id: str, name: str, data: Any = None) -> None:
        """
        Send a signal; durable when it returns, or kept for the next engine if none is running.

        Raises:
            UnknownRun: there is no such run.
            CommandRefused: the run has ended, or keeps too many signals of that name already.
        """
        text("name", name)
        await self._tell(execution_id, {"kind": "signal", "name": name, "data": recorded(data, "signal")})

    async def cancel_execution(self, execution_id: str, *, by: str = "client", reason: str | None = None) -> bool:
        """
        Ask a run to stop; a second request forces it.

        Returns:
            True if it will stop, also when that is kept for the next engine; False if the run is unknown or over.
        """
        _say(by, reason)
        try:
            told = await self._tell(execution_id, {"kind": "cancel", "by": by, "reason": reason})
        except UnknownRun:
            return False
        if told.answer["outcome"] == "queued":
            return not self._is_over(told.run)
        detail = told.answer.get("detail")
        return bool(isinstance(detail, dict) and detail.get("cancelled"))

    async def query(self, execution_id: str, name: str | None = None, *args: Any) -> Any:
        """
        Ask a run.

        Args:
            execution_id: the run.
            name: a function registered by `ctx.on_query`; None for the last durable `ctx.state`, which needs no engine.
            args: its arguments, JSON.

        Raises:
            UnknownRun: there is no such run.
            EngineNotRunning: with a name, and no engine.
        """
        if name is None:
            store = self._connection().store
            run = address(store, execution_id)
            with store.log.reader() as reader:
                return reads.run_state(reader, run)
        text("name", name)
        wanted: list[Json] = [recorded(arg, "argument") for arg in args]
        told = await self._tell(execution_id, {"kind": "query", "name": name, "args": wanted})
        return cast("dict[str, Any]", told.answer["detail"])["value"]

    async def update(self, execution_id: str, name: str, data: Any = None, *, timeout: float | None = None) -> Any:
        """
        Have an update carried out by the run, and give what its handler returned.

        Args:
            execution_id: the run.
            name: as registered by `ctx.on_update`.
            data: what the handler gets.
            timeout: seconds to wait for the handler; None waits for as long as it takes.

        Raises:
            UnknownRun: there is no such run.
            UpdateRejected: the validator said no; nothing was recorded.
            StepExecutionError: the handler failed, or the run ended first.
            EngineNotRunning: no engine; the update is kept.
            ClientTimeout: the handler took longer; the update goes on.
        """
        text("name", name)
        command: Command = {"kind": "update", "name": name, "data": recorded(data, "update")}
        told = await tell(
            self._connection(),
            lambda store: address(store, execution_id),
            lambda run, command_id: {**command, "run": run, "update_id": command_id},
        )
        answer = await wait_update(self._connection(), told.run, told.command_id, timeout)
        if answer.error is not None:
            reason = f"update {name!r} failed: {answer.error.message}"
            raise StepExecutionError(reason, error_type=answer.error.type, traceback=answer.error.traceback)
        return decode(answer.value, type=answer.type)

    async def resolve(
        self,
        execution_id: str,
        step: str,
        outcome: str,
        value: Any = None,
        *,
        message: str | None = None,
        by: str = "client",
    ) -> None:
        """
        Say what became of a step of unknown outcome.

        Args:
            execution_id: the run.
            step: the step's name.
            outcome: "completed", "failed" or "not_done"; the last has it called again.
            value: its result, if it completed.
            message: what went wrong, if it failed.
            by: who says so; recorded.

        Raises:
            UnknownRun: there is no such run.
            CommandRefused: the run has no such step of unknown outcome.
        """
        if outcome not in ("completed", "failed", "not_done"):
            raise PolosUsageError(f"outcome is 'completed', 'failed' or 'not_done', not {outcome!r}")
        text("step", step)
        writable("message", message)
        writable("by", by)
        settled = recorded(value, "value")
        command: Command = {"kind": "resolve", "step": step, "outcome": outcome, "value": settled}
        await self._tell(execution_id, {**command, "message": message, "by": by})

    async def readmit(self, execution_id: str, *, by: str = "client") -> None:
        """
        Let a run that was set aside go on: it diverged, or its code kept killing the process.

        Raises:
            UnknownRun: there is no such run.
        """
        writable("by", by)
        await self._tell(execution_id, {"kind": "readmit", "by": by})

    async def retry(self, execution_id: str, *, by: str = "client", reason: str | None = None) -> None:
        """
        Let a run that failed or was cancelled go on, from where it failed.

        It stays the same run. Its body begins anew, and what it finished is handed to it and not done again: results of
        steps, recorded values, children, answered waits. What ended otherwise is done again: steps that failed, waits
        that expired; children that failed are retried themselves. Durable when it returns, or kept for the next engine.

        docs/retry.md tells the whole story.

        Args:
            execution_id: the run.
            by: who wants it; recorded.
            reason: why; recorded.

        Raises:
            UnknownRun: there is no such run.
            CommandRefused: it completed, hasn't ended, or a run that it started is still being cancelled.
            QueueFull: as many runs wait in its queue as may.
        """
        _say(by, reason)
        await self._tell(execution_id, {"kind": "retry", "by": by, "reason": reason})

    # ------------------------------------------------------------------------------------ many runs

    async def cancel_many(
        self, *, by: str = "client", reason: str | None = None, limit: int | None = None, everything: bool = False,
        **wanted: Unpack[Wanted],
    ) -> BulkResult:  # fmt: skip
        """
        Ask all runs to stop that are found, haven't ended and weren't asked before; docs/retry.md has the whole story.

        Args:
            by: who wants it; recorded with each.
            reason: why; recorded with each.
            limit: at most so many runs.
            everything: True if no filter is meant to be one.
            wanted: which runs, as for `list_executions`.

        Raises:
            PolosUsageError: no filter is given.
            ClientTimeout: the engine didn't answer; doing it once more goes on where this ended.
        """
        _say(by, reason)
        return await cancel_many(self._connection(), wanted, by=by, reason=reason, limit=limit, everything=everything)

    async def retry_many(
        self, *, by: str = "client", reason: str | None = None, limit: int | None = None, everything: bool = False,
        children: bool = False, **wanted: Unpack[Wanted],
    ) -> BulkResult:  # fmt: skip
        """
        Let all runs go on that are found and failed, or with `status="cancelled"` were cancelled; see `cancel_many`.

        Children that failed are taken up by their parents; with `children`, or `parent`, they are found by themselves.
        """
        _say(by, reason)
        return await retry_many(
            self._connection(), wanted, by=by, reason=reason, limit=limit, everything=everything, children=children
        )  # fmt: skip

    async def resume_many(
        self, suspend_step_key: str, data: Any, *, limit: int | None = None, everything: bool = False,
        **wanted: Unpack[Wanted],
    ) -> BulkResult:  # fmt: skip
        """Give one answer to all runs that are found and wait for it under that key; see `cancel_many`."""
        key, value = suspend_step_key, recorded(data, "answer")
        text("suspend_step_key", key)
        return await resume_many(self._connection(), key, value, wanted, limit=limit, everything=everything)

    async def take_back(self, command_id: str) -> bool:
        """Take back a command that is kept and that no engine has decided; False if it is too late."""
        return await self._connection().take_back(command_id)

    async def _tell(self, execution_id: str, command: Command) -> Told:
        """Have a command decided by the run that goes on under a handle."""
        connection = self._connection()

        def find(store: ClientStore) -> str:
            engine = connection.engine
            is_here = engine is not None and engine.is_under_way(execution_id)  # then nothing need be read
            return execution_id if is_here else address(store, execution_id)

        return await tell(connection, find, lambda run, _: {**command, "run": run})

    def _is_over(self, run: str) -> bool:
        with self._log().reader() as reader:
            row = reads.run_row(reader, run)
        return row is not None and row.ended

    # -------------------------------------------------------------------------------------- waiting

    async def _wait_ended(self, run_id: str, timeout_seconds: float | None = None) -> dict[str, Any]:
        """
        Wait for the end of a run, its successors included, and give what `get_execution` gives.

        Raises:
            UnknownRun: there is no such run.
            WorkflowTimeoutError: it didn't end in time; the error names what the run waits for.
        """
        await self._wait(run_id, timeout_seconds)
        return await self.get_execution(run_id)

    async def _wait_end(self, run_id: str, timeout_seconds: float | None = None) -> End:
        """Wait as `_wait_ended` does, and give how it ended; without a look into the log if the engine is here."""
        told = await self._wait(run_id, timeout_seconds)
        if told is not None:
            return told
        found = await self.get_execution(run_id)
        return End(
            status=found["status"], result=found["result"], type=found["output_schema_name"],
            error=found["error"], by=found["cancelled_by"],
        )  # fmt: skip

    async def _wait(self, run_id: str, timeout_seconds: float | None) -> End | None:
        connection = self._connection()
        engine = connection.engine
        if engine is None or not engine.is_under_way(run_id):
            with suppress(RunArchived):  # it has ended long ago
                address(connection.store, run_id)  # nobody would ever end a run that doesn't exist
        return await wait_ended(connection, run_id, timeout_seconds)


def _say(by: str, reason: str | None) -> None:
    """Refuse who wants something, or why, if it can't be recorded."""
    writable("by", by)
    writable("reason", reason)
