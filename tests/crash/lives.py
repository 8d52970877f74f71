"""
Short lives of a data directory: what victims do, and recordings record.

Each tells by marks what has been promised: `acknowledged` for an append, `put` and `consumed` for a
command. Units touch several streams and rows, so that any part of one without the rest shows.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from polos.store.backup import backup
from polos.store.directory import Store, Sync, open_store
from polos.store.log import AppendUnit, Epoch, Key
from polos.store.writer import Committed, Outcome, Writer

from tests.contract.logs import record, unit
from tests.crash.events import mark

__all__ = [
    "LARGE_BYTES",
    "MAP_BYTES",
    "append_groups",
    "body",
    "come_again",
    "consume",
    "copy_store",
    "fill_store",
    "make_and_append",
    "make_store",
    "numbered",
    "opened",
    "put_and_consume",
    "write_rounds",
    "write_with_blobs",
]

MAP_BYTES = 64 << 20
LARGE_BYTES = 70_000


def opened(directory: Path, sync: Sync = "full", *, check: bool = False) -> Store:
    """Open the store of a victim; without the check in an interpreter of its own, as the tests look closer."""
    return open_store(directory / "data", map_bytes=MAP_BYTES, sync=sync, check=check)


def body(number: int) -> bytes:
    """Give the payload of a unit of its own; those of fives are too large for the log."""
    return (b"%d," % number).ljust(LARGE_BYTES if number % 5 == 0 else 10, b".")


def numbered(number: int) -> AppendUnit:
    """Make a unit that touches three streams and three rows, so that any part of it without the rest shows."""
    rows: dict[Key, bytes | None] = {("unit", number): b"there", ("last",): b"%d" % number}
    if number > 3:
        rows["unit", number - 3] = None
    return unit(
        record("left", b"%d" % number),
        record("right", b"%d" % number),
        record(f"own-{number}", body(number)),
        expected={"left": number - 1, f"own-{number}": 0},
        rows=rows,
    )


def make_store(directory: Path) -> None:
    """Leave a new store behind."""
    opened(directory).close()


def make_and_append(directory: Path) -> None:
    """Make a store and use it at once."""
    with opened(directory) as store:
        store.log.append([numbered(1)], epoch=store.acquire_ownership())
        mark("acknowledged", 1)


def append_groups(directory: Path, sync: Sync = "full") -> None:
    """Append three groups of two units on the calling thread."""
    with opened(directory, sync) as store:
        epoch = store.acquire_ownership()
        mark("begin")
        for last in (2, 4, 6):
            store.log.append([numbered(last - 1), numbered(last)], epoch=epoch)
            mark("acknowledged", last)


def write_rounds(store: Store, epoch: Epoch, rounds: list[list[int]]) -> None:
    """Append units through a writer, a round in one commit, and mark each when its outcome is known."""
    done = threading.Event()
    left = list(rounds)
    waiting: set[int] = set()

    def submit_round() -> None:
        if not left:
            done.set()
            return
        waiting.update(left[0])
        for number in left.pop(0):
            writer.submit(numbered(number), number)

    def on_commit(outcomes: list[tuple[int, Outcome]]) -> None:
        for number, outcome in outcomes:
            if not isinstance(outcome, Committed):
                print(outcome, file=sys.stderr, flush=True)
                os._exit(1)  # not an exception: on this thread nobody would hear of it
            mark("acknowledged", number)
            waiting.remove(number)
        if not waiting:
            # On the writer's own thread, so that it can't begin a commit before the round is whole.
            submit_round()

    writer = Writer[int](store.log, epoch, store.blobs, on_commit=on_commit)
    submit_round()
    done.wait()
    writer.close()


def write_with_blobs(directory: Path) -> None:
    """Append groups through the writer's thread, some with payloads that become blobs first."""
    with opened(directory) as store:
        epoch = store.acquire_ownership()
        mark("begin")
        write_rounds(store, epoch, [[1], [2, 3, 4], [5], [6, 7], [8, 9], [10]])


def come_again(directory: Path) -> None:
    """Have five units and a command there, from nothing or from what somebody left who was killed at the same work."""
    with opened(directory) as store:
        epoch = store.acquire_ownership()
        mark("owned", epoch)
        with store.log.reader() as reader:
            there = len(list(reader.stream("left")))
        rounds = [[number for number in numbers if number > there] for numbers in ([1, 2], [3, 4], [5])]
        write_rounds(store, epoch, [numbers for numbers in rounds if numbers])
        mark("acknowledged", 5)
        store.inbox.put("1", b"payload of 1")
        mark("put", 1)


def fill_store(directory: Path) -> None:
    """Leave a store behind with five units, of which one is a blob, and a command."""
    come_again(directory)


def copy_store(directory: Path) -> None:
    """Make a backup of a store, in a directory that is made for it."""
    backup(directory / "data", directory / "copies" / "copy")
    mark("copied", 1)


def consume(store: Store, epoch: Epoch) -> None:
    """Do with the inbox what an owner does: record first, remove after, and never record twice."""
    for item in store.inbox.pending():
        with store.log.reader() as reader:
            known = reader.row(("consumed", item.command_id)) is not None
        if not known:
            consumed = unit(
                record("inbox", item.command_id.encode()), rows={("consumed", item.command_id): item.payload}
            )
            store.log.append([consumed], epoch=epoch)
            mark("consumed", int(item.command_id))
        store.inbox.remove(item.command_id)
        mark("removed", int(item.command_id))


def put_and_consume(directory: Path) -> None:
    """Put three commands, as a client does, and consume them."""
    with opened(directory) as store:
        epoch = store.acquire_ownership()
        mark("begin")
        for number in (1, 2, 3):
            store.inbox.put(str(number), b"payload of %d" % number)
            mark("put", number)
        consume(store, epoch)
