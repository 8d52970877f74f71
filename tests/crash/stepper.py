"""
Runs a program and stops it at every entry and exit of every system call of every thread.

Two questions of the crash tests need this. *What if the process dies exactly here?* is answered by
`Stepper.kill()` at a stop: at an entry, the call it was about to make is not made. *In which order
did bytes and syncs reach the kernel?* is answered by watching (`fileops.record`). Random kills hit
a window of a few microseconds once in thousands of tries; stops hit each one once.

How it is arranged:

* The victim is a fork of this process, so everything it imports is loaded already and a victim
  costs milliseconds. It gets a process group of its own, because `waitpid` on a group sees the
  victim's threads and children and nothing else: `waitpid(-1)` would take the exit of another
  test's subprocess. What leaves the group would never be heard of again, so the stepper refuses
  programs that do (`setsid`, `setpgid`) instead of waiting for ever.
* The program tells where it is by *marks*: `mark("acknowledged", 3)` asks whether an impossible
  path exists. That has no effect, needs neither an open descriptor nor an import in a program
  written in something else, explains itself in a trace, and can't be reordered with its thread's
  other calls.
* A thread stands still only while its event is being looked at; others run meanwhile. A program
  whose file calls are to come in the same order every time has to order them itself.
* What the kernel doesn't show as a call isn't seen: stores to shared mapped memory, and anything
  submitted through io_uring (which is refused).

One thread of this process does it all; ptrace knows tracers by thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, final

from . import ptrace
from .children import fork
from .events import AT_FDCWD, MARK_PATH, Event, Exited, Mark, Started, Syscall, mark, signed
from .ptrace import PtraceRefused
from .syscalls import syscall_name

__all__ = [
    "AT_FDCWD",
    "Event",
    "Exited",
    "Mark",
    "PtraceRefused",
    "Started",
    "Stepper",
    "StepperError",
    "Syscall",
    "mark",
    "one_cpu",
    "signed",
]

_WALL = 0x40000000  # waitpid: threads too
_GO = "go"
_ASKS_FOR_A_PATH = {"access": 0, "faccessat": 1, "faccessat2": 1}  # which argument is the path
_CANT_FOLLOW = {
    "setsid": "a process that leaves its group can't be waited for",
    "setpgid": "a process that leaves its group can't be waited for",
    "io_uring_setup": "what goes through io_uring is no system call",
}
_JOB_CONTROL = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_PAGE = 4096


class StepperError(RuntimeError):
    """The program did something that the stepper can't follow."""


@contextlib.contextmanager
def one_cpu() -> Generator[None]:
    """
    Keep this thread, and what it forks, on one processor inside the block.

    Tracer and tracee never run at the same time; waking one on another processor costs four times
    as much as a switch on the same one. Parallel test processes get different ones.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[os.getpid() % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@final
class Stepper:
    """
    One traced program: iterate over it for its events, `kill()` or `detach()` it at any of them.

    The thread whose event is being looked at stands still until the next one is asked for. A `with`
    block kills what is left of the program at its end, and leaves no zombie.

    Example::

        with Stepper.fork(program) as stepper:
            for event in stepper:
                if isinstance(event, Syscall) and event.entry and event.name == "fdatasync":
                    stepper.kill()  # the sync is never made
    """

    def __init__(self, process: int, *, begin_at_exec: bool) -> None:
        """Take over a child that waits in a process group of its own; use `fork` or `spawn`."""
        self.process = process
        self.exit_code: int | None = None
        self._tracer = threading.get_native_id()
        self._begin_at_exec = begin_at_exec
        self._begun = False
        self._owner: dict[int, int] = {}  # thread -> process, of everything that is alive
        self._expected: set[int] = set()  # threads we were told of and haven't met
        self._unannounced: set[int] = set()  # threads we have met and weren't told of
        self._entered: dict[int, Syscall | Mark] = {}
        self._standing: tuple[int, int] | None = None  # the thread whose event is out, and the signal it is owed
        self._detached = False
        self._events = self._follow()

    @classmethod
    def fork(cls, program: Callable[[], object]) -> Self:
        """
        Run a function in a forked child; it exits with 0, or with 1 and a traceback on stderr.

        Events begin with the first call of `program`.

        Raises:
            PtraceRefused: the kernel doesn't allow it.
        """

        def body() -> int:
            mark(_GO)
            return _exit_code_of(program)

        return cls._start(body, begin_at_exec=False)

    @classmethod
    def spawn(
        cls, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | os.PathLike[str] | None = None
    ) -> Self:
        """
        Run another program (`argv[0]` is looked up in PATH); events begin when it has been loaded.

        Raises:
            PtraceRefused: the kernel doesn't allow it.
            StepperError: there is no such program.
        """

        def body() -> int:
            if cwd is not None:
                os.chdir(cwd)
            os.execvpe(argv[0], list(argv), dict(os.environ if env is None else env))

        return cls._start(body, begin_at_exec=True)

    @classmethod
    def _start(cls, body: Callable[[], int], *, begin_at_exec: bool) -> Self:
        # The child waits on a pipe until it is traced, so that not one call of `body` is missed.
        hear, tell = os.pipe()
        process = fork()
        if process == 0:
            _be_the_child(body, hear, tell)
        os.close(hear)
        try:
            stepper = cls(process, begin_at_exec=begin_at_exec)
            stepper._attach()
            os.write(tell, b"!")
            stepper._skip_preparations()
        finally:
            os.close(tell)
        return stepper

    def _attach(self) -> None:
        try:
            ptrace.seize(self.process)
        except PtraceRefused:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            raise
        self._owner[self.process] = self.process
        # It has to stop once: only from a stop can it be told to stop at system calls.
        ptrace.interrupt(self.process)
        os.waitpid(self.process, _WALL)
        os.setpgid(self.process, self.process)
        ptrace.resume(self.process)

    def _skip_preparations(self) -> None:
        while not self._begun:
            if next(self._events, None) is None:
                raise StepperError(f"the program couldn't be started; it exited with {self.exit_code}")

    def __iter__(self) -> Iterator[Event]:
        """Give the events; a loop that was left can be taken up again."""
        return self._events

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what is left of the program."""
        self.kill()

    def kill(self) -> None:
        """
        End the program and all it has started by SIGKILL, here and now, and reap them.

        A call that is at its entry is not made. Killing what has ended is fine.
        """
        self._check_thread()
        if self._owner:
            self._kill_and_reap()

    def detach(self) -> None:
        """Let the program run on untraced; `wait` tells how it ended."""
        self._check_thread()
        running = set(self._owner)
        if self._standing is not None:
            thread, owed = self._standing
            ptrace.detach(thread, owed)
            running.discard(thread)
        free = set(self._owner) - running
        for thread in running:
            ptrace.interrupt(thread)
        while not free >= self._owner.keys() | self._expected:
            thread, status = os.waitpid(-self.process, _WALL)
            if not os.WIFSTOPPED(status):
                self._end(thread, status)
                continue
            self._know(thread)
            self._note(thread, status)
            ptrace.detach(thread, _signal_of(status))
            free.add(thread)
        self._owner = {thread: process for thread, process in self._owner.items() if thread == self.process}
        self._detached = True

    def wait(self) -> int:
        """Let the program run to its end, and give its exit code or negative signal number."""
        if self._detached and self.exit_code is None:
            self._end(self.process, os.waitpid(self.process, 0)[1])
        for _ in self._events:
            pass
        assert self.exit_code is not None
        return self.exit_code

    def read(self, thread: int, address: int, length: int) -> bytes:
        """
        Read memory of the process that a thread belongs to.

        Raises:
            OSError: not all of it is there.
        """
        data = ptrace.read_memory(thread, address, length)
        if len(data) != length:
            raise OSError(f"only {len(data)} of {length} bytes at {address:#x} of thread {thread} can be read")
        return data

    def read_path(self, thread: int, address: int) -> str:
        """Read a path, that is text that ends with a zero byte."""
        text = bytearray()
        while b"\0" not in text:
            # Never across the end of a page: the next one may not be there.
            start = address + len(text)
            text += self.read(thread, start, _PAGE - start % _PAGE)
        return os.fsdecode(bytes(text[: text.index(b"\0")]))

    def path_of(self, thread: int, descriptor: int) -> str:
        """
        Give what an open descriptor of a thread names now; `AT_FDCWD` is its working directory.

        The path of a file that has been removed ends in " (deleted)".
        """
        entry = "cwd" if descriptor == AT_FDCWD else f"fd/{descriptor}"
        return os.fspath(Path(f"/proc/{thread}/{entry}").readlink())

    def _check_thread(self) -> None:
        assert threading.get_native_id() == self._tracer, "only the thread that began to trace may go on with it"

    def _kill_and_reap(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and nobody has reaped it yet
            os.killpg(self.process, signal.SIGKILL)
        while True:
            try:
                thread, status = os.waitpid(-self.process, _WALL)
            except ChildProcessError:
                break
            # Stops that were already on their way are of no interest any more.
            if not os.WIFSTOPPED(status):
                self._end(thread, status)
        self._owner.clear()

    def _follow(self) -> Iterator[Event]:
        while not self._detached:
            self._check_thread()
            try:
                thread, status = os.waitpid(-self.process, _WALL)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                ended = self._end(thread, status)
                if ended is not None:
                    yield ended
                continue
            if self._know(thread) and self._begun:
                self._standing = thread, 0
                yield Started(self._owner[thread], thread)
            self._note(thread, status)
            event = self._look_at_call(thread) if os.WSTOPSIG(status) == ptrace.SYSCALL_STOP else None
            self._standing = thread, _signal_of(status)
            if event is not None:
                yield event
            self._go_on(thread, status)
        self._events = iter(())

    def _go_on(self, thread: int, status: int) -> None:
        self._standing = None
        if self._detached:
            return
        if status >> 16 == ptrace.EVENT_STOP and os.WSTOPSIG(status) in _JOB_CONTROL:
            ptrace.listen(thread)
        else:
            ptrace.resume(thread, _signal_of(status))

    def _know(self, thread: int) -> bool:
        """Make sure that a thread is known; gives True if it wasn't."""
        if thread in self._owner:
            return False
        for line in Path(f"/proc/{thread}/status").read_text().splitlines():
            if line.startswith("Tgid:"):
                self._owner[thread] = int(line.split()[1])
        self._tick_off(thread)
        return True

    def _tick_off(self, thread: int) -> None:
        # A new thread's first stop and its maker's word of it come in either order. Which threads
        # are still to come has to be known exactly: `detach` must wait for them, and for no others.
        if thread in self._expected:
            self._expected.remove(thread)
        else:
            self._unannounced.add(thread)

    def _note(self, thread: int, status: int) -> None:
        """Take note of what a stop says about threads."""
        kind = status >> 16
        if kind in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
            new = ptrace.event_message(thread)
            if new in self._unannounced:
                self._unannounced.remove(new)
            elif new:
                self._expected.add(new)
        elif kind == ptrace.EVENT_EXEC:
            self._begun = self._begun or self._begin_at_exec
            # The thread that calls exec goes on under the id of its process; its own id is gone.
            former = ptrace.event_message(thread)
            if former not in (0, thread):
                self._owner.pop(former, None)
                entered = self._entered.pop(former, None)
                if entered is not None:
                    self._entered[thread] = entered

    def _look_at_call(self, thread: int) -> Event | None:
        stop = ptrace.syscall_stop(thread)
        if stop is None:
            return None
        if not stop.entry:
            entered = self._entered.pop(thread, None)
            # A new thread begins with the exit of a call that its maker entered. Marks have no exit.
            if not isinstance(entered, Syscall) or not self._begun:
                return None
            return Syscall(entered.process, thread, entered.number, entered.name, entered.args, stop.result)
        name = syscall_name(stop.arch, stop.number)
        call = Syscall(self._owner[thread], thread, stop.number, name, stop.args)
        event = (self._mark_in(call) if name in _ASKS_FOR_A_PATH else None) or call
        self._entered[thread] = event
        if not self._begun:
            self._begun = isinstance(event, Mark)
        elif isinstance(event, Syscall) and name in _CANT_FOLLOW:
            self._kill_and_reap()
            raise StepperError(f"the program called {name}: {_CANT_FOLLOW[name]}")
        return event

    def _mark_in(self, call: Syscall) -> Mark | None:
        try:
            path = self.read_path(call.thread, call.args[_ASKS_FOR_A_PATH[call.name]])
        except OSError:
            return None  # no path there, or the thread was killed a moment ago; in both cases no mark
        if not path.startswith(MARK_PATH):
            return None
        name, _, number = path.removeprefix(MARK_PATH).rpartition("/")
        return Mark(call.process, call.thread, name, int(number))

    def _end(self, thread: int, status: int) -> Exited | None:
        if thread not in self._owner:
            self._tick_off(thread)
        process = self._owner.pop(thread, thread)
        self._entered.pop(thread, None)
        if process != thread:
            return None
        code = os.waitstatus_to_exitcode(status)
        if process == self.process:
            self.exit_code = code
        return Exited(process, code)


def _signal_of(status: int) -> int:
    """Give the signal that a stop is about and that the thread has to be handed when it goes on, or 0."""
    stop = os.WSTOPSIG(status)
    return 0 if status >> 16 or stop == ptrace.SYSCALL_STOP else stop


def _be_the_child(body: Callable[[], int], hear: int, tell: int) -> None:
    """Wait to be traced, run `body`, exit; never returns into the code that forked."""
    code = 1
    try:
        os.close(tell)
        if os.read(hear, 1):
            os.close(hear)
            code = body()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _exit_code_of(program: Callable[[], object]) -> int:
    try:
        program()
    except SystemExit as request:
        return request.code if isinstance(request.code, int) else int(request.code is not None)
    return 0
