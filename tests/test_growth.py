"""What a step costs doesn't grow with the history behind it: operations are counted, not timed."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, workflow
from polos.engine import evolve as evolving
from polos.engine import projections
from polos.runtime.unit import Unit
from polos.store.log import AppendUnit

WINDOW = 50
EARLY, LATE = 100, 10_000

COUNTS: Counter[str] = Counter()
SEEN: dict[int, Counter[str]] = {}


async def note(number: int) -> int:
    """Keep the counts at some steps."""
    if number in (EARLY - WINDOW, EARLY, LATE - WINDOW, LATE):
        SEEN[number] = Counter(COUNTS)
    return number


@workflow(id="growing")
async def growing(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    """Do many steps, one after another."""
    for number in range(1, payload["steps"] + 1):
        await ctx.step.run("note", note, number)
    return payload["steps"]


def per_step(end: int) -> dict[str, float]:
    """Give what each of the last steps before one cost."""
    spent = SEEN[end] - SEEN[end - WINDOW]
    return {name: spent[name] / WINDOW for name in ("events", "records", "rows", "bytes", "reads")}


def test_a_step_costs_the_same_at_100_and_at_10_000(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events handled, rows written and bytes encoded a step stay within 10 % of each other."""
    COUNTS.clear()
    SEEN.clear()
    evolve, sealed = evolving.evolve, Unit.sealed

    def counted_evolve(*arguments: Any, **options: Any) -> Any:
        COUNTS["events"] += 1
        return evolve(*arguments, **options)

    def counted_sealed(self: Unit) -> AppendUnit:
        unit = sealed(self)
        COUNTS["records"] += len(unit.records)
        COUNTS["rows"] += len(unit.rows)
        COUNTS["bytes"] += sum(len(record.payload) for record in unit.records)
        return unit

    monkeypatch.setattr(projections, "evolve", counted_evolve)
    monkeypatch.setattr(Unit, "sealed", counted_sealed)

    async def main() -> int:
        async with Polos(data_dir=tmp_path, sync="off", inbox_poll_seconds=0) as polos:
            open_reader = polos.engine.store.log.reader

            def counted_reader() -> Any:
                COUNTS["reads"] += 1
                return open_reader()

            monkeypatch.setattr(polos.engine.store.log, "reader", counted_reader)
            return int(await growing.run(polos, {"steps": LATE}))

    assert LATE == asyncio.run(main())

    early, late = per_step(EARLY), per_step(LATE)
    assert 2 == early["records"]  # a result, and the intent of the next step
    assert 0 == early["rows"]
    for name, cost in early.items():
        assert late[name] <= cost * 1.1, (name, cost, late[name])
