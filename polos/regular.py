"""
Reading files that anybody may have put there.

A path says nothing of what lies there. A fifo without a writer is waited for, which no timeout and no SIGTERM ends; a
device may have no end; and a file may be as long as its disk. So whatever polos opens by a path that isn't its own
making is opened without waiting, and is read if it is a regular file of a size that its kind may have.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["NoRegularFile", "read_regular"]


class NoRegularFile(OSError):  # it says what was found
    """What lies there is neither a file nor a directory, or is longer than any file of its kind."""


def read_regular(path: str | os.PathLike[str], *, bytes_max: int | None = None, follow: bool = True) -> bytes:
    """
    Give the content of a file, provided that it is one; nothing else is waited for.

    Args:
        path: the file.
        bytes_max: no file of its kind is longer.
        follow: whether it may be a link, which can lead anywhere.

    Raises:
        NoRegularFile: it is a fifo, a socket or a device, or too long.
        OSError: it can't be read, or is a directory.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a device without a driver
            raise _none(path, "it is no file") from error
        raise
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise _none(path, "it is no file but a fifo or a device")
        if bytes_max is not None and status.st_size > bytes_max:
            raise _none(path, f"it has {status.st_size:,} bytes, more than the {bytes_max:,} that are read")
        with open(descriptor, "rb", closefd=False) as file:  # it wouldn't take a directory
            return file.read(-1 if bytes_max is None else bytes_max)  # it may grow meanwhile
    finally:
        os.close(descriptor)


def _none(path: str | os.PathLike[str], why: str) -> NoRegularFile:
    return NoRegularFile(errno.EINVAL, why, os.fspath(Path(path)))
