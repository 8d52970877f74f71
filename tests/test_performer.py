"""
What an attempt's end means: a result, a failure that is retried, or an outcome that nobody knows.

Asynchronous functions can end in more ways than others: cancelled by the engine, by themselves or from outside, with
an exception while they are cancelled, with one that isn't an `Exception`. None may leave the run waiting for ever.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from polos import Completed, NotDone, Polos, StepExecutionError, WorkflowContext, registry, workflow
from polos.engine import events as e
from polos.reasons import why
from polos.runtime import reads
from polos.runtime.crowd import CROWD_FILE, SLOTS, Crowd, waits_for_thread
from polos.runtime.performer import StepTask
from polos.store.ownership import owner_info

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


class Mute(Exception):
    """An exception that can't say what it says."""

    def __str__(self) -> str:
        raise LookupError("lost for words")


MUTE = "its message can't be told: Mute.__str__ raised LookupError"


@pytest.mark.parametrize(("raised", "message"), [(Unusual("odd"), "odd"), (SystemExit(3), "3"), (Mute(), MUTE)])
@pytest.mark.parametrize("how", ["async", "thread", "coroutine from a thread"])
def test_a_function_may_raise_what_it_likes(play: Any, how: str, raised: BaseException, message: str):
    """Whatever a step raises, it is retried and fails the step, whichever way the function is called."""
    calls: list[str] = []

    def sync() -> None:
        calls.append("called")
        raise raised

    async def act() -> None:
        sync()

    def gives() -> Awaitable[None]:
        return act()

    func: Any = {"async": act, "thread": sync, "coroutine from a thread": gives}[how]

    @workflow
    async def runs(ctx: WorkflowContext) -> Any:
        try:
            return await ctx.step.run("act", func, max_retries=1, base_delay=0)
        except StepExecutionError as error:
            return [str(error), error.error_type]

    assert play(runs.run) == [f"Step execution failed after 1 retries: {message}", type(raised).__name__]
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


def test_a_sync_reconcile_that_hangs_holds_up_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """It is asked in a thread; when the time of its step is over, the thread is lost and its late answer counts."""
    clock = HandClock()
    asked, leave = threading.Event(), threading.Event()

    def hang() -> Completed:
        asked.set()
        assert leave.wait(20)
        return Completed("found")

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", cancels_itself, effect="at_most_once", reconcile=hang, timeout_seconds=5)

    @workflow
    async def others(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("sync", lambda: "done", max_retries=0)

    async def main() -> Any:
        settings: dict[str, Any] = {"step_threads_max": 1, "inbox_poll_seconds": 0}
        async with Polos(data_dir=tmp_path, clock=clock, **settings) as polos:
            run = await pays.invoke(polos)
            await asyncio.to_thread(asked.wait, 20)
            await turned(clock, 1_000_000)
            other = await others.invoke(polos)
            await waits_for_its_thread(polos, other.id)
            await turned(clock, clock.time_us + 6_000_000)
            ended = await asyncio.wait_for(polos._wait_ended(other.id), 20)
            leave.set()
            return ended["result"], (await asyncio.wait_for(polos._wait_ended(run.id), 20))["result"]

    with caplog.at_level(logging.WARNING, "polos"):
        found = asyncio.run(main())

    assert ("done", "found") == found
    assert "reconcile of step 'pay' of run" in caplog.text


async def turned(clock: HandClock, time_us: int) -> None:
    """Turn a clock once threads have said on the loop what they had to say."""
    for _ in range(3):
        await asyncio.to_thread(int)
    clock.turn(time_us)


def test_a_plain_reconcile_may_give_a_coroutine(play: Any):
    """A plain function that gives back something to await is awaited on the loop."""

    async def find() -> Completed:
        return Completed("found")

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", cancels_itself, effect="at_most_once", reconcile=lambda: find())  # noqa: PLW0108

    assert play(pays.run) == "found"


@pytest.mark.parametrize("how", ["async", "thread"])
def test_a_reconcile_that_fails_leaves_the_outcome_unknown(play: Any, how: str, caplog: pytest.LogCaptureFixture):
    """Whatever it raises is logged, and somebody else may still say what happened."""

    async def fails() -> Completed:
        raise Unusual("odd") if how == "thread" else ValueError("odd")

    def fails_in_thread() -> Completed:
        raise Unusual("odd")

    func: Any = fails if how == "async" else fails_in_thread

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", cancels_itself, effect="at_most_once", reconcile=func)

    async def program(polos: Polos) -> Any:
        run = await pays.invoke(polos)
        while "its outcome stays unknown" not in caplog.text:
            await asyncio.sleep(0)
        await polos.resolve(run.id, "pay", "completed", "by hand")
        return (await polos._wait_ended(run.id))["result"]

    assert play(program) == "by hand"


def test_what_a_reconcile_gives_is_limited_like_any_result(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A value over `result_bytes_max` isn't recorded, and the log says so."""

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", cancels_itself, effect="at_most_once", reconcile=lambda: Completed("x" * 1000))

    async def main() -> None:
        async with Polos(data_dir=tmp_path, result_bytes_max=100) as polos:
            await pays.invoke(polos)
            while "gave what can't be recorded" not in caplog.text:
                await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 20))

    assert "has 1,002 bytes as JSON and the limit is 100" in caplog.text


def test_a_late_answer_about_an_earlier_attempt_is_not_believed(play: Any):
    """What is said of the first attempt when the second one is of unknown outcome doesn't make a third."""
    calls: list[str] = []
    questions: list[threading.Event] = [threading.Event(), threading.Event()]
    asked = [threading.Event(), threading.Event()]

    async def act() -> None:
        calls.append("called")
        await cancels_itself()

    def look() -> NotDone | Completed:
        number = len(calls) - 1
        asked[number].set()
        assert questions[number].wait(20)
        return Completed("second") if number else NotDone()

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", act, effect="at_most_once", reconcile=look)

    async def program(polos: Polos) -> Any:
        run = await pays.invoke(polos)
        await asyncio.to_thread(asked[0].wait, 20)
        await polos.resolve(run.id, "pay", "not_done")
        await asyncio.to_thread(asked[1].wait, 20)
        questions[0].set()
        await asyncio.to_thread(int)
        questions[1].set()
        return (await polos._wait_ended(run.id))["result"]

    assert "second" == play(program)
    assert ["called", "called"] == calls


def test_functions_that_hang_do_not_hold_up_others(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A step whose time was up, and one that was abandoned, lose their threads, and the log names them."""
    clock = HandClock()
    held = [threading.Event(), threading.Event()]
    leave = threading.Event()

    def hang(number: int) -> None:
        held[number].set()
        assert leave.wait(20)

    @workflow
    async def late(ctx: WorkflowContext) -> None:
        await ctx.step.run("late", hang, 0, max_retries=0, timeout_seconds=5)

    @workflow
    async def abandons(ctx: WorkflowContext) -> None:
        await ctx.step.run("abandoned", hang, 1)

    @workflow
    async def others(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("sync", lambda: "done")

    async def main() -> Any:
        settings: dict[str, Any] = {"step_threads_max": 2, "inbox_poll_seconds": 0, "stop_grace_seconds": 0}
        async with Polos(data_dir=tmp_path, clock=clock, **settings) as polos:
            await late.invoke(polos)
            clock.turn(1_000_000)
            run = await abandons.invoke(polos)
            for event in held:
                await asyncio.to_thread(event.wait, 20)
            clock.turn(2_000_000)
            waits = await others.invoke(polos)
            await waits_for_its_thread(polos, waits.id)
            await run.cancel()
            ended = [(await asyncio.wait_for(polos._wait_ended(waits.id), 20))["result"]]
            await turned(clock, 9_000_000)
            while len([one for one in caplog.records if "threads lost" in one.message]) < 2:
                await asyncio.sleep(0)
            leave.set()
            return ended

    with caplog.at_level(logging.WARNING, "polos"):
        found = asyncio.run(asyncio.wait_for(main(), 30))
    lost = [one.getMessage() for one in caplog.records if "threads lost" in one.getMessage()]

    assert ["done"] == found
    assert ["'abandoned'", "'late'"] == [text.split()[4] for text in lost]


def test_why_tells_that_a_step_waits_for_a_thread(tmp_path: Path):
    """From outside a step that waits for a thread is told from one that takes long, until it is called."""
    crowd = Crowded()

    @workflow
    async def holds(ctx: WorkflowContext) -> None:
        await ctx.step.run("hold", crowd.hold)

    @workflow
    async def pays(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", crowd.note, "pay", max_retries=0)

    async def main() -> list[str]:
        async with Polos(data_dir=tmp_path, step_threads_max=1) as polos:
            holder = await holds.invoke(polos)
            await asyncio.to_thread(crowd.held.wait, 20)
            run = await pays.invoke(polos)
            await waits_for_its_thread(polos, run.id)
            kinds: list[str] = []
            for one in (holder.id, run.id):
                with polos._log().reader() as reader:
                    found = why(
                        reader, one, owner=owner_info(tmp_path), now_us=polos._clock.now_us(),
                        waits_for_thread=partial(waits_for_thread, tmp_path),
                    )  # fmt: skip
                kinds += [reason.kind for reason in found.reasons]
            crowd.leave.set()
            await asyncio.wait_for(polos._wait_ended(run.id), 20)
            return [*kinds, str(waits_for_thread(tmp_path, run.id, "pay", 1))]

    assert ["step", "thread", "False"] == asyncio.run(main())


def test_more_steps_wait_than_the_file_holds(tmp_path: Path):
    """What doesn't fit into the file comes into it as others leave; a file that is none says nothing."""
    crowd = Crowd()
    crowd.open(tmp_path / CROWD_FILE)
    for number in range(SLOTS + 2):
        crowd.note("run", "step", number, waiting=True)
    seen = [waits_for_thread(tmp_path, "run", "step", number) for number in (0, SLOTS, SLOTS + 1)]
    crowd.note("run", "step", SLOTS + 1, waiting=False)
    crowd.note("run", "step", 0, waiting=False)
    later = [waits_for_thread(tmp_path, "run", "step", number) for number in (0, SLOTS, SLOTS + 1)]
    crowd.note("run", "step", 1, waiting=False)
    left = len(crowd)
    crowd.close()
    (tmp_path / CROWD_FILE).write_bytes(b"nonsense")

    assert ([True, False, False], [False, True, False], SLOTS - 1) == (seen, later, left)
    assert not waits_for_thread(tmp_path, "run", "step", 2)
    assert not waits_for_thread(tmp_path / "nowhere", "run", "step", 2)
