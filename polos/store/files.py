"""
Putting whole files in place: beside, synced, renamed, directory synced.

That order is what makes a file either there, whole, or not there at all, whatever dies in between. The
name appears by the rename, the bytes were synced before it, and the sync of the directory
afterwards is what makes the name survive a power cut.
"""

from __future__ import annotations

import errno
import itertools
import json
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

from polos import regular
from polos.errors import PolosError, StoreDamaged, StoreFailed, StoreFull, StoreReadOnly

__all__ = [
    "FULL_CODES",
    "TEMPORARY_PREFIX",
    "is_full",
    "json_fields",
    "make_durably",
    "map_fresh",
    "place_file",
    "read_regular",
    "refuse_fifos",
    "sync_directory",
    "sync_file",
    "temporary_beside",
    "translated",
]

FULL_CODES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
READ_ONLY_CODES: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
TEMPORARY_PREFIX: Final = ".new-"

_numbers = itertools.count()


def place_file(path: Path, data: bytes) -> None:
    """
    Make `data` the content of a file, durably and at once.

    Raises:
        StoreFull: no space; nothing changed.
        StoreReadOnly: the directory can't be written.
        StoreFailed: the write failed; with `maybe_happened` the file may be there.
    """
    temporary = temporary_beside(path)
    renamed = False
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.rename(path)
            renamed = True
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise translated(error, path, maybe_happened=renamed) from error


def map_fresh(path: Path, content: bytes) -> mmap.mmap:
    """
    Put a new file in place of whatever is there and map it; nothing is synced. Only one process may do it at a time.

    Raises:
        StoreFull: no space for it.
        StoreReadOnly: the directory can't be written.
        StoreFailed: something else is wrong.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
            mapped = mmap.mmap(descriptor, len(content))
        finally:
            os.close(descriptor)
        temporary.rename(path)
    except OSError as error:
        raise translated(error, path) from error
    return mapped


def temporary_beside(path: Path) -> Path:
    """Give a path in the same directory, and on the same file system, that nobody else uses."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{next(_numbers)}")


def make_durably(directory: Path) -> None:
    """Make a directory and those above it, each name synced before anything is made in it."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    # Whoever made the one that is there may have died before syncing its name.
    made = missing[-1].parent if missing else directory
    with suppress(PermissionError):  # nor may they have made anything where they can't look
        sync_directory(made.parent)
    for path in reversed(missing):
        path.mkdir(mode=0o700 if path == directory else 0o777, exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(file: Path, *, more_bytes: int) -> bool:
    """Try whether a file may become longer by so much, with a file beside that is as long as that."""
    probe = file.with_name("probe.tmp")
    zeros = bytes(1 << 20)
    at = file.stat().st_size
    end = at + more_bytes
    probe.unlink(missing_ok=True)  # who died in the middle of this left one; nor is a fifo waited for
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        while at < end:
            at += os.pwrite(descriptor, zeros, at)
        os.fsync(descriptor)
    except OSError as error:
        return error.errno in FULL_CODES
    finally:
        os.close(descriptor)
        probe.unlink()
    return False


def read_regular(path: Path, *, bytes_max: int | None = None, follow: bool = True) -> bytes:
    """
    Give the content of a file of the store, provided that it is one; a fifo that somebody left isn't waited for.

    Args:
        path: the file.
        bytes_max: no file of ours is longer.
        follow: whether it may be a link, which can lead anywhere.

    Raises:
        StoreDamaged: it is neither a file nor a directory, or too long.
        OSError: it can't be read.
    """
    try:
        return regular.read_regular(path, bytes_max=bytes_max, follow=follow)
    except regular.NoRegularFile as error:
        raise StoreDamaged(f"{path} is no file that polos has written: {error.strerror}") from error


def refuse_fifos(*paths: Path) -> None:
    """
    Refuse what is there and isn't a file.

    Raises:
        StoreDamaged: one of the paths is a fifo, a device or a directory.
    """
    for path in paths:
        if path.exists() and not path.is_file():
            raise StoreDamaged(f"{path} is no file that polos has written")


def json_fields(raw: bytes) -> dict[str, object]:
    """Give the fields of a JSON object; none if it is anything else."""
    try:
        found: object = json.loads(raw)
    except (ValueError, RecursionError):  # brackets in brackets in brackets
        return {}
    # JSON has no keys but strings.
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}


def translated(error: OSError, path: Path | str, *, maybe_happened: bool = False) -> PolosError:
    """Say in our words what the file system says."""
    if error.errno in FULL_CODES and not maybe_happened:
        return StoreFull(f"{path}: no space is left on the device; nothing was written")
    if error.errno in READ_ONLY_CODES:
        return StoreReadOnly(f"{path} can't be written: {error.strerror}")
    return StoreFailed(f"{path}: {error}", maybe_happened=maybe_happened)
