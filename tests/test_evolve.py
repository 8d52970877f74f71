"""
Folding: E1, E4 and E5 on the histories of a real engine.

What generated programs leave in a log is folded by the property tests; here it is a few programs that between them
take every kind of request.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, registry, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.evolve import evolve, fold
from polos.engine.state import DebtKind, RunState
from polos.store.log import LOG_START, Log

History = list[tuple[e.Event, int]]


def histories(log: Log) -> dict[str, History]:
    """Give the events of every run with their times."""
    found: dict[str, History] = {}
    with log.reader() as reader:
        for record in reader.records(after=LOG_START):
            kind, _, run = record.stream.partition("/")
            if kind == "run":
                event = decode(record.type, record.schema_version, record.payload)
                found.setdefault(run, []).append((event, record.time_us))
    return found


def prefixes(run: str, history: History) -> Iterator[RunState]:
    """Fold a history event by event, each time on a copy: so no event may lean on what an earlier call kept."""
    state = RunState(run=run)
    for event, time_us in history:
        state = evolve(copy.deepcopy(state), event, time_us=time_us)
        yield copy.deepcopy(state)


@pytest.fixture(name="played")
def _played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, History]:
    monkeypatch.setattr(registry, "_workflows", {})

    @workflow
    async def child(ctx: WorkflowContext, payload: dict[str, int]) -> int:
        await ctx.step.publish_event("done", "work", {"n": payload["n"]})
        return payload["n"]

    @workflow
    async def everything(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        ctx.state["phase"] = payload["round"]
        ctx.on_update("add", lambda data: data)
        await asyncio.gather(ctx.step.run("a", int), ctx.step.run("b", int, effect="at_most_once"))
        if ctx.retry_count == 0:
            raise ConnectionError("once")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await ctx.step.wait_for_signal("never")
        await ctx.step.invoke("loose", child, {"n": 1}, detached=True)
        values = [await ctx.step.uuid(), await ctx.step.now(), await ctx.step.random(), ctx.patched("p")]
        await ctx.step.invoke_and_wait("child", child, {"n": 2})
        await ctx.step.wait_for_event("seen", "work", since=0)
        await ctx.step.suspend("question", {})
        await ctx.step.wait_for_signal("go", timeout=3600)
        if payload["round"] == 0:
            ctx.continue_as_new({"round": 1})
        return len(values)

    @workflow
    async def stays(ctx: WorkflowContext) -> None:
        await ctx.step.wait_for_signal("never")

    async def main() -> dict[str, History]:
        async with Polos(data_dir=tmp_path / "data") as polos:
            handle = await everything.invoke(polos, {"round": 0}, initial_state={"phase": None})
            other = await stays.invoke(polos)
            await other.cancel()
            for _ in range(2):
                await polos.resume("everything", handle.id, "question", {})
                await handle.signal("go")
            await polos._wait_ended(handle.id)
            await polos._wait_ended(other.id)
            return histories(polos.engine.store.log)

    return asyncio.run(main())


def test_e5_folding_in_any_chunking_gives_the_same_state(played: dict[str, History]):
    """E1, E5: every prefix folds, and going on from it, at once or event by event, leads to the same state."""
    assert len(played) >= 6
    for run, history in played.items():
        whole = fold(run, copy.deepcopy(history))
        for cut, state in enumerate(prefixes(run, history), start=1):
            for event, time_us in history[cut:]:
                evolve(state, event, time_us=time_us)

            assert whole == state, f"{run}, cut behind {cut}"


def test_e4_a_run_that_ended_owes_nothing_but_messages(played: dict[str, History]):
    """E4: at the end of each run nothing is open, and nothing is owed but what is on its way to others."""
    for run, history in played.items():
        state = fold(run, history)

        assert state.ended_us is not None
        assert {} == state.ops
        assert {kind for kind, _ in state.owed} <= {DebtKind.DELIVER}
