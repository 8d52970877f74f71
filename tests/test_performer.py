"""
What an attempt's end means: a result, a failure that is retried, or an outcome that nobody knows.

Asynchronous functions can end in more ways than others: cancelled by the engine, by themselves or from outside, with
an exception while they are cancelled, with one that isn't an `Exception`. None may leave the run waiting for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from polos import Completed, Polos, StepExecutionError, WorkflowContext, registry, workflow
from polos.engine import events as e
from polos.runtime import reads
from polos.runtime.performer import StepTask

from tests.test_timers import HandClock


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Polos], Awaitable[Any]]], Any]:
    """Run a program on an engine that knows what is defined by now; a run that hangs is an error."""

    def run(program: Callable[[Polos], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with Polos(data_dir=tmp_path / "data") as polos:
                return await asyncio.wait_for(program(polos), 20)

        return asyncio.run(main())

    return run


async def late_error() -> None:
    """Answer the cancellation with an exception of its own."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ConnectionError("half \ud800 sent") from None


async def cancels_itself() -> None:
    """Cancel the task that it is in."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("func", "options"),
    [
        (late_error, {"timeout_seconds": 0.01}),
        (late_error, {"timeout_seconds": 0.01, "retry_on": (ConnectionError,), "max_retries": 3, "base_delay": 0}),
        (cancels_itself, {}),
    ],
    ids=["late error", "late error that is retried", "cancelled"],
)
def test_at_most_once_without_an_outcome(play: Any, func: Any, options: dict[str, Any]):
    """After a timeout or a cancellation nobody knows what `at_most_once` did: it is asked for, never called again."""
    seen: list[str] = []

    async def act() -> None:
        seen.append("called")
        await func()

    def look() -> Completed:
        seen.append("asked")
        return Completed("found")

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", act, effect="at_most_once", reconcile=look, **options)

    assert play(pays.run) == "found"
    assert seen == ["called", "asked"]


def test_the_reason_of_an_unknown_outcome_names_the_late_error(play: Any):
    """Who has to resolve the step reads what the function raised after its time was up."""

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", late_error, effect="at_most_once", timeout_seconds=0.01)

    async def program(polos: Polos) -> Any:
        run = await pays.invoke(polos)
        moves = polos._connection().moves()
        reasons: list[str] = []
        while not reasons:
            head = moves.head()
            with polos._log().reader() as reader:
                events = [event for _, event in reads.events_of(reader, run.id)]
            reasons = [event.reason for event in events if isinstance(event, e.StepOutcomeUnknown)]
            if not reasons:
                await moves.behind(head)
        await polos.resolve(run.id, "pay", "completed", "by hand")
        return reasons, (await polos._wait_ended(run.id))["result"]

    assert play(program) == (["no outcome within 0.01 s, then ConnectionError: half \\ud800 sent"], "by hand")


def test_a_late_value_of_at_most_once_counts(play: Any):
    """A function that answers the cancellation with a value has done its work."""

    async def act() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"
        return "never"

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", act, effect="at_most_once", timeout_seconds=0.01)

    assert play(pays.run) == "late"


def test_a_late_error_from_a_thread_leaves_the_outcome_unknown(play: Any):
    """A function in a thread can't be cancelled; what it raises after its time was up isn't tried again."""
    seen: list[str] = []
    asked = threading.Event()

    def act() -> None:
        seen.append("called")
        asked.wait()
        raise ConnectionError("late")

    def look() -> Completed:
        seen.append("asked")
        asked.set()
        return Completed("found")

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run(
            "pay", act, effect="at_most_once", reconcile=look, timeout_seconds=0.01, retry_on=(ConnectionError,)
        )

    assert play(pays.run) == "found"
    assert seen == ["called", "asked"]


class Unusual(BaseException):
    """An exception that `except Exception` lets through."""


@pytest.mark.parametrize("how", ["async", "thread", "coroutine from a thread"])
def test_an_exception_that_is_no_exception_fails_the_step(play: Any, how: str):
    """A function may raise what it likes: it is retried and fails the step, whichever way the function is called."""
    calls: list[str] = []

    async def act() -> None:
        calls.append("called")
        raise Unusual("odd")

    def sync() -> None:
        calls.append("called")
        raise Unusual("odd")

    def gives() -> Awaitable[None]:
        return act()

    func: Any = {"async": act, "thread": sync, "coroutine from a thread": gives}[how]

    @workflow
    async def runs(ctx: WorkflowContext) -> Any:
        try:
            return await ctx.step.run("act", func, max_retries=1, base_delay=0)
        except StepExecutionError as error:
            return [str(error), error.error_type]

    assert play(runs.run) == ["Step execution failed after 1 retries: odd", "Unusual"]
    assert calls == ["called"] * 2


def test_continuing_from_inside_a_step_fails_the_step(play: Any):
    """`continue_as_new` belongs to the body; in a step it is a failure that says so, not the end of everything."""

    @workflow
    async def again(ctx: WorkflowContext) -> Any:
        async def act() -> None:
            ctx.continue_as_new()

        try:
            return await ctx.step.run("act", act, max_retries=0)
        except StepExecutionError as error:
            return error.error_type

    assert play(again.run) == "ContinueAsNew"


async def cancels_itself_after_a_timeout() -> None:
    """Have a time limit pass, which cancels and takes that back, and then cancel itself."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    await cancels_itself()


@pytest.mark.parametrize("func", [cancels_itself, cancels_itself_after_a_timeout])
def test_a_step_that_cancels_itself_is_a_failure(play: Any, func: Any):
    """A function that would cancel itself at every call is called as often as the policy says, no more."""
    calls: list[str] = []

    async def act() -> None:
        calls.append("called")
        await func()

    @workflow
    async def runs(ctx: WorkflowContext) -> Any:
        try:
            return await ctx.step.run("act", act, max_retries=1, base_delay=0)
        except StepExecutionError as error:
            return [str(error), error.error_type]

    found = play(runs.run)

    assert found == ["Step execution failed after 1 retries: the step cancelled itself", "CancelledError"]
    assert calls == ["called"] * 2


def test_a_cancellation_from_outside_is_told_from_its_own():
    """What counts is who made a request that stands; one that was taken back doesn't."""
    told: dict[str, bool] = {}

    async def act(name: str) -> None:
        task = asyncio.current_task()
        assert isinstance(task, StepTask)
        try:
            task.cancel()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if name != "own":
                task.uncancel()
                await asyncio.Event().wait()
            raise

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = {name: StepTask(act(name), loop=loop) for name in ("own", "taken back, then from outside")}
        for _ in range(3):  # enough for the first to end; being asked then changes nothing
            await asyncio.sleep(0)
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values())
        told.update({name: task.cancelled_from_outside for name, task in tasks.items()})

    asyncio.run(main())

    assert told == {"own": False, "taken back, then from outside": True}


class Crowded:
    """One thread for all steps, held by the first function until it is let go."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.held = threading.Event()
        self.leave = threading.Event()

    def hold(self) -> None:
        """Keep the thread."""
        self.held.set()
        assert self.leave.wait(20)

    def note(self, name: str) -> str:
        """Be called."""
        self.called.append(name)
        return name


async def waits_for_its_thread(polos: Polos, run: str) -> None:
    """Return when a step of that run has been asked of the performer, beside the one that holds the thread."""
    while not polos.engine.performer.running(run):
        await asyncio.sleep(0)


def test_the_time_of_a_step_begins_with_its_call(tmp_path: Path):
    """A step that waits for a thread isn't timed out: its time has not begun."""
    crowd = Crowded()
    clock = HandClock()

    @workflow
    async def holds(ctx: WorkflowContext) -> None:
        await ctx.step.run("hold", crowd.hold)

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", crowd.note, "pay", max_retries=0, timeout_seconds=1)

    async def main() -> Any:
        async with Polos(data_dir=tmp_path, clock=clock, step_threads_max=1, inbox_poll_seconds=0) as polos:
            await holds.invoke(polos)
            await asyncio.to_thread(crowd.held.wait, 20)
            clock.turn(1_000_000)  # this clock makes ids of nothing but its time
            run = await pays.invoke(polos)
            await waits_for_its_thread(polos, run.id)
            clock.turn(clock.time_us + 60_000_000)
            crowd.leave.set()
            return await asyncio.wait_for(polos._wait_ended(run.id), 20)

    ended = asyncio.run(main())

    assert ("pay", None) == (ended["result"], ended["error"])
    assert ["pay"] == crowd.called


def test_what_is_taken_away_before_its_thread_comes_is_not_called(tmp_path: Path):
    """A function that waits for a thread while its run is cancelled, or its engine stopped, isn't called any more."""
    crowd = Crowded()

    @workflow
    async def holds(ctx: WorkflowContext) -> None:
        await ctx.step.run("hold", crowd.hold)

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", crowd.note, "pay", effect="at_most_once")

    async def main() -> str:
        async with Polos(data_dir=tmp_path, step_threads_max=1, stop_grace_seconds=0) as polos:
            await holds.invoke(polos)
            await asyncio.to_thread(crowd.held.wait, 20)
            cancelled, stopped = await pays.invoke(polos), await pays.invoke(polos)
            await waits_for_its_thread(polos, cancelled.id)
            await waits_for_its_thread(polos, stopped.id)
            await cancelled.cancel()
            ended = await asyncio.wait_for(polos._wait_ended(cancelled.id), 20)
        crowd.leave.set()
        for thread in [one for one in threading.enumerate() if one.name.startswith("polos-step-")]:
            await asyncio.to_thread(thread.join, 20)
        return str(ended["status"])

    assert "cancelled" == asyncio.run(main())
    assert [] == crowd.called
