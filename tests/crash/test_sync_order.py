"""
Nothing is promised before what it stands on is synced.

A kill can't show this, and a real power cut can't be had in a test; so what the store does to its
files is recorded, and at each promise nothing may be left that a power cut could take: no write
without a sync of its file behind it, no new name without a sync of its directory. That is stricter
than a disk that happens to keep things in order, and it names the call that is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.crash.changes import (
    Allocate,
    Create,
    Link,
    MakeDirectory,
    Reached,
    Remove,
    Rename,
    Symlink,
    Sync,
    SyncAll,
    SyncMap,
    Truncate,
    Write,
)
from tests.crash.fileops import FileOp, Recording, record
from tests.crash.lives import append_groups, make_and_append, make_store, put_and_consume, write_with_blobs
from tests.crash.stepper import mark

pytestmark = pytest.mark.usefixtures("ptrace")

PROMISES = {"acknowledged", "put", "consumed"}
# LMDB makes the table of readers anew when nobody has it open; nothing in it has to survive.
NO_MATTER = {"lock.mdb"}


def at_risk(recording: Recording) -> list[str]:
    """Give what a power cut could have taken of what stood behind each promise."""
    bytes_at_risk: dict[int, list[FileOp]] = {}
    names_at_risk: dict[str, FileOp] = {}
    found: list[str] = []
    for op in recording.ops:
        match op.change:
            case Write(path, inode, synced=False) | Truncate(path, inode) | Allocate(path, inode):
                bytes_at_risk.setdefault(inode, []).append(op)
            case SyncMap(path, inode, waited=False):
                bytes_at_risk.setdefault(inode, []).append(op)
            case Create(path) | MakeDirectory(path) | Link(_, path) | Symlink(_, path):
                names_at_risk[path] = op
            case Rename(old, new):
                names_at_risk.pop(old, None)
                names_at_risk[new] = op
            case Remove(path):
                names_at_risk.pop(path, None)
            case Sync(path, inode, range=None):
                # Only what had ended when the sync began is covered by it.
                bytes_at_risk[inode] = [each for each in bytes_at_risk.get(inode, []) if each.ended > op.began]
                names_at_risk = {
                    name: each
                    for name, each in names_at_risk.items()
                    if os.path.dirname(name) != path or each.ended > op.began
                }
            case SyncAll():
                bytes_at_risk.clear()
                names_at_risk.clear()
            case Reached(name, number) if name in PROMISES:
                left = [each for ops in bytes_at_risk.values() for each in ops] + list(names_at_risk.values())
                found += [f"{name} {number}: {line}" for line in map(told, left) if line]
            case _:
                pass
    return found


def told(op: FileOp) -> str:
    """Say what is at risk, unless it is of no matter."""
    change = op.change
    path = change.new if isinstance(change, Rename | Link) else getattr(change, "path", "")
    name = os.path.basename(path)
    return "" if name in NO_MATTER else f"{type(change).__name__} {name}"


LIVES: list[Callable[[Path], None]] = [append_groups, write_with_blobs, put_and_consume]


@pytest.mark.parametrize("life", LIVES, ids=[life.__name__ for life in LIVES])
def test_promises_are_synced(tmp_path, life):
    """At each acknowledgement all it stands on is on disk: log, blobs with their names, commands with theirs."""
    make_store(tmp_path)
    recording = record(lambda: life(tmp_path), under=tmp_path)

    assert [] == at_risk(recording)


def test_the_first_promise_of_a_new_store_is_synced(tmp_path):
    """The first acknowledgement also stands on the files and directories that were made for it."""
    recording = record(lambda: make_and_append(tmp_path), under=tmp_path)

    assert [] == at_risk(recording)


def test_without_syncs_promises_are_at_risk(tmp_path):
    """With `sync="off"` the same check finds what it is there to find."""
    make_store(tmp_path)
    recording = record(partial(append_groups, tmp_path, "off"), under=tmp_path)

    assert {"acknowledged 2: Write data.mdb"} <= set(at_risk(recording))


def careless(directory: Path, *, sync_file: bool, sync_directory: bool) -> None:
    """Put a file in place and promise it, leaving something out."""
    with (directory / ".new").open("wb", buffering=0) as file:
        file.write(b"content")
        if sync_file:
            os.fdatasync(file.fileno())
    (directory / ".new").rename(directory / "file")
    if sync_directory:
        os.fsync(os.open(directory, os.O_RDONLY))
    mark("put", 1)


@pytest.mark.parametrize(
    ("sync_file", "sync_directory", "risks"),
    [
        (True, True, []),
        (False, True, ["put 1: Write .new"]),
        (True, False, ["put 1: Rename file"]),
        (False, False, ["put 1: Write .new", "put 1: Rename file"]),
    ],
)
def test_each_missing_sync_is_named(tmp_path, sync_file, sync_directory, risks):
    """Each sync that is left out is found, and nothing else."""
    recording = record(lambda: careless(tmp_path, sync_file=sync_file, sync_directory=sync_directory), under=tmp_path)

    assert risks == at_risk(recording)
