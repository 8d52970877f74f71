"""
`Polos`: an engine embedded in a program, and a client on it.

``async with Polos("./data")`` opens a directory, becomes its owner, goes on with whatever was under way
there, and stops gracefully at the end of the block, however that is left.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import platform
import signal
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

import polos
from polos import registry
from polos.checking import not_negative, writable
from polos.clock import Clock
from polos.engine import events as e
from polos.engine.projections import ENGINE_STREAM
from polos.errors import PolosError, PolosUsageError
from polos.runtime.bodies import Bodies
from polos.runtime.client import PolosClient
from polos.runtime.connection import StoreConnection
from polos.runtime.draining import drain
from polos.runtime.engine import Engine
from polos.runtime.guards import guards
from polos.runtime.interrupts import Interrupted, interrupts
from polos.runtime.ports import OwnedStore
from polos.runtime.settings import Settings
from polos.runtime.unit import Unit, Work
from polos.store.directory import open_store
from polos.store.ownership import was_closed_cleanly

if TYPE_CHECKING:
    from polos.definition import Workflow

__all__ = ["Polos", "start_engine"]

_SETTINGS = frozenset(spec.name for spec in fields(Settings))


def settings_from(
    given: Mapping[str, Any], *, deployment_id: str | None, max_concurrent_workflows: int | None
) -> Settings:
    """
    Put settings together: arguments first, then the environment, then defaults.

    Raises:
        PolosUsageError: a setting has no such name, or the environment holds no number where one belongs.
        ValueError: a number is out of range; the text names it.
        TypeError: a number is none.
    """
    unknown = given.keys() - _SETTINGS
    if unknown:
        message = f"unknown settings {sorted(unknown)}; there are {sorted(_SETTINGS)}"
        raise PolosUsageError(message)
    found = Settings(**given)
    writable("deployment_id", deployment_id)
    deployment = deployment_id or os.environ.get("POLOS_DEPLOYMENT_ID")
    if deployment:
        found = replace(found, deployment_id=deployment)
    limit: float | None = max_concurrent_workflows
    if limit is None:
        limit = _number("POLOS_MAX_CONCURRENT_WORKFLOWS")
    if limit is not None:
        found = replace(found, max_concurrent_workflows=int(limit))
    threshold = _number("POLOS_WAIT_THRESHOLD_SECONDS")
    if threshold is not None and "wait_threshold_seconds" not in given:
        found = replace(found, wait_threshold_seconds=threshold)
    return found


def _number(name: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        message = f"{name} must be a number, it is {text!r}"
        raise PolosUsageError(message)
    return found


def _project_or_path(
    first: str | os.PathLike[str] | None, data_dir: str | os.PathLike[str] | None
) -> tuple[str | None, str | os.PathLike[str] | None]:
    """Tell what the first argument of `Polos` is: ids of projects have no separators, paths have."""
    if first is None or (isinstance(first, str) and os.sep not in first):
        return first, data_dir
    if data_dir is not None:
        message = f"the data directory is given twice: {os.fspath(first)!r} and {os.fspath(data_dir)!r}"
        raise PolosUsageError(message)
    return None, first


@final
class _LogFile(logging.FileHandler):
    """The file that `log_to_file` opened, told apart from what the program opened itself."""


def log_to_file(path: str) -> None:
    """Send the program's log to a file, so that standard output stays clean."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        if isinstance(handler, _LogFile):
            handler.close()
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)


async def start_engine(
    data_dir: Path,
    *,
    clock: Clock,
    settings: Settings,
    definitions: Mapping[str, Workflow[Any]],
    fallback: bool,
    opens: Callable[[], OwnedStore] | None = None,
) -> Engine:
    """
    Open a directory and start an engine on it.

    Args:
        data_dir: the directory; made if it doesn't exist.
        clock: where time comes from.
        settings: limits and defaults.
        definitions: the workflows that the engine knows.
        fallback: whether it also runs what is in the registry only.
        opens: gives the store, if it isn't to be opened at `data_dir`.

    Raises:
        StoreInUse: another engine owns the directory.
    """

    def find(workflow: str) -> Workflow[Any] | None:
        known = registry.get_workflow(workflow) if fallback else registry.own_workflow(workflow)
        return definitions.get(workflow) or known

    def known() -> Iterable[Workflow[Any]]:
        return {**(registry.get_all_workflows() if fallback else {}), **definitions}.values()

    store: OwnedStore = open_store(data_dir, sync=settings.sync, clock=clock) if opens is None else opens()
    clean = was_closed_cleanly(store.path)
    bodies = Bodies(find, find_version=registry.get_version, known=known)
    engine = Engine(store, clock=clock, settings=settings, bodies=bodies)

    def owned() -> None:
        # Whose code killed a process is kept beside the log; one in memory dies with the process that it would mark.
        if store.path.is_dir():
            guards(engine, store.path)

    try:
        _record_start(engine, clean=clean)
        engine.intake.declare(known())
        engine.schedules.declare(known())
        # Not before the store is ours: the marks of an engine that is refused would replace the owner's.
        await engine.start(owned)
    except BaseException:
        engine.close_marks()
        store.close()
        raise
    return engine


def _record_start(engine: Engine, *, clean: bool) -> None:
    """Have it recorded, before anything else, that the log has a new owner: so a crash shows in every run."""

    def apply(unit: Unit) -> None:
        with engine.store.log.reader() as reader:
            epoch = reader.head().epoch
        started = e.EngineStarted(
            epoch=epoch, pid=os.getpid(), host=platform.node(), clean=clean,
            python=platform.python_version(), polos=polos.__version__, deployment=engine.settings.deployment_id,
        )  # fmt: skip
        unit.append_system(ENGINE_STREAM, started)

    engine.post(Work(apply))


async def stop_engine(engine: Engine) -> None:
    """Stop an engine and close its store."""
    try:
        await engine.stop()
    finally:
        engine.close_marks()
        engine.store.close()


class Polos(PolosClient):
    """
    The durable-execution engine, embedded.

    ```python run
    import asyncio, tempfile
    from polos import Polos, workflow

    @workflow
    async def hello(ctx, payload: dict):
        return await ctx.step.run("greet", lambda: f"Hello, {payload['name']}!")

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                print(await hello.run(polos, {"name": "Ada"}))

    asyncio.run(main())
    ```
    """

    def __init__(  # noqa: PLR0917  # the order that programs use
        self,
        project_id: str | os.PathLike[str] | None = None,
        api_url: str | None = None,
        api_key: str | None = None,
        deployment_id: str | None = None,
        port: int = 8000,
        max_concurrent_workflows: int | None = None,
        channels: list[Any] | None = None,
        log_file: str | None = None,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        clock: Clock | None = None,
        opens: Callable[[], OwnedStore] | None = None,
        **settings: Any,
    ) -> None:
        """
        Prepare an engine for the workflows that are defined by now.

        Args:
            project_id: a path (a text with a separator, or a Path) is the data directory, as in `Polos("./data")`;
                anything else is accepted, and the embedded store doesn't need it.
            api_url: accepted; the embedded store doesn't need it.
            api_key: accepted; the embedded store doesn't need it.
            deployment_id: recorded with every run; else POLOS_DEPLOYMENT_ID, else "default".
            port: accepted; the embedded engine listens to no port.
            max_concurrent_workflows: runs under way at once; else POLOS_MAX_CONCURRENT_WORKFLOWS, else 100.
            channels: given to every context.
            log_file: if given, the program's log goes there instead of to the console.
            data_dir: the data directory; else POLOS_DATA_DIR, else `.polos` in the working directory.
            clock: where time comes from; for tests.
            opens: called at each start, and for reading before and after, instead of opening `data_dir`; for tests,
                which have stores in memory and stores that fail.
            settings: fields of `polos.runtime.settings.Settings`.

        Raises:
            PolosUsageError: a setting that doesn't exist, or two data directories.
        """
        project_id, data_dir = _project_or_path(project_id, data_dir)
        super().__init__(api_url, api_key, project_id, deployment_id, data_dir=data_dir, clock=clock)
        self.port = port
        self.channels: list[Any] = list(channels or [])
        self._settings = settings_from(
            settings, deployment_id=deployment_id, max_concurrent_workflows=max_concurrent_workflows
        )
        self._definitions = registry.get_all_workflows()
        self._opens = opens
        self._engine: Engine | None = None
        self._stopped: asyncio.Event | None = None
        self._terminated = False
        self._entered = False
        self._ending: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[Any]] = set()
        self._over: PolosError | None = None  # why the engine gave the log up
        self._serving = False
        if log_file is not None:
            log_to_file(log_file)

    async def start(self) -> None:
        """
        Become the owner of the data directory and go on with what is there. Starting twice is fine.

        Raises:
            StoreInUse: another engine owns the directory; the text says which.
        """
        if self._engine is not None:
            return
        if self._stopped is not None:
            await self._stopped.wait()  # who is stopping still owns the directory
        self._engine = await start_engine(
            self.data_dir,
            clock=self._clock,
            settings=self._settings,
            definitions=self._definitions,
            fallback=True,
            opens=self._opens,
        )
        self._engine.on_drain = self._drain_soon
        self._engine.on_over = self._over_soon
        self._over = None
        self._run_ids.go_on(self._engine.loader.last_id)
        self.close()  # what was opened to read before
        self._opened = StoreConnection(
            self._engine.store, clock=self._clock, timeout_seconds=self.client_timeout_seconds
        )
        self._owns_store = False
        self._stopped = asyncio.Event()
        self._terminated = False
        self._watch_termination()

    async def serve(self) -> None:
        """
        Start, and wait until SIGINT, SIGTERM or `stop`; then it has stopped gracefully.

        Inside `async with` SIGTERM leaves the block, and then ends the program. Ctrl-C under `asyncio.run` is a
        KeyboardInterrupt, as ever; one that nobody catches ends the program with status 130 and no traceback.

        Raises:
            StoreFenced: another engine has taken the directory.
            StoreDamaged: the log takes nothing any more; `polos verify` tells where it is damaged.
        """
        serving = asyncio.current_task()
        self._serving = True
        with interrupts() as ctrl_c:
            try:
                await self.start()
                assert self._stopped is not None
                self._task = serving
                if self._over is not None:
                    await self.stop()
                await self._stopped.wait()
            except asyncio.CancelledError:
                await asyncio.shield(self.stop())
                if ctrl_c.pressed:
                    raise Interrupted from None
                if not self._terminated or self._entered or serving is None or serving.uncancel():
                    raise
            finally:
                self._serving = False
        if self._over is not None:
            raise self._over

    async def stop(self) -> None:
        """
        Stop gracefully; nothing is lost. Stopping twice is fine, and either way it has stopped when this returns.

        Takes no new facts, waits up to `stop_grace_seconds` for running steps, records what ended,
        closes the log last. Steps still running then are called again by the next engine.
        """
        engine, self._engine = self._engine, None
        if engine is None:
            if self._stopped is not None:
                await self._stopped.wait()  # another task may be at it
            return
        try:
            await stop_engine(engine)
        finally:
            self._opened = None
            self._owns_store = True
            self._unwatch_termination()
            if self._stopped is not None:
                self._stopped.set()

    async def drain(self, timeout_seconds: float = 60.0) -> tuple[str, ...]:
        """
        Begin nothing any more, let what is under way come to its end or to a long wait, and stop.

        For a program that is to be replaced by a newer one: no step is interrupted, unless the time is over. What is
        asked for meanwhile, by callers, schedules and triggers, is recorded as ever and waits for the next engine.

        ```python run
        import asyncio, tempfile
        from polos import Polos, workflow

        @workflow
        async def report(ctx):
            return await ctx.step.run("add up", lambda: 42)

        async def main():
            with tempfile.TemporaryDirectory() as folder:
                async with Polos(data_dir=folder) as polos:
                    await report.invoke(polos)
                    print("still under way:", await polos.drain(timeout_seconds=30))

        asyncio.run(main())
        ```

        Args:
            timeout_seconds: after which it stops all the same, as `stop` does.

        Returns:
            The ids of the runs that were under way when the time was over; nothing of them is lost, but a step that
            was running may be called again. Empty if all came to rest, and if no engine is running.

        Raises:
            ValueError: the time is negative.
            TypeError: it is no number.
        """
        not_negative("timeout_seconds", timeout_seconds)
        engine = self._engine
        left = () if engine is None else await drain(engine, timeout_seconds)
        await self.stop()
        return left

    def _drain_soon(self, seconds: float) -> None:
        """Drain for somebody outside, who waits for nothing more."""
        self._leave(self.drain(seconds))

    def _over_soon(self, error: PolosError) -> None:
        """Have `serve` end and say why: an engine without a log decides nothing any more."""
        self._over = error
        if self._serving:
            self._leave(self.stop())

    def _leave(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self.engine.loop.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        self._entered = True
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop gracefully, however the block was left."""
        stopping = asyncio.ensure_future(self.stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            if not self._terminated:
                raise
            await stopping  # SIGTERM came while it stops, which is what it asks for
        if self._terminated:
            # The program was asked to end, and would have without us; now it does.
            os.kill(os.getpid(), signal.SIGTERM)

    @property
    def engine(self) -> Engine:
        """
        The running engine, for tests and tools.

        Raises:
            PolosUsageError: it isn't started.
        """
        if self._engine is None:
            message = "this Polos isn't started; use `async with Polos(...)` or `await polos.start()`"
            raise PolosUsageError(message)
        return self._engine

    def _connect(self) -> StoreConnection:
        if self._opens is None:
            return super()._connect()
        return StoreConnection(self._opens(), clock=self._clock, timeout_seconds=self.client_timeout_seconds)

    # ------------------------------------------------------------------------------------- signals

    def _watch_termination(self) -> None:
        """Let SIGTERM leave the block gracefully, unless the program has its own way."""
        self._task = asyncio.current_task()
        self._watching = False
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminate)
            self._watching = True

    def _unwatch_termination(self) -> None:
        if self._watching:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            self._watching = False

    def _terminate(self) -> None:
        if self._terminated:
            return
        self._terminated = True
        if self._task is not None and not self._task.done():
            self._task.cancel("SIGTERM")
        else:
            # Whoever started us is gone, so nobody leaves a block; the signal still means the program.
            self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        await self.stop()
        os.kill(os.getpid(), signal.SIGTERM)
