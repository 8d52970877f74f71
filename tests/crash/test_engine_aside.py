"""Runs that can't go on, and mustn't hold up others: code that kills its process, and code that isn't there."""

from __future__ import annotations

import os
import signal
from typing import Any

from polos import workflow
from polos.runtime.bodies import Bodies

from tests.crash import engine_checks as checks
from tests.crash.load import effect, quick, witness
from tests.crash.scenes import checked, dying, engine_on, play

KILLED = -signal.SIGKILL


class Deadly:
    """At which steps a body kills its process; changed like code is: between lives."""

    after: frozenset[int] = frozenset()


deadly = Deadly()


@workflow(id="killer")
async def killer(ctx, payload: dict) -> str:
    """Take five steps; kill the process after some of them."""
    for number in range(5):
        await ctx.step.run(f"step {number}", effect)
        if number in deadly.after:
            os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def life(directory: Any, *after: int, begin: bool = False) -> int:
    """Live with code that kills after these steps, until the run has ended; gives the exit code."""

    async def scene() -> None:
        deadly.after = frozenset(after)
        async with engine_on(directory) as polos:
            witness.use(directory, f"life {after}", polos.engine.store.log)
            if begin:
                await killer.invoke(polos, {})
            (row,) = await polos.list_executions(workflow_id="killer")
            await polos._wait_ended(row["id"])

    return dying(scene)


def test_poisoned_run_is_set_aside(tmp_path):
    """After three deaths in a row at the same place a run is set aside, others go on; readmitted, it goes on, too."""
    deaths = [life(tmp_path, 2, begin=True), life(tmp_path, 2), life(tmp_path, 2)]

    async def fourth() -> list[Any]:
        deadly.after = frozenset({2})
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "fourth", polos.engine.store.log)
            others = await quick.run(polos, {})
            (row,) = await polos.list_executions(workflow_id="killer")
            return [len(others), row["status"], row["waiting_reason"]]

    async def fifth() -> list[Any]:
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "fifth", polos.engine.store.log)
            await quick.run(polos, {})
            (row,) = await polos.list_executions(status="poisoned")
            await polos.readmit(row["id"])
            await polos._wait_ended(row["id"])
            return [row["status"], (await polos.get_execution(row["id"]))["result"]]

    assert [KILLED] * 3 == deaths
    assert [2, "waiting", "poisoned"] == play(fourth)
    assert ["waiting", "alive"] == play(fifth)
    checked(tmp_path, *checks.CHECKS)


@workflow(id="direct_killer", deterministic=False)
async def direct_killer(ctx, payload: dict) -> str:
    """Take a step, and kill the process: a body that isn't replayed, so that each life is another attempt."""
    await ctx.step.run("step", effect)
    os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_poisoned_body_that_isnt_replayed(tmp_path):
    """A body that begins anew in each life is set aside all the same when it kills three in a row."""

    async def scene() -> None:
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "life", polos.engine.store.log)
            if not await polos.list_executions(workflow_id="direct_killer"):
                await direct_killer.invoke(polos, {})
            (row,) = await polos.list_executions(workflow_id="direct_killer")
            await polos._wait_ended(row["id"])

    async def fourth() -> list[Any]:
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "fourth", polos.engine.store.log)
            await quick.run(polos, {})
            (row,) = await polos.list_executions(workflow_id="direct_killer")
            return [row["status"], row["waiting_reason"]]

    assert [KILLED] * 3 == [dying(scene) for _ in range(3)]
    assert ["waiting", "poisoned"] == play(fourth)


def test_readmitted_run_may_kill_again(tmp_path):
    """A run that was readmitted and still kills is given three lives more, and is set aside again."""
    assert [KILLED] * 3 == [life(tmp_path, 0, begin=True), life(tmp_path, 0), life(tmp_path, 0)]

    async def readmitted() -> None:
        deadly.after = frozenset({0})
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "again", polos.engine.store.log)
            (row,) = await polos.list_executions(workflow_id="killer")
            await polos.readmit(row["id"])
            await polos._wait_ended(row["id"])

    assert KILLED == dying(readmitted)
    assert [KILLED] * 2 == [life(tmp_path, 0), life(tmp_path, 0)]

    async def last() -> str:
        deadly.after = frozenset({0})
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "last", polos.engine.store.log)
            await quick.run(polos, {})
            (row,) = await polos.list_executions(workflow_id="killer")
            return str(row["waiting_reason"])

    assert "poisoned" == play(last)


def test_progress_is_no_poison(tmp_path):
    """Deaths at different places, however many in a row, are no reason to set a run aside."""
    deaths = [life(tmp_path, number, begin=number == 0) for number in range(5)]

    assert [KILLED] * 5 == deaths
    assert 0 == life(tmp_path)
    checked(tmp_path, *checks.CHECKS)


def test_unknown_workflow_waits_for_its_code(tmp_path):
    """A run whose workflow this program doesn't have waits, before it began and in the middle, until it has it."""

    async def first() -> None:
        async with engine_on(tmp_path, stop_grace_seconds=0.0) as polos:
            witness.use(tmp_path, "first", polos.engine.store.log)
            await waits.invoke(polos, {})
            moves = polos._connection().moves()
            while True:
                head = moves.head()
                if await polos.list_executions(status="signal"):
                    return
                await moves.behind(head)

    async def without() -> list[str]:
        hide("waits")
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "without", polos.engine.store.log)
            await polos.invoke("waits", {})
            await quick.run(polos, {})
            for row in await polos.list_executions(workflow_id="waits"):
                await polos.signal(row["id"], "go", "on")
            moves = polos._connection().moves()
            while True:
                head = moves.head()
                rows = await polos.list_executions(status="no_code")
                if len(rows) > 1:
                    return [row["status"] for row in rows]
                await moves.behind(head)

    async def with_it() -> list[str]:
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "with", polos.engine.store.log)
            rows = await polos.list_executions(workflow_id="waits")
            for row in rows:
                await polos._wait_ended(row["id"])
            return [(await polos.get_execution(row["id"]))["result"] for row in rows]

    play(first)
    assert ["waiting"] * 2 == play(without)
    assert ["on", "on"] == play(with_it)
    checked(tmp_path, *checks.CHECKS)


@workflow(id="waits")
async def waits(ctx, payload: dict) -> str:
    """Have an effect, then wait for a signal."""
    await ctx.step.run("before", effect)
    return str(await ctx.step.wait_for_signal("go"))


def hide(workflow_id: str) -> None:
    """Let engines of this process not know a workflow."""
    init = Bodies.__init__

    def without(self: Bodies, find: Any, **rest: Any) -> None:
        init(self, lambda wanted: None if wanted == workflow_id else find(wanted), **rest)

    Bodies.__init__ = without  # type: ignore[method-assign]
