"""
A disk that is full, or fails in the middle of a commit, under a running engine.

What a step gave is a fact, and a full disk doesn't undo facts: the engine keeps it until the log takes writes again,
and calls nothing twice. "For two seconds" is told by how often the engine has tried in vain, not by a clock.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from polos import workflow
from polos.engine.events import StepCompleted
from polos.errors import EngineNotRunning, PolosError, PolosStoreError, StoreFailed
from polos.features.events import EventData, publish
from polos.store.faults import Fault, FaultPlan

from tests.campaign import SEED, scaled
from tests.crash import engine_checks as checks
from tests.crash.ledger import Ledger
from tests.crash.load import answer_to, effect, mixed, threaded, witness
from tests.crash.scenes import checked, engine_on, faulty, play, until

RUNS = 12
STEPS = 6
TRIES = 40  # at 50 ms each, as an engine is set up by default, two seconds

PROMISES = (
    checks.called_before_recorded,
    checks.steps_complete_once,
    checks.recorded_came_from_a_call,
    checks.answers_stand,
    checks.rows_are_the_fold,
    checks.every_run_ended,
    checks.store_is_sound,
)


@workflow(id="steady")
async def steady(ctx, payload: dict) -> list[str]:
    """Several steps, one after another, on the loop and in threads."""
    return [
        await ctx.step.run(f"step {number}", threaded if number % 3 == 2 else effect)
        for number in range(payload.get("steps", STEPS))
    ]


@workflow(id="tool_like", deterministic=False)
async def tool_like(ctx, payload: dict) -> list[str]:
    """The same in a body that may do I/O itself, with a timer in between."""
    first = await ctx.step.run("first", effect)
    witness.ledger.note("told", f"{ctx.execution_id}/first", first)
    await ctx.step.wait_for("a moment", seconds=0.001)
    second = await ctx.step.run("second", threaded)
    witness.ledger.note("told", f"{ctx.execution_id}/second", second)
    return [first, second]


async def start(polos: Any, runs: int = RUNS) -> list[Any]:
    """Start runs of both kinds, and note each that is acknowledged."""
    kinds = (steady, tool_like)
    handles = await asyncio.gather(*(kinds[number % 4 == 3].invoke(polos, {}) for number in range(runs)))
    for handle in handles:
        witness.ledger.note("created", handle.id)
    return handles


async def finish(polos: Any, handles: list[Any]) -> None:
    """Wait for runs, and note what they gave."""
    for handle in handles:
        await polos._wait_ended(handle.id)
        witness.ledger.note("ended", handle.id, (await handle.get())["result"])


def called_once(found: checks.Found) -> None:
    """No step was called twice: the process has lived on, and has no reason to."""
    calls = Counter(line.key for line in found.ledger.lines("call"))

    assert {} == {key: count for key, count in calls.items() if count > 1}
    assert len(calls) == len(list(found.events(StepCompleted)))


@pytest.mark.parametrize("after", [1, 9, 30])
def test_full_for_two_seconds(tmp_path, after):
    """A disk that is full for a while under load costs time: no step is called again, no outcome is lost."""

    async def scene() -> None:
        plan = FaultPlan()
        faulty(plan)
        async with engine_on(tmp_path) as polos:
            ledger = witness.use(tmp_path, "life", polos.engine.store.log)
            handles = await start(polos)
            await until(lambda: len(ledger.lines("call")) >= after)
            plan.always(Fault.FULL)
            await until(lambda: plan.failed >= TRIES)
            called = len(ledger.lines("call"))
            await until(lambda: plan.failed >= 2 * TRIES)
            assert called == len(ledger.lines("call")), "nothing new starts while the log refuses writes"
            plan.never()
            await finish(polos, handles)

    play(scene)

    checked(tmp_path, *PROMISES, called_once)


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_LOST, Fault.UNKNOWN_KEPT, Fault.REFUSED])
@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_commit_that_breaks_off(tmp_path, fault, at):
    """A commit of unknown outcome, whichever way it turns out, repeats no step and loses no outcome."""

    async def scene() -> int:
        plan = FaultPlan()
        plan.at(at, fault)
        plan.at(at + 2, fault)
        plan.fail_reopening(2)
        faulty(plan)
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "life", polos.engine.store.log)
            await finish(polos, await start(polos))
        return plan.failed

    assert 2 == play(scene)

    checked(tmp_path, *PROMISES, called_once)


@workflow(id="careful")
async def careful(ctx, payload: dict) -> str:
    """Waits; cleans up if it is cancelled."""
    try:
        return str(await ctx.step.wait_for_signal("go"))
    except asyncio.CancelledError:
        await ctx.step.run("clean up", effect)
        raise


@workflow(id="doubtful")
async def doubtful(ctx, payload: dict) -> str:
    """Asks for a step that may be called once and doesn't come back in time."""
    return str(await ctx.step.run("once", never, effect="at_most_once", timeout_seconds=0.001))


async def never() -> None:
    """Not come back."""
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_LOST, Fault.UNKNOWN_KEPT, Fault.FULL])
def test_commands_are_done_once(tmp_path, fault):
    """A command whose commit seems to fail is done once, however it turns out: publish, signal, cancel, resolve."""

    async def scene() -> list[Any]:
        plan = FaultPlan()
        faulty(plan)
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "life", polos.engine.store.log)
            runs = [await workflow.invoke(polos, {}) for workflow in (careful, careful, doubtful)]
            await until(lambda: not polos.engine.in_flight)
            plan.next(fault)
            published = await publish(polos, "news", EventData(data={"n": 1}))
            plan.next(fault)
            await runs[0].signal(polos, "go", "on")
            await polos._wait_ended(runs[0].id)
            plan.next(fault)
            await runs[1].cancel(polos)
            await polos._wait_ended(runs[1].id)
            await until_unknown(polos, runs[2].id)
            plan.next(fault)
            await polos.resolve(runs[2].id, "once", "completed", "well")
            await polos._wait_ended(runs[2].id)
            ends = [await polos.get_execution(run.id) for run in runs]
            with polos.engine.store.log.reader() as reader:
                news = [record.position * 4096 for record in reader.stream("topic/news")]
            return [plan.failed, [published] == news, [[end["status"], end["result"]] for end in ends]]

    wanted = [4, True, [["completed", "on"], ["cancelled", None], ["completed", "well"]]]
    assert wanted == play(scene)

    checked(tmp_path, checks.steps_complete_once, checks.rows_are_the_fold, called_once)


async def until_unknown(polos: Any, run: str) -> None:
    """Wait until a run has a step of unknown outcome."""
    moves = polos._connection().moves()
    while True:
        head = moves.head()
        if any(row["id"] == run for row in await polos.list_executions(status="step_outcome_unknown")):
            return
        await moves.behind(head)


def test_full_for_good(tmp_path):
    """Callers learn what is the matter, `stop` ends, and the next engine goes on with what is recorded."""

    async def first() -> None:
        plan = FaultPlan()
        faulty(plan)
        polos = engine_on(tmp_path, work_queue_max=5, stop_grace_seconds=0.05)
        await polos.start()
        ledger = witness.use(tmp_path, "first", polos.engine.store.log)
        for _ in range(RUNS):
            await start(polos, 1)
        await until(lambda: len(ledger.lines("call")) >= RUNS)
        plan.always(Fault.FULL)
        await until(lambda: plan.failed)
        waiting = [asyncio.ensure_future(steady.invoke(polos, {})) for _ in range(20)]
        await until(lambda: any(task.done() for task in waiting))
        early = [task.exception() for task in waiting if task.done()]
        await polos.stop()
        errors = await asyncio.gather(*waiting, return_exceptions=True)

        assert all(isinstance(error, StoreFailed) for error in early), early
        assert {(True, False)} == {(error.retryable, error.maybe_happened) for error in early}  # type: ignore[union-attr]
        assert all(isinstance(error, PolosStoreError | EngineNotRunning) for error in errors), errors

    play(first)
    play(lambda: next_life(tmp_path))

    checked(tmp_path, *PROMISES)


@pytest.mark.parametrize("number", range(scaled(12, 500)))
def test_faults_at_random(tmp_path, number):
    """Commits fail at random, in every way, under a load that does a little of everything: every promise holds."""
    chance = random.Random(f"{SEED}-{number}")

    async def scene() -> int:
        plan = FaultPlan()
        for at in chance.sample(range(1, 60), 12):
            plan.at(at, chance.choice(list(Fault)))
        plan.fail_reopening(chance.randrange(3))
        faulty(plan)
        async with engine_on(tmp_path) as polos:
            ledger = witness.use(tmp_path, "life", polos.engine.store.log)
            answering = asyncio.ensure_future(answer(polos, ledger))
            handles = await asyncio.gather(*(mixed.invoke(polos, {"number": index}) for index in range(6)))
            for handle in handles:
                ledger.note("created", handle.id)
            await finish(polos, handles)
            answering.cancel()
        return plan.failed

    assert 0 < play(scene)

    checked(tmp_path, *checks.CHECKS)


async def answer(polos: Any, ledger: Ledger) -> None:
    """Answer whatever is suspended."""
    moves = polos._connection().moves()
    while True:
        head = moves.head()
        for row in await polos.list_executions(status="suspend"):
            await polos.resume("mixed", row["id"], "ask", answer_to(row["id"]))
            ledger.note("answered", row["id"], answer_to(row["id"]))
        await moves.behind(head)


async def next_life(directory: Path) -> None:
    """Go on with what is there, until everything has ended."""
    async with engine_on(directory) as polos:
        witness.use(directory, "next", polos.engine.store.log)
        for row in await polos.list_executions(limit=10_000):
            await polos._wait_ended(row["id"])


def test_file_may_not_grow(tmp_path):
    """A real limit of the system, on log, blobs and all: it is the same as a full disk, and passes as well."""

    async def scene() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "life", polos.engine.store.log)
            handles = await start(polos, 4)
            data = tmp_path / "data" / "log" / "data.mdb"
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(data).st_size, hard))
            waiting = asyncio.ensure_future(start(polos, RUNS))
            await until(lambda: polos.engine.broken is not None)
            error = polos.engine.broken
            assert isinstance(error, PolosError)
            assert getattr(error, "retryable", False), error
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            await finish(polos, [*handles, *await waiting])

    play(scene)

    checked(tmp_path, *PROMISES)
