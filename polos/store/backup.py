"""
A copy of a data directory that is in use.

The order makes the copy whole. The inbox first: a command that is decided meanwhile is then in the copy twice,
as a command and as its outcome in the log, and who opens the copy only removes it; the other way round it
could be in neither. Then the log, in one read transaction. Then the blobs which that copy of the log needs:
blobs are written before the records that name them and aren't collected while a record needs them, so
all of them are there. The copy carries a mark until its last byte is durable, and isn't opened with it.
"""

from __future__ import annotations

import os
from pathlib import Path

from polos.data_class import dataclass
from polos.errors import PolosUsageError
from polos.store.blobs import FileBlobs
from polos.store.directory import open_store
from polos.store.files import make_durably, place_file, read_regular, sync_directory, sync_file, translated
from polos.store.format import (
    BLOBS_DIRECTORY,
    FORMAT_FILE,
    INBOX_DIRECTORY,
    INCOMPLETE_FILE,
    LOG_DIRECTORY,
    format_content,
)
from polos.store.lmdb_log import LmdbLog
from polos.store.log import Head

__all__ = ["BackupReport", "backup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """What was copied; keep `head` elsewhere, to prove later that the copy is this one."""

    head: Head
    blobs: int
    commands: int


def backup(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> BackupReport:
    """
    Copy a data directory while an engine may be at work on it; the copy is durable when this returns.

    Blocks for as long as copying takes, and holds one view of the log meanwhile.

    Args:
        path: the data directory.
        target: a directory that is empty or doesn't exist; something half-written stays there if this fails.

    Raises:
        PolosUsageError: the target isn't empty.
        NotAPolosStore: `path` holds something else.
        BlobMissing: the store needs a blob that isn't there.
        StoreDamaged: a blob or a record isn't what was written.
        StoreFull: no space for the copy.
    """
    goal = Path(target).absolute()
    with open_store(path, read_only=True) as store:
        try:
            make_durably(goal)
            if os.listdir(goal):
                raise PolosUsageError(f"{goal} isn't empty; a backup goes into a directory of its own")
            place_file(goal / INCOMPLETE_FILE, b"")
            for name in (LOG_DIRECTORY, BLOBS_DIRECTORY, INBOX_DIRECTORY):
                (goal / name).mkdir(mode=0o700)
            commands = _copy_inbox(store.inbox.path, goal / INBOX_DIRECTORY)
            store.log.copy_to(goal / LOG_DIRECTORY)
            sync_file(goal / LOG_DIRECTORY / "data.mdb")
            sync_directory(goal / LOG_DIRECTORY)
            head, blobs = _copy_blobs(store.blobs, goal)
            place_file(goal / FORMAT_FILE, format_content())
            (goal / INCOMPLETE_FILE).unlink()
            sync_directory(goal)
        except OSError as error:
            raise translated(error, goal) from error
    return BackupReport(head=head, blobs=blobs, commands=commands)


def _copy_inbox(source: Path, goal: Path) -> int:
    copied = 0
    for path in source.iterdir():
        if path.name.startswith(".") or not path.is_file():
            continue
        try:
            data = read_regular(path)
        except FileNotFoundError:
            continue  # decided meanwhile, so its outcome is in the log that is copied next
        place_file(goal / path.name, data)
        copied += 1
    return copied


def _copy_blobs(source: FileBlobs, goal: Path) -> tuple[Head, int]:
    """Copy the blobs that the copied log needs; gives its head and how many."""
    blobs = FileBlobs(goal / BLOBS_DIRECTORY)
    log = LmdbLog(goal / LOG_DIRECTORY, read_only=True)
    try:
        with log.reader() as reader:
            needed = {digest for _, digests in reader.blobs() for digest in digests}
            head = reader.head()
    finally:
        log.close()
    for digest in sorted(needed):
        blobs.put(source.get(digest))
    return head, len(needed)
