"""
How a client's command reaches the engine that owns a data directory.

There are two ways and one meaning. In the process of the engine a command is handed over and its
answer comes back by a future; from anywhere else it is put in the inbox, a file, and its outcome is
read from the row that the engine writes with the events that the command led to. Which way applies
is looked at for every command, because engines come and go while a client lives.

A client never waits for ever. If no engine owns the directory, the command is kept for the next
one, and what the caller is told depends on what was asked (D32): creating, cancelling and answering
can wait, so the caller gets `"queued"`; who publishes or updates wants something back, and gets
`EngineNotRunning`; a query is pointless later and isn't kept at all. If there is an engine and it
doesn't answer in time, that is `ClientTimeout`, and the command may still happen.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast, final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import orjson

import polos.errors
from polos.clock import Clock, SystemClock, uuid7
from polos.engine import events as e
from polos.engine.decide import created_to_json
from polos.engine.json import Json
from polos.errors import ClientTimeout, CommandRefused, EngineNotRunning, NotAPolosStore, PolosUsageError
from polos.runtime.archived import Segments
from polos.runtime.following import LogMoves
from polos.store.inbox import Inbox
from polos.store.log import Log, Reader

__all__ = [
    "CLIENT_TIMEOUT_SECONDS",
    "Answer",
    "ClientStore",
    "Command",
    "Connection",
    "InboxConnection",
    "LocalConnection",
    "LocalEngine",
    "StoreConnection",
    "api_url_of",
    "connect",
    "local_engine",
    "outcome_of",
    "resolve_data_dir",
]

Command = dict[str, Json]
Answer = dict[str, Json]  # "outcome", and "detail" if there is more to say

CLIENT_TIMEOUT_SECONDS: Final = 5.0
DEFAULT_API_URL: Final = "http://localhost:8080"

# What a caller can go on without: the command is kept, and its effect comes with the next engine.
_CAN_WAIT: Final = frozenset({"create", "cancel", "resume", "signal", "resolve", "readmit", "retry"})


class ClientStore(Protocol):
    """What a client needs of an open store."""

    @property
    def path(self) -> Path:
        """The data directory."""
        ...

    @property
    def log(self) -> Log:
        """The log, to read."""
        ...

    @property
    def blobs(self) -> Segments:
        """Where archived runs are."""
        ...

    @property
    def inbox(self) -> Inbox:
        """Where commands are put."""
        ...

    @property
    def owner_engine(self) -> object | None:
        """The engine of this process that runs on the directory."""
        ...

    def owner(self) -> object | None:
        """Tell who owns the directory, in whatever process; None if nobody does."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class LocalEngine(Protocol):
    """What a client needs of the engine of its own process."""

    store: Any  # as a ClientStore
    watchers: Any  # as polos.runtime.watch.Watchers
    previews: Any  # as polos.runtime.deltas.Previews

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it lives on."""
        ...

    async def execute(self, command_id: str, command: Command) -> Answer:
        """Decide a command; returns when its outcome is durable."""
        ...

    async def create(self, runs: Sequence[e.RunCreated]) -> Answer:
        """Create root runs that this process described; returns when they are durable."""
        ...

    def is_under_way(self, run: str) -> bool:
        """Tell whether a run is in memory, and its end will still be told to who watches it."""
        ...


class Connection(Protocol):
    """A way for commands to the engine."""

    async def execute(self, command: Command, *, command_id: str | None = None) -> Answer:
        """
        Have a command decided, and give its outcome once it is durable.

        Args:
            command: the command, as JSON.
            command_id: its id, if the caller has to know it; the same id is decided once.

        Raises:
            CommandRefused: or another usage error, as the engine decided.
            EngineNotRunning: no engine, and this command can't wait.
            ClientTimeout: an engine, but no answer in time; the command is kept.
        """
        ...


def local_engine(store: ClientStore) -> LocalEngine | None:
    """Give the engine of this process that runs on a store, if there is one that can answer."""
    engine = cast("LocalEngine | None", store.owner_engine)  # only engines put themselves there
    if engine is None or engine.loop.is_closed():
        return None  # a program that let its loop go without `stop` has no engine any more
    return engine


def outcome_of(reader: Reader, command_id: str) -> Answer | None:
    """Give the outcome of a command from the inbox, None if it isn't decided yet."""
    row = reader.row(("command", command_id))
    return None if row is None else cast("Answer", orjson.loads(row))


@final
class LocalConnection:
    """Commands to the engine of this process, from whatever thread its caller's loop runs on."""

    def __init__(
        self, engine: LocalEngine, *, clock: Clock | None = None, timeout_seconds: float = CLIENT_TIMEOUT_SECONDS
    ) -> None:
        """
        Take the engine.

        Args:
            engine: the engine.
            clock: makes command ids.
            timeout_seconds: how long it may take to answer to another loop than its own; on its own the caller waits as
                long as the engine lives, because one can't go without the other.
        """
        self._engine = engine
        self._timeout_seconds = timeout_seconds
        self._clock = clock or SystemClock()

    async def execute(self, command: Command, *, command_id: str | None = None) -> Answer:
        """Have a command decided."""
        command_id = command_id or uuid7(self._clock.now_us())
        engine = self._engine
        if asyncio.get_running_loop() is engine.loop:
            return await engine.execute(command_id, command)
        # Nobody answers for a loop that ends before it has come to this.
        answer = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(engine.execute(command_id, command), engine.loop))
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await answer
        except TimeoutError:
            if engine.loop.is_closed():
                raise EngineNotRunning(
                    "the engine's loop was closed before it answered; this may have happened"
                ) from None
            raise ClientTimeout(
                f"the engine of this process didn't answer within {self._timeout_seconds} s (client_timeout_seconds); "
                f"the command {command_id} may still be decided",
                command_id=command_id,
            ) from None


# Commands that mean the engine that runs now.
_NOT_KEPT: Final = {
    "query": "only an engine can call a workflow's query functions",
    "drain": "there is nothing to drain",
}


@final
class InboxConnection:
    """Commands to the engine of another process, by way of the inbox."""

    def __init__(
        self,
        store: ClientStore,
        clock: Clock | None = None,
        timeout_seconds: float = CLIENT_TIMEOUT_SECONDS,
        *,
        moves: Callable[[], LogMoves] | None = None,
    ) -> None:
        """
        Take the store.

        Args:
            store: the open data directory.
            clock: makes command ids.
            timeout_seconds: how long an engine may take to answer.
            moves: gives what tells the running loop that the log has moved.
        """
        self._store = store
        self._clock = clock or SystemClock()
        self._timeout_seconds = timeout_seconds
        self._moves = moves or (lambda: LogMoves(store))

    async def execute(self, command: Command, *, command_id: str | None = None) -> Answer:
        """Put a command, durably, and wait for its outcome."""
        kind = str(command["kind"])
        if kind in _NOT_KEPT and self._store.owner() is None:
            raise EngineNotRunning(f"no engine is running on {self._store.path}, and {_NOT_KEPT[kind]}")
        command_id = command_id or uuid7(self._clock.now_us())
        payload = orjson.dumps({"command": command, "by": f"process {os.getpid()}"})
        await asyncio.to_thread(self._store.inbox.put, command_id, payload)
        if self._store.owner() is None:
            return self._unowned(kind, command_id)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._answer(command_id)
        except TimeoutError:
            if self._store.owner() is None:
                return self._unowned(kind, command_id)
            raise ClientTimeout(
                f"the engine on {self._store.path} didn't answer within {self._timeout_seconds} s "
                f"(client_timeout_seconds). The command {command_id} is kept and will be decided once",
                command_id=command_id,
            ) from None
        return _given(answer)

    async def take_back(self, command_id: str) -> bool:
        """
        Take a command back that no engine has decided; durable when it returns.

        Returns:
            False if it was decided, isn't there, or an engine runs: what an engine can see is its own to decide.
        """
        if self._store.owner() is not None:
            return False
        if not await asyncio.to_thread(self._store.inbox.remove, command_id):
            return False
        if self._store.owner() is None:
            return not self._is_decided(command_id)
        # An engine came up at this very moment, and may have read the command before it was removed.
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._answer(command_id)
        except TimeoutError:
            return True
        return False

    def _is_decided(self, command_id: str) -> bool:
        with self._store.log.reader() as reader:
            return outcome_of(reader, command_id) is not None

    async def _answer(self, command_id: str) -> Answer:
        moves = self._moves()
        while True:
            with self._store.log.reader() as reader:
                seen = reader.head().position
                answer = outcome_of(reader, command_id)
            if answer is not None:
                return answer
            await moves.behind(seen)

    def _unowned(self, kind: str, command_id: str) -> Answer:
        """Say what follows from there being no engine."""
        with self._store.log.reader() as reader:
            answer = outcome_of(reader, command_id)
        if answer is not None:
            return _given(answer)  # decided just before the engine went
        if kind in _CAN_WAIT:
            return {"outcome": "queued", "command_id": command_id}
        raise EngineNotRunning(
            f"no engine is running on {self._store.path}. The {kind} is kept for the next engine there; "
            f'`await client.take_back("{command_id}")` takes it back',
            command_id=command_id,
        )


@final
class StoreConnection:
    """Commands to whichever engine owns a store at the time."""

    def __init__(
        self, store: ClientStore, *, clock: Clock | None = None, timeout_seconds: float = CLIENT_TIMEOUT_SECONDS
    ) -> None:
        """Take the open store; arguments as for `InboxConnection`."""
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self.timeout_seconds = timeout_seconds
        self._moves: WeakKeyDictionary[asyncio.AbstractEventLoop, LogMoves] = WeakKeyDictionary()

    @property
    def engine(self) -> LocalEngine | None:
        """The engine of this process, if there is one."""
        return local_engine(self.store)

    def moves(self) -> LogMoves:
        """Give what tells the running loop that the log has moved; one for each loop, shared by all who wait."""
        loop = asyncio.get_running_loop()
        found = self._moves.get(loop)
        if found is None:
            found = self._moves[loop] = LogMoves(self.store)
        return found

    async def execute(self, command: Command, *, command_id: str | None = None) -> Answer:
        """Have a command decided, by the engine of this process if there is one."""
        return await self._way().execute(command, command_id=command_id)

    async def create(self, runs: Sequence[e.RunCreated]) -> Answer:
        """Have root runs created, all or none. The engine of this loop takes them as they are, any other as JSON."""
        engine = self.engine
        if engine is not None and engine.loop is asyncio.get_running_loop():
            return await engine.create(runs)
        wanted: list[Json] = [{"run": created.root, "created": created_to_json(created)} for created in runs]
        return await self.execute({"kind": "create", "runs": wanted})

    async def take_back(self, command_id: str) -> bool:
        """Take a command back that no engine has decided."""
        return await self._inbox().take_back(command_id)

    def _way(self) -> Connection:
        engine = self.engine
        return (
            self._inbox()
            if engine is None
            else LocalConnection(engine, clock=self.clock, timeout_seconds=self.timeout_seconds)
        )

    def _inbox(self) -> InboxConnection:
        return InboxConnection(self.store, self.clock, self.timeout_seconds, moves=self.moves)


def resolve_data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
    """Give the data directory: the argument, else `POLOS_DATA_DIR`, else `.polos` in the working directory."""
    return Path(data_dir or os.environ.get("POLOS_DATA_DIR") or ".polos")


def api_url_of(given: str | None) -> str:
    """Give where approval pages are: as given, else POLOS_API_URL, else the address of a server on this machine."""
    return given or os.environ.get("POLOS_API_URL") or DEFAULT_API_URL


def is_local(api_url: str) -> bool:
    """Tell whether an address is on this machine."""
    host = urlsplit(api_url).hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def connect(
    data_dir: str | os.PathLike[str], *, clock: Clock | None = None, timeout_seconds: float = CLIENT_TIMEOUT_SECONDS
) -> StoreConnection:
    """
    Open a data directory for a client; made if there is none.

    Raises:
        NotAPolosStore: the directory holds something else.
        StoreFormatTooNew: a newer polos wrote it.
    """
    from polos.store.directory import open_store

    # A client never writes the log: an LMDB write transaction of a stopped client would hold up the owner.
    try:
        store = open_store(data_dir, read_only=True, clock=clock)
    except NotAPolosStore:
        # There is none, or one that is being made at this moment, or one whose maker was killed half way.
        open_store(data_dir, clock=clock).close()
        store = open_store(data_dir, read_only=True, clock=clock)
    return StoreConnection(store, clock=clock, timeout_seconds=timeout_seconds)


def _given(answer: Answer) -> Answer:
    """Give an outcome, or raise the refusal that it is."""
    if answer["outcome"] != "refused":
        return answer
    detail = cast("dict[str, Any]", answer.get("detail") or {})
    message = str(detail.get("message", "the engine gave no reason"))
    # The name came from a log, so it is looked up among our own and believed only if it is a refusal.
    cls = getattr(polos.errors, str(detail.get("error")), None)
    if isinstance(cls, type) and issubclass(cls, PolosUsageError):
        raise cls(message)
    raise CommandRefused(message)
