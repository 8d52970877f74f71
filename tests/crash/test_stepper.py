"""
The stepper does what the crash tests believe it does.

Every claim is checked against what the kernel left behind (files, exit codes, processes), because a
stepper that kills a little too late would make all tests above it pass.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.crash.children import in_child
from tests.crash.conftest import require_ptrace
from tests.crash.ptrace import read_memory
from tests.crash.stepper import (
    Exited,
    Mark,
    PtraceRefused,
    Stepper,
    Syscall,
    mark,
    one_cpu,
    signed,
)

pytestmark = pytest.mark.usefixtures("ptrace")


def write_sync_rename(directory: Path) -> None:
    """Do what a careful program does: write beside, sync, rename."""
    beside = os.open(directory / "new", os.O_CREAT | os.O_WRONLY)
    os.pwrite(beside, b"content", 0)
    os.fdatasync(beside)
    os.rename(directory / "new", directory / "file")


def test_calls_come_in_order_with_results(tmp_path):
    """Each call is seen at its entry and at its exit, in program order, with its result."""
    names = {"openat", "pwrite64", "fdatasync", "rename"}

    with Stepper.fork(lambda: write_sync_rename(tmp_path)) as stepper:
        calls = [event for event in stepper if isinstance(event, Syscall) and event.name in names]

    assert ["openat", "openat", "pwrite64", "pwrite64", "fdatasync", "fdatasync", "rename", "rename"] == [
        call.name for call in calls
    ]
    assert [True, False] * 4 == [call.entry for call in calls]
    assert [7, 0, 0] == [call.result for call in calls[3::2]]
    assert 0 == stepper.exit_code
    assert b"content" == (tmp_path / "file").read_bytes()


def test_a_failed_call_gives_its_errno():
    """The result of a call that failed is the negative errno."""

    def program() -> None:
        Path("/nowhere/to/be/found").exists()

    with Stepper.fork(program) as stepper:
        results = [
            event.result
            for event in stepper
            if isinstance(event, Syscall) and event.name in {"stat", "newfstatat", "statx"} and not event.entry
        ]

    assert [-errno.ENOENT] == results


def test_memory_and_paths_can_be_read(tmp_path):
    """At a stop one can read the bytes of a write, the path behind a descriptor and the path of a rename."""
    seen: list[str | bytes] = []

    with Stepper.fork(lambda: write_sync_rename(tmp_path)) as stepper:
        for event in stepper:
            if isinstance(event, Syscall) and event.entry and event.name == "pwrite64":
                seen.append(stepper.read(event.thread, event.args[1], event.args[2]))
                seen.append(stepper.path_of(event.thread, signed(event.args[0], 32)))
            elif isinstance(event, Syscall) and event.entry and event.name == "rename":
                seen.append(stepper.read_path(event.thread, event.args[1]))

    assert [b"content", str(tmp_path / "new"), str(tmp_path / "file")] == seen


def test_a_path_that_ends_with_its_page_is_read_whole():
    """Reading text never touches the page behind the one with its end, and goes on over a page's edge."""
    page = os.sysconf("SC_PAGESIZE")
    libc = ctypes.CDLL(None, use_errno=True)

    def program() -> None:
        libc.mmap.restype = ctypes.c_void_p
        libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        base = libc.mmap(None, 3 * page, 3, 0x22, -1, 0)
        libc.mprotect(base + 2 * page, page, 0)
        for text in (b"/at-the-end", b"/over-the-edge" + b"x" * page):
            at = base + 2 * page - len(text) - 1
            ctypes.memmove(at, text + b"\0", len(text) + 1)
            libc.rmdir(ctypes.c_void_p(at))

    with Stepper.fork(program) as stepper:
        paths = [
            stepper.read_path(event.thread, event.args[0])
            for event in stepper
            if isinstance(event, Syscall) and event.entry and event.name == "rmdir"
        ]

    assert ["/at-the-end", "/over-the-edge" + "x" * page] == paths


def test_memory_that_is_not_there_is_an_error():
    """Reading where nothing is mapped raises, and so does reading beyond the end of a mapping."""
    page = os.sysconf("SC_PAGESIZE")
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t
    base = libc.mmap(None, 2 * page, 3, 0x22, -1, 0)
    libc.munmap(base + page, page)

    with Stepper.fork(lambda: mark("here")) as stepper:
        next(iter(stepper))
        with pytest.raises(OSError, match="at 0x0"):
            stepper.read(stepper.process, 0, 8)
        with pytest.raises(OSError, match=f"only {page} of {page + 8} bytes"):
            stepper.read(stepper.process, base, page + 8)
    libc.munmap(base, page)


@pytest.mark.parametrize(
    ("call", "left"),
    [
        ("openat", {}),
        ("pwrite64", {"new": b""}),
        ("fdatasync", {"new": b"content"}),
        ("rename", {"new": b"content"}),
        ("exit_group", {"file": b"content"}),
    ],
)
def test_killed_at_an_entry_the_call_is_not_made(tmp_path, call, left):
    """A program killed at the entry of a call leaves what the calls before it did and nothing of this one."""
    with Stepper.fork(lambda: write_sync_rename(tmp_path)) as stepper:
        for event in stepper:
            if isinstance(event, Syscall) and event.name == call:
                stepper.kill()

    assert left == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert -signal.SIGKILL == stepper.exit_code


def test_killed_at_an_exit_the_call_was_made(tmp_path):
    """A program killed at the exit of a call leaves what it did."""
    with Stepper.fork(lambda: write_sync_rename(tmp_path)) as stepper:
        for event in stepper:
            if isinstance(event, Syscall) and event.name == "rename" and not event.entry:
                stepper.kill()

    assert ["file"] == [path.name for path in tmp_path.iterdir()]
    assert -signal.SIGKILL == stepper.exit_code


def test_killing_leaves_no_zombie_and_can_be_repeated():
    """After a kill the process is gone, not a zombie; killing again is fine, and there are no more events."""
    with Stepper.fork(lambda: mark("here")) as stepper:
        assert [Mark(stepper.process, stepper.process, "here", 0)] == [next(iter(stepper))]
        stepper.kill()
        stepper.kill()

        assert [] == list(stepper)

    assert not Path(f"/proc/{stepper.process}").exists()


def test_an_ended_program_leaves_no_zombie():
    """A program that ran to its end is gone, with its exit code."""
    with Stepper.fork(lambda: None) as stepper:
        events = list(stepper)

    assert Exited(stepper.process, 0) == events[-1]
    assert not Path(f"/proc/{stepper.process}").exists()


def test_killed_by_somebody_else_while_it_stands():
    """A program that is killed at a stop by another is told of as such; no request fails."""
    with Stepper.fork(lambda: mark("here")) as stepper:
        next(iter(stepper))
        os.kill(stepper.process, signal.SIGKILL)
        rest = list(stepper)

    assert [Exited(stepper.process, -signal.SIGKILL)] == rest


def test_killing_what_has_ended_unnoticed():
    """A program that has ended before it is killed is reaped with the code it ended with."""
    hear, tell = os.pipe()

    with Stepper.fork(lambda: mark("here")) as stepper:
        next(iter(stepper))
        os.close(tell)
        stepper.detach()
        # The other end is closed by the program's end, and by nothing else.
        assert b"" == os.read(hear, 1)
        os.waitid(os.P_PID, stepper.process, os.WEXITED | os.WNOWAIT)
        stepper.kill()
    os.close(hear)

    assert 0 == stepper.exit_code
    assert not Path(f"/proc/{stepper.process}").exists()


def test_marks_carry_a_name_and_a_number(tmp_path):
    """Marks come between the calls they stand between, and are nothing to an untraced program."""

    def program() -> None:
        mark("begin")
        for number in range(3):
            os.mkdir(tmp_path / str(number))
            mark("made/it", number)

    with Stepper.fork(program) as stepper:
        seen = [
            (event.name, event.number) if isinstance(event, Mark) else event.name
            for event in stepper
            if isinstance(event, Mark) or (isinstance(event, Syscall) and event.entry and event.name == "mkdir")
        ]
    mark("untraced")

    assert [("begin", 0), "mkdir", ("made/it", 0), "mkdir", ("made/it", 1), "mkdir", ("made/it", 2)] == seen


def test_a_question_about_no_path_is_no_mark():
    """A program that asks for access to a path that isn't in its memory is followed like any other."""
    nowhere = ctypes.c_void_p(8)

    with Stepper.fork(lambda: ctypes.CDLL(None).access(nowhere, 0)) as stepper:
        asked = [event.result for event in stepper if isinstance(event, Syscall) and event.name.startswith("access")]

    assert [None, -errno.EFAULT] == asked
    assert 0 == stepper.exit_code


def test_victims_die_with_their_tracer():
    """When the tracing process is killed, what it traced is killed too."""
    ended_hear, ended_tell = os.pipe()
    ready_hear, ready_tell = os.pipe()
    never_hear, never_tell = os.pipe()

    def victim() -> None:
        mark("here")
        os.close(never_tell)
        os.read(never_hear, 1)

    def tracer() -> None:
        with Stepper.fork(victim) as stepper:
            for event in stepper:
                if isinstance(event, Mark):
                    os.write(ready_tell, b"!")
                    os.close(ready_tell)

    middle = os.fork()
    if middle == 0:
        tracer()
        os._exit(0)
    os.close(ended_tell)
    os.read(ready_hear, 1)
    os.kill(middle, signal.SIGKILL)
    os.waitpid(middle, 0)
    # The victim holds the last other end of this pipe: that it is closed tells that the victim is gone.
    readable, _, _ = select.select([ended_hear], [], [], 30)

    assert [ended_hear] == readable
    for descriptor in (ended_hear, ready_hear, ready_tell, never_hear, never_tell):
        os.close(descriptor)


def test_other_children_are_left_alone():
    """A child that isn't the stepper's keeps its exit code for the one who started it."""
    other = subprocess.Popen(["sh", "-c", "exit 9"])
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with Stepper.fork(lambda: mark("here")) as stepper:
        stepper.wait()
    with Stepper.fork(lambda: mark("here")) as stepper:
        stepper.kill()

    assert 9 == other.wait()


def test_only_one_thread_may_trace():
    """A stepper that is handed to another thread says so, instead of hanging."""
    failures: list[BaseException] = []

    def elsewhere() -> None:
        for action in (stepper.kill, stepper.detach, lambda: next(iter(stepper))):
            with pytest.raises(AssertionError, match="the thread that began to trace") as caught:
                action()
            failures.append(caught.value)

    with Stepper.fork(lambda: mark("here")) as stepper:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    assert 3 == len(failures)


def test_a_traced_program_cannot_trace():
    """The kernel's refusal comes with its reason, and the child that couldn't be traced is reaped."""

    def program() -> None:
        with pytest.raises(PtraceRefused, match="EPERM"):
            Stepper.fork(lambda: None)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, 0)

    with Stepper.fork(program) as stepper:
        assert 0 == stepper.wait()


@pytest.mark.parametrize(("setting", "outcome"), [(None, "Failed"), ("0", "Failed"), ("1", "Skipped")])
def test_refused_ptrace_fails_the_test(monkeypatch, setting, outcome):
    """Where the kernel refuses, tests fail with its reason; they are skipped only if POLOS_NO_PTRACE=1."""
    if setting is None:
        monkeypatch.delenv("POLOS_NO_PTRACE", raising=False)
    else:
        monkeypatch.setenv("POLOS_NO_PTRACE", setting)

    def program() -> None:
        # What pytest raises for these isn't an Exception.
        with pytest.raises(BaseException, match="EPERM") as caught:
            require_ptrace()
        mark(type(caught.value).__name__)

    with Stepper.fork(program) as stepper:
        assert [outcome] == [event.name for event in stepper if isinstance(event, Mark)]
        assert 0 == stepper.exit_code


def test_refused_memory_is_told_apart():
    """Memory that the kernel lets nobody read isn't taken for memory that isn't there: marks would be missed."""

    def read() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        with pytest.raises(PtraceRefused, match="refuses to read"):
            read_memory(1, 4096, 8)

    in_child(read)


def test_one_cpu_is_given_back():
    """What the process may run on is restricted inside the block only."""
    allowed = os.sched_getaffinity(0)
    with one_cpu():
        inside = os.sched_getaffinity(0)

    assert 1 == len(inside)
    assert inside <= allowed
    assert allowed == os.sched_getaffinity(0)


def test_a_child_can_hold_a_stepper():
    """The whole arrangement works in a fork of the test, too."""

    def run() -> int:
        with Stepper.fork(lambda: sys.exit(8)) as stepper:
            return stepper.wait()

    assert 8 == in_child(run)
