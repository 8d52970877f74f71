"""
How long code that isn't ours may take, in real time, and what becomes of it then.

In a simulated world nothing waits, so virtual time never says that something takes too long. A step that loops for
ever, or that blocks in a call that never returns, holds the only thread there is, and the test with it, without a word.
So somebody on another thread looks at a real clock: whoever began a sweep, which has nothing else to do, or for code on
the test's own thread a thread that is made for it. It costs a reading of the clock for each scenario.

When patience is over, the stack says where the code is, and the code is interrupted:

* by an exception in its thread, as a debugger would; pure Python code gets it at once, code that blocks outside of
  Python when it comes back, which may be never;
* on the main thread by a signal as well, which most system calls come back for.

`Interrupted` is a KeyboardInterrupt, because that passes through asyncio, and code that catches everything doesn't
catch it. One that catches it all the same is interrupted again and again. A thread that can't be got back is given up:
nobody waits for it, it is *lost*, and whatever it still does counts for nothing. The test's own thread can't be given
up, so there the only thing left is to say on standard error why nothing happens.

Who debugs has all the time in the world: while a debugger is in the stack, time begins anew.
"""

from __future__ import annotations

import _weakrefset
import gc
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar, cast, final

from polos.errors import PolosUsageError
from polos.runtime.installed import is_installed

__all__ = [
    "PATIENCE_SECONDS", "TO_DO", "Frames", "Hang", "Interrupted", "Patience", "TookTooLong", "Turn", "beside",
    "is_lost", "is_polos", "is_programs", "over_this", "own_frames", "raise_in", "stack_of", "stop_if_over",
    "summary_of", "without_polos",
]  # fmt: skip

PATIENCE_SECONDS: Final = 60.0
TO_DO: Final = (
    "Time stands still while code runs, so no timeout of a step ends this. What asks somebody outside needs a timeout "
    "of its own there; what is only slow needs more patience than patience_seconds."
)
MOMENT_SECONDS = 1.0  # in which code that is interrupted should be over
AGAIN_SECONDS = 0.05
LOOKS: Final = 20
LOOK_AGAIN_SECONDS: Final = 0.002

__tracebackhide__ = True  # pytest shows the test's own lines, and the page

_T = TypeVar("_T")
_DEBUGGERS: Final = frozenset({"bdb", "pdb", "pydevd", "_pydevd_bundle", "debugpy", "pudb"})
_GENERATED: Final = frozenset({"__eq__", "__hash__", "__init__", "__repr__", "<lambda>"})  # the last: named tuples
_POLOS: Final = f"{Path(__file__).parent.parent}{os.sep}"
_WEAK: Final = (weakref.__file__, _weakrefset.__file__)
_over: set[int] = set()  # threads with which patience is over, by identity
_lost: set[int] = set()  # those of them that were given up


@final
class Interrupted(KeyboardInterrupt):
    """Raised in code with which the patience is over."""


@final
class TookTooLong(PolosUsageError):
    """
    Code of a test, a step or a body didn't come back; the text says where it is.

    ```python run
    from polos import WorkflowContext, workflow
    from polos.testing import Simulation, TookTooLong

    @workflow(id="endless_search")
    async def search(ctx: WorkflowContext, payload: dict) -> None:
        while payload["found"] is None:
            pass

    with Simulation([search], patience_seconds=0.2) as world:
        world.create(search, {"found": None})
        try:
            world.settle()
        except TookTooLong as error:
            print("the body of workflow 'endless_search'" in str(error))
    ```
    """


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """
    Code that didn't come back.

    Attributes:
        seconds: how long it was waited for.
        who: whose code it is, in words.
        parts: where its thread is, in the program's own code if it is in that, the outermost call first; what was left
            out stands between two parts.
        waiting: where a coroutine, or another thread, is that has to do with it.
    """

    seconds: float
    who: str
    parts: tuple[Frames, ...]
    waiting: Frames = ()

    def __str__(self) -> str:
        """Say all of it, in lines."""
        found = f"{self.who} hasn't come back within {self.seconds:g} s of real time"
        stack, waiting = "  …\n".join(map(_lines, self.parts)), _lines(self.waiting)
        if stack and waiting:
            waiting = f"and, by a stack of its own, at\n{waiting}"
        return f"{found}; it is at\n{stack}{waiting}".rstrip("\n") if stack or waiting else found


def _lines(frames: Sequence[traceback.FrameSummary]) -> str:
    return "".join(traceback.format_list(list(frames)))


Frames = tuple[traceback.FrameSummary, ...]
Who = Callable[[], tuple[str, Frames]]  # whose code it is, and where that is if not on the thread itself


@final
class Patience:
    """
    Patience with the code of one thread. `begin`, `pause` and `end` are called there, `watch` on another one.

    Attributes:
        seconds: how long one thing may take.
        hang: what took longer.
        lost: whether the thread was given up.
        interrupt: interrupts once.
        failure: makes what whoever waits gets, when the thread has come to its end or is lost.
        on_hang: called before anything is interrupted; tells whether a stack says something in which there is no code
            of the program.
    """

    def __init__(self, seconds: float, *, gives_up: bool = True) -> None:
        """
        Begin with patience; no time runs before `begin`.

        Args:
            seconds: how long one thing may take.
            gives_up: whether the thread is given up that can't be interrupted; else it is interrupted for ever.
        """
        self.seconds = seconds
        self.hang: Hang | None = None
        self.lost = False
        self.interrupt: Callable[[], object] = self._raise
        self.failure: Callable[[Hang], BaseException] = lambda hang: TookTooLong(f"{hang}\n{TO_DO}")
        self.on_hang: Callable[[], bool] = lambda: True
        self._gives_up = gives_up
        self._lock = threading.Lock()  # nobody is interrupted any more when `end` has it
        self._who: Who | None = None
        self._half: Callable[[], object] | None = None
        self._since: float | None = None
        self._thread = 0
        self._ended = False
        self._spared_until = 0.0

    # ------------------------------------------------------------------------------ on its own thread

    def begin(self, who: Who, *, half: Callable[[], object] | None = None) -> None:
        """
        Let the time of one thing begin; that of the one before is over.

        Args:
            who: says whose code it is; called on another thread, and only if it takes too long.
            half: called there as well, when half of the time is over, to see later whether it has got on since.

        Raises:
            Interrupted: the one before took too long, and caught what it was interrupted by.
        """
        if self.hang is not None:
            raise Interrupted
        self._who, self._half = who, half
        self._thread = threading.get_ident()
        self._since = time.monotonic()

    def pause(self) -> None:
        """
        Let no time run until the next `begin`.

        Raises:
            Interrupted: as `begin`.
        """
        self._since = None
        if self.hang is not None:
            raise Interrupted

    def spare(self) -> None:
        """Let what closes things for code that was interrupted have a moment, undisturbed."""
        if self.hang is not None:
            self._spared_until = time.monotonic() + MOMENT_SECONDS

    def end(self) -> None:
        """Be interrupted no more."""
        try:
            self._end()
        except Interrupted:  # at the last moment; the next one would come a while later
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        self._since = None
        for threads in (_over, _lost):
            threads.discard(threading.get_ident())

    def over(self) -> BaseException:
        """Give the failure that whoever was interrupted stands for, and be interrupted no more."""
        self.end()
        assert self.hang is not None, "only what takes too long is interrupted"
        return self.failure(self.hang)

    @property
    def ended(self) -> bool:
        """Whether nobody is interrupted any more."""
        return self._ended

    # ------------------------------------------------------------------------------ on another thread

    def watch(self, done: threading.Event) -> None:
        """Wait for the end, which `done` tells of; comes back sooner if the thread is given up."""
        while not done.wait(self._left()):
            if self._look():
                self._stop(done)
                return

    def _stop(self, done: threading.Event) -> None:
        """Interrupt until it ends."""
        with _lost_ones_dropped():
            self._go_on_interrupting(done)

    def _go_on_interrupting(self, done: threading.Event) -> None:
        until, pause_seconds, told = time.monotonic() + MOMENT_SECONDS, AGAIN_SECONDS, False
        while self._interrupt():
            if done.wait(pause_seconds):
                return
            if told or time.monotonic() < max(until, self._spared_until + MOMENT_SECONDS):
                continue
            if self._gives_up:
                if self._lose():
                    return
            else:
                told, pause_seconds = True, MOMENT_SECONDS
                print(f"\n{self.hang}\nIt can't be interrupted, and the test waits for it.", file=sys.__stderr__)
        done.wait()

    def _left(self) -> float:
        since = self._since
        if since is None:
            return self.seconds / 2
        return max(0.0, since + self.seconds * (1 if self._half is None else 0.5) - time.monotonic())

    def _look(self) -> bool:
        """Look whether patience is over, and where the code is then."""
        since, who, half = self._since, self._who, self._half
        if since is None or who is None:
            return False
        passed = time.monotonic() - since
        if passed < self.seconds:
            if half is not None and passed >= self.seconds / 2 and self._since == since:
                self._half = None
                half()
            return False
        if _is_debugged(self._thread):
            self._since = time.monotonic()
            return False
        stack, (whose, waiting) = stack_of(self._thread), who()
        for _ in range(LOOKS):
            if waiting or own_frames(stack):
                break
            time.sleep(LOOK_AGAIN_SECONDS)  # it was seen between two turns of what runs by turns
            stack, (whose, waiting) = stack_of(self._thread), who()
        own = own_frames(stack, inner=not waiting)
        if self._since != since:
            return False  # it went on while we looked, so this may be anybody's stack
        _over.add(self._thread)
        shows = self.on_hang()
        parts = _parts(stack, own) if own or waiting else (stack,) if shows else ()
        self.hang = Hang(seconds=self.seconds, who=whose, parts=parts, waiting=waiting)
        return True

    def _interrupt(self) -> bool:
        """Interrupt once; tells whether there was still anything to interrupt."""
        with self._lock:
            if not self._ended and time.monotonic() >= self._spared_until:
                self.interrupt()
            return not self._ended

    def _raise(self) -> None:
        # That thread goes on where it is now, since this one holds the interpreter until it has been told.
        for _ in range(LOOKS):
            frame = _frame_of(self._thread)
            if frame is None or not _is_unheard(frame):
                break
            time.sleep(LOOK_AGAIN_SECONDS)
        raise_in(self._thread)

    def _lose(self) -> bool:
        """Give the thread up, unless it has come back."""
        with self._lock:
            self.lost = not self._ended
            if self.lost:
                _lost.add(self._thread)
            return self.lost


@contextmanager
def _lost_ones_dropped() -> Generator[None]:
    """
    Say nothing of an `Interrupted` that got lost: the next one comes soon.

    A thread that blocks outside of Python hears of it in the first Python code that it comes to, and that may be what
    is called because an object is gone, whatever it did when it was told.
    """
    before = sys.unraisablehook

    def told(lost: sys.UnraisableHookArgs, /) -> None:
        if lost.exc_type is not Interrupted:
            before(lost)

    sys.unraisablehook = told
    try:
        yield
    finally:
        if sys.unraisablehook is told:  # who has come since calls this one
            sys.unraisablehook = before


def raise_in(thread: int) -> None:
    """Raise `Interrupted` on a thread, as soon as it runs a line of Python."""
    import ctypes  # takes a while, and is hardly ever needed

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Interrupted))


def stop_if_over() -> None:
    """
    Go no further with code that has caught what it was interrupted by.

    Raises:
        Interrupted: patience with this thread is over.
    """
    if _over and threading.get_ident() in _over:
        raise Interrupted


def is_lost(thread: int | None = None) -> bool:
    """Tell whether a thread, the one that asks by default, was given up: what it does counts for nothing any more."""
    return bool(_lost) and (threading.get_ident() if thread is None else thread) in _lost


def stack_of(thread: int) -> Frames:
    """Give the stack of a thread, the outermost call first; empty if the thread is over."""
    found: list[traceback.FrameSummary] = []
    frame = _frame_of(thread)
    while frame is not None:  # no file is read for it: the thread goes on meanwhile
        found.insert(0, summary_of(frame))
        frame = frame.f_back
    return tuple(found)


def summary_of(frame: FrameType) -> traceback.FrameSummary:
    """Note where a frame is now."""
    return traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, lookup_line=False)


def own_frames(stack: Frames, *, inner: bool = True) -> Frames:
    """
    Leave what the program has to do with: its own code.

    Args:
        stack: the outermost call first.
        inner: leave the innermost call, too, if it is one of a library and not of polos.

    Returns:
        Nothing, if no code of the program is in it.
    """
    found: Frames = ()
    own = True
    for frame in stack:
        # A method that a data class or named tuple of ours was given comes from no file, and is called by ours.
        own = is_programs(frame.filename) and (own or frame.name not in _GENERATED or frame.filename != "<string>")
        found += (frame,) if own else ()
    shown = found and inner and found[-1] is not stack[-1] and not is_polos(stack[-1].filename)
    return (*found, stack[-1]) if shown else found


def _parts(stack: Frames, own: Frames) -> tuple[Frames, ...]:
    """Give the program's own frames, those together that call each other without anybody between them."""
    found: list[Frames] = []
    last = -2
    for at, frame in enumerate(stack):
        if any(frame is one for one in own):
            found[-1:] = [(*found[-1], frame)] if at == last + 1 else [*found[-1:], (frame,)]
            last = at
    return tuple(found)


def is_programs(file: str) -> bool:
    """Tell whether a file is of the program, and neither of polos nor of anything that is installed."""
    return not file.startswith(("<frozen ", _POLOS)) and not is_installed(file)


def is_polos(file: str) -> bool:
    """Tell whether a file is polos's own."""
    return file.startswith(_POLOS)


def without_polos(stack: Frames) -> Frames:
    """Leave out what is polos's own."""
    return tuple(frame for frame in stack if not is_polos(frame.filename))


def _frame_of(thread: int) -> FrameType | None:
    # Private by name, documented all the same: there is no other way to another thread's stack.
    return sys._current_frames().get(thread)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _is_unheard(innermost: FrameType) -> bool:
    """
    Tell whether an exception would do harm here.

    In what is called when an object is gone, or garbage collected, it would get lost; and of what a loop opens for
    itself nobody would know.
    """
    called = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    frame: FrameType | None = innermost
    while frame is not None:
        code = frame.f_code
        if code in called or code.co_name == "__del__" or code.co_filename in _WEAK:
            return True
        if code.co_name == "_open_pipe" and code.co_filename.startswith(_POLOS):
            return True
        frame = frame.f_back
    return False


def _is_debugged(thread: int) -> bool:
    frame = _frame_of(thread)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False


# ------------------------------------------------------------------------------------- on a thread beside


def beside(work: Callable[[], _T], patience: Patience, *, name: str) -> _T:
    """
    Do something on a thread of its own, and watch over it from this one.

    Args:
        work: what to do; uses `patience`.
        patience: with it.
        name: of the thread.

    Returns:
        What it gave.

    Raises:
        BaseException: what it raised; what `patience.failure` makes if patience was over, whatever it did then.
    """
    found: list[tuple[_T | None, BaseException | None]] = []
    done = threading.Event()

    def run() -> None:
        # An interruption may come between any two lines here, until `end` was called.
        try:
            try:
                found.append((work(), None))
            except BaseException as error:  # noqa: BLE001  # whoever began it gets it
                found.append((None, error))
            patience.end()
        except Interrupted:
            patience.end()
        finally:
            done.set()

    threading.Thread(target=run, name=name, daemon=True).start()
    patience.watch(done)
    if patience.hang is not None:
        raise patience.failure(patience.hang)
    ((value, error),) = found
    if error is not None:
        raise error
    return cast("_T", value)


@final
class Turn:
    """A lock that can be taken from one who is lost."""

    def __init__(self) -> None:
        """Free."""
        self._free = threading.Lock()
        self._holder: object = None
        self._thread = 0
        self._giving = threading.Lock()

    @property
    def is_mine(self) -> bool:
        """Whether it was the calling thread that took it, so that waiting for it would never end."""
        return self._holder is not None and self._thread == threading.get_ident()

    @contextmanager
    def of(self, holder: object) -> Generator[None]:
        """Wait for it, and hold it."""
        self._free.acquire()  # `give_back` releases it, on whichever thread
        self._thread = threading.get_ident()
        self._holder = holder
        try:
            yield
        finally:
            self.give_back(holder)

    def give_back(self, holder: object) -> None:
        """Let it go for somebody; fine if it isn't theirs any more."""
        with self._giving:
            if self._holder is holder:
                self._holder = None
                self._free.release()


# -------------------------------------------------------------------------------------- on this thread


@contextmanager
def over_this(patience: Patience) -> Generator[None]:
    """
    Watch over the caller's own thread, from one that is made for it.

    On the main thread a signal interrupts, unless somebody uses it: SIGURG, which is ignored wherever nobody asks for
    it, so that one that comes too late does nothing.
    """
    done, mine = threading.Event(), threading.get_ident()
    is_main = threading.current_thread() is threading.main_thread()
    by_signal = is_main and signal.getsignal(signal.SIGURG) is signal.SIG_DFL

    def interrupted(_number: int, frame: FrameType | None) -> None:
        if patience.hang is not None and not patience.ended and not (frame is not None and _is_unheard(frame)):
            raise Interrupted

    if by_signal:
        signal.signal(signal.SIGURG, interrupted)
        patience.interrupt = lambda: signal.pthread_kill(mine, signal.SIGURG)
    watching = threading.Thread(target=patience.watch, args=(done,), name="polos-patience", daemon=True)
    watching.start()
    try:
        yield
    finally:
        patience.end()
        if by_signal:
            signal.signal(signal.SIGURG, signal.SIG_DFL)
        done.set()
        watching.join()
