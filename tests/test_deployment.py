"""Code that changes under runs: what takes over, what is pinned, and how an engine leaves in peace."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, PolosClient, Worker, WorkflowContext, registry, workflow
from polos.cli.acting import drain_engine
from polos.cli.options import Options
from polos.definition import Workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.retry import RetryPolicy
from polos.engine.state import waiting_reason
from polos.errors import EngineNotRunning, PolosUsageError
from polos.runtime.draining import drain
from polos.testing.simulation import Simulation

from tests.cli_kit import until
from tests.property.test_queue_histories import nap


def version_of(name: str, **said: Any) -> Workflow[Any]:
    """Define a version of a workflow; its runs say which version's code ran them."""

    @workflow(id="deployed", version=name, **said)
    async def deployed(ctx: WorkflowContext, payload: dict[str, Any]) -> list[str]:
        if payload.get("other") and name == "2":
            await ctx.step.run("something new", nap, 1.0)
        await ctx.step.run("before", nap, payload.get("seconds", 1.0))
        await ctx.step.suspend("night", {}) if payload.get("asks") else await ctx.step.wait_for("night", seconds=3600)
        if payload.get("fails") and ctx.retry_count == 0:
            raise ConnectionError("the first attempt fails")
        return [name, str(await ctx.step.run("after", lambda: name))]

    return deployed


@pytest.fixture(autouse=True)
def _registry() -> Any:
    before = registry.get_all_workflows()
    yield
    registry.restore(before)


def test_new_code_takes_over_what_fits() -> None:
    """A run that waits is gone on with by the code that there is when it goes on."""
    with Simulation([version_of("1")]) as old:
        run = old.create(old.workflows["deployed"], {}).run
        old.run_for(10)
        store = old.store
    with Simulation([version_of("2")], store=store) as new:
        new.settle()

        assert ["2", "2"] == new.result(run)


def test_new_code_that_does_not_fit_waits_for_some_that_does() -> None:
    """It diverges, alone and with a report; code that fits goes on with it."""
    with Simulation([version_of("1")]) as old:
        run = old.create(old.workflows["deployed"], {"other": True}).run
        old.run_for(10)
        store = old.store
    with Simulation([version_of("2")], store=store) as new:
        new.settle()
        assert "diverged" == waiting_reason(new.audit.states[run])
    with Simulation([version_of("1")], store=store) as mended:
        mended.settle()

        assert ["1", "1"] == mended.result(run)


@pytest.mark.parametrize("fails", [False, True])
def test_a_pinned_run_is_only_run_by_its_version(fails: bool) -> None:
    """It waits, as `pinned`, in a program without its version, and goes on in one that has it, attempts included."""
    with Simulation([version_of("1", pin=True, retries=RetryPolicy(max_retries=1))]) as old:
        run = old.create(old.workflows["deployed"], {"fails": fails}).run
        old.run_for(10)
        store = old.store
    newer = version_of("2", pin=True)
    with Simulation([newer], seed=1, store=store) as new:
        fresh = new.create(newer, {}).run
        new.settle()
        assert "pinned" == waiting_reason(new.audit.states[run])
        assert ["2", "2"] == new.result(fresh)
        asides = [event for event, _, _ in new.audit.histories[run] if isinstance(event, e.RunSetAside)]
        assert "pinned to it, and this program has no such version" in asides[0].message
    with Simulation([version_of("1", pin=True), newer], seed=2, store=store) as both:
        fresh = both.create(newer, {}).run
        both.settle()

        assert ["1", "1"] == both.result(run)
        assert ["2", "2"] == both.result(fresh), "what begins now is begun by the version that was defined last"
        both.audit.check_rows()


def test_a_run_that_was_not_begun_is_pinned_to_nothing() -> None:
    """It waited in line when its version left: the version that begins it is its own from then on."""
    first = version_of("1", pin=True)
    with Simulation([first]) as old:
        old.send("queue", queue="deployed", changes={"paused": True})
        run = old.create(first, {}).run
        old.run_for(1)
        store = old.store
    with Simulation([version_of("2", pin=True)], store=store) as new:
        new.send("queue", queue="deployed", changes={"paused": False})
        new.settle()

        assert ["2", "2"] == new.result(run)
        assert "2" == new.audit.states[run].pinned


def test_a_pin_needs_a_version() -> None:
    """What can't be is refused where the workflow is defined."""
    with pytest.raises(ValueError, match=r"workflow 'p' has pin=True and no version="):

        @workflow(id="p", pin=True)
        async def p(ctx: WorkflowContext) -> None: ...

    with pytest.raises(ValueError, match="version"):
        version_of("")
    with pytest.raises(TypeError, match="version must be a text"):
        version_of(2)  # type: ignore[arg-type]  # what is tried


def test_versions_side_by_side(tmp_path: Path) -> None:
    """A program that defines both runs old runs by the old code and new ones by the new."""
    first = version_of("1", pin=True)
    asks = {"asks": True, "seconds": 0.0}

    async def days() -> None:
        async with Polos(data_dir=tmp_path) as polos:
            old = await polos.invoke("deployed", asks)
            await until(polos, old.id, "waiting")
        version_of("2", pin=True)
        async with Polos(data_dir=tmp_path) as polos:
            new = await polos.invoke("deployed", asks)
            await until(polos, new.id, "waiting")
            found: list[Any] = []
            for run in (old.id, new.id):
                await polos.resume("deployed", run, "night", None)
                found.append((await polos._wait_ended(run))["result"])
            assert [["1", "1"], ["2", "2"]] == found

    asyncio.run(days())
    assert registry.get_version("deployed", "1") is first


# ------------------------------------------------------------------------------------------------------ draining


@workflow(id="drained")
async def drained(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Work, wait for a long time, work."""
    await ctx.step.run("before", nap, payload.get("seconds", 5.0))
    await ctx.step.wait_for("night", seconds=3600)
    await ctx.step.run("after", nap, 5.0)
    return "done"


def leave(sim: Simulation, seconds: float) -> asyncio.Task[tuple[str, ...]]:
    """Begin to drain the engine."""
    return sim.loop.create_task(drain(sim.engine, seconds))


def test_draining_lets_what_is_under_way_come_to_rest() -> None:
    """Who has a slot goes on to its wait; who has none, or comes now, is left in the log; nothing is called twice."""
    with Simulation([drained]) as sim:
        begun = sim.create(drained, {}).run
        sim.run_for(1)
        leaving = leave(sim, 60)
        late = sim.create(drained, {})
        sim.run_for(2)
        left = leaving.result() if leaving.done() else None
        assert (None, True) == (left, late.answered)
        sim.run_for(3)
        assert () == leaving.result()
        assert "timer" == waiting_reason(sim.audit.states[begun])
        assert "RunStarted" not in sim.stream(late.run)
        sim.run_for(4000)
        assert [] == [name for name in sim.stream(begun) if name == "RunCompleted"], "who waited is left alone"
        sim.stop()
        sim.start()
        sim.settle()

        assert ["done", "done"] == [sim.result(begun), sim.result(late.run)]
        assert {1} == set(sim.world.calls.values()) or not sim.world.calls


def test_draining_ends_when_the_time_is_over() -> None:
    """Who isn't at rest by then is named, and is gone on with by the next engine."""
    with Simulation([drained]) as sim:
        slow = sim.create(drained, {"seconds": 100.0}).run
        sim.run_for(1)
        leaving = leave(sim, 10)
        sim.run_for(11)
        assert (slow,) == leaving.result()
        sim.recover()
        sim.settle()

        assert "done" == sim.result(slow)


def test_draining_an_idle_engine_takes_no_time() -> None:
    """Nothing is under way: it is over at once, twice, too."""
    with Simulation([drained]) as sim:
        both = [leave(sim, 60), leave(sim, 60)]
        sim.run_ready()

        assert [(), ()] == [one.result() for one in both]


def test_a_full_queue_is_no_fuller_while_draining() -> None:
    """What may wait may still come, up to `max_queued`."""
    with Simulation([drained]) as sim:
        sim.send("queue", queue="lane", changes={"max_queued": 1}, create=True)
        leave(sim, 60)
        sim.run_ready()
        calls = [sim.create(drained, {}, queue="lane") for _ in range(2)]
        sim.run_ready()

        assert [None, "QueueFull"] == [call.error and type(call.error).__name__ for call in calls]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"seconds": -1, "epoch": 1}, "a number of seconds from 0, not -1"),
        ({"seconds": True, "epoch": 1}, "a number of seconds from 0, not True"),
        ({"seconds": 5, "epoch": 7}, "the engine that was to be drained is gone: its epoch was 7, it is 1 now"),
        ({"seconds": 5, "epoch": 1}, "this engine has nobody who could stop it from outside"),
    ],
)
def test_who_asks_to_drain_is_refused(said: dict[str, Any], message: str) -> None:
    """What makes no sense, and what was meant for another engine, changes nothing."""
    with Simulation([drained]) as sim:
        call = sim.send("drain", **said)
        sim.run_ready()

        assert call.error is not None
        assert message in str(call.error)


def test_a_program_drains_itself(tmp_path: Path) -> None:
    """It stops when the last run has ended; what is asked for afterwards waits for the next engine."""

    async def day() -> None:
        polos = Polos(data_dir=tmp_path)
        await polos.start()
        with pytest.raises(ValueError, match="timeout_seconds must not be negative"):
            await polos.drain(timeout_seconds=-1)
        handle = await polos.invoke("drained", {"seconds": 0.01})
        await until(polos, handle.id, "waiting")
        assert () == await polos.drain()
        assert () == await polos.drain(), "once more is fine"
        with pytest.raises(PolosUsageError, match="isn't started"):
            _ = polos.engine
        late = await polos.invoke("drained", {})
        assert not late.accepted

    asyncio.run(day())


def test_somebody_else_drains_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`polos drain` has the engine of another program leave; without one it says that there is none."""

    async def day() -> None:
        polos = Polos(data_dir=tmp_path, deployment_id="blue")
        await polos.start()
        serving = asyncio.create_task(polos.serve())
        options = Options(data_dir=tmp_path)
        await asyncio.to_thread(drain_engine, options, 5.0)
        await serving

    asyncio.run(day())
    assert "begins nothing any more" in capsys.readouterr().out
    with pytest.raises(EngineNotRunning, match="there is nothing to drain"):
        drain_engine(Options(data_dir=tmp_path), 5.0)


def test_a_worker_drains(tmp_path: Path) -> None:
    """Its `run` ends."""

    async def day() -> None:
        worker = Worker(PolosClient(data_dir=tmp_path), deployment_id="green", workflows=[drained])
        running = asyncio.create_task(worker.run())
        await worker.started()
        with pytest.raises(ValueError, match="timeout_seconds must not be negative"):
            await worker.drain(-1)
        await worker.drain(5)
        await running

    asyncio.run(day())


def test_who_ran_is_recorded(tmp_path: Path) -> None:
    """Which deployment an engine belonged to stands in the log, and with the runs that it created."""

    async def day() -> None:
        async with Polos(data_dir=tmp_path, deployment_id="blue") as polos:
            handle = await polos.invoke("drained", {"seconds": 0.0})
            assert "blue" == (await polos.get_execution(handle.id))["deployment_id"]
            with polos.engine.store.log.reader() as reader:
                (record,) = list(reader.stream("engine"))
            started = decode(record.type, record.schema_version, record.payload)
            assert isinstance(started, e.EngineStarted)
            assert "blue" == started.deployment

    asyncio.run(day())
