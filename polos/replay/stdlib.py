"""
The few places where the standard library would make a workflow's order depend on chance or on the Python version.

* `asyncio.as_completed` puts coroutines into a set before it makes tasks of them, so tasks come in the order
  of memory addresses; before Python 3.13 it also makes them only when the first result is asked for. On a
  workflow loop they are made at once, in argument order, on every version.
* `asyncio.wait_for` makes a task of its own in Python 3.11 only. There it takes the form of 3.12.
* `asyncio.TaskGroup` swallows a cancellation from outside before Python 3.13 if a member fails in the same moment;
  since then it is delivered at the next await. It takes the later form everywhere.
* `asyncio.all_tasks` reads a set of all tasks of the process.
* The future of `asyncio.gather` is of a class of its own, which hashes by address.
* `asyncio.wait` and `asyncio.gather` take futures of another loop and then hang; `asyncio.wrap_future` waits
  for a thread; `asyncio.run` fails with a message that doesn't help. On a workflow loop they say so.

A module may have said `from asyncio import as_completed` long before polos was imported, so replacing a name
is not enough: the *code* of the function is exchanged, and the first thing the new code does is to ask which
loop runs. Under any other loop the old code is called, with the same arguments. (Where the function is
written in C only the names can be replaced.)

Two interpreter-wide hooks belong here as well, for the same reason that they exist once per process: which
thread is collecting garbage (an async generator that is found in a cycle is found at no moment of the
history), and silence about coroutines that were never awaited while a run is being closed (there it isn't
the program's fault). This is the state that the module keeps beside the two that design.md allows; it holds
nothing of any run.
"""

# ruff: noqa: SLF001 -- the standard library's internals are the subject here.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from _thread import allocate_lock, get_ident
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from types import CoroutineType, FunctionType
from typing import Any, cast

from polos.errors import NondeterministicCall
from polos.replay import gates
from polos.replay.refusals import PureLoop, refusal

__all__ = [
    "all_tasks",
    "as_completed",
    "collecting_garbage",
    "foreign",
    "gather",
    "install",
    "leave_group",
    "unawaited",
    "unawaited_is_fine",
    "wait",
    "wait_for",
    "wrap_future",
]

_installing = allocate_lock()
_originals: dict[str, Callable[..., Any]] = {}
_collecting: set[int] = set()  # threads inside the garbage collector
_silent: set[int] = set()  # threads that close a run
_listening: dict[int, Callable[[Any], bool]] = {}  # by thread


def install() -> None:
    """Put the changes in place. Done once per process; doing it again changes nothing."""
    if _note_collection not in gc.callbacks:
        with _installing:
            if _note_collection not in gc.callbacks:
                _install()


def collecting_garbage() -> bool:
    """Tell whether this thread is in the middle of a garbage collection."""
    return get_ident() in _collecting


@contextmanager
def unawaited_is_fine() -> Generator[None]:
    """Let coroutines of a run that is being closed end without a warning that nobody awaited them."""
    thread = get_ident()
    if thread in _silent:
        yield
        return
    _silent.add(thread)
    try:
        yield
    finally:
        _silent.discard(thread)


# ------------------------------------------------------------------------------------------- exchanging code


def _install() -> None:
    _exchange(asyncio.as_completed, gates.as_completed)
    _exchange(asyncio.wait, gates.wait)
    _exchange(asyncio.gather, gates.gather)
    _exchange(asyncio.wrap_future, gates.wrap_future)
    if sys.version_info < (3, 12):
        _exchange(asyncio.wait_for, gates.wait_for)
    if sys.version_info < (3, 13):
        _exchange(asyncio.TaskGroup.__aexit__, gates.leave_group)
    if isinstance(asyncio.all_tasks, FunctionType):
        _exchange(asyncio.all_tasks, gates.all_tasks)
    else:
        _rename(asyncio.all_tasks, gates.all_tasks, asyncio.tasks)
    _rename(asyncio.run, _run_gate, asyncio.runners)
    cast("Any", asyncio.tasks)._GatheringFuture.__hash__ = _hash_of_gathering
    _quieten()
    gc.callbacks.append(_note_collection)  # last: it tells `install` that all is in place


def _exchange(function: Callable[..., Any], gate: Callable[..., Any]) -> None:
    """Make a function of the standard library ask first which loop runs, for everybody who holds it."""
    assert isinstance(function, FunctionType)
    assert isinstance(gate, FunctionType)
    original = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = function.__kwdefaults__
    _originals[function.__qualname__] = original
    function.__code__ = gate.__code__


def _rename(function: Callable[..., Any], gate: Callable[..., Any], module: object) -> None:
    """Replace a function by name, where its code can't be exchanged."""
    name = function.__name__
    _originals[name] = function
    for attribute in ("__doc__", "__module__", "__name__", "__qualname__"):
        setattr(gate, attribute, getattr(function, attribute))
    setattr(gate, "__wrapped__", function)  # noqa: B010 -- functions have no such attribute for a type checker
    setattr(module, name, gate)
    setattr(asyncio, name, gate)


def _workflow_loop() -> PureLoop | None:
    loop = asyncio._get_running_loop()
    return loop if isinstance(loop, PureLoop) else None


def _run_gate(main: Any, **options: Any) -> Any:
    if _workflow_loop() is not None:
        if asyncio.iscoroutine(main):
            main.close()
        raise refusal("asyncio.run()")
    return _originals["run"](main, **options)


# ------------------------------------------------------------------------------------ what stands behind them


def as_completed(awaitables: Any, timeout: float | None) -> Any:
    """Make tasks in argument order and give what completes, on every Python as 3.13 does."""
    loop = _workflow_loop()
    if loop is None:
        return _originals["as_completed"](awaitables, timeout=timeout)
    if asyncio.isfuture(awaitables) or asyncio.iscoroutine(awaitables):
        raise TypeError(f"expects an iterable of awaitables, not {type(awaitables).__name__}")
    return _AsCompleted(loop, awaitables, timeout)


async def wait(fs: Any, timeout: float | None, return_when: str) -> Any:
    """Wait as asyncio does, for futures of this loop only."""
    loop = _workflow_loop()
    if loop is not None and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
        fs = list(fs)
        _check_futures(loop, fs, "asyncio.wait()")
        if any(type(future) is asyncio.Future for future in fs):
            raise NondeterministicCall(
                "asyncio.wait() gives sets, and futures made by asyncio.Future() stand in them in an order that "
                "changes from process to process: make them with asyncio.get_running_loop().create_future()"
            )
    return await _originals["wait"](fs, timeout=timeout, return_when=return_when)


def gather(awaitables: tuple[Any, ...], return_exceptions: bool) -> Any:  # noqa: FBT001 -- as asyncio has it
    """Gather as asyncio does, futures of this loop only."""
    loop = _workflow_loop()
    if loop is not None:
        _check_futures(loop, awaitables, "asyncio.gather()")
    return _originals["gather"](*awaitables, return_exceptions=return_exceptions)


def wrap_future(future: Any, loop: Any) -> Any:
    """Refuse to wait for a thread."""
    if _workflow_loop() is not None and not asyncio.isfuture(future):
        raise refusal("asyncio.wrap_future()")
    return _originals["wrap_future"](future, loop=loop)


async def wait_for(awaitable: Any, timeout: float | None) -> Any:
    """Wait with a timeout without a task of its own, as since Python 3.12."""
    if _workflow_loop() is None:
        return await _originals["wait_for"](awaitable, timeout)
    if timeout is None or timeout > 0:
        async with asyncio.timeout(timeout):
            return await awaitable
    future = asyncio.ensure_future(awaitable)
    if not future.done():
        future.cancel()
        await asyncio.wait([future])
        if future.cancelled():
            raise TimeoutError
    return future.result()


async def leave_group(group: Any, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
    """Leave a task group: wait for its members, then raise what there is to raise, in the order of Python 3.13."""
    if _workflow_loop() is None:
        await _originals["TaskGroup.__aexit__"](group, kind, error, trace)
        return
    group._exiting = True
    cancellation: BaseException | None = error if isinstance(error, asyncio.CancelledError) else None
    if error is not None:
        if group._base_error is None and group._is_base_error(error):
            group._base_error = error
        if not group._aborting:
            group._abort()
    cancellation = await _wait_for_members(group) or cancellation
    if group._base_error is not None:
        raise group._base_error
    if group._parent_cancel_requested and group._parent_task.uncancel() == 0:
        cancellation = None  # it was the group's own
    try:
        if cancellation is not None and not group._errors:
            raise cancellation
        if error is not None and not isinstance(error, asyncio.CancelledError):
            group._errors.append(error)
        if group._errors:
            if group._parent_task.cancelling():
                # Somebody else wants the parent cancelled, too. The errors go first, that comes with the next await.
                group._parent_task.uncancel()
                group._parent_task.cancel()
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", group._errors) from None
    finally:
        group._errors = error = cancellation = None  # errors hold frames, and these hold the errors


async def _wait_for_members(group: Any) -> BaseException | None:
    cancellation: BaseException | None = None
    while group._tasks:
        group._on_completed_fut = group._loop.create_future()  # a member's end looks for it
        try:
            await group._on_completed_fut
        except asyncio.CancelledError as raised:
            if not group._aborting:  # else it is the group that cancelled its parent
                cancellation = raised
                group._abort()
        group._on_completed_fut = None
    return cancellation


def all_tasks(loop: asyncio.AbstractEventLoop | None) -> set[asyncio.Task[Any]]:
    """Give a loop's tasks; those of a workflow loop always in the same order."""
    asked = loop if loop is not None else _workflow_loop()
    if isinstance(asked, PureLoop):
        return set(asked.tasks())
    return cast("set[asyncio.Task[Any]]", _originals["all_tasks"](loop))


def _check_futures(loop: PureLoop, awaitables: Iterable[Any], where: str) -> None:
    for future in awaitables:
        if asyncio.isfuture(future) and future.get_loop() is not loop:
            for other in awaitables:
                if asyncio.iscoroutine(other):
                    other.close()  # nobody will await it any more
            raise foreign(f"{where} was given a future of another event loop: {future!r}")


def foreign(what: str) -> NondeterministicCall:
    """Make the error for a future that belongs to another loop."""
    return NondeterministicCall(
        f"{what}. A workflow body runs on an event loop of its own, and what happens on another one isn't in its "
        f"history: await that inside a step, with ctx.step.run(name, function, ...)"
    )


def _hash_of_gathering(future: Any) -> int:
    loop = future.get_loop()
    if not isinstance(loop, PureLoop):
        return object.__hash__(future)
    if not hasattr(future, "_polos_number"):
        future._polos_number = loop.next_number()
    return cast("int", future._polos_number)


class _AsCompleted:
    """What `asyncio.as_completed` gives on a workflow loop: Python 3.13's object, on every version."""

    def __init__(self, loop: PureLoop, awaitables: Iterable[Any], timeout: float | None) -> None:
        futures = dict.fromkeys(awaitables)  # each once, in argument order
        _check_futures(loop, futures, "asyncio.as_completed()")
        self._open = dict.fromkeys(asyncio.ensure_future(awaitable, loop=loop) for awaitable in futures)
        self._left = len(self._open)
        self._done: asyncio.Queue[asyncio.Future[Any] | None] = asyncio.Queue()
        for future in self._open:
            future.add_done_callback(self._completed)
        self._timer = loop.call_later(timeout, self._expired) if self._open and timeout is not None else None

    def __iter__(self) -> Iterator[Coroutine[Any, Any, Any]]:
        return self

    def __next__(self) -> Coroutine[Any, Any, Any]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._next_result()

    def __aiter__(self) -> AsyncIterator[asyncio.Future[Any]]:
        return self

    async def __anext__(self) -> asyncio.Future[Any]:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return await self._next_future()

    async def _next_result(self) -> Any:
        return (await self._next_future()).result()

    async def _next_future(self) -> asyncio.Future[Any]:
        future = await self._done.get()
        if future is None:
            raise TimeoutError
        return future

    def _completed(self, future: asyncio.Future[Any]) -> None:
        if future not in self._open:
            return  # it was too late
        del self._open[future]
        self._done.put_nowait(future)
        if not self._open and self._timer is not None:
            self._timer.cancel()

    def _expired(self) -> None:
        for future in self._open:
            future.remove_done_callback(self._completed)
            self._done.put_nowait(None)
        self._open.clear()


# --------------------------------------------------------------------------------------- interpreter-wide hooks


def _note_collection(phase: str, _: dict[str, int]) -> None:
    if phase == "start":
        _collecting.add(get_ident())
    else:
        _collecting.discard(get_ident())


@contextmanager
def unawaited(listener: Callable[[CoroutineType[Any, Any, Any]], bool]) -> Generator[None]:
    """
    Have somebody told of coroutines that nobody awaits, on this thread.

    Args:
        listener: gets each one when it is given up, and tells whether it takes it, or Python may warn of it; its
            `cr_origin` says where it was made.
    """
    depth = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(max(depth, 1))
    _listening[get_ident()] = listener
    try:
        yield
    finally:
        del _listening[get_ident()]
        sys.set_coroutine_origin_tracking_depth(depth)


def _quieten() -> None:
    """Hold back "coroutine was never awaited" on threads that close a run; elsewhere nothing changes."""
    warn = getattr(warnings, "_warn_unawaited_coroutine", None)
    if warn is None:
        return  # an interpreter that reports it in another way; nothing depends on the silence

    def warn_unless_closing(coroutine: object) -> None:
        thread = get_ident()
        listener = _listening.get(thread)
        if thread not in _silent and not (listener is not None and listener(coroutine)):
            warn(coroutine)

    setattr(warnings, "_warn_unawaited_coroutine", warn_unless_closing)  # noqa: B010 -- private, so unknown to type checkers
