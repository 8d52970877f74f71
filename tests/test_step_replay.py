"""
`ctx.step` on the real driver: live once, and again from what was recorded.

A small history stands in for engine and log: it answers what a body asks for and keeps facts and requests in order.
Replay gets the same facts, the recorded requests, and a clock and dice that show something else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from polos import registry
from polos.context import WorkflowContext, enter_body
from polos.definition import workflow
from polos.engine import events as e
from polos.engine.commands import Request
from polos.errors import ExecutionCancelledError, RunEvicted, StepExecutionError
from polos.replay.divergence import Divergence
from polos.replay.driver import Driver
from polos.replay.facts import Fact, Outcome
from polos.types import BatchWorkflowInput
from polos.values import digest_arguments, encode

from tests.fakeport import NOW_US, FakeValues, context

Body = Callable[[WorkflowContext], Coroutine[Any, Any, Any]]
SECOND = 1_000_000


@pytest.fixture(autouse=True)
def _workflows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})

    @workflow(id="double")
    async def double(ctx: WorkflowContext, payload: dict[str, int]) -> int:
        return payload["n"] * 2


@dataclass
class History:
    """One attempt of a run: its facts, and what the code asked for on each."""

    body: Body
    driver: Driver = field(init=False)
    entries: list[tuple[Fact, list[e.Event]]] = field(default_factory=list)
    version: int = 0
    children: int = 0

    def __post_init__(self) -> None:
        self.driver = self._made(FakeValues())

    def _made(self, values: FakeValues, **settings: Any) -> Driver:
        driver = Driver(run="run-1", values=values, new_run_id=self._child, start_us=NOW_US, **settings)
        ctx = context(driver)  # type: ignore[arg-type]  # the real one instead of the stand-in

        async def main() -> Any:
            enter_body(ctx)
            return await self.body(ctx)

        def finish(outcome: Outcome, cause: int) -> Request:
            if outcome.error is not None:
                failure = e.Failure(type=type(outcome.error).__name__, message=str(outcome.error))
                return Request(event=e.RunFailed(cause=cause, error=failure))
            return Request(event=e.RunCompleted(cause=cause, result=encode(outcome.result)[0].value))

        driver.bind(main, finish, ctx.dump_state, lambda value: (encode(value)[0].value, None))
        return driver

    def _child(self) -> str:
        self.children += 1
        return f"child-{self.children}"

    def fact(self, event: e.Event) -> list[e.Event]:
        """Deliver a fact live, record what it leads to, and give that."""
        self.version += 1
        fact = Fact(version=self.version, event=event, time_us=NOW_US + self.version * SECOND, position=self.version)
        requests = [request.event for request in self.driver.activate(fact)]
        self.version += len(requests)
        self.entries.append((fact, requests))
        return requests

    def start(self) -> list[e.Event]:
        return self.fact(e.RunStarted(attempt=1))

    def asked(self) -> list[e.Event]:
        """Give everything that was asked for, in order."""
        return [event for _, events in self.entries for event in events]

    def play(self) -> Outcome:
        """Answer whatever is open, the oldest first, until the body ends."""
        self.start()
        while self.driver.outcome is None:
            name, held = next(iter(self.driver.pending.items()))
            self.fact(self._answer(name, held.request, held.call))
        return self.driver.outcome

    def _answer(self, name: str, asked: e.Event, call: Any) -> e.Event:
        match asked:
            case e.StepScheduled():
                try:
                    value = call.context.run(call.func, *call.args, **call.kwargs)
                except Exception as error:
                    failure = e.Failure(type=type(error).__name__, message=str(error))
                    return e.StepFailed(name=name, attempt=1, error=failure)
                return e.StepCompleted(name=name, attempt=1, value=value)
            case e.TimerStarted():
                return e.TimerFired(name=name)
            case e.WaitStarted():
                return e.WaitSatisfied(name=name, kind=asked.kind, key=asked.key, data={"for": name}, event_id=name)
            case e.ChildStarted():
                return e.ChildFinished(name=name, child=asked.child, status="completed", result=len(name))
            case _:
                raise AssertionError(asked)

    def replay(self, body: Body | None = None, *, length: int | None = None) -> Driver:
        """Run the code again on the recorded facts; raises Divergence if it asks for something else."""
        self.body = body or self.body
        self.children = 0
        driver = self._made(FakeValues(now_us=NOW_US + 5_000_000_000))
        driver.foresee([fact for fact, _ in self.entries])
        for fact, events in self.entries[:length]:
            assert driver.activate(fact, recorded=events) == []
        return driver


async def everything(ctx: WorkflowContext) -> Any:
    """Use every method of ctx.step, some of them at once."""
    step = ctx.step
    found: list[Any] = [await step.uuid("id"), await step.now("t"), await step.random("r"), await step.now()]
    found += await asyncio.gather(*(step.run("add", lambda a, b: a + b, n, 1) for n in range(3)))
    found += await asyncio.gather(step.run(abs, -5), step.run(abs, -6))
    try:
        await step.run("fails", lambda: 1 / 0, max_retries=0)
    except StepExecutionError as error:
        found.append([error.reason, error.error_type])
    await step.wait_for("nap", seconds=30)
    await step.wait_until("later", datetime(2026, 1, 2, tzinfo=UTC))
    try:
        await step.wait_until("gone", datetime(2020, 1, 1, tzinfo=UTC))
    except StepExecutionError as error:
        found.append(error.reason)
    found.append((await step.suspend("ask", {"question": 1})).data)
    found.append((await step.wait_for_event("event", "topic")).sequence_id)
    found.append(await step.wait_for_signal("go"))
    found.append((await step.invoke("start", "double", {"n": 1})).id)
    found.append(await step.invoke_and_wait("child", "double", {"n": 2}))
    inputs = [BatchWorkflowInput(id="double", payload={"n": n}) for n in range(3)]
    found += [handle.id for handle in await step.batch_invoke("many", inputs)]
    found += [result.result for result in await step.batch_invoke_and_wait("all", inputs)]
    await step.publish_event("publish", "topic", {"a": 1})
    await step.publish_workflow_event("tell", {"a": 1})
    await step.resume("resume", "ask", "run-2", "order", {"yes": True})
    return found


def test_replay_gives_the_same():
    """A body that uses everything asks for the same in replay and ends the same, whatever clock and dice say."""
    history = History(everything)
    live = history.play()

    again = history.replay().outcome

    assert live.error is None
    assert again == live
    assert live.result[3] // 1000 == NOW_US // SECOND + 1


def test_a_replayed_prefix_goes_on_live():
    """Replay may end behind any fact; the next one, delivered live, leads to the requests that it led to before."""
    history = History(everything)
    history.play()

    for length in range(1, len(history.entries)):
        driver = history.replay(length=length)
        fact, events = history.entries[length]

        assert events == [request.event for request in driver.activate(fact)]


def test_nobody_looks_at_what_an_answered_step_is_called_with(monkeypatch: pytest.MonkeyPatch):
    """Replay neither copies nor digests the arguments of a step whose answer it knows; of one that is open it does."""
    looked: list[tuple[Any, ...]] = []

    def look(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        looked.append(args)
        return digest_arguments(args, kwargs)

    async def body(ctx: WorkflowContext) -> Any:
        return [await ctx.step.run(f"add-{number}", lambda a: a + 1, number) for number in range(3)]

    history = History(body)
    history.play()
    whole = history.entries
    monkeypatch.setattr("polos.step.digest_arguments", look)
    history.replay()
    history.entries = whole[:2]
    driver = history.replay()

    assert [(1,)] == looked
    assert ["add-1"] == [name for name, held in driver.pending.items() if held.call is not None]


def test_a_step_that_was_not_done_is_there_to_be_called_again():
    """That an attempt is known not to have happened is no answer: replay makes the call of the next one."""

    async def body(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("pay", lambda: 1, effect="at_most_once")

    history = History(body)
    history.start()
    history.fact(e.StepResolved(name="pay", outcome="not_done", by="user"))

    assert history.replay().pending["pay"].call is not None


def test_a_batch_is_one_activation():
    """All children of a batch are asked for on one fact, so that they come to be in one commit."""
    inputs = [BatchWorkflowInput(id="double", payload={"n": n}) for n in range(50)]

    for method in ("batch_invoke", "batch_invoke_and_wait"):
        history = History(lambda ctx: getattr(ctx.step, method)("all", inputs))  # noqa: B023
        started = [event for event in history.start() if isinstance(event, e.ChildStarted)]

        assert [event.name for event in started] == [f"all[{n}]" for n in range(50)]


def test_a_batch_used_twice_has_other_names():
    """Names of a batch's children are counted like all keys, and can't be taken by a key that looks like one."""
    inputs = [BatchWorkflowInput(id="double", payload={"n": 1})] * 2

    async def body(ctx: WorkflowContext) -> None:
        await ctx.step.batch_invoke("all", inputs)
        await ctx.step.batch_invoke("all", inputs)
        await ctx.step.invoke("all[0]", "double", {"n": 1})

    names = [event.name for event in History(body).start() if isinstance(event, e.ChildStarted)]

    assert names == ["all[0]", "all[1]", "all[0]#2", "all[1]#2", "all[0]#3"]


OTHER: list[tuple[str, Body]] = [
    ("StepScheduled", lambda ctx: ctx.step.run("other", abs, 1)),
    ("TimerStarted", lambda ctx: ctx.step.wait_for("other", 30)),
    ("WaitStarted", lambda ctx: ctx.step.suspend("other", {})),
    ("ChildStarted", lambda ctx: ctx.step.invoke_and_wait("other", "double", {"n": 1})),
    ("ChildStarted", lambda ctx: ctx.step.invoke("other", "double", {"n": 1})),
    ("MessageSent", lambda ctx: ctx.step.publish_event("other", "topic", {})),
    ("ValueRecorded", lambda ctx: ctx.step.uuid("other")),
]


@pytest.mark.parametrize(("kind", "other"), OTHER, ids=["run", "timer", "wait", "child", "start", "publish", "uuid"])
def test_a_divergence_names_the_line_of_the_body(kind: str, other: Body):
    """Code that asks for something else is told where, in its own file and not in ours."""
    history = History(lambda ctx: ctx.step.run("first", abs, 1))
    history.start()

    async def changed(ctx: WorkflowContext) -> None:
        await other(ctx)

    with pytest.raises(Divergence) as caught:
        history.replay(changed)

    assert f"{kind} 'other'" in str(caught.value.report["asked"])
    assert "test_step_replay.py:" in str(caught.value.report["line"])


def test_what_isnt_waited_for_any_more_is_given_up():
    """A timeout around a step, a wait or a child abandons it; a detached child is left alone."""

    async def body(ctx: WorkflowContext) -> str:
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(
                    ctx.step.run("step", abs, 1),
                    ctx.step.suspend("ask", {}),
                    ctx.step.invoke_and_wait("child", "double", {"n": 1}),
                    ctx.step.invoke_and_wait("free", "double", {"n": 1}, detached=True),
                )
        except TimeoutError:
            return "gave up"
        return "done"

    history = History(body)
    timer = next(event for event in history.start() if isinstance(event, e.TimerStarted))
    closed = history.fact(e.TimerFired(name=timer.name))

    found = {(type(event).__name__, getattr(event, "name", ""), getattr(event, "cancelled", None)) for event in closed}

    assert found == {
        ("StepAbandoned", "step", None),
        ("WaitCancelled", "ask", None),
        ("ChildDetached", "child", True),
        ("ChildDetached", "free", False),
        ("RunCompleted", "", None),
    }
    assert history.driver.outcome == Outcome(result="gave up")


def test_cleaning_up_after_a_cancellation():
    """A cancelled body may use every step method; when its grace is over each of them raises."""
    seen: list[str] = []

    async def body(ctx: WorkflowContext) -> None:
        try:
            await ctx.step.wait_for("long", days=1)
        finally:
            seen.append(f"cancelled: {ctx.cancel_requested}")
            await ctx.step.run("clean", lambda: seen.append("cleaned"))
            try:
                await ctx.step.wait_for_signal("never")
            except ExecutionCancelledError:
                seen.append("over")
                with pytest.raises(ExecutionCancelledError):
                    await ctx.step.uuid("late")

    history = History(body)
    history.start()
    history.fact(e.CancelRequested(by="ann", grace_due_us=NOW_US))
    held = history.driver.pending["clean"]
    assert held.call is not None
    held.call.func()
    history.fact(e.StepCompleted(name="clean", attempt=1))
    history.fact(e.CancelForced(by="ann"))

    assert seen == ["cancelled: True", "cleaned", "over"]
    assert isinstance(history.driver.outcome, Outcome)
    assert isinstance(history.driver.outcome.error, asyncio.CancelledError | ExecutionCancelledError)


def test_an_evicted_body_records_nothing():
    """A body whose run leaves memory gets RunEvicted from every method of ctx.step."""
    seen: list[type[BaseException]] = []

    async def body(ctx: WorkflowContext) -> None:
        try:
            await ctx.step.wait_for_signal("never")
        finally:
            for ask in (
                lambda: ctx.step.uuid("u"),
                lambda: ctx.step.run("s", abs, 1),
                lambda: ctx.step.suspend("a", 1),
            ):
                try:
                    await ask()
                except BaseException as error:
                    seen.append(type(error))

    history = History(body)
    history.start()
    history.driver.discard()

    assert seen == [RunEvicted] * 3


def test_lines_of_a_body_come_out_once(caplog: pytest.LogCaptureFixture):
    """A line is held until its activation is durable, and said by the live body alone."""
    caplog.set_level(logging.INFO, logger="polos.workflows.order")

    async def body(ctx: WorkflowContext) -> None:
        ctx.logger.info("before %s", await ctx.step.uuid("id"))
        await ctx.step.run("s", abs, 1)
        ctx.logger.info("behind")

    history = History(body)
    history.play()
    held = list(history.driver.actions)
    before = list(caplog.messages)
    history.replay()
    for action in held:
        action()

    assert before == []
    assert caplog.messages == ["before 00000000-0000-4000-8000-000000000001", "behind"]


def test_state_is_recorded_as_it_changes():
    """What a body changes in ctx.state is asked to be recorded with what it asks for next."""

    async def body(ctx: WorkflowContext) -> None:
        ctx.state = {"n": 1}
        await ctx.step.run("s", abs, 1)
        ctx.state["n"] = 2
        await ctx.step.run("t", abs, 1)

    history = History(body)
    history.play()

    assert [event.changed for event in history.asked() if isinstance(event, e.StateChanged)] == [{"n": 1}, {"n": 2}]
    assert history.replay().outcome == Outcome()
