"""
Bodies that aren't replayed, on a real engine: plain functions, and what is declared `deterministic=False`.

What they share with deterministic ones is tested there. Here stands what is special to them: they ask when they like,
they begin anew after a crash, and they may end in every way a task can.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, registry, workflow
from polos.context import ContinueAsNew
from polos.engine import events as e
from polos.engine.state import Phase
from polos.testing.simulation import Simulation

Play = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run a program on an engine that knows what is defined by now."""

    def run(program: Callable[[Polos], Awaitable[Any]], **settings: Any) -> Any:
        async def main() -> Any:
            async with Polos(data_dir=tmp_path / "data", **settings) as polos:
                return await program(polos)

        return asyncio.run(main())

    return run


@pytest.mark.parametrize("deterministic", [True, False])
def test_who_waits_holds_no_slot(play: Play, deterministic: bool):
    """A run that waits for a person, or for its child, leaves its slot to others."""

    @workflow(deterministic=deterministic)
    async def asks(ctx: WorkflowContext) -> Any:
        answer = await ctx.step.suspend("ok", {})
        return [answer.data, await ctx.step.invoke_and_wait("child", "helps", {})]

    @workflow(deterministic=deterministic)
    async def helps(ctx: WorkflowContext) -> str:
        return await ctx.step.run("help", lambda: "helped")

    async def program(polos: Polos) -> Any:
        handles = [await asks.invoke(polos) for _ in range(3)]
        found = [await helps.run(polos)]
        for handle in handles:
            await polos.resume("asks", handle.id, "ok", 1)
        return found + [(await polos._wait_ended(handle.id))["result"] for handle in handles]

    assert play(program, max_concurrent_workflows=1) == ["helped"] + 3 * [[1, "helped"]]


# ------------------------------------------------------------------------------------------ cancellation


def cancelled_and_crashed(body: Any) -> Any:
    """Cancel a run, crash before its code has dealt with it, and let the next life bring it to its end."""
    defined = workflow(id="w", deterministic=False)(body)
    with Simulation([defined]) as sim:
        run = sim.create(defined, None).run
        sim.run_ready()
        call = sim.send("cancel", run=run)
        while not call.answered and sim.audit.states[run].phase is not Phase.CANCELLING:
            sim.run_ready()
        sim.recover()
        sim.settle()
        return sim.audit.end_of(run)


class Lives:
    """What bodies note, and whether this is their first life."""

    def __init__(self) -> None:
        """Begin the first life with nothing noted."""
        self.notes: list[Any] = []

    def note(self, what: Any) -> Any:
        """Note something."""
        self.notes.append(what)
        return what

    async def do(self, what: str) -> str:
        """Note something, as a step: on the loop, since the simulation has no threads."""
        self.notes.append(what)
        return what


def test_a_cancellation_outlives_the_process():
    """A body that begins anew passes what it had finished, is cancelled where it had stood, and cleans up."""
    lives = Lives()

    async def body(ctx: WorkflowContext) -> None:
        lives.note(["begins", ctx.cancel_requested])
        await ctx.step.run("pay", lives.do, "paid")
        try:
            await ctx.step.wait_for_signal("never")
            await ctx.step.run("ship", lives.do, "shipped")
        except asyncio.CancelledError:
            if ["begins", True] not in lives.notes:
                await asyncio.get_running_loop().create_future()  # it doesn't get to its cleaning up in this life
            await ctx.step.run("refund", lives.do, "refunded")
            raise

    end = cancelled_and_crashed(body)

    assert [["begins", False], "paid", ["begins", True], "refunded"] == lives.notes
    assert isinstance(end, e.RunCancelled)


@pytest.mark.parametrize("kind", ["own", "step", "value", "message", "task"])
def test_a_cancelled_body_begins_nothing_new(kind: str):
    """Whatever a body would begin first after the crash, it is cancelled instead, after it has started."""
    lives = Lives()

    async def ask(ctx: WorkflowContext) -> None:
        match kind:
            case "own":
                await asyncio.get_running_loop().create_future()
            case "step":
                await ctx.step.run("new", lives.do, "new")
            case "value":
                await ctx.step.uuid("new")
            case "message":
                await ctx.step.publish_event("new", "topic", {})
            case _:
                async with asyncio.TaskGroup() as group:
                    group.create_task(ctx.step.run("new", lives.do, "new"))
        lives.note("went on")

    async def body(ctx: WorkflowContext) -> None:
        lives.note(["begins", ctx.cancel_requested])
        try:
            if ctx.cancel_requested:
                await ask(ctx)
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if not lives.notes[1:]:
                await asyncio.get_running_loop().create_future()
            raise

    end = cancelled_and_crashed(body)

    assert [["begins", False], ["begins", True]] == lives.notes
    assert isinstance(end, e.RunCancelled)


def test_a_forced_cancellation_outlives_the_process():
    """A run whose grace was over when the process died is closed by the next one, without its code."""
    begins: list[bool] = []

    async def body(ctx: WorkflowContext) -> None:
        begins.append(ctx.cancel_requested)
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue

    defined = workflow(id="w", deterministic=False)(body)
    with Simulation([defined], latency_us_max=1000) as sim:
        run = sim.create(defined, None).run
        sim.run_for(1)
        sim.send("cancel", run=run)
        sim.run_for(1)
        sim.send("cancel", run=run)
        while not sim.audit.states[run].cancel_forced:
            sim.run_for(0.0001)
        assert sim.audit.end_of(run) is None
        sim.recover()
        sim.settle()

        assert isinstance(sim.audit.end_of(run), e.RunCancelled)
        assert [False] == begins


def test_a_cancellation_at_once_reaches_a_body_that_started(play: Play):
    """Start and cancellation may come in one go: the body starts all the same, and is cancelled at its first wait."""
    notes: list[Any] = []

    @workflow(deterministic=False)
    async def cleans(ctx: WorkflowContext) -> None:
        notes.append("begins")
        try:
            await ctx.step.wait_for_signal("never")
        finally:
            notes.append(ctx.cancel_requested)

    async def program(polos: Polos) -> Any:
        handle = await cleans.invoke(polos)
        await polos.cancel_execution(handle.id)
        return (await polos._wait_ended(handle.id))["status"]

    assert play(program) == "cancelled"
    assert notes == ["begins", True]


# --------------------------------------------------------------------------------------- how bodies end


async def ends(polos: Polos, made: Any, **options: Any) -> Any:
    """Run something; give its status and error."""
    handle = await made.invoke(polos, **options)
    await polos._wait_ended(handle.id)
    found = await polos.get_execution(handle.id)
    return found["status"], found["error"]


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_body_may_cancel_itself(play: Play, deterministic: bool):
    """A CancelledError that the body brought on itself ends the run as cancelled, not the program and not never."""

    @workflow(deterministic=deterministic)
    async def gives_up(ctx: WorkflowContext) -> None:
        task = asyncio.create_task(ctx.step.wait_for_signal("never"))
        task.cancel()
        await task

    assert play(lambda polos: ends(polos, gives_up))[0] == "cancelled"


@pytest.mark.parametrize("kind", ["deterministic", "direct", "plain"])
def test_a_state_that_cant_be_recorded_fails_the_run(play: Play, kind: str):
    """A body that leaves a set in its state fails, and the text says why."""

    def spoils(ctx: WorkflowContext) -> None:
        ctx.state["a"] = {1}

    async def spoils_too(ctx: WorkflowContext) -> None:
        spoils(ctx)

    made = workflow(id="w", deterministic=kind == "deterministic")(spoils if kind == "plain" else spoils_too)
    status, error = play(lambda polos: ends(polos, made, initial_state={}))

    assert status == "failed"
    assert "set" in str(error)


@pytest.mark.parametrize("kind", ["deterministic", "direct", "plain"])
def test_a_body_that_exits_fails_its_run(play: Play, kind: str):
    """`sys.exit()` ends the run that calls it, not the program, which would do the same again at each start."""

    def exits(ctx: WorkflowContext) -> None:
        sys.exit(3)

    async def exits_too(ctx: WorkflowContext) -> None:
        await ctx.step.run("a", int)
        sys.exit(3)

    made = workflow(id="w", deterministic=kind == "deterministic")(exits if kind == "plain" else exits_too)
    status, error = play(lambda polos: ends(polos, made))

    assert status == "failed"
    assert "3" in str(error)


def test_a_task_that_exits_fails_who_awaits_it(play: Play):
    """SystemExit from a task of a deterministic body is raised where the body awaits the task."""

    @workflow
    async def leads(ctx: WorkflowContext) -> str:
        async def exits() -> None:
            await ctx.step.run("a", int)
            sys.exit(3)

        try:
            await asyncio.create_task(exits())
        except SystemExit as error:
            return f"exit {error.code}"
        return "went on"

    assert play(leads.run) == "exit 3"


def test_ctrl_c_in_a_body_ends_the_program_quickly(tmp_path: Path):
    """A KeyboardInterrupt goes through; what waited behind it is still recorded, and stopping needs no grace."""
    engines: list[Any] = []

    @workflow
    async def interrupts(ctx: WorkflowContext) -> None:
        await ctx.step.run("a", int)
        raise KeyboardInterrupt

    async def main() -> None:
        async with Polos(data_dir=tmp_path / "data", stop_grace_seconds=3600) as polos:
            engines.append(polos.engine)
            await interrupts.run(polos, timeout=None)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert {} == engines[0].performer.in_flight


# ------------------------------------------------------------------------------------------------ updates


class Unprintable(Exception):
    """An exception whose text can't be made."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no text")


def refuse(error: BaseException) -> Callable[[Any], Any]:
    """Make a handler that raises."""

    async def handler(_data: Any) -> None:
        raise error

    return handler


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (asyncio.CancelledError("not mine"), "not mine"),
        (ContinueAsNew(1), "continues as a new one"),
        (SystemExit(3), "3"),
        (ValueError("\udcff.csv"), "\\udcff.csv"),
        (Unprintable(), "its text can't be made"),
    ],
)
def test_an_update_is_answered_whatever_its_handler_raises(
    play: Play, error: BaseException, text: str, deterministic: bool
):
    """What a handler raises is the caller's answer, and the run goes on."""

    @workflow(deterministic=deterministic)
    async def till(ctx: WorkflowContext) -> str:
        ctx.on_update("bad", refuse(error))
        await ctx.step.run("ready", ready.set)
        await ctx.step.wait_for_signal("close")
        return "closed"

    async def program(polos: Polos) -> Any:
        handle = await till.invoke(polos)
        await ready.wait()
        with pytest.raises(Exception, match=re.escape(text)):
            await handle.update("bad", 1)
        await handle.signal("close", 1)
        return (await polos._wait_ended(handle.id))["result"]

    ready = asyncio.Event()
    assert play(program) == "closed"


def test_an_updates_broken_state_is_its_answer(play: Play):
    """A handler of a body that isn't replayed may leave a state that can't be recorded: its caller hears of it."""

    @workflow(deterministic=False)
    async def till(ctx: WorkflowContext) -> None:
        def spoil(_data: Any) -> None:
            ctx.state["a"] = {1}

        ctx.on_update("spoil", spoil)
        await ctx.step.run("ready", ready.set)
        await ctx.step.wait_for_signal("close")

    async def program(polos: Polos) -> Any:
        handle = await till.invoke(polos, initial_state={})
        await ready.wait()
        with pytest.raises(Exception, match="set"):
            await handle.update("spoil", 1)

    ready = asyncio.Event()
    play(program)


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_end_of_a_run_stops_its_handlers(play: Play, deterministic: bool):
    """A handler that is still at work when its run is cancelled is cancelled too, and its caller told that it ended."""
    stopped: list[str] = []

    @workflow(deterministic=deterministic)
    async def till(ctx: WorkflowContext) -> None:
        async def works(_data: Any) -> None:
            working.set()
            try:
                await ctx.step.wait_for_signal("never")
            except asyncio.CancelledError:
                stopped.append("stopped")
                raise

        ctx.on_update("work", works)
        await ctx.step.run("ready", ready.set)
        await ctx.step.wait_for_signal("close")

    async def program(polos: Polos) -> Any:
        handle = await till.invoke(polos)
        await ready.wait()
        asked = asyncio.ensure_future(handle.update("work", 1))
        await working.wait()
        await polos.cancel_execution(handle.id)
        with pytest.raises(Exception, match="ended before it answered"):
            await asked

    ready, working = asyncio.Event(), asyncio.Event()
    play(program)

    assert stopped == ["stopped"]


def test_an_async_validator_is_refused(play: Play):
    """Nobody would await what an async validator gives, and each update would pass."""

    async def check(_data: Any) -> None:
        raise ValueError("never seen")

    @workflow
    async def till(ctx: WorkflowContext) -> list[str]:
        found: list[str] = []
        for validator in (check, functools.partial(check)):
            with pytest.raises(TypeError, match="validator must be a plain function") as refused:
                ctx.on_update("u", print, validator)
            found.append(refused.typename)
        return found

    assert play(till.run) == ["TypeError", "TypeError"]
