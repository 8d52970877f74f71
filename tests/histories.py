"""
Logs filled by hand, as an engine would fill them: events encoded, rows folded, one unit a call.

A `History` knows no workflows and decides nothing. What it is told is recorded, provided that `evolve`
accepts it, so a test says in a few lines what happened and then reads, streams or follows it. `Bench`
puts a client's surroundings around it: a store with an inbox, an owner that can be switched on and off,
and an engine that answers as the test says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from polos.clock import uuid7
from polos.engine import events as e
from polos.engine.codec import encode
from polos.engine.decide import created_to_json
from polos.engine.json import Json
from polos.engine.projections import INBOX_STREAM, Changes, advance, run_stream, system_rows, topic_stream
from polos.engine.state import RunState
from polos.runtime.connection import Answer, Command, LocalEngine
from polos.runtime.deltas import Previews
from polos.runtime.watch import Watchers
from polos.store.blobs import MemoryBlobs
from polos.store.inbox import Inbox
from polos.store.inbox_dir import MemoryInbox
from polos.store.log import AppendUnit, Log, NewRecord, Position, Receipt, Version
from polos.store.memory import MemoryLog

START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


def run_id(number: int) -> str:
    """Make the id of a run: time-ordered, the same in every test run."""
    return uuid7(START_US + number, number.to_bytes(8, "big"))


def created(run: str, workflow: str = "order", **more: Any) -> e.RunCreated:
    """Make the first event of a root run, or, with a `parent`, of a run in the tree of `run`, an order."""
    root_workflow = "order" if "parent" in more else workflow
    return e.RunCreated(**{"workflow": workflow, "root": run, "root_workflow": root_workflow, **more})


@dataclass
class History:
    """
    Something that happened, written into a log.

    Attributes:
        log: the log.
        now_us: the time of the next unit; a second passes with each.
    """

    log: Log = field(default_factory=MemoryLog)
    now_us: int = START_US

    def __post_init__(self) -> None:
        """Take the log over."""
        self.epoch = self.log.acquire()
        self.states: dict[str, RunState] = {}

    def record(self, *happened: tuple[str, e.Event]) -> Receipt:
        """Write events of any streams as one unit."""
        records: list[NewRecord] = []
        rows: Changes = {}
        for stream, event in happened:
            name, schema_version, payload = encode(event)
            records.append(
                NewRecord(stream=stream, type=name, schema_version=schema_version, time_us=self.now_us, payload=payload)
            )
            if stream.startswith("run/"):
                run = stream.removeprefix("run/")
                state = self.states.setdefault(run, RunState(run=run))
                advance(state, event, time_us=self.now_us, rows=rows)
            else:
                rows.update(system_rows(event))
        (receipt,) = self.log.append([AppendUnit(records=tuple(records), rows=tuple(rows.items()))], epoch=self.epoch)
        self.now_us += 1_000_000
        return receipt

    def run(self, run: str, *events: e.Event) -> Receipt:
        """Write events of a run as one unit."""
        return self.record(*((run_stream(run), event) for event in events))

    def begin(self, run: str, workflow: str = "order", **more: Any) -> Receipt:
        """Create and start a run."""
        return self.run(run, created(run, workflow, **more), e.RunStarted(attempt=1))

    def end(self, run: str, result: Any = None) -> Receipt:
        """Complete a run."""
        return self.run(run, e.RunCompleted(cause=1, result=result))

    def publish(self, topic: str, *data: Any, event_type: str | None = None, origin: str = "") -> Receipt:
        """Publish events on a topic."""
        events = [
            e.EventPublished(
                topic=topic, data=item, event_type=event_type, event_id=f"{origin or self.now_us}:{number}"
            )
            for number, item in enumerate(data)
        ]
        return self.record(*((topic_stream(topic), event) for event in events))

    def consume(self, command_id: str, outcome: str, detail: Any = None) -> Receipt:
        """Record the outcome of a command from the inbox."""
        return self.record((INBOX_STREAM, e.InboxConsumed(command_id=command_id, outcome=outcome, detail=detail)))

    def head(self) -> Position:
        """Give the head's position."""
        with self.log.reader() as reader:
            return reader.head().position

    def version(self, run: str) -> Version:
        """Give the version of a run's last record."""
        with self.log.reader() as reader:
            return reader.version(run_stream(run))


@dataclass
class FakeStore:
    """A store whose owner is whoever the test says."""

    log: Log
    inbox: Inbox = field(default_factory=MemoryInbox)
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    path: Path = Path("data")
    owner_engine: object | None = None
    owned: bool = False
    closed: int = 0

    def owner(self) -> object | None:
        """Tell whether somebody owns it."""
        return "an engine" if self.owned or self.owner_engine is not None else None

    def close(self) -> None:
        """Count how often it was closed."""
        self.closed += 1


class FakeEngine(LocalEngine):
    """An engine that notes commands and answers as it is told."""

    def __init__(self, store: FakeStore, answer: Callable[[str, Command], Answer]) -> None:
        """Live on the running loop, as the engine of this process."""
        self.store = store
        self.watchers = Watchers()
        self.previews = Previews()
        self.commands: list[tuple[str, Command]] = []
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        store.owner_engine = self

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop it lives on."""
        return self._loop

    async def execute(self, command_id: str, command: Command) -> Answer:
        """Note a command and answer it."""
        self.commands.append((command_id, command))
        return self._answer(command_id, command)

    async def create(self, runs: Sequence[e.RunCreated]) -> Answer:
        """Note the command that the runs are, and answer it."""
        wanted: list[Json] = [{"run": created.root, "created": created_to_json(created)} for created in runs]
        return await self.execute("", {"kind": "create", "runs": wanted})

    def is_under_way(self, run: str) -> bool:
        """Know nothing: whoever waits has to look."""
        return False


@dataclass
class Owner:
    """An engine in another process: it takes commands out of the inbox when the test says so."""

    history: History
    store: FakeStore
    taken: list[tuple[str, Command]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Own the store."""
        self.store.owned = True

    def take(self, outcome: str = "accepted", detail: Any = None) -> Command:
        """Decide the one command that is pending."""
        (item,) = self.store.inbox.pending()
        command: Command = orjson.loads(item.payload)["command"]
        self.taken.append((item.command_id, command))
        self.history.consume(item.command_id, outcome, detail)
        self.store.inbox.remove(item.command_id)
        return command

    async def take_next(self, outcome: str = "accepted", detail: Any = None) -> Command:
        """Wait until a command is pending, and decide it."""
        await eventually(self.store.inbox.pending)
        return self.take(outcome, detail)


async def eventually(fact: Callable[[], object]) -> None:
    """Let everything else run until a fact holds; the test's own time limit ends it if it never does."""
    while not fact():
        await asyncio.sleep(0)
