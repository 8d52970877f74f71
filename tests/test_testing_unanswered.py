"""A test that awaits what a fault of its own order keeps from ever being answered is told, instead of spinning."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, events, workflow
from polos.testing import (
    CapturedEvents,
    ExploredWorld,
    Fault,
    FaultPlan,
    JumpingClock,
    NeverAnswered,
    Simulation,
    explore,
    simulation,
    stuck,
    unanswered,
)
from polos.testing.stuck import cannot_go_on


@workflow(id="unanswered")
async def asks(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    return await ctx.step.wait_for_signal("go")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kit say so soon."""
    monkeypatch.setattr(unanswered, "REFUSALS_MAX", 20)
    monkeypatch.setattr(simulation, "REFUSALS_MAX", 20)
    monkeypatch.setattr(unanswered, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(unanswered, "HELD_LOOKS_MAX", 3)
    monkeypatch.setattr(unanswered, "STUCK_LOOKS_MAX", 2)


@pytest.fixture(autouse=True)
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't count threads that other tests of this process have left, such as a server that all of them share."""
    before = set(threading.enumerate()) - {threading.main_thread(), threading.current_thread()}
    monkeypatch.setattr(stuck, "_threads", lambda: [thread for thread in threading.enumerate() if thread not in before])


@pytest.fixture(params=["polos", "polos_lmdb"])
def either(request: pytest.FixtureRequest) -> Polos:
    """Each of the two engines."""
    found: Polos = request.getfixturevalue(request.param)
    return found


async def held(faults: FaultPlan) -> None:
    """Wait until an append is held."""
    while faults.held is None:
        await asyncio.sleep(0)


def awaiting(polos: Polos, faults: FaultPlan, order: Callable[[], None], what: Callable[[Any], Awaitable[Any]]) -> str:
    """Await something of a run that waits, under a fault; gives what the error says."""

    async def main() -> str:
        async with polos:
            run = await asks.invoke(polos, {})
            order()
            with pytest.raises(NeverAnswered) as raised:
                await what(run)
            faults.never()
            faults.fail_reopening(0)
            faults.let_go()
            await run.signal("go", 7)
            assert 7 == (await polos._wait_ended(run.id))["result"]
            return str(raised.value)

    return asyncio.run(main())


@pytest.mark.parametrize("what", ["run", "signal", "event", "stream"])
def test_what_waits_for_a_log_that_always_refuses_fails(
    either: Polos, polos_faults: FaultPlan, polos_events: CapturedEvents, what: str
):
    """Commands, runs, captured events and streams fail where they are awaited, and the engine goes on after `never`."""

    async def wait(run: Any) -> None:
        if what == "run":
            await asks.run(either, {})
        elif what == "signal":
            await run.signal("more", 1)
        else:
            sent = asyncio.ensure_future(run.signal("more", 1))
            try:
                if what == "event":
                    await polos_events.wait_for("RunCompleted")
                else:
                    async for _ in events.stream_workflow(either, "unanswered", run.id):
                        pass
            finally:
                await asyncio.wait([sent])
                assert isinstance(sent.exception(), NeverAnswered)

    said = awaiting(either, polos_faults, lambda: polos_faults.always(Fault.FULL), wait)

    assert "the log has refused 20 appends one after another, in " in said
    assert "always(Fault.FULL)" in said
    assert "before `never()`" in said


def test_a_log_that_is_never_opened_again_is_told_too(polos: Polos, polos_faults: FaultPlan):
    """After an unknown outcome, reopening that fails again and again is the same."""

    def order() -> None:
        polos_faults.next(Fault.UNKNOWN_LOST)
        polos_faults.fail_reopening(10**6)

    assert "fail_reopening(" in awaiting(polos, polos_faults, order, lambda run: run.signal("more", 1))


@pytest.mark.parametrize("what", ["signal", "settle"])
def test_a_log_that_is_held_is_told(either: Polos, polos_faults: FaultPlan, polos_clock: JumpingClock, what: str):
    """An append that nobody lets go fails what waits for it, by the real clock: no time passes by the virtual one."""

    async def wait(run: Any) -> None:
        if what == "signal":
            await run.signal("more", 1)
            return
        sent = asyncio.ensure_future(run.signal("more", 1))
        await asyncio.sleep(0)
        try:
            await polos_clock.settle()
        finally:
            await asyncio.wait([sent])
            assert isinstance(sent.exception(), NeverAnswered)

    said = awaiting(either, polos_faults, polos_faults.hold, wait)

    assert "is held" in said
    assert "before `let_go()`" in said


def test_a_disk_may_be_full_for_an_hour(polos: Polos, polos_faults: FaultPlan, polos_clock: JumpingClock):
    """While the test lets time pass itself, nothing fails, however long it is; what was asked for is answered then."""

    async def main() -> Any:
        async with polos:
            run = await asks.invoke(polos, {})
            polos_faults.always(Fault.FULL)
            polos_clock.auto = False
            sent = asyncio.ensure_future(run.signal("go", 7))
            await polos_clock.advance(10)
            assert polos_faults.failed > 20
            assert not sent.done()
            polos_faults.never()
            polos_clock.auto = True
            await sent
            return (await polos._wait_ended(run.id))["result"]

    assert 7 == asyncio.run(main())


def test_a_test_that_waits_for_something_of_its_own_is_cancelled(polos: Polos, polos_faults: FaultPlan):
    """What the kit can't reach is cancelled, and the block says why."""

    async def main() -> None:
        async with polos:
            polos_faults.always(Fault.REFUSED)
            asked = asyncio.ensure_future(asks.invoke(polos, {}))
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                assert isinstance(asked.exception(), NeverAnswered)

    with pytest.raises(NeverAnswered, match="always"):
        asyncio.run(main())


def test_an_append_that_is_held_keeps_no_error_from_the_test(either: Polos, polos_faults: FaultPlan):
    """What was awaited fails, and as the block is left with that, the engine can stop: nobody else would let go."""

    async def main() -> None:
        async with either:
            polos_faults.hold()
            await asks.run(either, {})

    with pytest.raises(NeverAnswered, match=r"append \d+ is held, .* ordered hold\(\)"):
        asyncio.run(main())
    assert polos_faults.held is None


def test_a_block_that_is_left_while_an_append_is_held_says_so(either: Polos, polos_faults: FaultPlan):
    """Without an error another thread may yet let go, so the engine waits as long as for anything, and no longer."""

    async def main() -> None:
        async with either:
            polos_faults.hold()
            asked = asyncio.ensure_future(asks.invoke(either, {}))
            await held(polos_faults)
        await asked

    with pytest.raises(NeverAnswered, match=r"append \d+ is held"):
        asyncio.run(main())


@pytest.mark.parametrize("when", ["in the block", "as it stops"])
def test_a_test_whose_append_is_held_ends_when_it_is_told_to(
    polos: Polos, polos_faults: FaultPlan, monkeypatch: pytest.MonkeyPatch, when: str
):
    """SIGTERM lets go what is held, waits for the engine, and is raised anew: it ends pytest, not one test of it."""
    monkeypatch.setattr(unanswered, "HELD_LOOKS_MAX", 10**6)
    sent: list[tuple[int, bool]] = []
    monkeypatch.setattr("os.kill", lambda _, number: sent.append((number, polos._engine is None)))

    async def terminated() -> None:
        await held(polos_faults)
        while when == "as it stops" and polos._engine is not None:
            await asyncio.sleep(0)
        polos._terminate()

    async def main() -> None:
        async with polos:
            polos_faults.hold()
            asked = asyncio.ensure_future(asks.invoke(polos, {}))
            ending = asyncio.ensure_future(terminated())
            if when == "in the block":
                await asks.run(polos, {})
            else:
                await held(polos_faults)
        await asyncio.gather(asked, ending)

    if when == "in the block":
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())
    else:
        asyncio.run(main())
    assert [(signal.SIGTERM, True)] == sent


@pytest.mark.parametrize("what", ["run", "event", "stream", "own", "time"])
def test_what_nobody_sends_is_told(either: Polos, polos_events: CapturedEvents, polos_clock: JumpingClock, what: str):
    """Where nothing can happen any more, whatever is awaited fails, with what each run waits for."""
    polos_clock.auto = what != "time"

    async def main() -> None:
        async with either:
            run = await asks.invoke(either, {})
            if what == "run":
                await asks.run(either, {}, timeout=None)
            elif what == "event":
                await asyncio.gather(polos_events.wait_for("RunCompleted", run=run), asks.run(either, {}, timeout=None))
            elif what == "stream":
                async for _ in events.stream_workflow(either, "unanswered", run.id):
                    pass
            elif what == "own":
                await asyncio.Event().wait()
            else:
                await either.engine.watchers.watch(run.id, either.engine.loop)

    with pytest.raises(
        NeverAnswered, match=r"nothing can happen any more(.|\n)* of 'unanswered': the signal go"
    ) as raised:
        asyncio.run(main())
    assert (what == "time") == ("polos_clock.auto` is False" in str(raised.value))


def only_looks(callback: object) -> bool:
    """Tell the looks of the kit from what a test may wait for."""
    return isinstance(getattr(callback, "__self__", None), unanswered.Unanswered)


def doubts(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
    """Give what may yet wake a loop up: begun by a call, which gives how it is ended."""

    def timer() -> Callable[[], object]:
        return loop.call_later(3600, print).cancel

    def callback() -> Callable[[], object]:
        return loop.call_soon(print).cancel

    def thread(start: Callable[[Callable[[], object]], object]) -> Callable[[], object]:
        begun, over = threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            over.wait()

        start(work)
        begun.wait()
        return over.set

    def connection() -> Callable[[], object]:
        one, other = socket.socketpair()
        loop.add_reader(one, print)

        def end() -> None:
            loop.remove_reader(one)
            one.close()
            other.close()

        return end

    def handler() -> Callable[[], object]:
        before = signal.signal(signal.SIGUSR1, lambda *_: None)
        return lambda: signal.signal(signal.SIGUSR1, before)

    def handler_on_the_loop() -> Callable[[], object]:
        loop.add_signal_handler(signal.SIGUSR1, print)
        return lambda: loop.remove_signal_handler(signal.SIGUSR1)

    yield "timer", timer
    yield "callback", callback
    yield "thread", lambda: thread(lambda work: threading.Thread(target=work).start())
    yield "executor", lambda: thread(lambda work: loop.run_in_executor(None, work))
    yield "connection", connection
    yield "handler", handler
    yield "handler on the loop", handler_on_the_loop


def test_nobody_is_told_while_there_is_a_doubt(either: Polos):
    """A timer, thread, connection or handler of the test's own may send it yet: each by itself is a doubt."""

    async def stuck(engine: Any) -> bool:
        for _ in range(10_000):  # threads come to rest in a time of their own
            if cannot_go_on(engine, only_looks):
                return True
            await asyncio.sleep(0)
        return False

    async def main() -> dict[str, bool]:
        async with either:
            await asks.invoke(either, {})
            assert await stuck(either.engine)
            found: dict[str, bool] = {}
            for name, begin in doubts(asyncio.get_running_loop()):
                end = begin()
                found[name] = cannot_go_on(either.engine, only_looks)
                end()
                assert await stuck(either.engine), f"it is certain again without the {name}"
            return found

    found = asyncio.run(main())

    assert [] == [name for name, certain in found.items() if certain]
    assert 7 == len(found)


def test_a_step_on_a_thread_is_a_doubt(polos: Polos, monkeypatch: pytest.MonkeyPatch):
    """A plain function that takes its time is waited for, however long."""
    looked: list[bool] = []

    def look(*asked: Any) -> bool:
        looked.append(cannot_go_on(*asked))
        return looked[-1]

    monkeypatch.setattr(unanswered, "cannot_go_on", look)
    begun, over = threading.Event(), threading.Event()

    def slow() -> bool:
        begun.set()
        return over.wait(30)

    async def body(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.run("slow", slow)

    async def main() -> Any:
        async with polos:
            run = asyncio.ensure_future(workflow(id="slow unanswered")(body).run(polos, {}, timeout=None))
            while not begun.is_set():
                await asyncio.sleep(0)
            while len(looked) < 4:
                await asyncio.sleep(0)
            over.set()
            return await run

    assert asyncio.run(main()) is True


def test_a_simulation_that_settles_is_told():
    """Letting time pass until nothing happens ends, although the engine would try for ever."""
    with Simulation([asks]) as sim:
        run = sim.create(asks, {}).run
        sim.plan.always(Fault.FULL)
        sim.send("signal", run=run, name="go", data=7)
        with pytest.raises(NeverAnswered, match=r"refused 20 appends .* always\(Fault.FULL\)"):
            sim.settle()
        sim.plan.never()
        sim.settle()

        assert 7 == sim.audit.end_of(run).result  # type: ignore[union-attr]


def test_an_exploration_that_never_ends_names_the_fault(tmp_path: Path):
    """An exploration whose log refuses everything says so, beside that it isn't over."""

    @explore(runs=0, points_max=60, workflows=[asks], folder=tmp_path)
    def it(world: ExploredWorld) -> None:
        world.sim.plan.always(Fault.FULL)
        world.start(asks, {})
        world.finish()

    with pytest.raises(AssertionError, match=r"the log has refused the last \d+ appends, by order: always"):
        it()


def test_a_log_that_is_held_on_the_only_thread_is_told():
    """In a simulation nobody could let an append go: it says so instead of waiting."""
    with Simulation([asks]) as sim:
        sim.plan.hold()
        sim.create(asks, {})
        with pytest.raises(AssertionError, match="is held, on the only thread that could let it go"):
            sim.settle()
