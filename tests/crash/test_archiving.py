"""
Archiving survives whatever ends it: a kill before each of its system calls, and a power cut at any moment.

The lives are in `archive_lives`; that these checks can fail is shown in `tests/controls/test_archive_controls.py`.
The whole engine, killed at the named points of archiving, comes behind them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from polos import BatchWorkflowInput, Polos, PolosClient, Retention, WorkflowContext, workflow
from polos.engine.projections import RUN_PREFIX
from polos.features import archive
from polos.points import ARCHIVE_POINTS, arm
from polos.runtime.folding import FOLD
from polos.store.check import verify
from polos.store.directory import open_store

from tests.campaign import SEED, scaled
from tests.crash.archive_lives import archive_streams, check_archive, fill_streams
from tests.crash.children import in_child
from tests.crash.engine_lives import die_at, forked, light
from tests.crash.kill_points import kill_points
from tests.crash.power_images import pictures
from tests.crash.power_runs import check_all, recorded

SUBSETS = scaled(3, 1_000)
TEAR_STEP = scaled(60, 1)
IMAGES = scaled(50, 1_000_000)
KILL_STEP = scaled(10, 1)
RUNS = 6


@pytest.mark.usefixtures("ptrace")
def test_power_cut_while_archiving(tmp_path):
    """No image lacks a record: what left the log is in a segment that is whole."""
    history = recorded(tmp_path / "lived", archive_streams, fill_streams)
    made = pictures(history, subsets=SUBSETS, seed=f"{SEED}-archive", tear_step=TEAR_STEP)
    chosen = made.some(IMAGES, f"{SEED}-archive")
    print(f"power cut while archiving: {len(chosen):,} of {made}")

    assert [] == check_all(tmp_path, "tests.crash.archive_lives:check_archive", [(history, one) for one in chosen])


@pytest.mark.usefixtures("ptrace")
def test_killed_before_each_call_while_archiving(tmp_path):
    """Killed anywhere in it, archiving is taken up where it was."""
    points = 0
    for point in kill_points(archive_streams, tmp_path, prepare=fill_streams):
        points += 1
        if points % KILL_STEP == 0 or point.before is None:
            promised = {name: point.numbers(name) for name in ("sealed", "taken")}
            in_child(partial(check_archive, point.directory, promised, {}))

    assert points > 30


@workflow(id="crash_archived_leaf")
async def leaf(ctx: WorkflowContext, payload: dict) -> str:
    return await ctx.step.run("leaf", lambda: "leaf " * payload["n"])


@workflow(id="crash_archived", retention=Retention(max_age_seconds=0))
async def archived(ctx: WorkflowContext, payload: dict) -> int:
    await ctx.step.invoke_and_wait("leaf", leaf, payload)
    return int(payload["n"])


def life(directory: Path, point: str | None, nth: int) -> None:
    """Start runs if there are none, and wait until all that were started are archived."""
    if point is not None:
        arm(die_at(point, nth))
    light()

    async def main() -> None:
        async with Polos(data_dir=directory / "data") as polos:
            if not archive.list(polos) and not await polos.list_executions():
                wanted = [BatchWorkflowInput(id=archived.id, payload={"n": number}) for number in range(RUNS)]
                await polos.batch_invoke(wanted)
            while await polos.list_executions() or left(polos) or polos.engine.archiving._task is not None:
                await asyncio.sleep(0)

    asyncio.run(main())


def left(polos: Polos) -> bool:
    """Tell whether records of runs are in the log."""
    with polos.engine.store.log.reader() as reader:
        return any(record.stream.startswith(RUN_PREFIX) for record in reader.records())


def look(directory: Path) -> None:
    """Check that each run was archived once, with its result, and that all of the store is well."""
    data = directory / "data"

    async def main() -> None:
        async with PolosClient(data_dir=data) as client:
            found = [run["id"] for run in archive.list(client, workflow_id="crash_archived")]
            results = [(await client.get_execution(run))["result"] for run in found]
            assert sorted(results) == list(range(RUNS))
            assert 2 * RUNS == len(archive.list(client))

    asyncio.run(main())
    with open_store(data, read_only=True) as store, store.log.reader() as reader:
        seals = [record for record in reader.records() if record.type == "RangeSealed"]
    assert 1 <= len(seals) <= RUNS
    os._exit(0 if verify(data, fold=FOLD).ok else 1)


@pytest.mark.parametrize("point", ARCHIVE_POINTS)
def test_killed_at_every_point_of_archiving(tmp_path, point):
    """Killed there, again and again, every run is archived in the end, once, with everything that it was."""
    deaths = [forked(partial(life, tmp_path, point, nth)) for nth in (1, 1, 2)]
    assert 0 == forked(lambda: life(tmp_path, None, 1))

    assert -signal.SIGKILL == deaths[0]
    assert {-signal.SIGKILL, 0} >= set(deaths)
    assert 0 == forked(lambda: look(tmp_path))
