"""
What programs do to files is recorded whole, in order, and with the right bytes.

One small program for each call, because a call that is read wrongly (an offset, a path that starts
at a descriptor) would make images of a disk that no power cut could leave.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.changes import (
    Allocate,
    Change,
    Create,
    Link,
    MakeDirectory,
    Map,
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
from tests.crash.fileops import record
from tests.crash.stepper import AT_FDCWD, StepperError, mark

pytestmark = pytest.mark.usefixtures("ptrace")

PAGE = os.sysconf("SC_PAGESIZE")


class Place:
    """A directory with a file of ten bytes in it, and short ways to say things about it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "file"
        self.file.write_bytes(b"0123456789")
        self.path = str(self.file)
        self.inode = self.file.stat().st_ino

    def open(self, flags: int = os.O_RDWR) -> int:
        return os.open(self.file, flags)

    def write(self, offset: int, data: bytes, *, synced: bool = False) -> Write:
        return Write(self.path, self.inode, offset, data, synced)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place to record in."""
    return Place(tmp_path)


def libc(name: str, *args: object) -> int:
    """Call a function of the C library that Python has no door to."""
    library = ctypes.CDLL(None, use_errno=True)
    result = int(getattr(library, name)(*args))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def after_seek(place: Place) -> None:
    descriptor = place.open()
    os.lseek(descriptor, 4, os.SEEK_SET)
    os.write(descriptor, b"ab")
    os.writev(descriptor, [b"c", b"", b"de"])


def copy_calls(place: Place) -> None:
    source, target = place.open(), place.open()
    os.lseek(target, 20, os.SEEK_SET)
    os.sendfile(target, source, 2, 3)
    os.copy_file_range(source, target, 2, offset_src=0)
    os.copy_file_range(source, target, 2, offset_src=0, offset_dst=40)
    hear, tell = os.pipe()
    os.write(tell, b"spliced")
    os.splice(hear, target, 7, offset_dst=50)


def lengths(place: Place) -> None:
    descriptor = place.open()
    os.ftruncate(descriptor, 5)
    os.truncate(place.file, 6)
    os.posix_fallocate(descriptor, 4096, 8192)


def syncs(place: Place) -> None:
    descriptor, directory = place.open(), os.open(place.root, os.O_RDONLY)
    os.fdatasync(descriptor)
    os.fsync(directory)
    libc("sync_file_range", descriptor, ctypes.c_int64(1), ctypes.c_int64(2), 7)
    libc("syncfs", os.open("/dev/shm", os.O_RDONLY))


def synchronous_descriptors(place: Place) -> None:
    os.pwrite(place.open(os.O_RDWR | os.O_DSYNC), b"a", 0)
    os.pwrite(place.open(os.O_RDWR | os.O_SYNC), b"b", 1)
    descriptor = place.open()
    os.pwritev(descriptor, [b"c", b"d"], 2, os.RWF_DSYNC)
    os.pwritev(descriptor, [b"e"], 4)


def append(place: Place) -> None:
    descriptor = place.open(os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"more")
    os.write(descriptor, b"!")


WRITES: list[tuple[Callable[[Place], None], Callable[[Place], list[Change]]]] = [
    (after_seek, lambda p: [p.write(4, b"ab"), p.write(6, b"cde")]),
    (append, lambda p: [p.write(10, b"more"), p.write(14, b"!")]),
    (
        copy_calls,
        lambda p: [p.write(20, b"234"), p.write(23, b"01"), p.write(40, b"01"), p.write(50, b"spliced")],
    ),
    (
        synchronous_descriptors,
        lambda p: [
            p.write(0, b"a", synced=True),
            p.write(1, b"b", synced=True),
            p.write(2, b"cd", synced=True),
            p.write(4, b"e"),
        ],
    ),
    (
        lengths,
        lambda p: [
            Truncate(p.path, p.inode, 5),
            Truncate(p.path, p.inode, 6),
            Allocate(p.path, p.inode, 0, 4096, 8192),
        ],
    ),
    (
        syncs,
        lambda p: [
            Sync(p.path, p.inode, data_only=True),
            Sync(str(p.root), p.root.stat().st_ino),
            Sync(p.path, p.inode, data_only=True, range=(1, 2)),
            SyncAll(),
        ],
    ),
]


@pytest.mark.parametrize(("program", "expected"), WRITES, ids=[program.__name__ for program, _ in WRITES])
def test_writes_and_syncs(place, program, expected):
    """Each way to write, to change a length and to sync is recorded with file, offset and bytes."""
    recording = record(lambda: program(place), under=place.root)

    assert expected(place) == list(recording.changes)
    assert () == recording.unfinished


def test_what_is_recorded_rebuilds_the_file(place):
    """The writes and lengths of a recording, done again on a copy, give the same bytes."""
    copy = place.root.parent / "copy"
    copy.write_bytes(place.file.read_bytes())

    def program() -> None:
        for step in (after_seek, append, copy_calls, synchronous_descriptors):
            step(place)
        os.truncate(place.file, 49)

    for change in record(program, under=place.root).changes:
        with copy.open("r+b") as file:
            match change:
                case Write():
                    os.pwrite(file.fileno(), change.data, change.offset)
                case Truncate():
                    os.ftruncate(file.fileno(), change.length)
                case _:
                    raise AssertionError(change)

    assert place.file.read_bytes() == copy.read_bytes()


def test_a_short_write_counts_what_was_written(place):
    """Of a write that the kernel cut short only the written part is recorded."""

    def program() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12, resource.RLIM_INFINITY))
        assert os.pwrite(place.open(), b"abcdef", 8) == 4

    assert (place.write(8, b"abcd"),) == record(program, under=place.root).changes


def test_names(tmp_path):
    """Making, renaming, linking and removing files and directories is recorded with absolute paths."""
    root = str(tmp_path)

    def program() -> None:
        os.chdir(tmp_path)
        os.mkdir("d")
        here = os.open("d", os.O_RDONLY)
        os.mkdir("e", dir_fd=here)
        os.close(os.open("a", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.close(os.open("a", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, dir_fd=here))
        os.close(os.open("a", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.rename("a", "b", src_dir_fd=here, dst_dir_fd=here)
        os.rename("d/b", "d/c")
        os.link("d/c", "d/x")
        os.link("x", "y", src_dir_fd=here, dst_dir_fd=here)
        os.symlink("c", "d/l")
        os.symlink("c", "m", dir_fd=here)
        libc("renameat2", AT_FDCWD, b"d/l", AT_FDCWD, b"d/c", 2)
        os.unlink("d/x")
        os.unlink("y", dir_fd=here)
        os.rmdir("e", dir_fd=here)
        os.mkdir("e")
        os.rmdir("e/")

    changes = record(program, under=tmp_path).changes
    inode = (tmp_path / "d" / "l").stat().st_ino

    assert [
        MakeDirectory(f"{root}/d"),
        MakeDirectory(f"{root}/d/e"),
        Create(f"{root}/d/a", inode),
        Truncate(f"{root}/d/a", inode, 0),
        Rename(f"{root}/d/a", f"{root}/d/b"),
        Rename(f"{root}/d/b", f"{root}/d/c"),
        Link(f"{root}/d/c", f"{root}/d/x"),
        Link(f"{root}/d/x", f"{root}/d/y"),
        Symlink("c", f"{root}/d/l"),
        Symlink("c", f"{root}/d/m"),
        Rename(f"{root}/d/l", f"{root}/d/c", exchanged=True),
        Remove(f"{root}/d/x"),
        Remove(f"{root}/d/y"),
        Remove(f"{root}/d/e", directory=True),
        MakeDirectory(f"{root}/e"),
        Remove(f"{root}/e", directory=True),
    ] == list(changes)


def test_other_ways_to_open(tmp_path):
    """`creat` and `openat2` make files too."""

    def program() -> None:
        how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, 0o600, 0)
        libc("syscall", 437, AT_FDCWD, os.fsencode(tmp_path / "openat2"), ctypes.byref(how), 24)
        libc("creat", os.fsencode(tmp_path / "creat"), 0o600)

    changes = record(program, under=tmp_path).changes

    assert [Create(str(tmp_path / name), (tmp_path / name).stat().st_ino) for name in ("openat2", "creat")] == list(
        changes
    )


def test_paths_go_through_links(tmp_path):
    """A path through a symbolic link to a directory is recorded as the file that it is."""
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")

    def program() -> None:
        (tmp_path / "alias" / "d").mkdir()
        (tmp_path / "alias").rename(tmp_path / "other")

    changes = record(program, under=tmp_path / "alias" / ".." / "real").changes

    assert (MakeDirectory(str(tmp_path / "real" / "d")),) == changes


def test_mapped_files(place):
    """Shared maps are recorded, and an msync with what the map held; private maps and memory aren't."""
    os.truncate(place.file, 2 * PAGE)

    def program() -> None:
        descriptor = place.open()
        mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE)
        mmap.mmap(-1, PAGE)
        whole = mmap.mmap(descriptor, 0)
        whole[PAGE : PAGE + 4] = b"data"
        whole.flush(PAGE, PAGE)

    assert [
        Map(place.path, place.inode, 0, 2 * PAGE, writable=False),
        Map(place.path, place.inode, 0, 2 * PAGE, writable=True),
        SyncMap(place.path, place.inode, PAGE, b"data".ljust(PAGE, b"\0"), waited=True),
    ] == list(record(program, under=place.root).changes)


def test_a_map_longer_than_its_file(place):
    """Of a map that reaches behind the end of its file, what the file has is recorded."""

    def synced() -> None:
        library = ctypes.CDLL(None)
        library.mmap.restype = ctypes.c_void_p
        library.msync.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        library.msync(library.mmap(None, 4 * PAGE, 3, 1, place.open(), 0), 4 * PAGE, 1)

    assert [
        Map(place.path, place.inode, 0, 4 * PAGE, writable=True),
        SyncMap(place.path, place.inode, 0, b"0123456789", waited=False),
    ] == list(record(synced, under=place.root).changes)


def test_failed_calls_are_left_out(place):
    """Calls that the kernel refuses changed nothing, however odd their arguments."""

    def attempt(call: Callable[[], object]) -> None:
        with pytest.raises(OSError):  # noqa: PT011
            call()

    def program() -> None:
        reading = place.open(os.O_RDONLY)
        attempt(lambda: os.write(reading, b"x"))
        attempt(lambda: os.pwrite(12345, b"x", 0))
        attempt(lambda: os.write(12345, b"x"))
        attempt(lambda: os.unlink(place.root / "nothing"))
        attempt(lambda: os.open(place.root / "no" / "file", os.O_CREAT))
        attempt(lambda: libc("pwrite", place.open(), ctypes.c_void_p(8), 4, 0))
        attempt(lambda: os.rename("x", "y", src_dir_fd=12345))

    assert () == record(program, under=place.root).changes


def test_other_files_are_left_out(place, tmp_path_factory):
    """What happens outside the directory, in pipes and on devices isn't recorded; a rename out of it is."""
    outside = tmp_path_factory.mktemp("outside")

    def program() -> None:
        (outside / "file").write_bytes(b"x")
        hear, tell = os.pipe()
        os.write(tell, b"x")
        os.writev(tell, [b"x"])
        os.splice(hear, os.open("/dev/null", os.O_WRONLY), 1)
        os.sendfile(tell, place.open(), 0, 2)
        os.close(os.open("/dev/null", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        os.rename(place.file, outside / "moved")
        # A sibling whose name begins like the directory's is no part of it.
        Path(f"{place.root}-sibling").mkdir()

    assert (Rename(place.path, str(outside / "moved")),) == record(program, under=place.root).changes


def test_a_removed_file_keeps_its_path_and_inode(place):
    """A write to a file that has no name any more is recorded under the last one; the inode tells it apart."""

    def program() -> None:
        descriptor = place.open()
        os.unlink(place.file)
        place.file.write_bytes(b"new")
        os.pwrite(descriptor, b"old", 0)

    removed, created, written, old = record(program, under=place.root).changes

    assert Remove(place.path) == removed
    assert isinstance(created, Create)
    assert created.inode != place.inode
    assert Write(place.path, created.inode, 0, b"new") == written
    assert place.write(0, b"old") == old


def test_marks_stand_between_changes(place):
    """Marks are recorded where they were passed, so that it is known what had been promised by then."""

    def program() -> None:
        descriptor = place.open()
        for number in range(2):
            os.pwrite(descriptor, b"x", number)
            mark("acknowledged", number)

    recording = record(program, under=place.root)

    assert [
        place.write(0, b"x"),
        Reached("acknowledged", 0),
        place.write(1, b"x"),
        Reached("acknowledged", 1),
    ] == list(recording.changes)
    moments = [moment for op in recording.ops for moment in {op.began, op.ended}]
    assert sorted(moments) == moments


def test_threads_are_told_apart(place):
    """Operations of several threads carry their thread, and are listed in the order they ended."""

    def program() -> None:
        descriptor = place.open()
        threads = [threading.Thread(target=os.pwrite, args=(descriptor, b"%d" % n, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.fsync(descriptor)

    ops = record(program, under=place.root).ops
    writes = [op.change for op in ops[:-1]]

    assert {(n, b"%d" % n) for n in range(4)} == {(w.offset, w.data) for w in writes if isinstance(w, Write)}
    assert 5 == len({op.thread for op in ops})
    assert sorted(op.ended for op in ops) == [op.ended for op in ops]
    assert all(op.ended < ops[-1].began for op in ops[:-1])


def test_what_the_end_cut_short_is_told(place):
    """A call that was under way when the program ended is listed as unfinished."""

    def program() -> None:
        _, tell = os.pipe()
        os.write(tell, bytes(fcntl.fcntl(tell, fcntl.F_GETPIPE_SZ)))
        hang = threading.Thread(target=os.write, args=(tell, b"x"), daemon=True)
        hang.start()
        # First that it is in that call (1 or 64, by machine), then that it sleeps: so it sleeps in the call.
        task = Path(f"/proc/self/task/{hang.native_id}")
        while (task / "syscall").read_text().split()[0] not in {"1", "64"}:
            os.sched_yield()
        while (task / "stat").read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()

    assert ["write"] == [call.name for call in record(program, under=place.root).unfinished]


def test_a_program_that_fails_is_not_recorded(place):
    """A recording of a program that went wrong is refused: it would be taken for the whole."""
    with pytest.raises(StepperError, match="ended with 3"):
        record(lambda: os._exit(3), under=place.root)
