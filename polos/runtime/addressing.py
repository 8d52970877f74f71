"""
Which run a command is for.

A caller holds a handle; the run that goes on under it may be a successor (`continue_as_new`). So a
command is sent to the last of the successors. Between looking that up and the engine's decision the run
may go on as yet another: then the engine refuses, since the run has ended, and the command is sent once
more, to the new one. A refusal writes nothing, so nothing happens twice.

A resume is different where it names the root of a tree: the oldest open wait of its key in the tree will
do, whichever run has it (D30), and only if there is none it is kept for the run that goes on. The engine
finds that wait itself as long as the root lives; here it is found for a root that went on.
"""

from __future__ import annotations

from collections.abc import Callable

from polos.clock import uuid7
from polos.data_class import dataclass
from polos.errors import CommandRefused, UnknownRun
from polos.runtime import reads
from polos.runtime.archived import refuse_archived
from polos.runtime.connection import Answer, ClientStore, Command, StoreConnection

__all__ = ["Told", "address", "resume_address", "tell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A command that was decided, or is kept: which run it went to, under which id, and the answer."""

    run: str
    command_id: str
    answer: Answer


def address(store: ClientStore, handle: str) -> str:
    """
    Give the run that goes on under a handle.

    Raises:
        UnknownRun: neither the log nor the inbox has it.
    """
    for _ in range(2):  # an engine may take it out of the inbox between the two looks
        with store.log.reader() as reader:
            row = reads.last_row(reader, handle)
            if row is None:
                refuse_archived(reader, handle)
        if row is not None:
            return row.run
        if any(pending.row.run == handle for pending in reads.pending_runs(store.inbox)):
            return handle
    raise UnknownRun(f"there is no run {handle!r} in {store.path}")


def resume_address(store: ClientStore, handle: str, key: str, *, every: bool = False) -> str:
    """
    Give the run that a resume is to name.

    Args:
        store: the open data directory.
        handle: as the caller said.
        key: the key of the wait.
        every: all waits of the key in the tree are meant; then the root names the tree.

    Raises:
        UnknownRun: neither the log nor the inbox has it.
    """
    last = address(store, handle)
    if last == handle:
        return last
    with store.log.reader() as reader:
        row = reads.run_row(reader, handle)
        if row is None or row.root != handle:
            return last
        waiting = [
            wait.row.run for wait in reads.open_suspends(reader, handle) if key in (wait.event.key, wait.event.name)
        ]
    if every and waiting:
        return handle
    return waiting[0] if waiting else last


async def tell(
    connection: StoreConnection, find: Callable[[ClientStore], str], make: Callable[[str, str], Command]
) -> Told:
    """
    Have a command decided by the run that goes on under a handle.

    Args:
        connection: the way to the engine.
        find: gives the run, as of now.
        make: gives the command for a run and a command id.

    Raises:
        UnknownRun: there is no such run.
        CommandRefused: and what else the engine or the connection raises.
    """
    run = find(connection.store)
    while True:
        command_id = uuid7(connection.clock.now_us())
        try:
            answer = await connection.execute(make(run, command_id), command_id=command_id)
        except CommandRefused:
            went_on = find(connection.store)
            if went_on == run:
                raise
            run = went_on
            continue
        return Told(run=run, command_id=command_id, answer=answer)
