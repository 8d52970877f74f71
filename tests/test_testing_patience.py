"""Code that doesn't come back: sweeps, explorations and simulations fail, and say whose it is and where."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from polos import WorkflowContext, workflow
from polos.testing import (
    CrashSweepFailed,
    ExploredWorld,
    Outside,
    Simulation,
    TookTooLong,
    crash_sweep,
    explore,
    patience,
)
from polos.testing.outside import Place
from polos.testing.patience import own_frames
from polos.testing.sweep import sweep
from polos.testing.sweep_report import POINT_VARIABLE, CrashReport
from polos.testing.sweep_scenario import SWEEPING

from tests import sweep_workflows as w

HERE = str(Path(__file__))
PATIENCE = 0.02

bank = Outside("patience-bank")


class Hangs:
    """
    Code that doesn't come back on order.

    No time passes for patience until it is there, so nothing else is ever too slow, however busy the machine is.
    """

    def __init__(self) -> None:
        self.there = threading.Event()
        self.free = threading.Event()
        self.never = threading.Event()
        self.looks = 0

    def monotonic(self) -> float:
        """Give the time that patience sees."""
        self.looks += self.there.is_set()
        return 1e6 + self.looks / 100 if self.there.is_set() else 0.0

    def sleep(self, seconds: float) -> None:
        """Let the code go on for a moment."""
        self.never.wait(seconds)

    def loop(self) -> None:
        """Run for ever."""
        self.there.set()
        while True:
            pass

    def block(self) -> None:
        """Block outside of Python."""
        self.there.set()
        self.free.wait()

    def catch(self) -> None:
        """Catch whatever is raised."""
        self.there.set()
        while not self.free.is_set():
            try:
                while not self.free.is_set():
                    pass
            except BaseException:  # that is the point
                pass

    async def give_way(self) -> None:
        """Run for ever, a turn at a time."""
        self.there.set()
        while True:
            await asyncio.sleep(0)

    async def loop_async(self) -> None:
        """Run for ever, within one turn."""
        self.loop()

    async def loop_beside(self) -> None:
        """Run for ever, in a thread."""
        await asyncio.to_thread(self.loop)

    def debug(self) -> None:
        """Stop in a debugger, for a while, and then go on."""
        names: dict[str, Any] = {"__name__": "pdb", "here": self}
        exec("def stop():\n    here.there.set()\n    here.free.wait()", names)
        names["stop"]()


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Code that doesn't come back, and whose thread does at the end of the test."""
    found = Hangs()
    monkeypatch.setattr(patience, "time", found)
    monkeypatch.setattr(patience, "MOMENT_SECONDS", 0.2)
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.01)
    NOW["it"] = found
    yield found
    found.free.set()
    for thread in threading.enumerate():
        if thread.name == "polos-sweep":
            thread.join()


NOW: dict[str, Hangs] = {}


def call(kind: str) -> Callable[[], Any]:
    """Give the function of a step that hangs."""
    found: Callable[[], Any] = getattr(NOW["it"], kind)
    return found


@workflow(id="hanging-step")
async def step(ctx: WorkflowContext, payload: dict[str, str]) -> Any:
    await ctx.step.run("first", lambda: 1)
    return await ctx.step.run("second", call(payload["kind"]))


@workflow(id="hanging-body")
async def body(ctx: WorkflowContext, payload: dict[str, str]) -> Any:
    await ctx.step.run("first", lambda: 1)
    call(payload["kind"])()


@workflow(id="hanging-direct", deterministic=False)
async def direct(ctx: WorkflowContext, payload: dict[str, str]) -> Any:
    await ctx.step.run("first", lambda: 1)
    call(payload["kind"])()


@workflow(id="hanging-plain")
def plain(ctx: WorkflowContext, payload: dict[str, str]) -> Any:
    call(payload["kind"])()


STEP = "step 'second' of workflow 'hanging-step' (attempt 1)"


def swept(flow: Any, kind: str, **options: Any) -> CrashReport:
    """Sweep in this process."""
    return sweep(flow, {"kind": kind}, **{"processes": 0, "pairs": 0, "patience_seconds": PATIENCE, **options})


def failure(flow: Any, kind: str, **options: Any) -> CrashSweepFailed:
    """Give the failure of a sweep that hangs."""
    with pytest.raises(CrashSweepFailed) as failed:
        swept(flow, kind, **options)
    return failed.value


def fine() -> CrashReport:
    """Sweep what is sound."""
    return sweep(w.small, {}, processes=0, pairs=0, points=2)


# ------------------------------------------------------------------------------------------------ sweeps


@pytest.mark.parametrize(
    ("flow", "kind", "who", "function"),
    [
        pytest.param(step, "loop", STEP, "in loop", id="a plain step"),
        pytest.param(step, "loop_async", STEP, "in loop", id="a step"),
        pytest.param(step, "loop_beside", STEP, "in loop\n", id="a step that waits for a thread"),
        pytest.param(step, "give_way", STEP, "", id="a step that gives way"),
        pytest.param(body, "loop", "the body of workflow 'hanging-body'", "in body", id="a body"),
        pytest.param(direct, "loop", "the body of workflow 'hanging-direct'", "in direct", id="a direct body"),
        pytest.param(plain, "loop", "the body of workflow 'hanging-plain'", "in plain", id="a plain body"),
    ],
)
def test_a_sweep_says_what_hangs_and_where(hangs: Hangs, flow: Any, kind: str, who: str, function: str):
    """An endless loop is interrupted; the page says whose it is, in which scenario, at which line, and the history."""
    failed = failure(flow, kind)

    assert f"{flow.id} hangs in the undisturbed run, in this process" == failed.args[0]
    (told,) = failed.differences
    assert f"{who} hasn't come back within 0.02 s of real time; it is at" == told.partition("\n")[0]
    assert f'File "{HERE}"' in told
    assert function in told
    assert "polos/testing" not in told
    assert ["RunCreated", "RunStarted"] == [line.split()[3] for line in failed.before[:2]]
    assert "Interrupted" not in str(failed)
    assert "patience_seconds" in str(failed)
    assert fine().singles == 2


def test_setup_and_check_are_watched_too(hangs: Hangs):
    """A `setup`, a `check` and a `same` that hang are told as such, not as a step."""

    def same(_found: Any, _undisturbed: Any) -> bool:
        hangs.loop()
        return True

    for name, who in (("setup", "setup"), ("check", "check, or same,"), ("same", "check, or same,")):
        hangs.there.clear()
        failed = failure(w.small, "", **{name: same if name == "same" else lambda _: hangs.loop()})
        assert f"{who} hasn't come back" in failed.differences[0]
        assert "in loop" in failed.differences[0]


@workflow(id="hanging-recovery")
async def recovery(ctx: WorkflowContext, payload: dict[str, str]) -> Any:
    await ctx.step.run("first", lambda: bank.note("begun"))
    if bank.count("begun") > 1:
        NOW["it"].loop()


def test_a_body_that_never_gives_way_has_nothing_recorded_yet(hangs: Hangs):
    """Its beginning is recorded with what it asks for first; the page says that there is nothing."""

    @workflow(id="hanging-at-once")
    async def at_once(ctx: WorkflowContext, payload: dict[str, str]) -> None:
        hangs.loop()

    assert "what is recorded:\n  nothing yet\n" in str(failure(at_once, "loop"))


def test_the_stacks_of_what_hangs_stand_apart(hangs: Hangs, tmp_path: Path):
    """That of the test, with what was left out between it and the step's thread, and that of the step's coroutine."""
    lines = str(explored(step, "loop_beside", tmp_path)).splitlines()
    shown = [line for line in lines if line.startswith(("  File", "  …", "and"))]
    found = [line.rpartition(" in ")[2] if "File" in line else line.strip() for line in shown]

    assert ["it", "…", "loop", "and, by a stack of its own, at", "loop_beside", "to_thread"] == found[-6:]


def test_a_recovery_that_hangs_is_told_with_its_point(hangs: Hangs, monkeypatch: pytest.MonkeyPatch):
    """What hangs after a crash alone is told with the crash, what is recorded, and a command that repeats it."""
    failed = failure(recovery, "")

    (point,) = failed.points
    assert f"hanging-recovery hangs in the recovery from a crash at {point}, in this process" == failed.args[0]
    assert "the body of workflow 'hanging-recovery'" in failed.differences[0]
    assert "StepScheduled" in failed.before[-1]
    assert [] == failed.after
    assert failed.target.endswith(f"/{point}")

    hangs.there.clear()
    monkeypatch.setenv(POINT_VARIABLE, failed.target)
    assert failed.args == failure(recovery, "").args


def test_a_run_that_hangs_on_its_way_to_a_crash_is_told(hangs: Hangs):
    """A scenario that hangs before it comes to its crash says so, and no crash is told that wasn't."""
    lives = 0

    def setup(_directory: Path) -> None:
        nonlocal lives
        lives += 1
        if lives == 3:  # after the two undisturbed runs
            hangs.loop()

    failed = failure(w.small, "", setup=setup)

    assert "small hangs in a run that was to crash at " in failed.args[0].removeprefix("swept-")
    assert () == failed.points
    assert failed.target


@pytest.mark.parametrize("kind", ["block", "catch"])
def test_a_thread_that_cannot_be_got_back_is_given_up(hangs: Hangs, kind: str):
    """What blocks outside of Python, or catches everything, fails its sweep; sweeps after it run, undisturbed by it."""
    failed = failure(step, kind)
    (stuck,) = [thread for thread in threading.enumerate() if thread.name == "polos-sweep"]

    assert STEP in failed.differences[0]
    assert f"in {kind}" in failed.differences[0]
    assert "was given up" in str(failed)
    assert Place.current is None
    assert 2 == fine().singles

    places: list[Place | None] = []

    def check(_outcome: Any) -> None:
        if not places:  # in the middle of another sweep it comes back, and comes to its end
            hangs.free.set()
            stuck.join()
        places.append(Place.current)

    report = sweep(w.small, {}, processes=0, pairs=0, points=4, check=check)
    assert 4 == report.singles
    assert None not in places
    assert not patience._lost
    assert not patience._over


def test_a_lost_thread_writes_nothing_down(hangs: Hangs):
    """What a function that was given up does on its way out isn't taken for the doing of the scenario that is on."""

    def blocks_and_notes() -> None:
        try:
            hangs.block()
        finally:
            bank.note("released")

    hangs.blocks = blocks_and_notes  # type: ignore[attr-defined]
    failure(step, "blocks")
    (stuck,) = [thread for thread in threading.enumerate() if thread.name == "polos-sweep"]
    counts: list[int] = []

    def check(_outcome: Any) -> None:
        hangs.free.set()
        stuck.join()
        counts.append(bank.count("released"))

    sweep(w.small, {}, processes=0, pairs=0, points=1, check=check)

    assert {0} == set(counts)


def test_an_awaited_sweep_is_watched_and_one_that_nobody_awaits_too(hangs: Hangs):
    """Beside a loop it is the same; a sweep that was cancelled while it hung holds up none that comes after it."""

    async def main() -> None:
        with pytest.raises(CrashSweepFailed, match="hanging-body hangs"):
            await crash_sweep(body, {"kind": "loop"}, processes=0, patience_seconds=PATIENCE)
        hangs.there.clear()
        given_up = asyncio.ensure_future(crash_sweep(step, {"kind": "block"}, processes=0, patience_seconds=PATIENCE))
        await asyncio.to_thread(hangs.there.wait)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert 2 == (await crash_sweep(w.small, {}, processes=0, pairs=0, points=2)).singles

    asyncio.run(main())


def test_who_debugs_has_time(hangs: Hangs):
    """While a debugger is in the stack, time begins anew; the sweep goes on when it is left."""
    passed = 0.0

    def monotonic() -> float:
        nonlocal passed
        if hangs.there.is_set() and not hangs.free.is_set():
            passed += 1.0
            if passed > 100:
                hangs.free.set()
        return passed

    hangs.monotonic = monotonic  # type: ignore[method-assign]

    assert 1 == swept(step, "debug", points=1).singles
    assert passed > 100


def test_a_sweep_makes_two_threads(monkeypatch: pytest.MonkeyPatch):
    """One for the sweep and one that watches, however many scenarios there are."""
    started: list[str] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)

    assert 2 == fine().singles
    assert ["polos-sweep-watch", "polos-sweep"] == started


@pytest.mark.parametrize("seconds", [0, -1.0, True, "1", None])
def test_patience_is_a_time(seconds: Any):
    """A patience that is no time is refused before anything is begun."""
    with pytest.raises(ValueError, match="patience_seconds is a time over 0"):
        sweep(w.small, {}, patience_seconds=seconds)


# ------------------------------------------------------------------------------------------ explorations


def explored(flow: Any, kind: str, folder: Path) -> TookTooLong:
    """Give the failure of an exploration that hangs."""

    @explore(runs=3, patience_seconds=PATIENCE, folder=folder)
    def it(world: ExploredWorld) -> None:
        world.start(flow, {"kind": kind})
        world.finish()

    with pytest.raises(TookTooLong) as failed:
        it()
    return failed.value


@pytest.mark.parametrize(
    ("flow", "kind", "who"),
    [
        (step, "loop", STEP), (step, "loop_async", STEP), (step, "give_way", STEP), (step, "block", STEP),
        (body, "loop", "the body of workflow 'hanging-body'"),
        (direct, "loop", "the body of workflow 'hanging-direct'"),
    ],
)  # fmt: skip
def test_an_exploration_says_what_hangs_and_how_it_came_to_that(
    hangs: Hangs, tmp_path: Path, flow: Any, kind: str, who: str
):
    """On the main thread a signal interrupts, what blocks in a system call, too; the schedule stands below."""
    failed = explored(flow, kind, tmp_path)

    assert f"{who} hasn't come back within 0.02 s of real time; it is at" == str(failed).partition("\n")[0]
    assert f"in {kind.removesuffix('_async')}" in str(failed)
    assert "polos/testing" not in str(failed)
    (story,) = failed.__notes__
    assert "it fails in the natural course of things" in story
    assert f"start {flow.id}#1" in story
    assert "Interrupted" not in story


def test_a_schedule_that_hangs_is_saved_as_it_is(hangs: Hangs, tmp_path: Path):
    """What hangs in some orders alone is saved, isn't played again and again to be made short, and fails next time."""
    played = 0

    @workflow(id="hanging-at-times")
    async def at_times(ctx: WorkflowContext, payload: dict[str, str]) -> str:
        await ctx.step.run("first", lambda: 1)
        first = await ctx.step.wait_for_signal("go")
        return str(first)

    @explore(runs=50, patience_seconds=PATIENCE, folder=tmp_path, workflows=[at_times])
    def it(world: ExploredWorld) -> None:
        nonlocal played
        played += 1
        run = world.start(at_times, {})
        world.signal(run, "go", 1)
        world.signal(run, "go", 2)
        if world.finish().result == "2":
            hangs.loop()

    with pytest.raises(TookTooLong, match="the test hasn't come back") as failed:
        it()
    count = played
    assert "things out of the natural order (>) it isn't over:" in failed.value.__notes__[0]
    assert "saved as" in failed.value.__notes__[0]

    hangs.there.clear()
    with pytest.raises(TookTooLong, match="the test hasn't come back"):
        it()
    assert count + 1 == played


def test_an_exploration_on_another_thread_is_interrupted_too(
    hangs: Hangs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where signals don't come, an exception is raised in the thread; what blocks is told while it does."""
    found: list[BaseException] = []
    said = io.StringIO()

    class Stderr(io.StringIO):
        def write(self, text: str) -> int:
            hangs.free.set()
            return said.write(text)

    def run(kind: str) -> None:
        try:
            explored(step, kind, tmp_path)
        except BaseException as error:  # looked at below
            found.append(error)

    monkeypatch.setattr(sys, "__stderr__", Stderr())
    for kind in ("loop", "block"):
        hangs.there.clear()
        thread = threading.Thread(target=run, args=(kind,))
        thread.start()
        thread.join()

    assert [] == found
    assert f"{STEP} hasn't come back" in said.getvalue()
    assert "It can't be interrupted, and the test waits for it." in said.getvalue()


def test_a_signal_that_the_program_uses_is_left_to_it(hangs: Hangs, tmp_path: Path):
    """Where SIGURG has a handler, explorations interrupt without it, and leave it as it is."""
    import signal

    mine = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGURG, mine)
    try:
        assert STEP in str(explored(step, "loop", tmp_path))
        assert mine is signal.getsignal(signal.SIGURG)
    finally:
        signal.signal(signal.SIGURG, before)
    explored(step, "loop", tmp_path)
    assert signal.SIG_DFL is signal.getsignal(signal.SIGURG)


# ------------------------------------------------------------------------------------------- simulations


@pytest.mark.parametrize(
    ("flow", "kind", "who"),
    [
        (step, "loop", STEP), (step, "loop_async", STEP), (step, "give_way", STEP), (step, "block", STEP),
        (body, "loop", "the body of workflow 'hanging-body'"),
    ],
)  # fmt: skip
def test_a_simulation_says_what_hangs(hangs: Hangs, flow: Any, kind: str, who: str):
    """With patience a simulation fails at the line that let it run, functions on threads of their own included."""
    with Simulation([flow], patience_seconds=PATIENCE) as sim:
        sim.create(flow, {"kind": kind})
        with pytest.raises(TookTooLong) as failed:
            sim.settle()

    assert f"{who} hasn't come back within 0.02 s of real time; it is at" == str(failed.value).partition("\n")[0]
    assert f"in {kind.removesuffix('_async')}" in str(failed.value)
    hangs.free.set()
    for thread in threading.enumerate():
        if thread.name == "polos-simulated":
            thread.join()  # or it would run beside all that comes


def test_a_simulation_with_patience_is_as_any_other(hangs: Hangs):
    """What comes back isn't interrupted, and no thread is left."""
    with Simulation([w.small], patience_seconds=PATIENCE) as sim:
        run = sim.create(w.small, {}).run
        sim.run_ready()
        sim.recover()
        sim.settle()
        assert sim.audit.end_of(run) is not None

    assert "polos-patience" not in {thread.name for thread in threading.enumerate()}


# ------------------------------------------------------------------------------------------------- parts


def test_a_turn_is_given_back_once():
    """Who lost their turn can't give back that of the next one."""
    turn = patience.Turn()
    with turn.of("first"):
        turn.give_back("first")
        with turn.of("second"):
            turn.give_back("first")
            assert not turn._free.acquire(blocking=False)

    assert turn._free.acquire(blocking=False)
    assert SWEEPING._free.acquire(blocking=False)
    SWEEPING._free.release()


def test_a_thread_that_is_over_has_no_stack():
    """Between two looks a thread may end."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()

    assert () == patience.stack_of(cast("int", thread.ident))


def test_nothing_is_raised_where_it_would_get_lost():
    """What is called because an object is gone takes no exception to whoever is at work, so it isn't interrupted."""
    found: list[bool] = []

    class Gone:
        def __del__(self) -> None:
            found.append(patience._is_unheard(sys._getframe()))

    def collected(_phase: str, _about: dict[str, int]) -> None:
        found.append(patience._is_unheard(sys._getframe()))

    Gone()
    gc.callbacks.append(collected)
    gc.collect()
    gc.callbacks.remove(collected)

    assert [True, True, True] == found
    assert not patience._is_unheard(sys._getframe())


_FRAMES = (("/shop/orders.py", "charge"), ("<string>", "charge"), ("<string>", "__init__"))


def test_a_method_that_a_data_class_of_ours_was_given_is_no_code_of_the_program():
    """It comes from no file; code that was given to Python as a text does so, too, and is told."""

    def frame(file: str, name: str) -> traceback.FrameSummary:
        return traceback.FrameSummary(file, 1, name, lookup_line=False)

    engine = frame(patience.__file__, "decide")
    program, given, made = (frame(*of) for of in _FRAMES)

    assert (program,) == own_frames((program, engine, made), inner=False)
    assert (program,) == own_frames((program, engine, frame("<string>", "<lambda>")), inner=False)  # a named tuple's
    assert (program, made) == own_frames((program, made), inner=False)
    assert (given,) == own_frames((engine, given), inner=False)
