"""
`Worker`: the other way to own the engine, with a list of what it runs.

`run`, `started` and `shutdown` are called by tasks that know nothing of each other's order. So what one says is kept
for the others: a failure to start reaches who waits for the start now or asks later, and a `shutdown` that comes first
is obeyed by the `run` that comes after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from polos.checking import not_negative
from polos.clock import SystemClock
from polos.errors import EngineNotRunning, PolosError
from polos.runtime.app import log_to_file, settings_from, start_engine, stop_engine
from polos.runtime.client import PolosClient
from polos.runtime.draining import drain
from polos.runtime.engine import Engine

if TYPE_CHECKING:
    from polos.definition import Workflow

__all__ = ["Worker"]

_log = logging.getLogger("polos")


class Worker:
    """
    Owns the data directory of a client and runs workflows until it is told to stop.

    ```python run
    import asyncio, tempfile
    from polos import PolosClient, Worker, workflow

    @workflow
    async def double(ctx, payload: dict):
        return payload["n"] * 2

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            client = PolosClient(data_dir=folder)
            worker = Worker(client, deployment_id="v1", workflows=[double])
            running = asyncio.create_task(worker.run())
            await worker.started()
            print(await double.run(client, {"n": 21}))
            await worker.shutdown()
            await running
            client.close()

    asyncio.run(main())
    ```
    """

    def __init__(  # noqa: PLR0917  # the order that programs use
        self,
        client: PolosClient,
        deployment_id: str | None = None,
        agents: Sequence[Any] | None = None,
        tools: Sequence[Any] | None = None,
        workflows: Sequence[Workflow[Any]] | None = None,
        max_concurrent_workflows: int | None = None,
        mode: str = "push",
        worker_server_url: str | None = None,
        log_file: str | None = None,
        channels: Sequence[Any] | None = None,
        **settings: Any,
    ) -> None:
        """
        Prepare a worker.

        Args:
            client: says which data directory.
            deployment_id: recorded with every run; else POLOS_DEPLOYMENT_ID. One of them is required.
            agents: agents it runs.
            tools: tools it runs.
            workflows: workflows it runs; any other that is registered is run too.
            max_concurrent_workflows: runs under way at once; else POLOS_MAX_CONCURRENT_WORKFLOWS, else 100.
            mode: "push"; there is no other.
            worker_server_url: accepted; the embedded engine listens to nothing.
            log_file: if given, the program's log goes there.
            channels: given to every context.
            settings: fields of `polos.runtime.settings.Settings`.

        Raises:
            ValueError: no deployment id, or a mode that isn't "push".
        """
        deployment = deployment_id or os.environ.get("POLOS_DEPLOYMENT_ID")
        if not deployment:
            message = "deployment_id is required: give it, or set POLOS_DEPLOYMENT_ID"
            raise ValueError(message)
        if mode == "pull":
            message = "mode='pull' isn't supported; the engine runs in this process"
            raise ValueError(message)
        if mode != "push":
            message = f"mode must be 'push', it is {mode!r}"
            raise ValueError(message)
        self.client = client
        self.deployment_id = deployment
        self.worker_server_url: str | None = worker_server_url or os.environ.get("POLOS_WORKER_SERVER_URL")
        self.channels: list[Any] = list(channels or [])
        definitions = [*(agents or ()), *(tools or ()), *(workflows or ())]
        self._definitions = {definition.id: definition for definition in definitions}
        self._settings = settings_from(
            settings, deployment_id=deployment, max_concurrent_workflows=max_concurrent_workflows
        )
        self._engine: Engine | None = None
        self._start: asyncio.Future[None] | None = None  # of the present run, or the next
        self._wanted_down: asyncio.Event | None = None
        self._told_early = False  # to stop, before the first run
        self._has_run = False
        if log_file is not None:
            log_to_file(log_file)

    async def started(self) -> None:
        """
        Wait until the worker runs.

        Raises:
            EngineNotRunning: `run` was told to stop, or was cancelled, before it got there.
            StoreInUse: or whatever else `run` failed with when it started.
        """
        # A `run` that was just made a task begins first: what an earlier one failed with is past then.
        await asyncio.sleep(0)  # noqa: TID251  # no time: one turn of the loop
        await asyncio.shield(self._starting())

    def _starting(self) -> asyncio.Future[None]:
        if self._start is None:
            self._start = asyncio.get_running_loop().create_future()
        return self._start

    def _failed(self, start: asyncio.Future[None], error: BaseException) -> None:
        """Let those know who wait for the start, or ask later; there may be none."""
        start.set_exception(error)
        start.exception()

    async def run(self) -> None:
        """
        Own the directory and run workflows until `shutdown`, SIGINT or SIGTERM; then stop gracefully.

        Returns at once if `shutdown` was called before.

        Raises:
            StoreInUse: another engine owns the directory.
            StoreFenced: another engine has taken it.
            StoreDamaged: the log takes nothing any more; `polos verify` tells where it is damaged.
        """
        if self._start is not None and self._start.done():
            self._start = None  # of a run that failed
        start = self._starting()
        self._has_run = True
        if self._told_early:
            self._told_early = False
            self._failed(start, EngineNotRunning("the worker was told to stop before it ran"))
            return
        self._wanted_down = asyncio.Event()
        try:
            self._engine = await start_engine(
                self.client.data_dir,
                clock=SystemClock(),
                settings=self._settings,
                definitions=self._definitions,
                fallback=True,
            )
        except BaseException as error:
            cancelled = EngineNotRunning("the worker was cancelled before it ran")
            self._failed(start, error if isinstance(error, Exception) else cancelled)
            self._wanted_down = None
            raise
        leaving: list[asyncio.Task[None]] = []
        running = self._engine
        gone: list[PolosError] = []

        def over(error: PolosError) -> None:
            gone.append(error)
            if self._wanted_down is not None:
                self._wanted_down.set()

        running.on_over = over
        running.on_drain = lambda seconds: leaving.append(running.loop.create_task(self._drain(running, seconds)))
        handled = self._handle_signals()
        start.set_result(None)
        try:
            await self._wanted_down.wait()
        finally:
            for number in handled:
                asyncio.get_running_loop().remove_signal_handler(number)
            engine, self._engine = self._engine, None
            self._start = self._wanted_down = None
            await asyncio.shield(stop_engine(engine))
        if gone:
            raise gone[0]

    async def _drain(self, engine: Engine, seconds: float) -> None:
        await drain(engine, seconds)
        await self.shutdown()

    async def drain(self, timeout_seconds: float = 60.0) -> None:
        """
        Begin nothing any more, let what is under way come to rest, for so long at most, and let `run` stop.

        What it means, and an example, stands at `Polos.drain`.

        Raises:
            ValueError: the time is negative.
        """
        not_negative("timeout_seconds", timeout_seconds)
        if self._engine is not None:
            await drain(self._engine, timeout_seconds)
        await self.shutdown()

    async def shutdown(self) -> None:
        """Let `run` stop gracefully, also one that hasn't begun yet; does nothing after it has ended."""
        if self._wanted_down is not None:
            self._wanted_down.set()
        elif not self._has_run:
            self._told_early = True

    def _handle_signals(self) -> list[signal.Signals]:
        """Stop gracefully on SIGINT and SIGTERM, where this thread may say so."""
        if threading.current_thread() is not threading.main_thread():
            return []
        assert self._wanted_down is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._wanted_down.set)
        return [signal.SIGINT, signal.SIGTERM]
