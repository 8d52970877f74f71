"""What a bug of ours may cost: the run that meets it, for a while; never a repeated step, never another run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, workflow
from polos.engine import events as e
from polos.engine.commands import Request
from polos.replay.driver import Driver
from polos.replay.facts import Fact

CALLS: list[str] = []


def pay() -> str:
    """Count, and say so."""
    CALLS.append("pay")
    return "paid"


@workflow(id="unlucky")
async def unlucky(ctx: WorkflowContext) -> str:
    """Pay, then go on."""
    return await ctx.step.run("pay", pay)


@workflow(id="beside")
async def beside(ctx: WorkflowContext) -> int:
    """Do some steps."""
    for _ in range(20):
        await ctx.step.run("work", lambda: None)
    return 20


@workflow(id="leaves_a_child")
async def leaves_a_child(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Start a child, go on as a new run, and wait."""
    if payload["lap"] == 1:
        handle = await ctx.step.invoke("child", waits)
        ctx.continue_as_new({"lap": 2, "child": handle.id})
    await ctx.step.wait_for_signal("never")


@workflow(id="waits")
async def waits(ctx: WorkflowContext) -> None:
    """Wait for ever."""
    await ctx.step.wait_for_signal("never")


def test_a_run_that_meets_a_bug_is_set_aside_with_its_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step isn't repeated, others go on, and it goes on itself when it is let in again."""
    CALLS.clear()
    activate = Driver.activate

    def buggy(self: Driver, fact: Fact, *, recorded: Sequence[e.Event] | None = None) -> list[Request]:
        if isinstance(fact.event, e.StepCompleted) and fact.event.name == "pay":
            raise RuntimeError("a bug")
        return activate(self, fact, recorded=recorded)

    async def main() -> tuple[dict[str, Any], int, dict[str, Any]]:
        async with Polos(data_dir=tmp_path) as polos:
            with monkeypatch.context() as patch:
                patch.setattr(Driver, "activate", buggy)
                handle = await unlucky.invoke(polos)
                while (found := await polos.get_execution(handle.id))["status"] != "waiting":
                    await asyncio.sleep(0)
                others = await beside.run(polos)
            await polos.readmit(handle.id)
            return found, others, await polos._wait_ended(handle.id)

    aside, others, ended = asyncio.run(main())

    assert "internal_error" == aside["waiting_reason"]
    assert 20 == others
    assert ["paid", ["pay"]] == [ended["result"], CALLS]


def test_a_successor_adopts_the_children(tmp_path: Path) -> None:
    """A child that was started before `continue_as_new` is cancelled with the run that went on."""

    async def main() -> str:
        async with Polos(data_dir=tmp_path) as polos:
            handle = await leaves_a_child.invoke(polos, {"lap": 1})
            while not (second := await polos.list_executions(workflow_id="leaves_a_child", status="waiting")):
                await asyncio.sleep(0)
            child = (await polos.get_execution(second[0]["id"]))["payload"]["child"]
            assert await polos.cancel_execution(handle.id)
            await polos._wait_ended(handle.id)
            return str((await polos._wait_ended(child))["status"])

    assert "cancelled" == asyncio.run(main())
