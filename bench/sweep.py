"""
The crash sweep: crash points a second, beside runs in the same simulation that nothing disturbs.

Run as `python -m bench sweep`. A point that is lived by itself is a life that dies, another that recovers, and the
comparison, so about twice the floor's work is what it has to cost. Of points at which a crash leaves the same, one is
lived; and its scenario may begin with what an undisturbed run left there, which is the default where nothing can be
kept in memory, as here. What steps do outside are notes in a file, and their cost is that of the file system. What it
costs to find out which points there are and what they leave, two undisturbed runs, is in all figures. Points in child
processes are two forks and a log on disk. The last table is how long a sweep takes until it has found each of the bugs
that are planted in `examples/testing`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.measures import Sample, Subject, compare, measured
from examples.testing import double_charge, state_in_step, step_key
from polos import Workflow, WorkflowContext, workflow
from polos.testing import CrashSweepFailed, Outside, Simulation
from polos.testing.sweep import sweep

__all__ = ["main"]

SWEEPS = 20


async def work(number: int) -> int:
    return number + 1


@workflow(id="bench_sweep")
async def three_steps(ctx: WorkflowContext) -> list[int]:
    return [await ctx.step.run(f"step-{number}", work, number) for number in range(3)]


bank = Outside("bench")


async def noted(number: int) -> int:
    bank.note("worked", number=number)
    return number + 1


@workflow(id="bench_sweep_noted")
async def three_noted(ctx: WorkflowContext) -> list[int]:
    return [await ctx.step.run(f"step-{number}", noted, number) for number in range(3)]


@workflow(id="bench_sweep_long")
async def thirty_steps(ctx: WorkflowContext) -> list[int]:
    return [await ctx.step.run(f"step-{number}", work, number) for number in range(30)]


class Parcel(BaseModel):
    order: int
    grams: int = 100


def packed(order: int) -> Parcel:
    return Parcel(order=order)


@workflow(id="bench_sweep_ship")
async def ship(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    await ctx.step.wait_for("pick-up", hours=2)
    return f"label {await ctx.step.run('label', noted, payload['order'])}"


@workflow(id="bench_sweep_order")
async def order(ctx: WorkflowContext) -> str:
    """Take the things that a program is made of: notes outside, a question, timers, a child."""
    await ctx.step.run("charge", noted, 7)
    await ctx.step.suspend("gift", {"wrap": "this?"})
    parcel = await ctx.step.run("pack", packed, 7)
    await ctx.step.wait_for("cut-off", days=1)
    label: str = await ctx.step.invoke_and_wait("shipping", ship, {"order": parcel.order})
    await ctx.step.run("mail", work, 7)
    return label


def undisturbed(folder: Path, runs: int) -> Sample:
    with measured(runs, folder) as sample:
        for _ in range(runs):
            with Simulation([three_steps]) as simulation:
                call = simulation.create(three_steps, None)
                simulation.settle()
                assert simulation.result(call.run) == [1, 2, 3]
    return sample


def in_process(folder: Path, sweeps: int, which: Workflow[Any] = three_steps, **options: Any) -> Sample:
    done = 0
    with measured(0, folder) as sample:
        for _ in range(sweeps):
            done += sweep(which, processes=0, pairs=0, **options).singles
    sample.units = done
    return sample


def pairs(folder: Path, sweeps: int, **options: Any) -> Sample:
    done = 0
    with measured(0, folder) as sample:
        for _ in range(sweeps):
            done += sweep(three_steps, processes=0, **options).pairs
    sample.units = done
    return sample


def in_children(folder: Path, sweeps: int) -> Sample:
    done = 0
    with measured(0, folder) as sample:
        for _ in range(sweeps):
            done += sweep(three_steps, real=True, pairs=0, points=30).processes
    sample.units = done
    return sample


def found(folder: Path, which: str) -> Sample:
    options = {"check": double_charge.check} if which == "double_charge" else {}
    module = {"step_key": step_key, "double_charge": double_charge, "state_in_step": state_in_step}[which]
    payload = {"day": "monday", "cents": 1, "pieces": 1}
    with measured(1, folder) as sample:
        try:
            sweep(module.broken, payload, **options)
        except CrashSweepFailed:
            return sample
    raise AssertionError(f"the bug in {which} wasn't found")


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the tables."""
    sweeps = max(round(SWEEPS * scale), 1)
    report = sweep(three_steps, processes=0, pairs=0)
    points, alike = len(report.points), report.alike
    same = Subject("undisturbed runs", partial(undisturbed, runs=sweeps * points))
    every = Subject("every point by itself", partial(in_process, sweeps=sweeps, every_point=True))
    alone = Subject("from its beginning", partial(in_process, sweeps=sweeps, from_remains=False))
    default = Subject("by default", partial(in_process, sweeps=sweeps))
    notes = Subject("... with notes outside", partial(in_process, sweeps=sweeps, which=three_noted))
    title = f"sweep: a workflow of 3 steps, {points} crash points, {points - alike} of them different by default"
    compare(title, [same, every, alone, default, notes], root=root, rounds=rounds)

    long = partial(in_process, sweeps=max(sweeps // 10, 1), which=thirty_steps)
    lived = Subject("from its beginning", partial(long, from_remains=False))
    kept = Subject("by default", long)
    compare("sweep: a workflow of 30 steps", [lived, kept], root=root, rounds=rounds)

    whole_order = partial(in_process, sweeps=max(sweeps // 4, 1), which=order, answers={"gift": True})
    lived = Subject("from its beginning", partial(whole_order, from_remains=False))
    compare("sweep: an order, with a child", [lived, Subject("by default", whole_order)], root=root, rounds=rounds)

    fewer = max(sweeps // 5, 1)
    whole = Subject("from its beginning", partial(pairs, sweeps=fewer, from_remains=False))
    begun = Subject("by default", partial(pairs, sweeps=fewer))
    compare("sweep: pairs of crashes, single ones before them included", [whole, begun], root=root, rounds=rounds)

    few = max(sweeps // 10, 1)
    runs = Subject("undisturbed runs", partial(undisturbed, runs=few * 31))
    killed = Subject("killed child processes", partial(in_children, sweeps=few))
    compare("sweep: in child processes, on disk", [runs, killed], root=root, rounds=rounds)

    bugs = [Subject(which, partial(found, which=which)) for which in ("step_key", "double_charge", "state_in_step")]
    compare("sweep: planted bugs found, with child processes to confirm each", bugs, root=root, rounds=rounds)
