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
    Event,
    Exited,
    Mark,
    PtraceRefused,
    Started,
    Stepper,
    StepperError,
    Syscall,
    mark,
    one_cpu,
    signed,
)

pytestmark = pytest.mark.usefixtures("ptrace")


def entries(events: list[Event], *names: str) -> list[str]:
    """Give the names of the calls that were entered, of those asked for."""
    return [event.name for event in events if isinstance(event, Syscall) and event.entry and event.name in names]


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


def test_threads_are_followed(tmp_path):
    """Calls of every thread are seen, under its id, and all threads die together."""

    def program() -> None:
        names = [str(number) for number in range(4)]
        together = threading.Barrier(len(names))

        def work(name: str) -> None:
            together.wait()
            (tmp_path / name).mkdir()

        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        mark("joined")
        threading.Event().wait()

    with Stepper.fork(program) as stepper:
        started, made = set(), set()
        for event in stepper:
            if isinstance(event, Started):
                assert stepper.process == event.process
                started.add(event.thread)
            elif isinstance(event, Syscall) and event.name == "mkdir" and event.entry:
                made.add(event.thread)
            elif isinstance(event, Mark):
                stepper.kill()

    assert 4 == len(made)
    assert made == started
    assert {"0", "1", "2", "3"} == {path.name for path in tmp_path.iterdir()}
    assert not Path(f"/proc/{stepper.process}").exists()


def test_a_kill_ends_threads_that_wait():
    """A thread that hangs in a call doesn't keep a killed program alive."""
    hear, tell = os.pipe()

    def program() -> None:
        os.close(tell)
        waiting = threading.Thread(target=os.read, args=(hear, 1))
        waiting.start()
        mark("here")
        waiting.join()

    with Stepper.fork(program) as stepper:
        for event in stepper:
            if isinstance(event, Mark):
                stepper.kill()
    os.close(hear)
    os.close(tell)

    assert -signal.SIGKILL == stepper.exit_code
    assert not Path(f"/proc/{stepper.process}").exists()


def test_child_processes_are_followed_and_killed():
    """What the program forks or spawns is seen under its own process id, with its exit code."""

    def program() -> None:
        child = os.fork()
        if child == 0:
            mark("child")
            os._exit(3)
        os.waitpid(child, 0)
        mark("parent", subprocess.run(["sh", "-c", "exit 4"], check=False).returncode)

    with Stepper.fork(program) as stepper:
        events = list(stepper)
    marks = [event for event in events if isinstance(event, Mark)]
    exits = [event for event in events if isinstance(event, Exited)]

    assert [("child", 0), ("parent", 4)] == [(event.name, event.number) for event in marks]
    assert [3, 4, 0] == [event.code for event in exits]
    assert [marks[0].process, stepper.process] == [exits[0].process, exits[2].process]
    assert 3 == len({event.process for event in exits})


def test_another_program_is_stepped_from_its_first_call(tmp_path):
    """A spawned program gets its environment and directory; nothing before it was loaded is seen."""
    script = "import os; os.mkdir(os.environ['NAME']); os.access('/.polos-mark/made/7', os.F_OK); raise SystemExit(5)"

    with Stepper.spawn([sys.executable, "-I", "-S", "-c", script], env={"NAME": "it"}, cwd=tmp_path) as stepper:
        events = list(stepper)

    assert ["mkdir"] == entries(events, "execve", "chdir", "mkdir")
    assert [Mark(stepper.process, stepper.process, "made", 7)] == [e for e in events if isinstance(e, Mark)]
    assert (tmp_path / "it").is_dir()
    assert 5 == stepper.exit_code


def test_a_program_that_does_not_exist(tmp_path):
    """Spawning nothing raises instead of giving an empty run."""
    with pytest.raises(StepperError, match="couldn't be started"):
        Stepper.spawn([str(tmp_path / "nothing")])


def raises() -> None:
    """Fail."""
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (lambda: None, 0),
        (raises, 1),
        (lambda: sys.exit(3), 3),
        (sys.exit, 0),
        (lambda: sys.exit("a text"), 1),
        (lambda: os._exit(4), 4),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM),
    ],
    ids=["returns", "raises", "exits", "exits with nothing", "exits with a text", "exits at once", "signal"],
)
def test_exit_codes(program, code):
    """A program's exit code is the one that it would have untraced; a signal counts negative."""
    with Stepper.fork(program) as stepper:
        assert code == stepper.wait()


def test_signals_reach_the_program():
    """A signal for which the program has a handler arrives there."""

    def program() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: mark("handled"))
        os.kill(os.getpid(), signal.SIGUSR1)

    with Stepper.fork(program) as stepper:
        assert ["handled"] == [event.name for event in stepper if isinstance(event, Mark)]


def test_stop_and_continue_work_as_untraced():
    """A process that is stopped by a signal stays so until it is continued."""

    def program() -> None:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            mark("continued")
            os._exit(0)
        assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
        mark("stopped")
        os.kill(child, signal.SIGCONT)
        assert os.waitpid(child, 0)[1] == 0

    with Stepper.fork(program) as stepper:
        marks = [event.name for event in stepper if isinstance(event, Mark)]

    assert ["stopped", "continued"] == marks
    assert 0 == stepper.exit_code


def test_exec_by_another_thread():
    """A thread that calls exec goes on under the process's id, and the program's end is its end."""

    def program() -> None:
        threading.Thread(target=os.execvp, args=("sh", ["sh", "-c", "exit 6"])).start()
        threading.Event().wait()

    with Stepper.fork(program) as stepper:
        events = list(stepper)
    execs = [event for event in events if isinstance(event, Syscall) and event.name == "execve"]

    assert Exited(stepper.process, 6) == events[-1]
    assert execs[0].thread != stepper.process
    assert (stepper.process, 0) == (execs[-1].thread, execs[-1].result)


def test_a_detached_program_runs_on(tmp_path):
    """After a detach all threads, also one that waits and ones that begin, run to the end of the program."""

    def program() -> None:
        ready, go = threading.Event(), threading.Event()

        def late() -> None:
            ready.set()
            go.wait()
            latest = threading.Thread(target=(tmp_path / "late").mkdir)
            latest.start()
            latest.join()

        waiting = threading.Thread(target=late)
        waiting.start()
        ready.wait()
        mark("here")
        go.set()
        waiting.join()
        (tmp_path / "main").mkdir()
        sys.exit(7)

    with Stepper.fork(program) as stepper:
        for event in stepper:
            if isinstance(event, Mark):
                stepper.detach()

        assert 7 == stepper.wait()
        assert 7 == stepper.wait()

    assert {"late", "main"} == {path.name for path in tmp_path.iterdir()}


def test_detach_while_threads_begin_and_end():
    """A detach is complete whatever the other threads are about to do: none stays behind, stopped."""

    def program() -> None:
        def spin() -> None:
            for _ in range(20):
                thread = threading.Thread(target=os.getppid)
                thread.start()
                thread.join()

        threads = [threading.Thread(target=spin) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for number in range(1, 60, 3):
        with Stepper.fork(program) as stepper:
            calls = 0
            for event in stepper:
                calls += isinstance(event, Syscall) and event.thread != stepper.process
                if calls == number:
                    stepper.detach()

            assert 0 == stepper.wait()


def test_detach_delivers_the_signal_that_was_on_its_way():
    """A signal that stopped a thread just when it was detached isn't lost."""

    def program() -> None:
        go = threading.Event()

        def send() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            go.set()

        threading.Thread(target=send).start()
        go.wait()
        threading.Event().wait()

    with Stepper.fork(program) as stepper:
        for event in stepper:
            if isinstance(event, Syscall) and event.name == "kill" and not event.entry:
                stepper.detach()

        assert -signal.SIGTERM == stepper.wait()


@pytest.mark.parametrize(
    ("call", "program"),
    [
        ("setsid", os.setsid),
        ("setpgid", lambda: os.setpgid(0, 0)),
        ("io_uring_setup", lambda: ctypes.CDLL(None).syscall(425, 1, None)),
    ],
)
def test_what_cannot_be_followed_is_refused(call, program):
    """A program that does what the stepper couldn't see is ended with an error, not followed in part."""
    with Stepper.fork(program) as stepper:
        with pytest.raises(StepperError, match=f"called {call}"):
            list(stepper)

        assert -signal.SIGKILL == stepper.exit_code


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
