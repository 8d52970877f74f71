"""Commands whose commit seems to fail are answered by what became of them, also if the run has ended with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.errors import CommandRefused
from polos.store.faults import Fault
from polos.testing import Simulation

FAULTS = [Fault.UNKNOWN_KEPT, Fault.UNKNOWN_LOST, Fault.FULL]


@workflow(id="anew_takes")
async def takes(ctx: WorkflowContext, payload: dict[str, str]) -> Any:
    """End with what is sent."""
    match payload["by"]:
        case "signal":
            return await ctx.step.wait_for_signal("go")
        case "update":
            taken: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            ctx.on_update("go", taken.set_result)
            await ctx.step.run("ready", lambda: None)
            return await taken
        case _:
            return (await ctx.step.suspend("go", {})).data


@workflow(id="anew_parent")
async def parent(ctx: WorkflowContext) -> Any:
    """Let a child ask, and ask for the same oneself."""
    first = await ctx.step.invoke_and_wait("child", takes, {"by": "resume"})
    return [first, (await ctx.step.suspend("go", {})).data]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "sent",
    [
        {"kind": "signal", "name": "go", "data": 1},
        {"kind": "update", "name": "go", "data": 1},
        {"kind": "resume", "key": "go", "data": 1},
        {"kind": "resume", "key": "go", "data": 1, "waiting": True},
        {"kind": "resume", "key": "go", "data": 1, "all": True},
    ],
    ids=["signal", "update", "resume", "resume who waits", "resume all"],
)
def test_what_a_run_has_taken_and_ended_with_is_accepted(fault: Fault, sent: dict[str, Any]) -> None:
    """Whether the commit was kept or lost, the command is accepted, and the run has ended with what it sent."""
    with Simulation([takes]) as sim:
        run = sim.create(takes, {"by": sent["kind"]}).run
        sim.settle()
        sim.plan.next(fault)
        call = sim.send(run=run, **sent)
        sim.settle()

        assert 1 == sim.plan.failed
        assert call.reply is not None, call.error
        assert "accepted" == call.reply["outcome"]
        assert 1 == sim.result(run)
        assert 1 == sim.stream(run).count("UpdateReceived" if sent["kind"] == "update" else "WaitSatisfied")


@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_that_a_child_has_taken_is_not_given_to_its_parent(fault: Fault) -> None:
    """It was sent to the tree, and the one who waited longest got it; the parent waits for one of its own."""
    with Simulation([takes, parent]) as sim:
        run = sim.create(parent, None).run
        sim.settle()
        sim.plan.next(fault)
        call = sim.send("resume", run=run, key="go", data="first")
        sim.settle()
        assert call.reply is not None, call.error
        assert run in sim.audit.living()

        sim.send("resume", run=run, key="go", data="second")
        sim.settle()
        assert ["first", "second"] == sim.result(run)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cancellation_that_has_ended_the_run_says_that_it_did(fault: Fault) -> None:
    """The run is cancelled in the commit that seemed to fail."""
    with Simulation([takes]) as sim:
        run = sim.create(takes, {"by": "signal"}).run
        sim.settle()
        sim.plan.next(fault)
        call = sim.send("cancel", run=run)
        sim.settle()

        assert call.reply is not None, call.error
        assert {"cancelled": True} == call.reply["detail"]
        assert 1 == sim.stream(run).count("CancelRequested")


def test_what_somebody_else_has_ended_is_refused() -> None:
    """A signal whose commit was lost finds that the run has ended with another's meanwhile."""
    with Simulation([takes]) as sim:
        run = sim.create(takes, {"by": "signal"}).run
        sim.settle()
        sim.plan.next(Fault.UNKNOWN_LOST)
        first = sim.send("signal", run=run, name="go", data=1)
        second = sim.send("signal", run=run, name="go", data=2)
        sim.settle()

        answered = [call for call in (first, second) if call.reply is not None]
        assert 1 == len(answered)
        assert sim.result(run) == answered[0].command["data"]
        assert [CommandRefused] == [type(call.error) for call in (first, second) if call.error is not None]
