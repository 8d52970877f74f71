"""
Workflows as programs write them, on a real engine with a store of its own.

One test for each thing that a body, its definition and its caller must agree on across the log: types, failures,
state, answers, children, cancellation, continuation, updates.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from polos import (
    BatchStepResult,
    BatchWorkflowInput,
    Polos,
    RetryPolicy,
    StepExecutionError,
    Workflow,
    WorkflowContext,
    WorkflowState,
    events,
    registry,
    workflow,
)
from polos.context import current_context
from polos.errors import ExecutionCancelledError, PolosUsageError, UpdateRejected
from pydantic import BaseModel, Field


class Greeting(BaseModel):
    """A typed payload and result."""

    text: str


class Counter(WorkflowState):
    """A typed state."""

    count: int = 0


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Polos], Awaitable[Any]]], Any]:
    """Run a program on an engine that knows what is defined by now."""

    def run(program: Callable[[Polos], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with Polos(data_dir=tmp_path / "data") as polos:
                return await program(polos)

        return asyncio.run(main())

    return run


def test_types_survive_the_log(play: Any):
    """Payloads and results, of runs, steps and children, come back as what they were."""

    @workflow
    async def shout(ctx: WorkflowContext, payload: Greeting) -> Greeting:
        assert isinstance(payload, Greeting)
        return Greeting(text=await ctx.step.run("upper", payload.text.upper))

    @workflow
    async def dates(ctx: WorkflowContext, payload: Greeting | None) -> list[dt.date]:
        loud = await ctx.step.invoke_and_wait("shout", shout, Greeting(text="a"))
        assert loud == Greeting(text="A")
        assert payload is None
        return [dt.date(2026, 1, 2)]

    async def program(polos: Polos) -> Any:
        return await shout.run(polos, {"text": "hello"}), await dates.run(polos)

    assert play(program) == (Greeting(text="HELLO"), [dt.date(2026, 1, 2)])


def test_failures_can_be_handled(play: Any):
    """A failed step raises after its retries; the body compensates and goes on."""
    calls: list[str] = []

    def act(name: str) -> str:
        calls.append(name)
        if name == "ship":
            raise ValueError("no truck")
        return name

    @workflow
    async def saga(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        done: list[str] = []
        try:
            done += [await ctx.step.run(name, act, name, max_retries=1, base_delay=0) for name in ("pay", "ship")]
        except StepExecutionError as error:
            return [str(error), error.error_type, await ctx.step.run("undo", act, "undo")]
        return done

    assert play(lambda polos: saga.run(polos, {})) == [
        "Step execution failed after 1 retries: no truck", "ValueError", "undo",
    ]  # fmt: skip
    assert calls == ["pay", "ship", "ship", "undo"]


def test_a_failed_run_raises_its_error(play: Any):
    """An exception that leaves the body fails the run after its attempts, and `run` says what it was."""
    attempts: list[int] = []

    @workflow(retries=RetryPolicy(max_retries=1, base_delay_seconds=0))
    async def broken(ctx: WorkflowContext) -> None:
        attempts.append(ctx.retry_count)
        raise KeyError("nothing there")

    with pytest.raises(RuntimeError, match="Workflow execution failed: 'nothing there'"):
        play(broken.run)
    assert attempts == [0, 1]


def test_state_begins_as_it_is_given_and_is_kept(play: Any):
    """State begins from schema or initial value and can be looked at when the run is over."""

    @workflow(state_schema=Counter)
    async def typed(ctx: WorkflowContext, payload: dict[str, int]) -> int:
        ctx.state.count += await ctx.step.run("by", lambda: payload["by"])
        found: int = ctx.state.count
        return found

    @workflow
    async def plain(ctx: WorkflowContext) -> None:
        ctx.state["seen"] = True

    async def program(polos: Polos) -> Any:
        first = await typed.run(polos, {"by": 5}, initial_state={"count": 100})
        handle = await plain.invoke(polos, initial_state={"seen": False})
        await polos._wait_ended(handle.id)
        return first, await typed.run(polos, {"by": 1}), await handle.query()

    assert play(program) == (105, 1, {"seen": True})


def test_an_answer_before_the_question_is_kept(play: Any):
    """A resume that comes before the suspend is taken by it, in both of its forms (D13, D14)."""

    @workflow
    async def review(ctx: WorkflowContext) -> Any:
        answer = await ctx.step.suspend("approval", {"document": 1}, timeout=3600)
        return [answer.data == answer["data"], answer.get("data", {}).get("approved"), answer.event_type]

    async def program(polos: Polos) -> Any:
        handle = await review.invoke(polos)
        await polos.resume("review", handle.id, "approval", {"approved": True})
        return (await polos._wait_ended(handle.id))["result"]

    assert play(program) == [True, True, "resume_approval"]


def test_batches_and_events_between_runs(play: Any):
    """A batch gives every end in order; an event that a child publishes reaches its parent."""

    @workflow
    async def work(ctx: WorkflowContext, payload: dict[str, int]) -> int:
        if payload["n"] == 1:
            raise StepExecutionError("odd")
        await ctx.step.publish_event("done", "work", {"n": payload["n"]}, "done")
        return payload["n"]

    @workflow
    async def lead(ctx: WorkflowContext) -> Any:
        waiting = asyncio.create_task(ctx.step.wait_for_event("first", "work"))
        await asyncio.sleep(0)
        ends = await ctx.step.batch_invoke_and_wait(
            "all", [BatchWorkflowInput(id="work", payload={"n": n}) for n in range(3)]
        )
        event = await waiting
        return [[end.model_dump() for end in ends], event.event_type, sorted(event.data)]

    ends = [
        BatchStepResult(workflow_id="work", success=True, result=0),
        BatchStepResult(workflow_id="work", success=False, error="odd"),
        BatchStepResult(workflow_id="work", success=True, result=2),
    ]

    assert play(lead.run) == [[end.model_dump() for end in ends], "done", ["n"]]


def test_a_cancelled_run_cleans_up(play: Any):
    """A cancelled body may still use steps, and who waits for it is told that it was cancelled."""
    cleaned: list[str] = []
    started: asyncio.Queue[str] = asyncio.Queue()

    @workflow
    async def stays(ctx: WorkflowContext) -> None:
        try:
            await ctx.step.run("started", started.put, ctx.execution_id)
            await ctx.step.wait_for_signal("never")
        finally:
            await ctx.step.run("clean", cleaned.append, "cleaned")

    async def program(polos: Polos) -> None:
        waits = asyncio.create_task(stays.run(polos, timeout=None))
        assert await polos.cancel_execution(await started.get())
        with pytest.raises(ExecutionCancelledError, match="'stays' was cancelled by"):
            await waits

    play(program)

    assert cleaned == ["cleaned"]


def test_continue_as_new_is_one_run_for_its_caller(play: Any):
    """A run that continues as a new one has one handle and the last one's result."""

    @workflow
    async def pages(ctx: WorkflowContext, payload: dict[str, int]) -> int:
        if payload["page"] < 3:
            ctx.continue_as_new({"page": payload["page"] + 1})
        return payload["page"]

    assert play(lambda polos: pages.run(polos, {"page": 0})) == 3


def test_queries_updates_and_signals(play: Any):
    """A running body answers queries, carries updates out with steps, refuses some, and waits for signals."""

    @workflow
    async def till(ctx: WorkflowContext) -> int:
        total = 0

        def check(data: int) -> None:
            if data < 0:
                raise ValueError("negative")

        async def add(data: int) -> int:
            nonlocal total
            total += await ctx.step.run("add", lambda: data)
            return total

        ctx.on_query("total", lambda: total)
        ctx.on_update("add", add, check)
        closing: int = await ctx.step.wait_for_signal("close")
        return total + closing

    async def program(polos: Polos) -> Any:
        handle = await till.invoke(polos)
        found = [await handle.update("add", 5), await handle.query("total")]
        with pytest.raises(UpdateRejected, match="negative"):
            await handle.update("add", -1)
        await handle.signal("close", 100)
        return [*found, (await polos._wait_ended(handle.id))["result"]]

    assert play(program) == [5, 5, 105]


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_function_of_a_step_belongs_to_the_run(play: Any, deterministic: bool):
    """A step, async or in a thread, knows its run and its key, which another step doesn't share."""
    seen: list[Any] = []

    @workflow(deterministic=deterministic)
    async def keys(ctx: WorkflowContext) -> str:
        def look() -> None:
            seen.append((current_context() is ctx, ctx.step.idempotency_key))

        async def look_async() -> None:
            look()

        await ctx.step.run("a", look)
        await ctx.step.run("b", look_async)
        await ctx.step.run("b", look)
        return ctx.execution_id

    run = play(keys.run)

    assert seen == [(True, f"{run}/a"), (True, f"{run}/b"), (True, f"{run}/b#2")]


def test_inside_a_run_others_are_started_by_ctx(play: Any):
    """Starting a run on a client from inside a body is refused, in the body and in its steps."""
    engines: list[Polos] = []

    @workflow
    async def inner(ctx: WorkflowContext) -> None: ...

    @workflow
    async def outer(ctx: WorkflowContext) -> list[str]:
        found: list[str] = []

        async def start() -> str:
            try:
                await inner.run(engines[0])
            except RuntimeError as error:
                return str(error)
            return "started"

        found.append(await start())
        found.append(await ctx.step.run("start", start))
        return found

    async def program(polos: Polos) -> Any:
        engines.append(polos)
        return await outer.run(polos)

    first, second = play(program)

    assert "Use ctx.step.invoke" in first
    assert first == second


def test_plain_functions_are_workflows(play: Any):
    """A function that isn't async runs in a thread and gives its result."""

    @workflow
    def blocking(ctx: WorkflowContext, payload: dict[str, Any]) -> Greeting:
        return Greeting(text=f"{ctx.workflow_id} {payload['n']}")

    made: Workflow[Greeting] = blocking

    assert play(lambda polos: made.run(polos, {"n": 1})) == Greeting(text="blocking 1")


def test_what_a_run_publishes_last_is_in_its_stream(play: Any):
    """An event that a body publishes right before it returns comes before the end of the run's stream."""

    @workflow
    async def newspaper(ctx: WorkflowContext) -> str:
        await ctx.step.publish_workflow_event("done", {"pages": 2}, event_type="edition")
        return "printed"

    async def program(polos: Polos) -> list[str | None]:
        handle = await newspaper.invoke(polos)
        stream = events.stream_workflow(polos, "newspaper", handle.id, from_sequence=0)
        return [event.event_type async for event in stream]

    assert ["workflow_start", "edition", "workflow_finish"] == play(program)


def test_a_log_file_gives_way_to_the_next(tmp_path: Path):
    """A second engine with a log file closes the first one's, and leaves other handlers of the program open."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    own = logging.FileHandler(tmp_path / "own.log")
    root.addHandler(own)
    try:
        Polos(data_dir=tmp_path / "data", log_file=str(tmp_path / "first.log"))
        (first,) = root.handlers
        Polos(data_dir=tmp_path / "data", log_file=str(tmp_path / "second.log"))
        (second,) = root.handlers

        assert isinstance(first, logging.FileHandler)
        assert first.stream is None
        assert own.stream is not None
        second.close()
    finally:
        own.close()
        root.handlers[:] = before
        root.setLevel(level)


def test_the_first_argument_may_be_the_directory(tmp_path: Path):
    """`Polos("./data")` is on that directory; a name without a separator is a project; two directories are refused."""
    assert tmp_path / "data" == Polos(str(tmp_path / "data")).data_dir
    assert tmp_path / "data" == Polos(tmp_path / "data").data_dir
    assert ("shop", tmp_path) == ((polos := Polos("shop", data_dir=tmp_path)).project_id, polos.data_dir)
    with pytest.raises(PolosUsageError, match="given twice"):
        Polos("./data", data_dir=tmp_path)


def test_state_is_there_from_the_start(play: Any):
    """What `ctx.state` begins with, defaults included, is recorded before anything changed it."""

    @workflow(state_schema=Counter)
    async def waits(ctx: WorkflowContext) -> None:
        await ctx.step.wait_for_signal("go")

    async def program(polos: Polos) -> list[Any]:
        plain, given = await waits.invoke(polos), await waits.invoke(polos, initial_state={"count": 7})
        return [await plain.query(), await given.query()]

    assert [{"count": 0}, {"count": 7}] == play(program)


def test_defaults_are_taken_once(play: Any):
    """A run begins with the same state in replay, also if a default gives something else by then."""
    numbers = iter([1] * 8)

    class Ticket(WorkflowState):
        number: int = Field(default_factory=lambda: next(numbers))

    @workflow(state_schema=Ticket)
    async def draws(ctx: WorkflowContext) -> int:
        await ctx.step.wait_for_signal("go")
        return int(ctx.state.number)

    async def begin(polos: Polos) -> str:
        return (await draws.invoke(polos)).id

    run = play(begin)
    numbers = iter([2] * 8)

    async def end(polos: Polos) -> Any:
        await polos.signal(run, "go")
        return [event.data async for event in events.stream_workflow(polos, "draws", run)][-1]["result"]

    assert 1 == play(end)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_state_that_does_not_fit_fails_the_run(play: Any, deterministic: bool, caplog: pytest.LogCaptureFixture):
    """A wrong initial state fails that run, once and with the reason; the engine and other runs go on."""

    @workflow(state_schema=Counter, deterministic=deterministic)
    async def counts(ctx: WorkflowContext) -> int:
        return int(ctx.state.count)

    async def program(polos: Polos) -> Any:
        with pytest.raises(RuntimeError, match=r"is no Counter: 1 validation error"):
            await counts.run(polos, initial_state={"count": "many"})
        (run,) = await polos.list_executions(workflow_id="counts")
        return run["retry_count"], await counts.run(polos, initial_state={"count": 3})

    assert (0, 3) == play(program)
    assert [] == [record.message for record in caplog.records if "bug in polos" in record.message]
