"""
The program's event loop, on virtual time and on one thread.

asyncio's own selector loop, with three things replaced. Its clock is a `VirtualClock`. Where it would wait for the
operating system it has found out that nothing is ready; that is the moment to let time pass up to whatever comes
next, or to stop if nothing does. And what would go to a thread is done on this one, because a thread ends when it
likes: code of a run that waits for it does wait, as it would, and gets on in a later turn.
Who says when a function is under way (`SimulatedLoop.is_busy`) may have functions that talk to the real world, too.

So a run of the loop is a function of the program and the seed, however long it lasts on the virtual clock.

Most simulated programs never meet the operating system at all, and a sweep lives thousands of lives, each with a loop
of its own: what a loop needs to wait (epoll, and the pipe through which another thread wakes it) costs as much as a
good part of such a life. It is opened when the first connection or process is, or when there is something to wait for.
Until then a turn of the loop has nothing to ask the operating system, and is done without.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import socket
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVarTuple, Unpack, cast, final

from polos.context import current_context
from polos.errors import PolosUsageError
from polos.testing.clock import Alarm, VirtualClock

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["PATIENCE_SECONDS", "RealWaitTooLong", "SimulatedLoop", "ended_processes"]

PATIENCE_SECONDS = 5.0
WAITS: Final = 100  # that this time is cut into
ENDING_SECONDS: Final = 0.02
ENDING_LOOKS: Final = 50  # at a process that was killed

ended_processes: Final[set[int]] = set()  # numbers of those that were open when a simulated life ended

_Ts = TypeVarTuple("_Ts")


@final
class RealWaitTooLong(PolosUsageError):
    """A simulated run waits for a connection or a process of the real world, and nothing comes of it."""


_Ready = list[tuple[selectors.SelectorKey, int]]


class _Inner(TypedDict):
    """What a loop of asyncio knows and has no public view of."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _debug: bool
    _closed: bool
    _clock_resolution: float


@final
class _Waiting(selectors.BaseSelector):
    """
    A selector that doesn't wait by itself: it asks the loop what to do instead.

    Attributes:
        system: what waits for the operating system; None as long as there is nothing to wait for.
        idle: what the loop does when nothing is ready.
        make_pipe: makes the loop's own pipe, when there is something for another thread to wake it from.
    """

    idle: Callable[[float | None], _Ready]
    make_pipe: Callable[[], None]

    def __init__(self) -> None:
        self.system: selectors.BaseSelector | None = None

    def open(self) -> selectors.BaseSelector:
        """Give what waits for the operating system, made if need be."""
        if self.system is None:
            self.system = selectors.DefaultSelector()
            self.make_pipe()
        return self.system

    @property
    def is_connected(self) -> bool:
        """Whether anything but the loop's own pipe is open, that is: a function opened a connection or a process."""
        return self.system is not None and len(self.system.get_map()) > 1

    def register(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        return self.open().register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self.open().unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        return self.open().modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return {} if self.system is None else self.system.get_map()

    def close(self) -> None:
        del self.idle, self.make_pipe  # the loop knows its selector, too
        if self.system is not None:
            self.system.close()

    def select(self, timeout: float | None = None) -> _Ready:
        ready = self.wait(0) if self.is_connected else []
        return ready or ([] if timeout is not None and timeout <= 0 else self.idle(timeout))

    def wait(self, seconds: float) -> _Ready:
        """Wait for the operating system."""
        return self.open().select(seconds)


@final
class SimulatedLoop(asyncio.SelectorEventLoop):
    """
    A loop that runs until nothing can happen any more.

    Attributes:
        world: whatever the code that runs on the loop may want to reach; see `polos.testing.world`.
        on_due: is given the alarms whose moment has come, and has them ring when it likes; None to ring them at once.
        is_busy: tells whether a function is under way that may wait for the real world: a connection, a process, a
            thread. Time stands still for it then, for as long as `PATIENCE_SECONDS`. None for never.
        on_call: is given each callback that it is to call, and gives what it is to call instead; None for nothing else.
        doing_for: the task for which a job is being done that belongs in a thread; None if there is none.
        on_job: is told when a job is done that belongs in a thread, in the context of who asked; None for nobody.
        on_task: is told of each task before it is made, and in which context if not in its maker's; None for nobody.
    """

    def __init__(self, clock: VirtualClock, *, world: object = None) -> None:
        """Run by a clock."""
        selector = _Waiting()
        selector.idle = self._idle
        selector.make_pipe = self._open_pipe
        super().__init__(selector)
        self.world = world
        self.on_due: Callable[[list[Alarm]], None] | None = None
        self.is_busy: Callable[[], bool] | None = None
        self.on_call: Callable[[Callable[..., object]], Callable[..., object]] | None = None
        self.doing_for: asyncio.Task[Any] | None = None
        self.on_job: Callable[[], None] | None = None
        self.on_task: Callable[[Context | None], None] | None = None
        self._real = selector
        self._clock_of_world = clock
        self._until_us: int | None = 0
        self._moments_max: int | None = None
        self._processes: list[asyncio.SubprocessTransport] = []
        self._making: list[Any] = []  # coroutines of asyncio that have begun a process
        self._inner = cast("_Inner", vars(self))
        # A float that counts half a year in seconds knows no nanoseconds, and a timer that is due by less is never due.
        self._inner["_clock_resolution"] = 1e-6

    @property
    def is_connected(self) -> bool:
        """Whether functions have connections or processes open."""
        return self._real.is_connected

    @property
    def has_opened(self) -> bool:
        """Whether there was ever anything to ask the operating system about."""
        return self._real.system is not None

    def transports(self) -> list[asyncio.BaseTransport]:
        """Give the connections that are open, and the processes instead of their pipes."""
        found: dict[int, asyncio.BaseTransport] = {}
        for key in list(self._real.get_map().values()):
            for handle in key.data:
                transport = _owner(handle)
                transport = getattr(getattr(transport, "_protocol", None), "proc", transport)
                if isinstance(transport, asyncio.BaseTransport):
                    found[id(transport)] = transport
        return list(found.values())

    def drop_ready(self) -> None:
        """Forget what was to be called next, but for connections that are being closed and processes that ended."""
        ready = self._inner["_ready"]
        kept = [handle for handle in ready if (who := _owner(handle)) is self or isinstance(who, asyncio.BaseTransport)]
        ready.clear()
        ready.extend(kept)

    async def _make_subprocess_transport(self, *args: Any, **kwargs: Any) -> Any:
        making = getattr(super(), "_make_subprocess_transport")(*args, **kwargs)  # noqa: B009  # as above
        self._making.append(making)
        transport = await making
        self._making.remove(making)
        self._processes.append(transport)
        return transport

    def processes(self) -> list[asyncio.SubprocessTransport]:
        """Give the processes that were begun; from now on nothing that asyncio says of those that go on is heard."""
        begun = [coroutine.cr_frame.f_locals.get("transp") for coroutine in self._making if coroutine.cr_frame]
        found = [one for one in (*begun, *self._processes) if one is not None]
        ended_processes.update(process.get_pid() for process in found if process.get_returncode() is None)
        return found

    def end(self, processes: Sequence[asyncio.SubprocessTransport]) -> None:
        """
        Kill processes, and hear of their ends: who watches over them for asyncio would stay, or find the loop closed.

        Whether one has ended is asked without taking the answer away from whoever watches, as their `kill` does.
        """
        for process in processes:
            if process.get_returncode() is not None:
                continue
            with suppress(OSError):
                os.waitid(os.P_PID, process.get_pid(), os.WEXITED | os.WNOHANG | os.WNOWAIT)
                os.kill(process.get_pid(), signal.SIGKILL)
        for _ in range(ENDING_LOOKS):
            if all(process.get_returncode() is not None for process in processes):
                return
            self._real.wait(ENDING_SECONDS)
            self.run_ready()

    def run_ready(self) -> None:
        """Run what can happen now; no time passes."""
        self.run_for(0)

    def run_for(self, length_us: int | None) -> None:
        """
        Run, and let time pass when nothing else can happen.

        Args:
            length_us: for so long, 0 for no time at all; None until nothing happens any more.
        """
        now_us = self._clock_of_world.monotonic_us()
        self._until_us = None if length_us is None else now_us + length_us
        self.run_forever()

    def run_turns(self, count: int) -> None:
        """Run so many turns, each of them what is ready when it begins; no time passes."""
        self._until_us = self._clock_of_world.monotonic_us()
        self._count_down(count)
        self.run_forever()

    def _count_down(self, count: int) -> None:
        if count:
            self.call_soon(self._count_down, count - 1)
        else:
            self.stop()

    def has_moment(self) -> bool:
        """Tell whether something is to happen at a later time."""
        timers = self._inner["_scheduled"]
        return self._clock_of_world.next_us() is not None or any(not timer.cancelled() for timer in timers)

    def run_to_moment(self) -> None:
        """Run what can happen now, then let time pass up to the next moment, and run what comes of it."""
        self._until_us, self._moments_max = None, 1
        try:
            self.run_forever()
        finally:
            self._moments_max = None

    # --------------------------------------------------------------------------------- what asyncio calls

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call something when the loop turns."""
        called = callback if self.on_call is None else self._called(callback)
        if self._inner["_debug"] or self._inner["_closed"]:
            return super().call_soon(called, *args, context=context)
        handle = asyncio.Handle(called, args, self, context)
        self._inner["_ready"].append(handle)
        return handle

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Make a task; what options there are depends on the version of Python."""
        if self.on_task is not None:
            self.on_task(options.get("context"))
        return super().create_task(coro, **options)

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call something when the loop turns, asked for by another thread."""
        if self._inner["_debug"]:
            return super().call_soon_threadsafe(self._called(callback), *args, context=context)
        handle = self.call_soon(callback, *args, context=context)
        # Only now is it known whether there is a pipe: a loop that opens it looks afterwards at what is ready.
        getattr(self, "_write_to_self")()  # noqa: B009  # asyncio has no public name for it
        return handle

    def call_at(
        self, when: float, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call something at a moment."""
        return super().call_at(when, self._called(callback), *args, context=context)

    def _called(self, callback: Callable[[Unpack[_Ts]], object]) -> Callable[[Unpack[_Ts]], object]:
        return callback if self.on_call is None else cast("Any", self.on_call(callback))

    def _run_once(self) -> None:
        """Turn once: call what is ready now."""
        inner = self._inner
        ready = inner["_ready"]
        if not ready or inner["_scheduled"] or inner["_debug"] or self._real.system is not None:
            getattr(super(), "_run_once")()  # noqa: B009  # asyncio has no public name for it
            return
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                getattr(handle, "_run")()  # noqa: B009  # as above

    def _make_self_pipe(self) -> None:
        """Make no pipe yet."""
        self._ssock: socket.socket | None = None
        self._csock: socket.socket | None = None

    def _open_pipe(self) -> None:
        getattr(super(), "_make_self_pipe")()  # noqa: B009  # asyncio has no public name for it

    def _close_self_pipe(self) -> None:
        if self._ssock is not None:
            getattr(super(), "_close_self_pipe")()  # noqa: B009  # as above

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts) -> None:
        """Call back on a signal; Python writes those into the pipe."""
        self._real.open()
        super().add_signal_handler(sig, callback, *args)

    def time(self) -> float:
        """Give the virtual monotonic time, in seconds."""
        return self._clock_of_world.monotonic_us() / 1e6

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[_Ts]], Any], *args: *_Ts) -> asyncio.Future[Any]:  # noqa: ARG002
        """Do what a thread would do: what the engine asks for at once, and what code of a run does when it waits."""
        future: asyncio.Future[Any] = self.create_future()
        task = asyncio.current_task(self)
        if current_context() is None:
            self._work(future, partial(func, *args), task)
        else:
            # A method of the loop would count as something that is called even when the process is dead.
            self.call_soon(partial(self._work, future, self._called(partial(func, *args)), task))
        return future

    def _work(self, future: asyncio.Future[Any], job: Callable[[], Any], task: asyncio.Task[Any] | None) -> None:
        """Do a thread's job; who ends the process, or this life of it, isn't the job's."""
        self.doing_for = task
        try:
            with self.left():
                result = job()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # whoever awaits it gets it
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)
        finally:
            self.doing_for = None
        if self.on_job is not None:
            self.on_job()

    @contextmanager
    def left(self) -> Generator[None]:
        """Do something as on another thread, where no loop is running: it may run one of its own."""
        asyncio._set_running_loop(None)  # noqa: SLF001  # what loops use, for want of a public way
        try:
            yield
        finally:
            asyncio._set_running_loop(self)  # noqa: SLF001  # as above

    def _idle(self, timeout: float | None) -> _Ready:
        """Nothing is ready: wait for the real world, or let time pass up to the next moment, or stop."""
        if self.is_busy is not None and self.is_busy():
            connected = self._real.is_connected
            if connected or (timeout is None and self._clock_of_world.next_us() is None):
                self._real.open()
                if self._inner["_ready"]:  # another thread was quicker than the pipe through which it wakes the loop
                    return []
                ready = self._wait_for_the_world()
                if ready:
                    return ready
                if connected:
                    raise RealWaitTooLong
        self._pass(timeout)
        return []

    def _wait_for_the_world(self) -> _Ready:
        """Wait for the operating system, a moment at a time: only between two can an exception be raised in here."""
        for _ in range(WAITS):
            ready = self._real.wait(PATIENCE_SECONDS / WAITS)
            if ready:
                return ready
        return []

    def _pass(self, timeout: float | None) -> None:
        """Let time pass up to the next moment at which something is to happen, or stop."""
        clock = self._clock_of_world
        waits = [] if timeout is None else [max(1, round(timeout * 1e6))]
        alarm_us = clock.next_us()
        if alarm_us is not None:
            waits.append(alarm_us)
        now_us = clock.monotonic_us()
        left_us = None if self._until_us is None else self._until_us - now_us
        if not waits or (left_us is not None and min(waits) > left_us):
            if left_us is not None:
                clock.advance(left_us)
            self.stop()
            return
        if self._moments_max is not None:
            if not self._moments_max:
                self.stop()
                return
            self._moments_max -= 1
        clock.advance(min(waits))
        due = [alarm for alarm in clock.take_due() if not alarm.cancelled]
        if self.on_due is not None:
            self.on_due(due)
            return
        for alarm in due:
            self.call_soon(self.ring, alarm)

    @staticmethod
    def ring(alarm: Alarm) -> None:
        """Let an alarm ring, unless somebody has cancelled it meanwhile."""
        if not alarm.cancelled:
            alarm.callback()


def _owner(handle: asyncio.Handle | None) -> object:
    """Give the object whose method a handle calls."""
    return getattr(getattr(handle, "_callback", None), "__self__", None)
