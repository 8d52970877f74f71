"""
Two branches of two steps, then one more step: killed anywhere, and replayed exactly, every single time.

The smallest program in which the order of things is up to chance. How long each step and each append takes is drawn,
so is the moment of the kill, and where something leaves memory in between. Then the history is replayed: here, and in
a fresh interpreter with another hash seed, another working directory and nothing but the log.

``POLOS_CAMPAIGN=long`` tries each 10,000 times, which takes two minutes for each program.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from polos import StepExecutionError, Workflow, workflow
from polos.engine import events as e
from polos.engine.codec import decode, encode
from polos.testing.audit import Stored
from polos.testing.simulation import Simulation
from polos.testing.world import world

from tests.campaign import SEED, scaled
from tests.property.replaying import check_replay

CASES = scaled(250, 10_000)
TICKS_MIN = {"gather_anywhere": 18, "group_anywhere": 23}  # a run that isn't killed has at least so many moments


class Broken(Exception):
    """What a member raises."""


async def work(name: str, takes_us: int) -> str:
    """Take a while."""
    await world().perform(takes_us=takes_us)
    return name


async def broken(takes_us: int) -> None:
    """Take a while, and fail."""
    await world().perform(takes_us=takes_us)
    raise Broken


@workflow(id="gather_anywhere")
async def gathered(ctx, payload: dict[str, Any]) -> str:
    """Gather two branches of two steps, and do one more."""
    takes_us = payload["takes_us"]

    async def branch(name: str) -> str:
        first = await ctx.step.run(f"{name}1", work, f"{name}1", takes_us[f"{name}1"])
        return str(first + await ctx.step.run(f"{name}2", work, f"{name}2", takes_us[f"{name}2"]))

    left, right = await asyncio.gather(branch("a"), branch("b"))
    return str(await ctx.step.run("last", work, left + right, takes_us["last"]))


@workflow(id="group_anywhere")
async def grouped(ctx, payload: dict[str, Any]) -> str:
    """Let members of a task group fail, the others clean up behind themselves, and do one more."""
    takes_us = payload["takes_us"]

    async def member(name: str) -> None:
        try:
            await ctx.step.run(f"{name}1", work, name, takes_us[f"{name}1"])
            await ctx.step.run(f"{name}2", broken, takes_us[f"{name}2"], max_retries=0)
        finally:
            await ctx.step.run(f"clean {name}", work, name, takes_us["last"])

    try:
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b"):
                group.create_task(member(name))
    except* StepExecutionError:
        pass
    return str(await ctx.step.run("last", work, "a1a2b1b2", takes_us["last"]))


def play(program: Workflow[Any], number: int) -> list[Stored]:
    """Play one case, kill and all, and give the run's history."""
    chance = Random(f"{SEED}/{program.id}/{number}")
    names = ("a1", "a2", "b1", "b2", "last")
    payload = {"takes_us": {name: chance.choice([0, 1, 50, 200, 300, chance.randrange(3_000)]) for name in names}}
    with Simulation([program], seed=chance.randrange(1 << 30), latency_us_max=chance.choice([0, 100, 1_000])) as sim:
        ticks = TICKS_MIN[program.id]
        sim.world.crash_at.add(chance.randrange(1, ticks))
        if chance.random() < 0.5:
            sim.world.crash_at.add(chance.randrange(1, 2 * ticks))
        call = sim.create(program, payload)
        while True:
            if not sim.alive:
                sim.start()
                if not call.answered:
                    sim.send_again(call)
            sim.run_for(chance.choice([0, 0.0001, 0.0005, 0.002]))
            if sim.alive:
                sim.evict()
                if call.run in sim.audit.states and not sim.audit.living():
                    break

        assert sim.world.life > 1
        assert "a1a2b1b2" == sim.result(call.run)
        sim.audit.check_rows()
        assert [] == sim.audit.diverged
        check_replay(sim, call.run)
        return sim.audit.histories[call.run]


def replay_all(path: str) -> None:
    """Replay the histories in a file; for the fresh process."""
    with Simulation([gathered, grouped]) as sim:
        count = 0
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            history = [
                (decode(name, version, payload.encode()), time_us, position)
                for name, version, payload, time_us, position in json.loads(line)
            ]
            created = history[0][0]
            assert isinstance(created, e.RunCreated)
            check_replay(sim, created.root, history)
            count += 1
    print(f"{count} replayed under hash seed {os.environ['PYTHONHASHSEED']}")


def written(history: list[Stored]) -> str:
    """Write a history as one line."""
    encoded = [(encode(event), time_us, position) for event, time_us, position in history]
    return json.dumps([(name, version, data.decode(), at, where) for (name, version, data), at, where in encoded])


@pytest.mark.parametrize("program", [gathered, grouped], ids=lambda program: program.id)
def test_e6_killed_anywhere(program: Workflow[Any], tmp_path: Path, root: Path) -> None:
    """E6, E8: killed anywhere, evicted in between, all of the cases end as they must and replay exactly, anywhere."""
    histories = tmp_path / "histories"
    with histories.open("w", encoding="utf-8") as file:
        file.writelines(written(play(program, number)) + "\n" for number in range(CASES))
    for hash_seed in ("1", "4294967295"):
        done = _in_fresh_process(replay_all, histories, root=root, cwd=tmp_path, hash_seed=hash_seed)

        assert f"{CASES} replayed under hash seed {hash_seed}" == done


def _in_fresh_process(function: Callable[[str], None], path: Path, *, root: Path, cwd: Path, hash_seed: str) -> str:
    script = f"from {function.__module__} import {function.__name__} as f; f({str(path)!r})"
    environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()
