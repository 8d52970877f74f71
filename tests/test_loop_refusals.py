"""What a workflow body can't do: real I/O, threads, other people's event loops."""

# mypy: allow-untyped-calls
# Workflow bodies are written here as users write them, mostly without annotations.

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from typing import Any

import pytest
from polos.errors import NondeterministicCall
from polos.replay.loop import WorkflowLoop
from polos.replay.refusals import PureLoop

from tests.loop_host import Play


def run(body):
    """Run a body until it waits; give its play."""
    play = Play(body)
    play.deliver(("start", ""))
    return play


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def outer():
    """Give the program's own loop."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


async def nothing():
    pass


def loop_():
    return asyncio.get_running_loop()


REFUSED: dict[str, Any] = {
    "run_in_executor": lambda: loop_().run_in_executor(None, print),
    "to_thread": lambda: asyncio.to_thread(print),
    "open_connection": lambda: asyncio.open_connection("localhost", 1),
    "open_unix_connection": lambda: asyncio.open_unix_connection("/nowhere"),
    "start_server": lambda: asyncio.start_server(print, "localhost", 1),
    "create_connection": lambda: loop_().create_connection(asyncio.Protocol, "localhost", 1),
    "create_datagram_endpoint": lambda: loop_().create_datagram_endpoint(asyncio.DatagramProtocol),
    "create_subprocess_exec": lambda: asyncio.create_subprocess_exec("true"),
    "create_subprocess_shell": lambda: asyncio.create_subprocess_shell("true"),
    "getaddrinfo": lambda: loop_().getaddrinfo("localhost", 1),
    "sock_recv": lambda: loop_().sock_recv(None, 1),
    "add_reader": lambda: loop_().add_reader(0, print),
    "add_signal_handler": lambda: loop_().add_signal_handler(2, print),
    "run": lambda: asyncio.run(nothing()),
    "run nothing": lambda: asyncio.run(None),  # type: ignore[arg-type]
    "wrap_future": lambda: asyncio.wrap_future(concurrent.futures.Future[None]()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_real_io_is_refused_at_the_line(name):
    """I/O and threads raise NondeterministicCall where they are called or awaited; the text says what to do."""

    async def body(play):
        with pytest.raises(NondeterministicCall, match=r"wrap it in ctx\.step\.run") as caught:
            await REFUSED[name]()
        assert any(entry.name == "body" for entry in caught.traceback)
        return "refused"

    assert "refused" == run(body).main.result()


OWNED = ["run_forever", "run_until_complete", "stop", "close", "set_task_factory", "set_exception_handler", "set_debug"]


@pytest.mark.parametrize("name", OWNED)
def test_what_is_the_engines_is_refused(name):
    """A body can't run, stop, close or reconfigure its loop."""

    async def body(play):
        with pytest.raises(NondeterministicCall, match=f"{name}.. isn't for workflow bodies"):
            getattr(loop_(), name)()
        return "refused"

    assert "refused" == run(body).main.result()


def test_every_method_of_a_loop_is_answered():
    """Whatever this Python's event loops can do, a workflow loop does or refuses; nothing falls through."""
    base = asyncio.AbstractEventLoop
    methods = {name for name, member in vars(base).items() if inspect.isfunction(member) and name[0] != "_"}
    answered = {name for name in methods if getattr(WorkflowLoop, name) is not getattr(base, name)}

    assert methods == answered
    with pytest.raises(NotImplementedError):
        PureLoop.next_number(object())  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError):
        PureLoop.tasks(object())  # type: ignore[arg-type]


def test_other_threads_are_refused():
    """call_soon_threadsafe is call_soon on the loop's own thread, and refused on any other, and from outside."""
    raised: list[str] = []
    called: list[Any] = []

    def elsewhere(loop, waiting):
        for call in (
            lambda: loop.call_soon_threadsafe(called.append, 1),
            lambda: asyncio.run_coroutine_threadsafe(waiting, loop),
        ):
            try:
                call()
            except NondeterministicCall as error:
                raised.append(str(error))
        waiting.close()

    async def body(play):
        loop_().call_soon_threadsafe(called.append, "own")
        thread = threading.Thread(target=elsewhere, args=(loop_(), nothing()))
        thread.start()
        thread.join()
        await asyncio.sleep(0)

    play = run(body)

    assert ["own"] == called
    assert 2 == len([text for text in raised if "call_soon_threadsafe" in text])

    fresh = Play(body)
    with pytest.raises(NondeterministicCall):
        fresh.loop.call_soon_threadsafe(print)
    with pytest.raises(NondeterministicCall, match="outside of the workflow"):
        fresh.loop.call_soon(print)
    with pytest.raises(NondeterministicCall, match="outside of the workflow"):
        fresh.loop.call_later(1, print)
    assert play.ended


def test_future_resolved_from_outside():
    """Who resolves a body's future outside of an activation is told so."""

    async def body(play):
        play.mine = loop_().create_future()
        await play.mine

    play = run(body)
    with pytest.raises(NondeterministicCall, match="touched its event loop"):
        play.mine.set_result(1)

    assert [] == play.evict()


def test_tasks_and_futures_of_other_classes():
    """asyncio.Task() is refused; so is asyncio.wait for futures of asyncio.Future(), whose order would be chance."""

    async def body(play):
        coroutine = nothing()
        with pytest.raises(NondeterministicCall, match="create_task"):
            asyncio.Task(coroutine)
        coroutine.close()
        future: asyncio.Future[int] = asyncio.Future()
        loop_().call_soon(future.set_result, 5)
        with pytest.raises(NondeterministicCall, match="create_future"):
            await asyncio.wait([future])
        return await future

    assert 5 == run(body).main.result()


# ---------------------------------------------------------------------------------------------------- foreign futures


async def waits(other):
    return await other


async def generates(other):
    yield await other


async def group(other):
    try:
        async with asyncio.TaskGroup() as members:
            members.create_task(waits(other))
    except* NondeterministicCall as errors:
        raise errors.exceptions[0] from None


FOREIGN: dict[str, Any] = {
    "await": lambda other: other,
    "shield": asyncio.shield,
    "gather": lambda other: asyncio.gather(nothing(), other),
    "wait": lambda other: asyncio.wait([asyncio.create_task(nothing()), other]),
    "as_completed": lambda other: list(asyncio.as_completed([nothing(), other])),
    "wait_for": lambda other: asyncio.wait_for(other, 5),
    "task": lambda other: asyncio.create_task(waits(other)),
    "group": group,
    "generator": lambda other: anext(generates(other)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_future_of_another_loop_is_refused(name, outer):
    """Awaiting what belongs to the program's own loop raises at that line instead of hanging; the body may go on."""
    other = outer.create_future()

    async def body(play):
        for attempt in range(2):
            try:
                await FOREIGN[name](other)
            except NondeterministicCall as error:
                play.note(f"refused {attempt}, {'ctx.step.run' in str(error)}")
            await play.step(f"step {attempt}")
        await asyncio.sleep(0)
        return "went on"

    play = run(body)
    for attempt in range(2):
        assert [f"refused {attempt}, True", f"ask main/step {attempt}"] == [
            line for line in play.transcript if not line.startswith(("timer", "no timer"))
        ][-2:]
        play.deliver(("step", f"main/step {attempt}"))

    assert "went on" == play.main.result()

    outer.call_soon(other.set_result, "still good")

    assert "still good" == outer.run_until_complete(waits(other))


@pytest.mark.parametrize("end", ["returns", "raises", "is cancelled", "insists", "yields", "KeyboardInterrupt"])
def test_task_ends_after_a_foreign_future(end, outer):
    """A task into which the refusal was thrown ends like any other, whatever its code makes of it."""
    other = outer.create_future()

    async def child(play):
        try:
            await other
        except NondeterministicCall as error:
            if end == "returns":
                return "returned"
            if end == "is cancelled":
                raise asyncio.CancelledError from error
            if end == "KeyboardInterrupt":
                raise KeyboardInterrupt from error
            if end == "insists":
                await other
            if end == "yields":
                await asyncio.sleep(0)
            raise

    async def body(play):
        task = asyncio.create_task(child(play))
        if end == "KeyboardInterrupt":
            await asyncio.wait([task])
        else:
            await asyncio.gather(task, return_exceptions=True)
        play.note(f"{task.cancelled()} {type(task.exception()).__name__ if not task.cancelled() else ''}")
        assert [asyncio.current_task()] == list(asyncio.all_tasks())

    play = Play(body)
    if end == "KeyboardInterrupt":
        with pytest.raises(KeyboardInterrupt):
            play.deliver(("start", ""))
        play.loop.activate(lambda: None, 1.0)
    else:
        play.deliver(("start", ""))
    expected = {
        "returns": "False NoneType",
        "raises": "False NondeterministicCall",
        "is cancelled": "True ",
        "insists": "False NondeterministicCall",
        "yields": "False NondeterministicCall",
        "KeyboardInterrupt": "False KeyboardInterrupt",
    }

    assert expected[end] in play.transcript


def test_cancellation_beside_a_foreign_future(outer):
    """A task that is cancelled while the refusal is on its way gets both, one after the other."""
    other = outer.create_future()

    async def child(play):
        try:
            await other
        except NondeterministicCall:
            play.note("refused")
        await play.step("never")

    async def body(play):
        task = asyncio.create_task(child(play))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    play = run(body)

    assert play.main.result()
    assert "refused" in play.transcript
