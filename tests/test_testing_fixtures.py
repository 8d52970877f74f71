"""The fixtures of `polos.testing` as a user's tests have them: a clock that jumps, captured events, faults on order."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, workflow
from polos.engine import events as e
from polos.errors import PolosUsageError, StoreClosed
from polos.testing import CapturedEvents, Fault, FaultPlan, Hanging, JumpingClock, jumping

from tests.tidy import ROOT

DAY = 86_400.0


@workflow
async def patient(ctx: WorkflowContext) -> str:
    await ctx.step.wait_for("a month", days=30)
    return await ctx.step.run("greet", lambda: "hello")


@workflow
async def asking(ctx: WorkflowContext) -> Any:
    return await ctx.step.wait_for_signal("answer")


@workflow
async def two_waits(ctx: WorkflowContext) -> None:
    await asyncio.gather(ctx.step.wait_for("short", hours=1), ctx.step.wait_for("long", hours=3))


@workflow
async def charges(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    return await ctx.step.run("charge", SHOP["charge"], payload["cents"], timeout_seconds=60, max_retries=2)


SHOP: dict[str, Any] = {}


@pytest.fixture(params=["polos", "polos_lmdb"])
def either(request: pytest.FixtureRequest) -> Polos:
    """Each of the two engines."""
    found: Polos = request.getfixturevalue(request.param)
    return found


# ------------------------------------------------------------------------------------------ clock


def test_thirty_days_cost_nothing(either: Polos, polos_clock: JumpingClock, polos_events: CapturedEvents):
    """A run that waits for a month is over at once, and a month has passed on its clock."""

    async def main() -> Any:
        async with either:
            return await patient.run(either, timeout=None)

    assert "hello" == asyncio.run(main())
    assert 30 * DAY == polos_clock.passed_seconds
    assert datetime(2026, 1, 31, tzinfo=UTC) == polos_clock.now
    (run,) = {captured.run for captured in polos_events if captured.run}
    assert [
        "RunCreated", "RunStarted", "TimerStarted", "TimerFired", "StepScheduled", "StepCompleted", "RunCompleted"
    ] == polos_events.types(run)  # fmt: skip


def test_runs_by_another_clock_on_the_same_directory_are_others(tmp_path: Path):
    """A clock that begins anew draws the same ids again; those of the directory's runs aren't given twice."""

    async def main() -> str:
        clock = JumpingClock()
        async with Polos(tmp_path / "data", clock=clock, inbox_poll_seconds=0) as polos:
            clock.watch(polos.engine)
            handle = await asking.invoke(polos)
            return handle.id

    first, second = asyncio.run(main()), asyncio.run(main())

    assert first < second


def test_no_time_passes_while_the_test_has_something_to_do(polos: Polos, polos_clock: JumpingClock):
    """A test that goes on with what the engine told it isn't overtaken by a timer."""

    @workflow
    async def asks(ctx: WorkflowContext) -> Any:
        return await asyncio.wait_for(ctx.step.wait_for_signal("go"), timeout=60)

    async def main() -> None:
        async with polos:
            handle = await asks.invoke(polos)
            for _ in range(20):
                await asyncio.sleep(0)
            await handle.signal("go", 7)
            assert 7 == (await polos._wait_ended(handle.id))["result"]

    asyncio.run(main())

    assert 0 == polos_clock.passed_seconds


def test_no_time_passes_while_a_function_runs(polos: Polos, polos_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch):
    """However long a function takes, its timeout doesn't come while it really works."""
    looked = threading.Event()
    looks = 0

    def busy(engine: Any, hanging: int, wait_us: int | None) -> bool:
        nonlocal looks
        found = _busy(engine, hanging, wait_us)
        looks += engine.performer.in_flight != {}
        if looks > 5:
            looked.set()
        return found

    _busy = jumping._busy
    monkeypatch.setattr(jumping, "_busy", busy)
    SHOP["charge"] = lambda cents: looked.wait(30) and cents

    async def main() -> Any:
        async with polos:
            return await charges.run(polos, {"cents": 5})

    assert 5 == asyncio.run(main())
    assert 0 == polos_clock.passed_seconds


def test_no_time_passes_while_a_body_does_something_itself(
    polos: Polos, polos_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
):
    """A body that is at work outside of the engine counts as something that happens."""
    looked = asyncio.Event()
    looks = 0

    def busy(engine: Any, hanging: int, wait_us: int | None) -> bool:
        nonlocal looks
        looks += bool(engine.residents and not engine.work and not engine.in_flight)
        if looks > 5:
            looked.set()
        return _busy(engine, hanging, wait_us)

    _busy = jumping._busy
    monkeypatch.setattr(jumping, "_busy", busy)

    @workflow(deterministic=False)
    async def by_itself(ctx: WorkflowContext) -> str:
        await looked.wait()
        return "done"

    async def main() -> Any:
        async with polos:
            return await by_itself.run(polos, timeout=60)

    assert "done" == asyncio.run(main())
    assert 0 == polos_clock.passed_seconds


def test_time_stands_still_on_request(polos: Polos, polos_clock: JumpingClock, polos_events: CapturedEvents):
    """With `auto` off only `advance` lets time pass, and what is due in it happens at its own moment."""
    polos_clock.auto = False

    async def main() -> list[list[str]]:
        found = []
        async with polos:
            handle = await two_waits.invoke(polos)
            for hours in (0, 0.5, 0.5, 1, 5):
                await polos_clock.advance(hours * 3600)
                found.append([event.name for event in polos_events.of(e.TimerFired, run=handle)])
        return found

    assert [[], [], ["short"], ["short"], ["short", "long"]] == asyncio.run(main())
    start_us = polos_events[0].time_us
    fired = [captured.time_us - start_us for captured in polos_events if captured.type == "TimerFired"]
    assert [3_600_000_000, 3 * 3_600_000_000] == fired
    assert 7 * 3600 == polos_clock.passed_seconds


def test_time_that_is_let_pass_is_not_overtaken(polos: Polos, polos_clock: JumpingClock):
    """`advance` gives so much time as it is told, also where time passes by itself."""

    async def main() -> list[float]:
        found = []
        async with polos:
            await two_waits.invoke(polos)
            for hours in (0.25, 1):
                await polos_clock.advance(hours * 3600)
                found.append(polos_clock.passed_seconds)
        return found

    assert [900, 4500] == asyncio.run(main())


def test_a_jump_is_noticed_while_time_stands_still(polos: Polos, polos_clock: JumpingClock):
    """What a jump of the wall clock makes due happens without any time."""
    polos_clock.auto = False

    async def main() -> str:
        async with polos:
            handle = await patient.invoke(polos)
            await polos_clock.settle()
            polos_clock.jump(30 * DAY)
            await polos_clock.settle()
            return str((await handle.get())["status"])

    assert "completed" == asyncio.run(main())
    assert 0 == polos_clock.passed_seconds


def test_time_passes_by_itself_again(polos: Polos, polos_clock: JumpingClock):
    """Setting `auto` back lets what waits go on."""
    polos_clock.auto = False

    async def main() -> Any:
        async with polos:
            handle = await patient.invoke(polos)
            await polos_clock.settle()
            before = polos_clock.passed_seconds, (await handle.get())["status"]
            polos_clock.auto = True
            await polos.engine.watchers.watch(handle.id, polos.engine.loop)
            return before, (await handle.get())["result"]

    assert ((0, "waiting"), "hello") == asyncio.run(main())


def test_time_does_not_run_backwards(polos_clock: JumpingClock):
    """`advance` refuses what only `jump` can do."""
    with pytest.raises(ValueError, match="one direction"):
        asyncio.run(polos_clock.advance(-1))


@pytest.mark.parametrize(("jump", "passed"), [(31 * DAY, 0), (-DAY, 31 * DAY)])
def test_the_wall_clock_jumps(either: Polos, polos_clock: JumpingClock, jump: float, passed: float):
    """A timer stands on the wall clock: set forward it is due at once, set back it takes longer, and isn't lost."""

    async def main() -> Any:
        polos_clock.auto = False
        async with either:
            handle = await patient.invoke(either)
            await polos_clock.settle()
            polos_clock.jump(jump)
            polos_clock.auto = True
            await either.engine.watchers.watch(handle.id, either.engine.loop)
            return (await handle.get())["result"]

    assert "hello" == asyncio.run(main())
    assert passed == polos_clock.passed_seconds


def test_the_clock_serves_an_engine_of_the_test(tmp_path: Path, polos_clock: JumpingClock):
    """A `Polos` that a test makes itself is watched like those of the fixtures."""

    async def main() -> Any:
        async with Polos(data_dir=tmp_path / "own", clock=polos_clock, inbox_poll_seconds=0) as own:
            polos_clock.watch(own.engine)
            return await patient.run(own, timeout=None)

    assert "hello" == asyncio.run(main())


# ---------------------------------------------------------------------------------------- engines


def test_a_stopped_engine_is_started_again(either: Polos, polos_events: CapturedEvents):
    """What one engine began the next one ends, in memory as on disk, on another event loop."""

    @workflow
    async def asks(ctx: WorkflowContext) -> Any:
        return await ctx.step.wait_for_signal("go")

    async def begin() -> str:
        async with either:
            return (await asks.invoke(either)).id

    async def end(run: str) -> Any:
        async with either:
            await either.signal(run, "go", {"sum": 1})
            await polos_events.wait_for(e.RunCompleted, run=run)

    run = asyncio.run(begin())
    asyncio.run(end(run))

    (completed,) = polos_events.of("RunCompleted", run=run)
    assert {"sum": 1} == completed.result
    assert 2 == len(polos_events.of(e.EngineStarted))


def test_what_is_there_can_be_read_without_an_engine(either: Polos):
    """Before the start and after the end the same `Polos` reads what there is, and keeps what it is told."""

    async def main() -> list[list[str]]:
        found = [[run["status"] for run in await either.list_executions()]]
        await patient.invoke(either)
        found.append([run["status"] for run in await either.list_executions()])
        async with either:
            await patient.run(either, timeout=None)
        found.append(sorted(run["status"] for run in await either.list_executions()))  # made in one virtual moment
        either.close()
        return found

    assert [[], ["queued"], ["completed", "queued"]] == asyncio.run(main())


class TestSettings:
    """A class, a module or a conftest may say what its engines are like."""

    @pytest.fixture
    def polos_settings(self) -> dict[str, Any]:
        """Let one run go at a time."""
        return {"max_concurrent_workflows": 1}

    def test_settings_are_overridden(self, either: Polos):
        """The engine has the settings that a fixture of the same name gives."""

        async def main() -> int:
            async with either:
                return either.engine.settings.max_concurrent_workflows

        assert 1 == asyncio.run(main())


@pytest.fixture
def defined_before() -> None:
    """A workflow that is there before the engine is made, as one of an earlier test would be."""

    @workflow(id="defined_again")
    async def before(ctx: WorkflowContext) -> int:
        return 0


def test_the_workflow_of_the_test_is_run(defined_before: None, polos: Polos):
    """An id that was used before stands for what the test itself defines."""

    @workflow
    async def defined_again(ctx: WorkflowContext) -> int:
        return 1

    async def main() -> Any:
        async with polos:
            return await defined_again.run(polos)

    assert 1 == asyncio.run(main())


# ----------------------------------------------------------------------------------------- events


def test_captured_events_are_a_list(polos: Polos, polos_events: CapturedEvents):
    """They are counted, indexed, sliced and filtered; a type that doesn't exist is a mistake, not an empty answer."""

    async def main() -> Any:
        async with polos:
            handle = await patient.invoke(polos)
            last = await polos_events.wait_for(e.RunCompleted, run=handle)
            second = await polos_events.wait_for(count=2)
            return handle, last, second

    handle, last, second = asyncio.run(main())

    assert last is polos_events[-1]
    assert second is polos_events[1]
    assert list(range(1, len(polos_events) + 1)) == [captured.position for captured in polos_events[:]]
    assert ["hello"] == [event.value for event in polos_events.of(e.StepCompleted, run=handle.id)]
    assert "EngineStarted" in repr(polos_events)
    with pytest.raises(ValueError, match="there are no events"):
        polos_events.of("StepComplete")


# ----------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("moment", ["begin", "end"])
def test_the_log_fails(either: Polos, polos_faults: FaultPlan, polos_clock: JumpingClock, fault: Fault, moment: str):
    """Whatever an append meets, the engine goes on when it can, and what was done isn't done again."""
    calls: list[int] = []

    def charge(cents: int) -> int:
        calls.append(cents)
        if moment == "end":
            polos_faults.next(fault)
        return cents

    SHOP["charge"] = charge

    async def main() -> Any:
        async with either:
            if moment == "begin":
                polos_faults.next(fault)
            return await charges.run(either, {"cents": 5})

    assert 5 == asyncio.run(main())
    assert [5] == calls
    assert 1 == polos_faults.failed
    assert 0 < polos_clock.passed_seconds < 60  # the pause before the log is tried again


def test_who_waits_for_an_engine_that_is_not_there_is_told(either: Polos):
    """A `Polos` that was never started, or was stopped meanwhile, ends no run: a test that waits for one would hang."""

    async def main() -> None:
        with pytest.raises(PolosUsageError, match="isn't started, so the run never ends: put `async with polos:`"):
            await patient.run(either)

    asyncio.run(main())


def test_who_follows_an_engine_that_stops_is_told(either: Polos, polos_events: CapturedEvents):
    """Whoever waits for a run when the engine stops learns that its log was closed, in memory as on disk."""

    async def main() -> None:
        async with either:
            handle = await asking.invoke(either)
            waiting = asyncio.ensure_future(either._wait_ended(handle.id))
            await polos_events.wait_for("WaitStarted")
        with pytest.raises(StoreClosed):
            await waiting

    asyncio.run(main())


def test_a_fault_that_could_never_happen_is_refused(polos: Polos, polos_faults: FaultPlan):
    """At an append that has begun, or of no kind: a test with such a plan would show nothing."""

    async def main() -> None:
        async with polos:
            await patient.run(polos, timeout=None)

    with pytest.raises(ValueError, match="append 0 can't fail any more: 0 have begun; they count from 1"):
        polos_faults.at(0, Fault.FULL)
    asyncio.run(main())

    with pytest.raises(ValueError, match="append 1 can't fail any more"):
        polos_faults.at(1, Fault.FULL)
    for order in (polos_faults.next, polos_faults.always):
        with pytest.raises(TypeError, match=r"a fault is one of .*, this is 'full'"):
            order("full")  # type: ignore[arg-type]
    for number in ("3", True, 1.5):
        with pytest.raises(TypeError, match="appends are counted by whole numbers from 1, this is"):
            FaultPlan().at(number, Fault.FULL)  # type: ignore[arg-type]  # this is the mistake
    with pytest.raises(TypeError, match="a fault is one of"):
        polos_faults.at(1_000, "full")  # type: ignore[arg-type]


def test_a_slow_log_holds_effects_back(either: Polos, polos_faults: FaultPlan, polos_clock: JumpingClock):
    """While an append takes its time no function is called and no time passes."""
    calls: list[int] = []
    SHOP["charge"] = calls.append

    async def main() -> None:
        async with either:
            before = polos_faults.appends
            polos_faults.hold()
            running = asyncio.create_task(charges.run(either, {"cents": 5}))
            await asyncio.to_thread(polos_faults.wait_appends, before + 1)
            assert [] == calls
            assert not running.done()
            polos_faults.let_go()
            await running

    asyncio.run(main())

    assert [5] == calls
    assert 0 == polos_clock.passed_seconds


def test_a_step_that_hangs_times_out(either: Polos, polos_hanging: Hanging, polos_clock: JumpingClock):
    """Time passes over a function that doesn't come back, until each of its attempts is given up."""
    SHOP["charge"] = polos_hanging

    async def main() -> None:
        async with either:
            with pytest.raises(RuntimeError, match="longer than 60"):
                await charges.run(either, {"cents": 5})

    asyncio.run(main())

    assert 3 == polos_hanging.calls
    assert 180 < polos_clock.passed_seconds < 200
    assert 0 == polos_clock.hanging


@pytest.mark.parametrize("auto", [True, False])
def test_an_engine_stops_although_a_step_hangs(
    either: Polos, polos_hanging: Hanging, polos_clock: JumpingClock, auto: bool
):
    """A function that hangs holds a stop up for the grace of the virtual clock; the next engine calls it again."""
    SHOP["charge"] = polos_hanging

    async def begin() -> str:
        async with either:
            polos_clock.auto = auto
            run = (await charges.invoke(either, {"cents": 5})).id
            await polos_hanging.wait_called()
            return run

    async def end(run: str) -> Any:
        async with either:
            await polos_hanging.wait_called()
            polos_hanging.let_go("at last")
            await either.engine.watchers.watch(run, either.engine.loop)
            return (await either.get_execution(run))["result"]

    polos_clock.auto = False
    run = asyncio.run(begin())
    polos_clock.auto = False

    assert 15 == polos_clock.passed_seconds
    assert "at last" == asyncio.run(end(run))
    assert 2 == polos_hanging.calls


# ---------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("statement", "modules_max"), [("import polos.testing", 1), ("import polos.testing.plugin", 5)]
)
def test_loading_the_plugin_loads_little(statement: str, modules_max: int):
    """Beside pytest itself the plugin loads no third-party package, and of polos only modules with fixtures."""
    script = (
        "import sys; _ = __import__('pytest') if 'plugin' in sys.argv[1] else None; before = set(sys.modules); "
        "exec(sys.argv[1]); print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, statement], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = set(done.stdout.split())
    loaded = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}

    assert {"polos"} == {name for name in loaded if not name.startswith("polos.testing")}
    assert modules_max >= len(loaded) - 1, loaded
    assert "asyncio" not in found


def test_public_names_are_found():
    """Each name that the package offers is there, and another one isn't."""
    import polos.testing

    assert [] == [name for name in polos.testing.__all__ if not hasattr(polos.testing, name)]
    with pytest.raises(AttributeError, match="no attribute 'crash_weep'"):
        getattr(polos.testing, "crash_weep")  # noqa: B009  # so that type checkers don't see the mistake
