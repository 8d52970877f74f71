"""
A life in which the sync of one commit fails, and what must hold when its power is cut.

A meta page whose write fails may be in the cache of the kernel, and on disk, or not. LMDB then writes the old one back,
without a sync, which may fail as well. So there are two lives: in one the new page stays in the cache, and the log that
is opened again holds the unit; in the other one the old page is back there, and the unit is gone. Either is told, and
what was told must be so after a cut.

No disk fails here: the commit is made, and reported as broken off; and `without_the_sync` says in the recording that
the write of its meta page failed, so that it may be on disk or not, whatever is synced later.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest
from polos.errors import StoreFailed
from polos.store.directory import open_store
from polos.store.lmdb_log import LmdbLog

from tests.contract.logs import record, unit
from tests.crash.changes import Reached, Write
from tests.crash.events import mark
from tests.crash.fileops import Recording
from tests.crash.lives import MAP_BYTES, numbered, opened
from tests.crash.power_checks import units_and_commands
from tests.crash.power_server import Promises

__all__ = ["check", "fail_and_keep", "fail_and_undo", "without_the_sync"]

GHOST = "ghost"
META_BYTES = 2 * 4096


class _BreaksOff:
    """An LMDB environment whose next commit is written, and said to have failed at the meta page."""

    def __init__(self, env: Any, data: Path, *, undone: bool) -> None:
        self.env = env
        self.data = data
        self.undone = undone
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def begin(self, *, write: bool = False) -> Any:
        if write and self.broken:
            raise lmdb.PanicError("planned")
        self.txn = self.env.begin(write=write)
        return self if write else self.txn

    def __enter__(self) -> Any:
        return self.txn

    def __exit__(self, *_: object) -> None:
        descriptor = os.open(self.data, os.O_RDWR)
        try:
            before = os.pread(descriptor, META_BYTES, 0)
            mark("failing")
            self.txn.commit()
            mark("failed")
            if self.undone:
                os.pwrite(descriptor, before, 0)
        finally:
            os.close(descriptor)
        self.broken = True
        error = lmdb.Error("planned")
        vars(error)["code"] = errno.EIO
        raise error


def fail_and_keep(directory: Path) -> None:
    """Have a commit fail that is there when the log is opened again, and go on."""
    _fail(directory, undone=False)


def fail_and_undo(directory: Path) -> None:
    """Have a commit fail that isn't there when the log is opened again, and go on."""
    _fail(directory, undone=True)


def _fail(directory: Path, *, undone: bool) -> None:
    with opened(directory) as store:
        log = store.log
        assert isinstance(log, LmdbLog)
        epoch = store.acquire_ownership()
        mark("begin")
        log.append([numbered(1), numbered(2)], epoch=epoch)
        mark("acknowledged", 2)
        raw: Any = log.environment.raw
        raw.env = _BreaksOff(raw.env, directory / "data" / "log" / "data.mdb", undone=undone)
        with pytest.raises(StoreFailed) as failure:
            log.append([unit(record(GHOST))], epoch=epoch)
        assert failure.value.maybe_happened
        log.reopen()
        with log.reader() as reader:
            there = reader.version(GHOST)
        assert bool(there) != undone
        mark("kept" if there else "lost")
        for number in (3, 4):
            log.append([numbered(number)], epoch=epoch)
            mark("acknowledged", number)


def without_the_sync(recording: Recording) -> Recording:
    """Give a recording in which the meta page of the commit that failed failed."""
    names = [op.change.name if isinstance(op.change, Reached) else "" for op in recording.ops]
    ops = list(recording.ops)
    failed = [
        at
        for at in range(names.index("failing"), names.index("failed"))
        if isinstance(change := ops[at].change, Write) and change.synced
    ]
    assert len(failed) == 1, "one synchronous write is what makes a commit count"
    (at,) = failed
    change = ops[at].change
    assert isinstance(change, Write)
    ops[at] = replace(ops[at], change=replace(change, synced=False, failed=True))
    return replace(recording, ops=tuple(ops))


def check(top: Path, last: Promises, first: Promises) -> None:
    """Check that what was told of the commit that failed is so, and everything else that is checked of units."""
    with (
        open_store(top / "data", map_bytes=MAP_BYTES, sync="off", read_only=True) as store,
        store.log.reader() as reader,
    ):
        there = reader.version(GHOST)
    assert there or "kept" not in last, "a commit was found to be kept, and is gone"
    assert not there or "lost" not in last, "a commit was found to be lost, and is there"
    units_and_commands(top, last, first)
