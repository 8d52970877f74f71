"""
The suite catches engines that are broken on purpose, each by a check that the crash tests rely on.

A check that has never failed may be unable to. So each scene here is played twice: by an engine with one promise
broken, after which the check must fail, and by the engine as it is, after which the same check must pass. The checks
are those of `tests.crash.engine_checks` and of the contract suite, not copies of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from polos import PolosClient, workflow
from polos.clock import SystemClock
from polos.points import arm
from polos.store.faults import FaultPlan

from tests.contract import logs, test_log
from tests.controls import broken
from tests.crash import engine_checks as checks
from tests.crash.children import ChildFailed
from tests.crash.engine_lives import die_at
from tests.crash.load import answer_to, direct, effect, large, quick, witness
from tests.crash.scenes import checked, dying, engine_on, faulty, play, until

KILLED = -signal.SIGKILL


def die() -> None:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)


async def some_turns() -> None:
    """Let everybody have many turns who has something to do."""
    for _ in range(500):
        await asyncio.sleep(0)


def look(directory: Path, broke: broken.Break, check: checks.Check, says: str) -> None:
    """Check a promise: it must be found broken, in these words, if it was, and else kept."""
    if broke is broken.nothing:
        checked(directory, check)
        return
    with pytest.raises(ChildFailed, match=rf"\n(AssertionError|polos\.errors\.StoreDamaged): {says}"):
        checked(directory, check)


def both(broke: broken.Break) -> Any:
    """Play a scene with an engine that is broken, and with one that isn't."""
    return pytest.mark.parametrize("broke", [broke, broken.nothing], ids=lambda one: one.__name__)


async def go_on(directory: Path) -> None:
    """Live on, as an engine that is as it should be, until a run of its own has ended after all that was owed."""
    async with engine_on(directory) as polos:
        witness.use(directory, "next", polos.engine.store.log)
        for _ in range(3):
            await quick.run(polos, {})


@workflow(id="asks")
async def asks(ctx, payload: dict) -> Any:
    """Wait for an answer."""
    return (await ctx.step.suspend("ask", {})).data


@workflow(id="hears")
async def hears(ctx, payload: dict) -> None:
    """Wait for two answers at once, do what depends on their order, then wait for the end."""
    order: list[str] = []

    async def one(name: str) -> None:
        await ctx.step.suspend(name, {})
        order.append(name)
        await ctx.step.run(f"after {order}", effect)

    await asyncio.gather(one("left"), one("right"))
    await ctx.step.wait_for_signal("end")


@workflow(id="heavy")
async def heavy(ctx, payload: dict) -> int:
    """Have a large result."""
    return len(await ctx.step.run("large", large))


@workflow(id="once")
async def once(ctx, payload: dict) -> str:
    """Call what may be called once."""
    return str(await ctx.step.run("once", effect, effect="at_most_once"))


@both(broken.answers_before_the_commit)
def test_answers_before_the_commit(tmp_path, broke):
    """A caller is told of a run, and the process dies before the commit: `answers_stand` finds nothing for it."""

    async def scene() -> None:
        broke()
        plan = FaultPlan()
        faulty(plan)
        polos = engine_on(tmp_path)
        await polos.start()
        ledger = witness.use(tmp_path, "life", polos.engine.store.log)
        plan.hold()

        async def call() -> None:
            ledger.note("created", (await quick.invoke(polos, {})).id)

        calling = asyncio.ensure_future(call())
        await until(lambda: plan.appends)
        await some_turns()
        die()
        await calling

    assert KILLED == dying(scene)

    look(tmp_path, broke, checks.answers_stand, r"callers were told what isn't in the log: .*'created'")


@both(broken.answers_direct_bodies_early)
def test_answers_a_direct_body_early(tmp_path, broke):
    """A body that does I/O acts on a result that is then lost: `answers_stand` finds what it was told missing."""

    async def scene() -> None:
        broke()
        plan = FaultPlan()
        faulty(plan)
        polos = engine_on(tmp_path)
        await polos.start()
        ledger = witness.use(tmp_path, "life", polos.engine.store.log)
        await direct.invoke(polos, {})
        await until(lambda: ledger.lines("call"))
        plan.hold()
        await until(lambda: ledger.lines("done"))
        await some_turns()
        die()

    assert KILLED == dying(scene)

    look(tmp_path, broke, checks.answers_stand, "callers were told what isn't in the log: ")


@both(broken.begins_before_the_intent)
def test_begins_before_the_intent(tmp_path, broke):
    """A step is called before it is recorded that it was asked for: `called_before_recorded` sees it."""

    async def scene() -> None:
        broke()
        plan = FaultPlan()
        faulty(plan)
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "life", polos.engine.store.log)
            plan.hold()
            running = asyncio.ensure_future(quick.run(polos, {}))
            await until(lambda: plan.appends)
            await some_turns()
            plan.let_go()
            await running

    play(scene)

    look(tmp_path, broke, checks.called_before_recorded, "called before their intent was recorded")


@both(broken.forgets_the_fence)
def test_forgets_the_fence(tmp_path, broke):
    """An owner that was replaced goes on appending: the contract's test of L7 fails."""

    async def scene() -> None:
        broke()
        log = logs.lmdb_full(tmp_path)
        try:
            test_log.test_l7_an_old_epoch_is_refused(log, log.acquire())
        except pytest.fail.Exception as failure:  # no Exception, so it wouldn't come out of the child
            raise AssertionError(str(failure)) from None

    if broke is broken.nothing:
        play(scene)
        return
    with pytest.raises(ChildFailed, match="DID NOT RAISE"):
        play(scene)


@both(broken.delivers_out_of_order)
def test_delivers_out_of_order(tmp_path, broke):
    """Two facts reach the code in the wrong order: in replay it asks for something else, and never ends."""

    async def first() -> None:
        broke()
        plan = FaultPlan()
        faulty(plan)
        polos = engine_on(tmp_path)
        await polos.start()
        ledger = witness.use(tmp_path, "life", polos.engine.store.log)
        run = await hears.invoke(polos, {})
        await until(lambda: not polos.engine.in_flight)
        plan.hold()
        begun = plan.appends
        told: list[Any] = [asyncio.ensure_future(quick.invoke(polos, {}))]
        await until(lambda: plan.appends > begun)
        # The writer is busy with that, so what comes now goes into one commit, and is seen when it is durable.
        polos.engine.next_position = 0
        told += [asyncio.ensure_future(polos.resume("hears", run.id, name, None)) for name in ("left", "right")]
        await until(lambda: len(polos.engine.in_flight) == 3)
        plan.let_go()
        await asyncio.gather(*told)
        await until(lambda: sum(line.key.startswith(run.id) for line in ledger.lines("done")) == 2)
        await until(lambda: not (polos.engine.in_flight or polos.engine.performer.in_flight))
        die()

    async def second() -> None:
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "next", polos.engine.store.log)
            (row,) = await polos.list_executions(workflow_id="hears")
            await polos.signal(row["id"], "end")
            for _ in range(3):
                await quick.run(polos, {})

    assert KILLED == dying(first)
    play(second)

    look(tmp_path, broke, checks.every_run_ended, "runs that didn't complete: ")


@both(broken.takes_recorded_for_delivered)
def test_takes_recorded_for_delivered(tmp_path, broke):
    """An answer is recorded, and the process dies before the code has seen it: the run never ends."""

    async def first() -> None:
        polos = engine_on(tmp_path)
        await polos.start()
        witness.use(tmp_path, "life", polos.engine.store.log)
        run = await asks.invoke(polos, {})
        await until(lambda: not polos.engine.in_flight)
        polos.engine.next_position = 0  # as after a failed commit: the code sees no answer before it is durable
        arm(die_at("after_append_before_handback", 1))
        await polos.resume("asks", run.id, "ask", answer_to(run.id))

    async def second() -> None:
        broke()
        await go_on(tmp_path)

    assert KILLED == dying(first)
    play(second)

    look(tmp_path, broke, checks.every_run_ended, "runs that didn't complete: ")


@pytest.mark.parametrize("check", [checks.rows_are_the_fold, checks.store_is_sound])
@both(broken.drops_a_row)
def test_drops_a_row(tmp_path, broke, check):
    """A projection lacks a row: comparing it with the fold shows it, and so does `verify`."""

    async def scene() -> None:
        broke()
        await go_on(tmp_path)

    play(scene)

    look(tmp_path, broke, check, "(L6: rows that aren't the fold: |damaged: .*L6)")


@both(broken.repeats_a_completed_step)
def test_repeats_a_completed_step(tmp_path, broke):
    """A step is called after its completion is recorded: `called_before_recorded` sees how far the log was."""

    async def scene() -> None:
        broke()
        await go_on(tmp_path)

    play(scene)

    look(tmp_path, broke, checks.called_before_recorded, "called after their completion was recorded")


@both(broken.calls_again_what_may_be_called_once)
def test_calls_again_what_may_be_called_once(tmp_path, broke):
    """A step that may be called once was cut off by a crash, and is called again: `at_most_once` counts two."""

    async def first() -> None:
        polos = engine_on(tmp_path)
        await polos.start()
        witness.use(tmp_path, "life", polos.engine.store.log)
        arm(die_at("after_effect_before_outcome", 1))
        await once.run(polos, {})

    async def second() -> None:
        broke()
        await go_on(tmp_path)

    assert KILLED == dying(first)
    play(second)

    look(tmp_path, broke, checks.at_most_once, "called more than once: ")


@both(broken.loses_a_resume)
def test_loses_a_resume(tmp_path, broke):
    """An answer is taken and forgotten: `answers_stand` looks for it in vain."""

    async def scene() -> None:
        broke()
        async with engine_on(tmp_path) as polos:
            ledger = witness.use(tmp_path, "life", polos.engine.store.log)
            run = await asks.invoke(polos, {})
            await until(lambda: not polos.engine.in_flight)
            await polos.resume("asks", run.id, "ask", answer_to(run.id))
            ledger.note("answered", run.id, answer_to(run.id))

    play(scene)

    look(tmp_path, broke, checks.answers_stand, r"callers were told what isn't in the log: .*'answered'")


def kept_command(directory: Path) -> Callable[[], Any]:
    """Make a scene: a client starts a run while no engine is there, and is told that it will be."""

    async def scene() -> None:
        async with PolosClient(data_dir=directory / "data") as client:
            run = await quick.invoke(client, {})
            witness.use(directory, "client").note("created", run.id)

    return scene


@both(broken.removes_the_file_first)
def test_removes_the_file_before_the_append(tmp_path, broke):
    """The file of a command is gone and the process dies before the commit: `answers_stand` misses the run."""

    async def scene() -> None:
        broke()
        arm(die_at("inbox_before_append", 1))
        await go_on(tmp_path)

    play(kept_command(tmp_path))
    assert KILLED == dying(scene)
    play(lambda: go_on(tmp_path))

    look(tmp_path, broke, checks.answers_stand, r"callers were told what isn't in the log: .*'created'")


@both(broken.decides_a_command_twice)
def test_decides_a_command_twice(tmp_path, broke):
    """A command was decided, and the process dies before its file is gone: `commands_decided_once` counts two."""

    async def first() -> None:
        arm(die_at("inbox_after_append_before_remove", 1))
        await go_on(tmp_path)

    async def second() -> None:
        broke()
        await go_on(tmp_path)

    play(kept_command(tmp_path))
    assert KILLED == dying(first)
    play(second)

    look(tmp_path, broke, checks.commands_decided_once, "commands decided more than once: ")


@both(broken.commits_before_the_blob)
def test_commits_before_the_blob(tmp_path, broke):
    """A record names a blob that isn't there: the store is found damaged when it is opened."""

    async def scene() -> None:
        broke()
        polos = engine_on(tmp_path, record_sources=False)
        await polos.start()
        ledger = witness.use(tmp_path, "life", polos.engine.store.log)
        await heavy.invoke(polos, {})
        await until(lambda: ledger.lines("done") and not (polos.engine.in_flight or polos.engine.performer.in_flight))
        die()

    assert KILLED == dying(scene)

    look(tmp_path, broke, checks.store_is_sound, r".*is damaged \(blobs: blob .* isn't there")


class Jumping:
    """The system's clock, and it can be set back."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.behind_us = 0

    def now_us(self) -> int:
        """Give the time."""
        return self._clock.now_us() - self.behind_us

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


@both(broken.lets_time_go_back)
def test_lets_time_go_back(tmp_path, broke):
    """The clock is set back under an engine that believes it: `time_never_goes_back` sees it in the records."""

    async def scene() -> None:
        broke()
        clock = Jumping()
        async with engine_on(tmp_path, clock=clock) as polos:
            ledger = witness.use(tmp_path, "life", polos.engine.store.log)
            run = await quick.invoke(polos, {})
            await until(lambda: ledger.lines("call"))
            clock.behind_us = 3_600_000_000
            await polos._wait_ended(run.id)

    play(scene)

    look(tmp_path, broke, checks.time_never_goes_back, "time goes back in ")
