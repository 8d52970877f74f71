"""
Waiting for what a run does: for its end, for its answer to an update.

In the process and on the loop of the engine the end of a run comes as a future that the engine
resolves when the end is durable; from anywhere else the log is followed. Either way the log is what
is believed: a future only says when to look. An engine that has lost its log to another one knows of no end any
more: then the log is followed here, too.
"""

from __future__ import annotations

import asyncio

from polos.engine import events as e
from polos.errors import (
    ClientTimeout,
    EngineNotRunning,
    PolosError,
    PolosInternalError,
    StoreFenced,
    WorkflowTimeoutError,
)
from polos.runtime import reads
from polos.runtime.archived import row_or_archived
from polos.runtime.connection import LocalEngine, StoreConnection
from polos.runtime.watch import End
from polos.store.log import Reader

__all__ = ["wait_ended", "wait_update"]


async def wait_ended(connection: StoreConnection, run: str, timeout_seconds: float | None) -> End | None:
    """
    Wait for the end of a run, its successors included.

    Returns:
        How it ended, if the engine has just said so; None if the log has to be asked.

    Raises:
        WorkflowTimeoutError: it didn't end in time; the error names what the run waits for.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _ended(connection, run)
    except TimeoutError:
        with connection.store.log.reader() as reader:
            row = reads.last_row(reader, run)
        reason = None if row is None else row.waiting_reason
        raise WorkflowTimeoutError(run, timeout_seconds, waiting_reason=reason) from None


async def wait_update(
    connection: StoreConnection, run: str, update_id: str, timeout_seconds: float | None
) -> e.UpdateAnswered:
    """
    Wait for a run's answer to an update that it has received.

    Raises:
        ClientTimeout: it took longer; the update is recorded and goes on.
    """
    with connection.store.log.reader() as reader:
        after = _received(reader, run, update_id)
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                with connection.store.log.reader() as reader:
                    head = reader.head().position
                    for record, event in reads.events_of(reader, run, after=after):
                        after = record.version
                        if isinstance(event, e.UpdateAnswered) and event.update_id == update_id:
                            return event
                await connection.moves().behind(head)
    except TimeoutError:
        raise ClientTimeout(
            f"run {run} didn't answer the update within {timeout_seconds} s; the update is recorded and goes on",
            command_id=update_id,
        ) from None


def _received(reader: Reader, run: str, update_id: str) -> int:
    """Give the version at which a run received an update; it is near the end of its stream."""
    for record, event in reads.events_of(reader, run, reverse=True):
        if isinstance(event, e.UpdateReceived) and event.update_id == update_id:
            return record.version
    raise PolosInternalError(f"run {run} is said to have received the update {update_id}, which isn't in its stream")


async def _ended(connection: StoreConnection, run: str) -> End | None:
    while True:
        engine = connection.engine
        following: End | str | None
        over: PolosError | None = None if engine is None else engine.watchers.over
        if over is not None and not isinstance(over, StoreFenced):
            following = _ended_before(connection, run, over)
        elif over is None and engine is not None and engine.loop is asyncio.get_running_loop():
            following = await _ended_here(connection, engine, run)
        else:
            following = await _ended_elsewhere(connection, run)
        if not isinstance(following, str):
            return following
        run = following


async def _ended_here(connection: StoreConnection, engine: LocalEngine, run: str) -> End | str | None:
    """Wait by the engine's word; gives the end, or the run to wait for next, or None if the log knows the end."""
    watched = engine.watchers.watch(run, engine.loop)
    row: reads.RunRow | None = None
    try:
        # Of a run that is in memory and hasn't ended the engine will tell; any other may have ended already.
        if not engine.is_under_way(run):
            row = _row(connection, run)
        if row is None or not row.ended:
            end: End | None = await watched
            if end is not None:
                return end
            row = _row(connection, run)
    finally:
        watched.cancel()
    if row is None or not row.ended:
        return run  # the engine stopped, or has lost the log; the next one ends the run
    return row.successor


def _ended_before(connection: StoreConnection, run: str, over: PolosError) -> str | None:
    """Give the run to wait for next, None if it is at its end: nobody ends any more what hasn't."""
    row = _row(connection, run)
    if row is None or not row.ended:
        raise EngineNotRunning(str(over))
    return row.successor


async def _ended_elsewhere(connection: StoreConnection, run: str) -> str | None:
    """Wait by following the log; gives the run to wait for next, None after the end."""
    while True:
        with connection.store.log.reader() as reader:
            head = reader.head().position
            row = row_or_archived(reader, run)
        if row is not None and row.ended:
            return row.successor
        await connection.moves().behind(head)


def _row(connection: StoreConnection, run: str) -> reads.RunRow | None:
    with connection.store.log.reader() as reader:
        return row_or_archived(reader, run)
