"""Cases at the edge: very many, very large, very long, and code that misbehaves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from polos import BatchWorkflowInput, ExecutionHandle, Polos, WorkflowContext, batch_invoke, workflow
from polos.points import arm, disarm
from polos.registry import register
from polos.testing import Simulation

from tests.test_timers import HandClock

DAY_US = 86_400_000_000


def run(program: Callable[[], Awaitable[Any]]) -> Any:
    """Run a program."""

    async def main() -> Any:
        return await program()

    return asyncio.run(main())


async def until(polos: Polos, execution_id: str, status: str) -> dict[str, Any]:
    """Wait for a status."""
    while (found := await polos.get_execution(execution_id))["status"] != status:
        await asyncio.sleep(0)
    return found


@workflow(id="asks")
async def asks(ctx: WorkflowContext) -> Any:
    """Ask, and give the answer."""
    return (await ctx.step.suspend("ask", {})).data


def test_ten_thousand_suspended_runs(tmp_path: Path) -> None:
    """They wait on disk, few of them in memory, and any of them goes on."""

    async def program() -> tuple[int, int, Any]:
        async with Polos(data_dir=tmp_path, sync="off", max_concurrent_workflows=20_000) as polos:
            handles: list[ExecutionHandle] = []
            for _ in range(10):
                handles += await batch_invoke(polos, [BatchWorkflowInput(id="asks")] * 1_000)
            await until(polos, handles[-1].id, "waiting")
            waiting = 0
            cursor: str | None = None
            while True:
                page = await polos.list_executions(status="waiting", limit=1_000, cursor=cursor)
                waiting += len(page)
                cursor = page.cursor
                if cursor is None:
                    break
            await polos.resume("asks", handles[17].id, "ask", "yes")
            ended = await polos._wait_ended(handles[17].id)
            return waiting, len(polos.engine.residents), ended["result"]

    waiting, resident, answer = run(program)

    assert [10_000, "yes"] == [waiting, answer]
    assert resident <= 2_000


@workflow(id="sleeps_for_a_month")
async def sleeps_for_a_month(ctx: WorkflowContext) -> int:
    """Wait 30 days and say how many passed."""
    begun = await ctx.step.now("begun")
    await ctx.step.wait_for("month", days=30)
    return (await ctx.step.now("ended") - begun) // 86_400_000


def test_thirty_days_by_a_clock_that_is_turned(tmp_path: Path) -> None:
    """A month costs nothing, also when engines come and go in it."""
    clock = HandClock()
    clock.time_us = 20_000 * DAY_US

    async def first() -> str:
        async with Polos(data_dir=tmp_path, clock=clock, inbox_poll_seconds=0) as polos:
            handle = await sleeps_for_a_month.invoke(polos)
            await until(polos, handle.id, "waiting")
            return handle.id

    async def second(execution_id: str) -> tuple[str, Any]:
        async with Polos(data_dir=tmp_path, clock=clock, inbox_poll_seconds=0) as polos:
            clock.turn(clock.time_us + 29 * DAY_US)
            before = (await polos.get_execution(execution_id))["status"]
            clock.turn(clock.time_us + DAY_US)
            return before, (await polos._wait_ended(execution_id))["result"]

    execution_id = run(first)
    clock.alarms.clear()  # those of an engine that is gone

    assert ("waiting", 30) == run(lambda: second(execution_id))


CALLS: list[object] = []


def large() -> str:
    """Make 50 MB."""
    CALLS.append("large")
    return "x" * (50 << 20)


def strange() -> object:
    """Make what no record can hold."""
    CALLS.append("strange")
    return object()


def change(values: list[int]) -> int:
    """Change the argument, and fail once."""
    values.append(4)
    CALLS.append(list(values))
    if len(CALLS) == 1:
        raise ConnectionError("again")
    return sum(values)


@workflow(id="gets_much")
async def gets_much(ctx: WorkflowContext) -> int:
    """Get a lot."""
    return len(await ctx.step.run("large", large))


@workflow(id="gets_strange")
async def gets_strange(ctx: WorkflowContext) -> str:
    """Get what can't be recorded."""
    try:
        await ctx.step.run("strange", strange)
    except Exception as error:  # what it says is looked at
        return str(error)
    return "recorded"


@workflow(id="keeps_its_arguments")
async def keeps_its_arguments(ctx: WorkflowContext) -> list[Any]:
    """Hand a list to a step that changes it."""
    values = [1, 2, 3]
    total = await ctx.step.run("change", change, values, base_delay=0.0)
    return [values, total]


def test_fifty_megabytes(tmp_path: Path) -> None:
    """A large result is kept beside the log and is there for the next engine."""
    CALLS.clear()

    async def program() -> Any:
        async with Polos(data_dir=tmp_path) as polos:
            return await gets_much.run(polos)

    assert 50 << 20 == run(program)
    assert ["large"] == CALLS
    assert any(path.stat().st_size > 50 << 20 for path in (tmp_path / "blobs").rglob("*") if path.is_file())


def test_result_that_cant_be_recorded(tmp_path: Path) -> None:
    """It is a final failure, because its effect has happened: the step isn't called again."""
    CALLS.clear()

    async def program() -> Any:
        async with Polos(data_dir=tmp_path) as polos:
            return await gets_strange.run(polos)

    assert "result of step 'strange'" in run(program)
    assert ["strange"] == CALLS


def test_step_that_changes_its_arguments(tmp_path: Path) -> None:
    """Each attempt gets a copy, and the body's own value stays what it was."""
    CALLS.clear()

    async def program() -> Any:
        async with Polos(data_dir=tmp_path) as polos:
            return await keeps_its_arguments.run(polos)

    assert [[1, 2, 3], 10] == run(program)
    assert [[1, 2, 3, 4], [1, 2, 3, 4]] == CALLS


@workflow(id="never_waits")
async def never_waits(ctx: WorkflowContext) -> None:
    """Spin."""
    while True:
        await asyncio.sleep(0)


def test_body_that_never_waits(tmp_path: Path) -> None:
    """It fails by a count, naming the line, and others aren't held up for ever."""

    async def program() -> tuple[str, Any]:
        async with Polos(data_dir=tmp_path, activation_callbacks_max=1_000) as polos:
            handle = await never_waits.invoke(polos)
            ended = await polos._wait_ended(handle.id)
            other = await asks.invoke(polos)
            await until(polos, other.id, "waiting")
            return ended["error"], ended["status"]

    error, status = run(program)

    assert "failed" == status
    assert "test_runtime_cases.py:" in error
    assert "activation_callbacks_max" in error


RELEASE = threading.Event()


@workflow(id="blocks")
async def blocks(ctx: WorkflowContext) -> str:
    """Hold the loop until somebody notices."""
    RELEASE.wait()
    return "released"


class _Noticed(logging.Handler):
    """Lets the body go when the watchdog speaks."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note the line."""
        self.lines.append(record.getMessage())
        RELEASE.set()


def test_body_that_blocks_the_loop(tmp_path: Path) -> None:
    """Its stack is logged with the run and the line."""
    RELEASE.clear()
    noticed = _Noticed()
    logging.getLogger("polos").addHandler(noticed)

    async def program() -> Any:
        async with Polos(data_dir=tmp_path) as polos:
            return await blocks.run(polos)

    try:
        assert "released" == run(program)
    finally:
        logging.getLogger("polos").removeHandler(noticed)
    assert any("test_runtime_cases.py" in line for line in noticed.lines)


def called(name: str) -> str:
    """Note a call."""
    CALLS.append(name)
    return name


def version(steps: list[str]) -> None:
    """Deploy a version of a workflow: the steps it does before and after it waits."""

    @workflow(id="changes")
    async def changes(ctx: WorkflowContext) -> list[str]:
        done: list[str] = []
        for name in steps:
            if name == "wait":
                await ctx.step.wait_for_signal("go")
            else:
                done.append(await ctx.step.run(name, called, name))
        return done

    register(changes)


def test_code_that_changes_under_a_waiting_run(tmp_path: Path) -> None:
    """It diverges, loses nothing, and goes on with code that fits."""
    CALLS.clear()

    async def start() -> str:
        version(["a", "wait", "b"])
        async with Polos(data_dir=tmp_path) as polos:
            handle = await polos.invoke("changes")
            await until(polos, handle.id, "waiting")
            return handle.id

    async def misfit(execution_id: str) -> str:
        version(["x", "wait", "b"])
        async with Polos(data_dir=tmp_path) as polos:
            await polos.signal(execution_id, "go")
            while (await polos.get_execution(execution_id)).get("waiting_reason") != "diverged":
                await asyncio.sleep(0)
            return str((await polos.list_executions(status="diverged"))[0]["id"])

    async def fit(execution_id: str) -> Any:
        version(["a", "wait", "b", "c"])
        async with Polos(data_dir=tmp_path) as polos:
            return (await polos._wait_ended(execution_id))["result"]

    execution_id = run(start)

    assert execution_id == run(lambda: misfit(execution_id))
    assert ["a", "b", "c"] == run(lambda: fit(execution_id))
    assert ["a", "b", "c"] == CALLS


def evict(polos: Polos, execution_id: str, done: asyncio.Future[bool]) -> None:
    """Take a run out of memory, in a plain callback."""
    done.set_result(polos.engine.evict(execution_id))


@workflow(id="cleans_up")
async def cleans_up(ctx: WorkflowContext) -> str:
    """Wait, and clean up at the end."""
    try:
        await ctx.step.wait_for_signal("end")
    finally:
        await ctx.step.run("cleanup", lambda: CALLS.append("cleanup"))
    return "clean"


@pytest.mark.filterwarnings("error")
def test_body_evicted_a_hundred_times(tmp_path: Path) -> None:
    """Its clean-up runs once, at the true end."""
    CALLS.clear()

    async def program() -> tuple[int, Any]:
        async with Polos(data_dir=tmp_path) as polos:
            handle = await cleans_up.invoke(polos)
            await until(polos, handle.id, "waiting")
            evicted = 0
            while evicted < 100:
                done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(evict, polos, handle.id, done)
                evicted += await done
                polos.engine.wake(handle.id)
                while handle.id not in polos.engine.residents:
                    await asyncio.sleep(0)
            await handle.signal("end")
            return evicted, (await polos._wait_ended(handle.id))["result"]

    assert (100, "clean") == run(program)
    assert ["cleanup"] == CALLS


def _commits_until_it_goes_on(waiting: Callable[[WorkflowContext], Awaitable[Any]], kind: str, **fields: Any) -> int:
    """Count the commits between what answers a wait and the call of the step behind it."""
    reached: list[str] = []

    @workflow(id="commits_of_an_answer")
    async def waits(ctx: WorkflowContext) -> None:
        await waiting(ctx)
        await ctx.step.run("behind", lambda: reached.append("called"))

    with Simulation([waits]) as simulation:
        run = simulation.create(waits, None).run
        simulation.settle()
        hook = reached.append
        arm(hook)
        try:
            simulation.send(kind, run=run, **fields)
            simulation.settle()
        finally:
            disarm(hook)
    return reached[: reached.index("called")].count("before_append")


def test_a_signal_and_what_follows_are_one_commit() -> None:
    """A signal is its data alone, so the body sees it before it is durable, and asks for its next step beside it."""
    assert 1 == _commits_until_it_goes_on(lambda ctx: ctx.step.wait_for_signal("go"), "signal", name="go", data=None)


def test_an_answer_that_tells_its_place_and_what_follows_are_one_commit() -> None:
    """An answer to a suspend has a `sequence_id`, which is known before it is in the log."""
    assert 1 == _commits_until_it_goes_on(lambda ctx: ctx.step.suspend("go", {}), "resume", key="go", data=None)


def test_an_event_and_what_follows_are_one_commit() -> None:
    """An event of a topic tells its place, too."""
    waits = lambda ctx: ctx.step.wait_for_event("wait", "topic")  # noqa: E731  # as above
    assert 1 == _commits_until_it_goes_on(waits, "publish", topic="topic", events=[{"data": {}}])


@pytest.mark.parametrize("end", ["crash", "evict"])
def test_an_update_that_has_the_name_of_a_step_under_way(end: str) -> None:
    """It isn't the step's answer: after a crash or an eviction the step is called like any other."""
    calls: list[int] = []

    @workflow(id="updated_like_a_step")
    async def charges(ctx: WorkflowContext) -> str:
        ctx.on_update("charge", lambda _data: None)
        return await ctx.step.run("charge", charge, base_delay=1.0)

    async def charge() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("not yet")
        return "paid"

    with Simulation([charges]) as simulation:
        run = simulation.create(charges, None).run
        simulation.run_ready()
        simulation.send("update", run=run, name="charge", data=None)
        simulation.run_ready()
        assert 1 == len(calls)
        if end == "crash":
            simulation.crash()
            simulation.recover()
        else:
            assert 1 == simulation.evict()
        simulation.settle()
        assert "paid" == simulation.result(run)

    assert 2 == len(calls)
