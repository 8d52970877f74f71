"""
Engines that break one promise each, on purpose.

A break is a function that changes a real class of this process for good, so it is only called in a child that is
thrown away. It changes as little as will do: the rest of the engine goes on as it is, and what the checks find is
the one thing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import lmdb
from polos.engine import events as e
from polos.replay.facts import Fact
from polos.runtime import loading, unit
from polos.runtime.activations import Activations
from polos.runtime.debts import Debts
from polos.runtime.engine import Engine
from polos.runtime.intake import Intake
from polos.runtime.performer import Attempt, Performer
from polos.runtime.unit import Resident, Unit, Work
from polos.store import lmdb_log
from polos.store.blobs import FileBlobs
from polos.store.inbox import InboxItem
from polos.store.inbox_dir import DirectoryInbox
from polos.store.lmdb_log import LmdbLog

__all__ = [
    "Break",
    "answers_before_the_commit",
    "answers_direct_bodies_early",
    "begins_before_the_intent",
    "calls_again_what_may_be_called_once",
    "commits_before_the_blob",
    "decides_a_command_twice",
    "delivers_out_of_order",
    "drops_a_row",
    "forgets_the_fence",
    "forgets_to_sync_contents",
    "forgets_to_sync_names",
    "leaves_syncing_to_the_system",
    "lets_time_go_back",
    "loses_a_resume",
    "nothing",
    "opens_again_without_a_commit",
    "removes_the_file_first",
    "repeats_a_completed_step",
    "syncs_no_meta_page",
    "takes_recorded_for_delivered",
    "trusts_the_name_of_a_command",
    "writes_over_what_may_come_back",
]

Break = Callable[[], None]


def nothing() -> None:
    """Break nothing: the scene must pass its check then, or the check says nothing."""


def answers_before_the_commit() -> None:
    """Callers are answered when their command is decided."""
    whole = Engine._submit

    def submit(self: Engine, unit: Unit) -> None:
        answers = [(work.done, reply) for work, reply in unit.work if work.done is not None]
        whole(self, unit)
        for done, reply in answers:
            done(reply)

    Engine._submit = submit  # type: ignore[method-assign]  # that is the break; so are those below


def answers_direct_bodies_early() -> None:
    """A body that may do I/O gets facts that aren't on disk."""
    whole = Activations.may_deliver

    def may_deliver(self: Activations, resident: Resident) -> bool:
        kept, resident.durable = resident.durable, resident.state.version
        try:
            return whole(self, resident)
        finally:
            resident.durable = kept

    Activations.may_deliver = may_deliver  # type: ignore[method-assign]


def begins_before_the_intent() -> None:
    """Steps are called before it is on disk that they were asked for."""
    whole = Engine._submit

    def submit(self: Engine, unit: Unit) -> None:
        whole(self, unit)
        for resident in unit.residents.values():
            kept, resident.durable = resident.durable, resident.state.version
            self.debts.perform(resident)
            resident.durable = kept

    Engine._submit = submit  # type: ignore[method-assign]


def forgets_the_fence() -> None:
    """An old epoch may append."""
    whole = LmdbLog.append

    def append(self: LmdbLog, units: Any, *, epoch: Any) -> Any:
        with self.reader() as reader:
            newest = reader.head().epoch
        return whole(self, units, epoch=newest)

    LmdbLog.append = append  # type: ignore[method-assign]


def delivers_out_of_order() -> None:
    """Of several facts that a run may see, the last comes first."""
    whole = Activations._deliver

    def deliver(self: Activations, unit: Unit, resident: Resident) -> None:
        if len(resident.facts) > 1 and self.may_deliver(resident):
            resident.facts = deque(reversed(resident.facts))
        whole(self, unit, resident)

    Activations._deliver = deliver  # type: ignore[method-assign]


def takes_recorded_for_delivered() -> None:
    """After a crash, what is recorded counts as seen by the code."""
    whole = loading.replay

    def replay(*arguments: Any, **named: Any) -> list[Fact]:
        whole(*arguments, **named)
        return []

    vars(loading)["replay"] = replay


def drops_a_row() -> None:
    """A run isn't found by its workflow."""
    whole = vars(unit)["advance"]

    def advance(state: Any, event: e.Event, *, time_us: int, rows: Any) -> None:
        whole(state, event, time_us=time_us, rows=rows)
        for key in [key for key in rows if key[0] == "workflow"]:
            del rows[key]

    vars(unit)["advance"] = advance


def repeats_a_completed_step() -> None:
    """A step is called once more when its outcome is durable."""
    whole = Performer.forget
    repeated: set[str] = set()

    def forget(self: Performer, attempt: Attempt) -> None:
        whole(self, attempt)
        if attempt.ended and attempt.run not in repeated:
            repeated.add(attempt.run)
            self.start(attempt.run, attempt.name, attempt.number, attempt.call)

    Performer.forget = forget  # type: ignore[method-assign]


def calls_again_what_may_be_called_once() -> None:
    """After a crash, an attempt that was begun is taken for one that this process has begun."""
    whole = Debts._execute

    def execute(self: Debts, resident: Resident, debt: Any) -> None:
        self.begun.add((resident.run, debt.name, debt.attempt))
        whole(self, resident, debt)

    Debts._execute = execute  # type: ignore[method-assign]


def loses_a_resume() -> None:
    """An answer is acknowledged and forgotten."""
    whole = Intake.__init__

    def init(self: Intake, engine: Engine) -> None:
        whole(self, engine)
        self._kinds["resume"] = lambda _unit, _id, _command: {"outcome": "accepted"}

    Intake.__init__ = init  # type: ignore[method-assign]


def removes_the_file_first() -> None:
    """A command's file goes before what it led to is on disk."""
    whole = Intake._consume

    def consume(self: Intake, item: InboxItem) -> None:
        self._engine.store.inbox.remove(item.command_id)
        whole(self, item)

    Intake._consume = consume  # type: ignore[method-assign]


@dataclass
class _Forgetful:
    """A reader that doesn't know what commands were decided."""

    reader: Any

    def row(self, key: Any) -> bytes | None:
        found: bytes | None = None if key[0] == "command" else self.reader.row(key)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)


def decides_a_command_twice() -> None:
    """A command whose file is still there is decided again."""
    whole = Engine.post

    def post(self: Engine, work: Work) -> None:
        apply = work.apply

        def forgetful(unit: Unit) -> Any:
            opened = LmdbLog.reader
            LmdbLog.reader = _forgetful(opened)  # type: ignore[method-assign]
            try:
                return apply(unit)
            finally:
                LmdbLog.reader = opened  # type: ignore[method-assign]

        whole(self, Work(forgetful, done=work.done, fail=work.fail, outside=work.outside))

    Engine.post = post  # type: ignore[method-assign]


def _forgetful(opened: Any) -> Any:
    class Reading:
        def __init__(self, log: Any) -> None:
            self.inner = opened(log)

        def __enter__(self) -> _Forgetful:
            return _Forgetful(self.inner.__enter__())

        def __exit__(self, *rest: object) -> Any:
            return self.inner.__exit__(*rest)

    return lambda log: Reading(log)  # noqa: PLW0108  # a class isn't bound to the log as a function is


def commits_before_the_blob() -> None:
    """A record names a large payload that isn't on disk yet."""

    def put(self: FileBlobs, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    FileBlobs.put = put  # type: ignore[method-assign]


def lets_time_go_back() -> None:
    """The time of records is the clock's, whatever that does and whatever the run's last record says."""
    whole = Unit.append

    def now_us(self: Engine) -> int:
        return self.clock._clock.now_us()

    def append(self: Unit, resident: Resident, event: e.Event) -> None:
        resident.state.last_time_us = 0
        whole(self, resident, event)

    Engine.now_us = now_us  # type: ignore[method-assign]
    Unit.append = append  # type: ignore[method-assign]


# ------------------------------------------------------------------------------------- what a power cut shows


def leaves_syncing_to_the_system() -> None:
    """The log is opened with `sync="off"`, whatever was asked for."""
    whole = lmdb_log._open_env

    def open_env(path: str, settings: Any, **more: Any) -> Any:
        return whole(path, replace(settings, sync=False), **more)

    vars(lmdb_log)["_open_env"] = open_env


def syncs_no_meta_page() -> None:
    """A commit is acknowledged when its data are synced, before the page that makes it count is."""
    whole = lmdb.Environment

    def environment(path: str, **named: Any) -> Any:
        return whole(path, **{**named, "metasync": False})

    vars(lmdb)["Environment"] = environment


def forgets_to_sync_contents() -> None:
    """Files are put in place before what is in them is synced."""
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            whole(descriptor)

    vars(os)["fsync"] = fsync


def forgets_to_sync_names() -> None:
    """Directories aren't synced."""
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            whole(descriptor)

    vars(os)["fsync"] = fsync


def opens_again_without_a_commit() -> None:
    """A log whose commit failed is opened again, and what is found there is told without making it certain."""
    vars(lmdb_log)["_touch"] = lambda _txn, _dbs: None


def writes_over_what_may_come_back() -> None:
    """A log is opened, and written to, before it is certain which meta page is on disk."""
    vars(lmdb_log)["sync_file"] = lambda _path: None


def trusts_the_name_of_a_command() -> None:
    """A command whose file is there counts as put, whoever put it and died then."""
    whole = DirectoryInbox.put

    def put(self: DirectoryInbox, command_id: str, payload: bytes) -> None:
        if not (self.path / command_id).exists():
            whole(self, command_id, payload)

    DirectoryInbox.put = put  # type: ignore[method-assign]
