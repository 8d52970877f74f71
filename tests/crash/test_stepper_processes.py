"""
Threads and processes are followed from their first call to their last, and let go whole.

Here the kernel tells things in an order of its own: a thread stops before its maker has said that it
exists, an exec ends under another id than it began. Where that matters a test meets both orders.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.crash.stepper import (
    Event,
    Exited,
    Mark,
    Started,
    Stepper,
    StepperError,
    Syscall,
    mark,
)

pytestmark = pytest.mark.usefixtures("ptrace")


def entries(events: list[Event], *names: str) -> list[str]:
    """Give the names of the calls that were entered, of those asked for."""
    return [event.name for event in events if isinstance(event, Syscall) and event.entry and event.name in names]


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
