"""
An engine whose power is cut, and what must hold when the next one comes.

The lives of `tests.crash.lives` use the store; here it is used as an engine does, with runs, steps, a child whose
body does I/O itself, a large result and a step that may be called only once. What is promised is told by marks,
from where it can be relied on: a step that is called has its intent on disk, and the outcomes of those that its run
had before it; so has a direct body that is told a result; and a caller that is told of a run, or of its end.

An image is looked at twice: as it lies there, and after an engine on it has brought all its runs to their end.
"""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

from polos import Completed, Polos, workflow
from polos.engine import events as e
from polos.runtime import bodies, marker
from polos.runtime.code import describe_code

from tests.crash.engine_checks import Found, find, rows_are_the_fold, steps_complete_once, time_never_goes_back
from tests.crash.engine_lives import _until_ended
from tests.crash.events import mark
from tests.crash.power_server import Promises, walk

__all__ = ["live", "runs_go_on", "warm"]

RUNS = 2
LARGE = 40_000  # bytes of a result that becomes a blob
FOLD = "tests.crash.engine_checks:fold"
# The parts of a run, as they are called one after another; marks tell `number * 10 + part`.
STEPS = {1: "first", 2: "once", 3: "large", 4: "last"}
CHILD = {5: "before", 6: "after"}

_called: list[int] = []
_described = functools.cache(describe_code)


def warm() -> None:
    """Read the sources of the workflows once, in the process that the others are forked from; after another boot."""
    vars(marker)["_boot_id"] = lambda: b"f" * 32
    vars(bodies)["describe_code"] = _described
    for each in (steady, told):
        _described(each.func, name=each.id)


async def effect(number: int, part: int) -> str:
    """Be called, and tell so."""
    _called.append(number * 10 + part)
    mark("called", number * 10 + part)
    return result(number, part)


def result(number: int, part: int) -> str:
    """Give what a step gives."""
    return f"{number}.{part}".ljust(LARGE if STEPS.get(part) == "large" else 0, ".")


async def look(number: int, part: int) -> Completed:
    """Say of a step that may be called only once what became of it."""
    return Completed(result(number, part))


@workflow(id="power_told", deterministic=False)
async def told(ctx, payload: dict) -> list[str]:
    """Two steps, in a body that tells the world of the first."""
    number = payload["number"]
    before = await ctx.step.run("before", effect, number, 5)
    mark("told", number * 10 + 5)
    return [before, await ctx.step.run("after", effect, number, 6)]


@workflow(id="power_steady")
async def steady(ctx, payload: dict) -> list[Any]:
    """Four steps and a child, one after another."""
    number = payload["number"]
    found: list[Any] = [await ctx.step.run("first", effect, number, 1)]
    found.append(await ctx.step.run("once", effect, number, 2, effect="at_most_once", reconcile=look))
    found.append(len(await ctx.step.run("large", effect, number, 3)))
    found.append(await ctx.step.invoke_and_wait("told", told, {"number": number}))
    found.append(await ctx.step.run("last", effect, number, 4))
    return found


def outcome(workflow_id: str, number: int) -> list[Any]:
    """Give the result of a run."""
    child = [result(number, 5), result(number, 6)]
    if workflow_id == "power_told":
        return child
    return [result(number, 1), result(number, 2), LARGE, child, result(number, 4)]


def live(directory: Path) -> None:
    """Own the directory, start runs, and wait until they have ended; telling what is promised."""
    asyncio.run(_live(directory))


async def _live(directory: Path) -> None:
    async with Polos(data_dir=directory / "data", inbox_poll_seconds=0.002) as polos:
        mark("begin")
        for number in range(1, RUNS + 1):
            await steady.invoke(polos, {"number": number})
            mark("created", number)

        def ended(_: str, row: dict[str, Any]) -> None:
            if row["workflow_id"] == "power_steady":
                mark("ended", row["payload"]["number"])

        await _until_ended(polos, ended)


# -------------------------------------------------------------------------------------------- the check


def runs_go_on(top: Path, last: Promises, first: Promises) -> None:
    """Check that what was told is recorded, and that the next engine ends every run without calling a step again."""
    found = find(top)
    for promise in (steps_complete_once, rows_are_the_fold, time_never_goes_back):
        promise(found)
    _stands(found, last)
    completed = set(_by_number(found, e.StepCompleted))
    once = {number * 10 + 2 for number in range(1, RUNS + 1) if number * 10 + 2 in last.get("called", [])}

    asyncio.run(_recover(top))

    again = [number for number in _called if number in completed or number in once]
    assert [] == again, f"called again: {again}"
    after = find(top)
    for promise in (steps_complete_once, rows_are_the_fold, time_never_goes_back):
        promise(after)
    report = walk(top / "data", fold=FOLD)
    assert report.damage is None, str(report.damage)


def _stands(found: Found, promised: Promises) -> None:
    """Check that what was told by marks is recorded, with the right values."""
    created = [_number(found, run) for run in found.runs if found.created(run).workflow == "power_steady"]
    assert set(promised.get("created", [])) <= set(created), f"told, and not recorded: a run; {created} are"
    scheduled, completed = _by_number(found, e.StepScheduled), _by_number(found, e.StepCompleted)
    for number in promised.get("called", []):
        assert number in scheduled, f"told, and not recorded: that step {number} was asked for"
        own = STEPS if number % 10 in STEPS else CHILD
        for part in own:
            before = number - number % 10 + part
            assert part >= number % 10 or before in completed, (
                f"told, and not recorded: the end of step {before}, before {number}"
            )
    for number in promised.get("told", []):
        assert number in completed, f"told, and not recorded: the result of {number}"
    for number, event in completed.items():
        assert result(*divmod(number, 10)) == event.value, f"step {number} gave something else"
    ends = {_number(found, run) for run, _, _ in found.events(e.RunCompleted)}
    assert set(promised.get("ended", [])) <= ends, f"told, and not recorded: the end of a run; {ends} have ended"


def _number(found: Found, run: str) -> int:
    """Give the number of a run; a child has its parent's."""
    payload: Any = found.created(run).input
    return int(payload["number"])


def _by_number(found: Found, kind: type[Any]) -> dict[int, Any]:
    """Give the events of a kind about steps by the numbers that marks tell."""
    parts = {name: part for part, name in (STEPS | CHILD).items()}
    return {
        _number(found, run) * 10 + parts[event.name]: event
        for run, event, _ in found.events(kind)
        if event.name in parts
    }


async def _recover(top: Path) -> None:
    results: dict[str, Any] = {}
    async with Polos(data_dir=top / "data", inbox_poll_seconds=0.002, sync="off") as polos:
        await _until_ended(polos, lambda run, row: results.update({run: row}))
    for row in results.values():
        assert ("completed", outcome(row["workflow_id"], row["payload"]["number"])) == (row["status"], row["result"])
