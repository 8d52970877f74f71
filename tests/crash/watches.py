"""
How each system call that changes files is read: what it did, to which file, with which bytes.

A watch is a generator that is run to its `yield` at the entry of a call and gets the result at the
exit, because some things can be seen only before (does the file exist yet?) and others only after
(where did an append go?). Those that take a length from user space cut it to what the call did.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from .changes import (
    Allocate,
    Change,
    Create,
    Link,
    MakeDirectory,
    Map,
    Remove,
    Rename,
    Symlink,
    Sync,
    SyncAll,
    SyncMap,
    Truncate,
    Write,
)
from .stepper import AT_FDCWD, Stepper, StepperError, Syscall, signed

__all__ = ["Watch", "finish", "may_change_files", "watch"]

_AT_REMOVEDIR, _RENAME_EXCHANGE = 0x200, 2
_MAP_SHARED, _PROT_WRITE, _MS_SYNC = 1, 2, 4
_RWF_DSYNC, _RWF_SYNC = 2, 4

Watch = Generator[None, int, list[Change]]


def watch(stepper: Stepper, call: Syscall) -> Watch | None:
    """Begin to watch a call at its entry; None if it has nothing to do with files."""
    begin = _WATCHES.get(call.name)
    if begin is None:
        return None
    watching = begin(_Call(stepper, call))
    try:
        next(watching)
    except OSError as failure:
        watching = _failing(call, failure)
        next(watching)
    return watching


def _failing(call: Syscall, failure: OSError) -> Watch:
    """Stand in for a call whose arguments point nowhere, which the kernel is going to refuse."""
    yield
    raise StepperError(f"{call.name} succeeded, and its arguments couldn't be read") from failure


def finish(watching: Watch, result: int) -> list[Change]:
    """Give what a call did, at its exit; a call that failed did nothing."""
    if result < 0:
        watching.close()
        return []
    try:
        watching.send(result)
    except StopIteration as end:
        return list[Change](end.value)
    raise AssertionError("a watch has one yield")


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    inode: int


@final
class _Call:
    """The arguments of a call, made readable."""

    def __init__(self, stepper: Stepper, call: Syscall) -> None:
        self._stepper = stepper
        self._call = call

    def number(self, index: int, bits: int = 32) -> int:
        return signed(self._call.args[index], bits)

    def path(self, index: int, directory: int | None = None) -> str:
        """Give a path argument, absolute; `directory` is the index of the descriptor it may start from."""
        text = self._stepper.read_path(self._call.thread, self._call.args[index])
        base = AT_FDCWD if directory is None else self.number(directory)
        if not text.startswith("/"):
            text = f"{self._stepper.path_of(self._call.thread, base)}/{text}"
        # The last part stays as it is: a rename of a link renames the link.
        head, tail = os.path.split(text.rstrip("/"))
        return f"{os.path.realpath(head)}/{tail}"

    def text(self, index: int) -> str:
        return self._stepper.read_path(self._call.thread, self._call.args[index])

    def memory(self, address: int, length: int) -> bytes:
        return self._stepper.read(self._call.thread, address, length)

    def u64(self, address: int) -> int:
        return int(struct.unpack("=Q", self.memory(address, 8))[0])

    def vector(self, index: int) -> bytes:
        """Give the bytes of an iovec argument and the count behind it."""
        raw = self.memory(self._call.args[index], 16 * self.number(index + 1))
        return b"".join(self.memory(base, length) for base, length in struct.iter_unpack("=QQ", raw))

    def file(self, index: int) -> _File | None:
        """Give the file or directory of a descriptor argument; None for pipes, sockets and the like."""
        descriptor = self.number(index)
        found = self._open_path(descriptor).stat()
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            return None
        path = self._stepper.path_of(self._call.thread, descriptor)
        return _File(path.removesuffix(" (deleted)") if found.st_nlink == 0 else path, found.st_ino)

    def position(self, index: int) -> int:
        """Give the file position of a descriptor argument."""
        return int(self._info(index, "pos"), 10)

    def synchronous(self, index: int) -> bool:
        """Tell whether writes through a descriptor argument are on disk when they return."""
        return bool(int(self._info(index, "flags"), 8) & os.O_DSYNC)  # O_SYNC contains it

    def read_back(self, index: int, offset: int, length: int) -> bytes:
        """Read the file of a descriptor argument."""
        with self._open_path(self.number(index)).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def mapped(self, address: int, length: int) -> list[tuple[_File, int, bytes]]:
        """Give the files that are mapped in a range of memory, with offset and content."""
        found: list[tuple[_File, int, bytes]] = []
        for line in Path(f"/proc/{self._call.process}/maps").read_text().splitlines():
            span, _, offset, _, inode, *path = line.split(maxsplit=5)
            first, last = (int(part, 16) for part in span.split("-"))
            begin, end = max(first, address), min(last, address + length)
            if begin < end and path and inode != "0" and Path(path[0]).is_file():
                # Behind the end of the file a map has no memory to read.
                at = int(offset, 16) + begin - first
                data = self.memory(begin, max(0, min(end - begin, Path(path[0]).stat().st_size - at)))
                found.append((_File(path[0], int(inode)), at, data))
        return found

    def _open_path(self, descriptor: int) -> Path:
        return Path(f"/proc/{self._call.thread}/fd/{descriptor}")

    def _info(self, index: int, wanted: str) -> str:
        text = Path(f"/proc/{self._call.thread}/fdinfo/{self.number(index)}").read_text()
        return next(line.split()[1] for line in text.splitlines() if line.startswith(wanted + ":"))


def _written(call: _Call, data: bytes, result: int, *, offset: int | None, synced: bool = False) -> list[Change]:
    file = call.file(0)
    if file is None:
        return []
    if offset is None:
        # After the call, and not before: only then is known where an append went.
        offset = call.position(0) - result
    return [Write(file.path, file.inode, offset, data[:result], synced or call.synchronous(0))]


def _write(call: _Call) -> Watch:
    data = call.memory(call.number(1, 64), call.number(2, 64)) if call.file(0) else b""
    result = yield
    return _written(call, data, result, offset=None)


def _pwrite64(call: _Call) -> Watch:
    data = call.memory(call.number(1, 64), call.number(2, 64))
    result = yield
    return _written(call, data, result, offset=call.number(3, 64))


def _writev(call: _Call) -> Watch:
    data = call.vector(1) if call.file(0) else b""
    result = yield
    return _written(call, data, result, offset=None)


def _pwritev(call: _Call) -> Watch:
    data = call.vector(1)
    result = yield
    return _written(call, data, result, offset=call.number(3, 64))


def _pwritev2(call: _Call) -> Watch:
    data = call.vector(1)
    result = yield
    offset = call.number(3, 64)
    synced = bool(call.number(5) & (_RWF_DSYNC | _RWF_SYNC))
    return _written(call, data, result, offset=None if offset == -1 else offset, synced=synced)


def _copied(target: int, offset_pointer: int | None) -> Callable[[_Call], Watch]:
    """Make the watch of a call that copies inside the kernel; the bytes are read from where they went."""

    def run(call: _Call) -> Watch:
        pointer = 0 if offset_pointer is None else call.number(offset_pointer, 64)
        offset = call.u64(pointer) if pointer else None
        result = yield
        file = call.file(target)
        if file is None:
            return []
        if offset is None:
            offset = call.position(target) - result
        data = call.read_back(target, offset, result)
        return [Write(file.path, file.inode, offset, data, call.synchronous(target))]

    return run


def _ftruncate(call: _Call) -> Watch:
    yield
    file = call.file(0)
    return [Truncate(file.path, file.inode, call.number(1, 64))] if file else []


def _truncate(call: _Call) -> Watch:
    yield
    path = Path(os.path.realpath(call.path(0)))
    return [Truncate(str(path), path.stat().st_ino, call.number(1, 64))]


def _fallocate(call: _Call) -> Watch:
    yield
    file = call.file(0)
    return [Allocate(file.path, file.inode, call.number(1), call.number(2, 64), call.number(3, 64))] if file else []


def _synced(*, data_only: bool) -> Callable[[_Call], Watch]:
    def run(call: _Call) -> Watch:
        yield
        file = call.file(0)
        return [Sync(file.path, file.inode, data_only)] if file else []

    return run


def _sync_file_range(call: _Call) -> Watch:
    yield
    file = call.file(0)
    return [Sync(file.path, file.inode, True, (call.number(1, 64), call.number(2, 64)))] if file else []


def _sync(call: _Call) -> Watch:
    yield
    return [SyncAll()]


def _msync(call: _Call) -> Watch:
    # Read at the entry: what is stored meanwhile need not be covered.
    found = call.mapped(call.number(0, 64), call.number(1, 64))
    yield
    waited = bool(call.number(2) & _MS_SYNC)
    return [SyncMap(file.path, file.inode, offset, data, waited) for file, offset, data in found]


def _mmap(call: _Call) -> Watch:
    file = call.file(4) if call.number(4) >= 0 and call.number(3) & _MAP_SHARED else None
    yield
    if file is None:
        return []
    return [Map(file.path, file.inode, call.number(5, 64), call.number(1, 64), bool(call.number(2) & _PROT_WRITE))]


def _opened(path: int, directory: int | None, flags: Callable[[_Call], int]) -> Callable[[_Call], Watch]:
    def run(call: _Call) -> Watch:
        asked = flags(call)
        if not asked & (os.O_CREAT | os.O_TRUNC):
            yield
            return []
        name = Path(os.path.realpath(call.path(path, directory)))
        existed = name.exists()
        yield
        found = name.stat()
        if not stat.S_ISREG(found.st_mode):
            return []
        if not existed:
            return [Create(str(name), found.st_ino)]
        return [Truncate(str(name), found.st_ino, 0)] if asked & os.O_TRUNC else []

    return run


def _made_directory(path: int, directory: int | None) -> Callable[[_Call], Watch]:
    def run(call: _Call) -> Watch:
        name = call.path(path, directory)
        yield
        return [MakeDirectory(name)]

    return run


def _removed(path: int, directory: int | None, is_directory: Callable[[_Call], bool]) -> Callable[[_Call], Watch]:
    def run(call: _Call) -> Watch:
        name = call.path(path, directory)
        yield
        return [Remove(name, is_directory(call))]

    return run


def _renamed(old: tuple[int, int | None], new: tuple[int, int | None], flags: int | None) -> Callable[[_Call], Watch]:
    def run(call: _Call) -> Watch:
        before, after = call.path(*old), call.path(*new)
        yield
        return [Rename(before, after, flags is not None and bool(call.number(flags) & _RENAME_EXCHANGE))]

    return run


def _linked(old: tuple[int, int | None], new: tuple[int, int | None]) -> Callable[[_Call], Watch]:
    def run(call: _Call) -> Watch:
        before, after = call.path(*old), call.path(*new)
        yield
        return [Link(before, after)]

    return run


def _symlinked(path: int, directory: int | None) -> Callable[[_Call], Watch]:
    def run(call: _Call) -> Watch:
        target, name = call.text(0), call.path(path, directory)
        yield
        return [Symlink(target, name)]

    return run


_WATCHES: dict[str, Callable[[_Call], Watch]] = {
    "write": _write,
    "pwrite64": _pwrite64,
    "writev": _writev,
    "pwritev": _pwritev,
    "pwritev2": _pwritev2,
    "sendfile": _copied(0, None),
    "copy_file_range": _copied(2, 3),
    "splice": _copied(2, 3),
    "ftruncate": _ftruncate,
    "truncate": _truncate,
    "fallocate": _fallocate,
    "fsync": _synced(data_only=False),
    "fdatasync": _synced(data_only=True),
    "sync_file_range": _sync_file_range,
    "sync": _sync,
    "syncfs": _sync,
    "msync": _msync,
    "mmap": _mmap,
    "open": _opened(0, None, lambda call: call.number(1)),
    "openat": _opened(1, 0, lambda call: call.number(2)),
    "openat2": _opened(1, 0, lambda call: call.u64(call.number(2, 64))),
    "creat": _opened(0, None, lambda _: os.O_CREAT | os.O_TRUNC),
    "mkdir": _made_directory(0, None),
    "mkdirat": _made_directory(1, 0),
    "rmdir": _removed(0, None, lambda _: True),
    "unlink": _removed(0, None, lambda _: False),
    "unlinkat": _removed(1, 0, lambda call: bool(call.number(2) & _AT_REMOVEDIR)),
    "rename": _renamed((0, None), (1, None), None),
    "renameat": _renamed((1, 0), (3, 2), None),
    "renameat2": _renamed((1, 0), (3, 2), 4),
    "link": _linked((0, None), (1, None)),
    "linkat": _linked((1, 0), (3, 2)),
    "symlink": _symlinked(1, None),
    "symlinkat": _symlinked(2, 1),
}

_OPENS = {"open": 1, "openat": 2}  # which argument has the flags
_CHANGE_NOTHING = {"mmap"}


def may_change_files(call: Syscall) -> bool:
    """Tell from a call's name and flags whether it can change, make or sync a file."""
    if call.name in _OPENS:
        return bool(call.args[_OPENS[call.name]] & (os.O_CREAT | os.O_TRUNC))
    return call.name in _WATCHES and call.name not in _CHANGE_NOTHING
