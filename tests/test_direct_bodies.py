"""
Bodies that aren't replayed, on a real engine: plain functions, and what is declared `deterministic=False`.

What they share with deterministic ones is tested there. Here stands what is special to them: they ask when they like,
they begin anew after a crash, and they may end in every way a task can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, registry, workflow

Play = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run a program on an engine that knows what is defined by now."""

    def run(program: Callable[[Polos], Awaitable[Any]], **settings: Any) -> Any:
        async def main() -> Any:
            async with Polos(data_dir=tmp_path / "data", **settings) as polos:
                return await program(polos)

        return asyncio.run(asyncio.wait_for(main(), 30))

    return run


@pytest.mark.parametrize("deterministic", [True, False])
def test_who_waits_holds_no_slot(play: Play, deterministic: bool):
    """A run that waits for a person, or for its child, leaves its slot to others."""

    @workflow(deterministic=deterministic)
    async def asks(ctx: WorkflowContext) -> Any:
        answer = await ctx.step.suspend("ok", {})
        return [answer.data, await ctx.step.invoke_and_wait("child", "helps", {})]

    @workflow(deterministic=deterministic)
    async def helps(ctx: WorkflowContext) -> str:
        return await ctx.step.run("help", lambda: "helped")

    async def program(polos: Polos) -> Any:
        handles = [await asks.invoke(polos) for _ in range(3)]
        found = [await helps.run(polos)]
        for handle in handles:
            await polos.resume("asks", handle.id, "ok", 1)
        return found + [(await polos._wait_ended(handle.id))["result"] for handle in handles]

    assert play(program, max_concurrent_workflows=1) == ["helped"] + 3 * [[1, "helped"]]
