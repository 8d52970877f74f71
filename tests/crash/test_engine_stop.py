"""
A program is asked to end while fifty steps run: nothing they do is lost, and nothing is done that isn't asked for.

Whatever takes the program down, the engine waits for running steps for as long as it is told to; those that end in
time are recorded, the others stay owed. None fails: a cancellation from outside is nobody's outcome.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from polos import workflow
from polos.clock import SystemClock
from polos.engine import events as e

from tests.crash import engine_checks as checks
from tests.crash.children import in_child
from tests.crash.load import witness
from tests.crash.scenes import checked, dying, engine_on, play, until

STEPS = 50
HELD = 26  # the others end within the grace
GRACE_SECONDS = 3600.0


class Impatient:
    """The system's clock, but what is far off comes when `hurry` is called."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._far: list[Any] = []
        self._ahead_us = 0

    def call_at(self, due_us: int, callback: Any) -> Any:
        """Call back later."""
        if due_us > self._clock.now_us() + 1_000_000_000:
            self._far.append(callback)
        return self._clock.call_at(due_us, callback)

    def hurry(self) -> None:
        """Let what is far off come now."""
        self._ahead_us = 10_000_000_000
        for callback in self._far:
            callback()

    def now_us(self) -> int:
        """Give the time, after `hurry` a later one."""
        return self._clock.now_us() + self._ahead_us

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


class Gate:
    """Lets some of the steps go when the engine stops, and others never."""

    def __init__(self) -> None:
        self.is_open = False
        self.opened = threading.Event()
        self.engine: Any = None
        self.clock: Any = Impatient()


gate = Gate()


async def on_loop(number: int) -> str:
    """Run until the engine stops; every other one of these for ever, in the first life."""
    if not gate.is_open:
        await until(lambda: gate.engine.stopping)
        gate.opened.set()
        if number == 0:
            await until(lambda: len(gate.engine.performer.in_flight) == HELD)
            gate.clock.hurry()
        if number % 4 == 0:
            await asyncio.get_running_loop().create_future()
    return witness.call()


def in_thread(number: int) -> str:
    """The same, in a thread."""
    if not gate.is_open:
        gate.opened.wait()
        if number % 4 == 1:
            threading.Event().wait()
    return witness.call()


@workflow(id="fifty")
async def fifty(ctx, payload: dict) -> list[str]:
    """Run fifty steps at once, half of them in threads."""
    steps = [
        ctx.step.run(f"step {number}", in_thread if number % 2 else on_loop, number, max_retries=0)
        for number in range(STEPS)
    ]
    return list(await asyncio.gather(*steps))


async def underway(polos: Any, directory: Path) -> None:
    """Start the steps and wait until all of them run."""
    gate.engine = polos.engine
    witness.use(directory, "first", polos.engine.store.log)
    await fifty.invoke(polos, {})
    await until(lambda: len(polos.engine.performer.in_flight) == STEPS)


def ways(directory: Path) -> dict[str, Any]:
    """Give the ways to end a program, each as a scene, and the exit code that it leads to."""

    async def sigint() -> None:
        async with engine_on(directory, stop_grace_seconds=GRACE_SECONDS, clock=gate.clock) as polos:
            await underway(polos, directory)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.get_running_loop().create_future()

    async def sigterm() -> None:
        async with engine_on(directory, stop_grace_seconds=GRACE_SECONDS, clock=gate.clock) as polos:
            await underway(polos, directory)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.get_running_loop().create_future()

    async def exception() -> None:
        async with engine_on(directory, stop_grace_seconds=GRACE_SECONDS, clock=gate.clock) as polos:
            await underway(polos, directory)
            raise LookupError("the program's own")

    async def cancelled() -> None:
        polos = engine_on(directory, stop_grace_seconds=GRACE_SECONDS, clock=gate.clock)

        async def program() -> None:
            async with polos:
                await underway(polos, directory)
                await asyncio.get_running_loop().create_future()

        task = asyncio.ensure_future(program())
        await until(lambda: polos._engine is not None and len(polos.engine.performer.in_flight) == STEPS)
        task.cancel()
        await task

    async def stop() -> None:
        polos = engine_on(directory, stop_grace_seconds=GRACE_SECONDS, clock=gate.clock)
        await polos.start()
        await underway(polos, directory)
        await polos.stop()

    return {"sigint": (sigint, 1), "sigterm": (sigterm, -signal.SIGTERM), "exception": (exception, 1),
            "cancelled": (cancelled, 1), "stop": (stop, 0), **ways_without_a_block(directory)}  # fmt: skip


def ways_without_a_block(directory: Path) -> dict[str, Any]:
    """Give the ways to end a program whose engine was started by a task that is over."""

    async def started() -> Any:
        polos = engine_on(directory, stop_grace_seconds=GRACE_SECONDS, clock=gate.clock)
        await asyncio.create_task(polos.start())
        await underway(polos, directory)
        return polos

    async def serving(number: signal.Signals) -> None:
        polos = await started()
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        await polos.serve()
        assert polos._engine is None

    async def served_in_a_block() -> None:
        async with await started() as polos:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
            await polos.serve()

    async def nobody() -> None:
        await started()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.get_running_loop().create_future()

    return {
        "served, sigterm": (lambda: serving(signal.SIGTERM), 0),
        "served, sigint": (lambda: serving(signal.SIGINT), 1),
        "served in a block": (served_in_a_block, -signal.SIGTERM),
        "nobody": (nobody, -signal.SIGTERM),
    }


WAYS = ("sigint", "sigterm", "exception", "cancelled", "stop",
        "served, sigterm", "served, sigint", "served in a block", "nobody")  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_ending_with_fifty_steps(tmp_path, way):
    """Steps that end within the grace are recorded, the others are owed and called again; none has failed."""
    scene, code = ways(tmp_path)[way]

    assert code == dying(scene)

    def first() -> list[int]:
        found = checks.find(tmp_path)
        for check in (checks.called_before_recorded, checks.recorded_came_from_a_call, checks.rows_are_the_fold):
            check(found)
        bad = list(found.events(e.StepFailed, e.StepAttemptFailed, e.StepAbandoned, e.RunFailed, e.RunCancelled))
        recorded = list(found.events(e.StepCompleted))
        return [len(found.ledger.lines("done")), len(recorded), len(bad)]

    assert [STEPS - HELD, STEPS - HELD, 0] == in_child(first)

    async def second() -> None:
        gate.is_open = True
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "second", polos.engine.store.log)
            (row,) = await polos.list_executions()
            await polos._wait_ended(row["id"])

    play(second)
    checked(
        tmp_path,
        checks.called_before_recorded,
        checks.steps_complete_once,
        checks.recorded_came_from_a_call,
        checks.every_run_ended,
        checks.store_is_sound,
    )


def test_nothing_is_taken_once_stopping(tmp_path):
    """A command that comes while the engine stops is refused as such, and leaves nothing."""

    async def scene() -> str:
        polos = engine_on(tmp_path, stop_grace_seconds=GRACE_SECONDS, clock=gate.clock)
        await polos.start()
        await underway(polos, tmp_path)
        engine = polos.engine
        stopping = asyncio.ensure_future(polos.stop())
        await until(lambda: engine.stopping)
        try:
            await engine.execute("late", {"kind": "cancel", "run": "any"})
        except Exception as error:
            return type(error).__name__
        finally:
            await stopping
        return "taken"

    assert "EngineNotRunning" == play(scene)
