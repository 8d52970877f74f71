"""A crash sweep holds what functions given as `reconcile` say against the calls that it has counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from polos import Completed, NotDone, StillUnknown, WorkflowContext, tool, workflow
from polos.errors import StepExecutionError
from polos.testing import CrashOutcome, CrashSweepFailed, Outside
from polos.testing.sweep import sweep
from pydantic import BaseModel

bank = Outside("bank")

MODES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "each by itself": {"from_remains": False},
    "from remains": {"from_remains": True, "processes": 0},
    "another of those alike": {"from_remains": True, "processes": 0, "seed": 1},
    "every point": {"every_point": True},
    "killed": {"real": True},
}


class Order(BaseModel):
    number: int = 7


async def charge() -> str:
    return "paid"


def charge_in_thread() -> str:
    return "paid"


def charge_later() -> object:
    return charge()


async def charge_in_turns() -> str:
    await asyncio.sleep(0)
    return "paid"


async def charge_slowly() -> str:
    await asyncio.Event().wait()
    return "paid"


async def always() -> Completed:
    return Completed("paid")


def at_once(_order: Order) -> Completed:
    return Completed("paid")


def never(*_given: object) -> NotDone:
    return NotDone()


@workflow(id="reconcile_lost")
async def lost(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", charge, effect="at_most_once", reconcile=always)


@workflow(id="reconcile_again")
async def again(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", charge, effect="at_most_once", reconcile=never)


@workflow(id="reconcile_again_in_turns")
async def again_in_turns(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Wait at a point that nobody can tell from those behind the return, and is right to say so there."""
    return await ctx.step.run("charge", charge_in_turns, effect="at_most_once", reconcile=never)


@workflow(id="reconcile_again_in_thread")
async def again_in_thread(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", charge_in_thread, effect="at_most_once", reconcile=never)


@workflow(id="reconcile_again_later")
async def again_later(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    return await ctx.step.run("charge", charge_later, effect="at_most_once", reconcile=never)


@tool(id="reconcile_lost_tool", description="Charge.", effect="at_most_once", reconcile=at_once)
async def lost_tool(ctx: WorkflowContext, input: Order) -> str:
    return "paid"


@tool(id="reconcile_again_tool", description="Charge.", effect="at_most_once", reconcile=never)
async def again_tool(ctx: WorkflowContext, input: Order) -> str:
    return "paid"


@tool(id="reconcile_again_tool_in_thread", description="Charge.", effect="at_most_once", reconcile=never)
def again_tool_in_thread(ctx: WorkflowContext, input: Order) -> str:
    return "paid"


STEP, TOOL = "step 'charge' of the run: ", "tool {!r}, the run: "
LOST = "its reconcile says Completed (event {}), but its function hasn't been called in any life: its effect is lost"
AGAIN = (
    "its reconcile says NotDone (event {}), but {} 1 of its function has come back with a result: "
    "it is called once more, and its effect may be had twice"
)
TOLD = {
    lost: STEP + LOST.format(6),
    again: STEP + AGAIN.format(6, "attempt"),
    again_in_turns: STEP + AGAIN.format(6, "attempt"),
    again_in_thread: STEP + AGAIN.format(6, "attempt"),
    again_later: STEP + AGAIN.format(6, "attempt"),
    lost_tool: TOOL.format(lost_tool.id) + LOST.format(7),
    again_tool: TOOL.format(again_tool.id) + AGAIN.format(7, "call"),
    again_tool_in_thread: TOOL.format(again_tool_in_thread.id) + AGAIN.format(7, "call"),
}


def _each(main: list[Any], others: list[Any]) -> list[Any]:
    """Give cases: the main ones in every mode, others not in processes that are killed, which take their time."""
    return [
        pytest.param(which, mode, id=f"{which.id}, {mode}")
        for which in (*main, *others)
        for mode in MODES
        if mode != "killed" or which in main
    ]


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("which", "mode"),
    _each([lost, again, lost_tool, again_tool], [again_in_turns, again_in_thread, again_later, again_tool_in_thread]),
)
def test_a_reconcile_that_says_what_is_not_so_is_told(which: Any, mode: str):
    """However scenarios are lived: also where one is only judged with some of its calls taken off."""
    with pytest.raises(CrashSweepFailed) as failed:
        sweep(which, {}, pairs=0, **MODES[mode])

    assert [TOLD[which]] == failed.value.differences


def charge_noted() -> str:
    bank.note("charged")
    return "paid"


def looks() -> object:
    return Completed("paid") if bank.count("charged") else NotDone()


async def tries() -> str:
    """Raise before it has done anything, which `NotDone` may well be said of."""
    raise ConnectionError


async def charge_stubbornly() -> str:
    """Come to an end when it is closed, which is how a life ends in one process."""
    try:
        for _ in range(20):
            await asyncio.sleep(0)
    except GeneratorExit:
        return "nothing"
    bank.note("charged")
    return "paid"


def cannot_tell() -> object:
    return StillUnknown()


@workflow(id="reconcile_honest")
async def honest(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", charge_noted, effect="at_most_once", reconcile=looks)


@workflow(id="reconcile_half")
async def half(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Be cut off in the middle: whether the effect was had, nobody knows."""
    return await ctx.step.run("charge", charge_slowly, effect="at_most_once", timeout_seconds=0.5, reconcile=never)


@workflow(id="reconcile_raises")
async def raises(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    try:
        return await ctx.step.run("charge", tries, effect="at_most_once", reconcile=never)
    except StepExecutionError:
        return "failed"


@workflow(id="reconcile_stubborn")
async def stubborn(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    charged = ctx.step.run("charge", charge_stubbornly, effect="at_most_once", reconcile=looks)
    return (await asyncio.gather(charged, ctx.step.run("beside", charge_in_thread)))[0]


@workflow(id="reconcile_unknown")
async def unknown(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", charge, effect="at_most_once", reconcile=cannot_tell)


@workflow(id="reconcile_asks")
async def asks(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", charge, effect="at_most_once")


def anything(outcome: CrashOutcome) -> None:
    """Accept a run that fails, too."""
    assert [] == outcome.untrue


@pytest.mark.sweep
@pytest.mark.parametrize("mode", MODES)
def test_a_check_knows_better(mode: str):
    """It sees what was found, and may see as well that all is right: somebody else had the effect, say."""
    found: list[str] = []

    def check(outcome: CrashOutcome) -> None:
        found.extend(outcome.untrue)

    sweep(lost, {}, check=check, pairs=0, **MODES[mode])

    assert any("its function hasn't been called in any life" in one for one in found)


@pytest.mark.sweep
@pytest.mark.parametrize(("which", "mode"), _each([honest], [half, raises, stubborn, unknown]))
def test_what_may_be_so_is_not_told(which: Any, mode: str):
    """A reconcile that looks, one that speaks of a call that was cut off or raised, one that can't say."""
    sweep(which, {}, check=anything, pairs=0 if mode == "killed" else 5, **MODES[mode])


@pytest.mark.parametrize("answer", [Completed("paid"), NotDone()], ids=["done", "not done"])
def test_what_persons_say_is_theirs(answer: object):
    """A person, or a program in their name, may say of a step whatever they like."""
    sweep(asks, {}, answers={"charge": answer}, pairs=20, processes=0)


def test_the_second_attempt_is_told_of_as_well():
    """The first one is cut off, and nothing is wrong with that; in a pair the next one has come back."""
    with pytest.raises(CrashSweepFailed, match=r"attempt 2 of its function has come back"):
        sweep(second, {}, pairs=100, processes=0)


@workflow(id="reconcile_second")
async def second(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return await ctx.step.run("charge", charge_noted, effect="at_most_once", reconcile=forgets)


def forgets() -> object:
    """Look well the first time only."""
    bank.note("asked")
    return NotDone() if bank.count("asked") > 1 else looks()
