"""Refusals come no earlier than what they rest on is durable: a crash in between would make them untrue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from polos import Polos, WorkflowContext, workflow
from polos.engine.state import RunState
from polos.errors import CommandRefused
from polos.runtime.replying import refuse, reply
from polos.runtime.unit import Resident, Unit, Work
from polos.testing import CapturedEvents, FaultPlan


@workflow(id="asked_once")
async def asked_once(ctx: WorkflowContext) -> Any:
    """Ask once, and end with the answer."""
    ctx.on_update("note", lambda data: data)
    return (await ctx.step.suspend("ok", {})).data


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"kind": "resume", "key": "ok", "data": 1}, {"kind": "resume", "key": "ok", "data": 2, "waiting": True}),
        ({"kind": "cancel"}, {"kind": "update", "name": "none", "data": 2}),
        ({"kind": "cancel"}, {"kind": "readmit"}),
    ],
)
def test_a_refusal_waits_for_what_it_rests_on(
    polos: Polos, polos_faults: FaultPlan, polos_events: CapturedEvents, first: Any, second: Any
) -> None:
    """While the log is slow nobody hears of what isn't in it yet, not even that something came too late."""

    async def main() -> None:
        async with polos:
            handle = await asked_once.invoke(polos)
            await polos_events.wait_for("WaitStarted", run=handle)
            polos_faults.hold()
            done = asyncio.ensure_future(polos.engine.execute("first", {**first, "run": handle.id}))
            late = asyncio.ensure_future(polos.engine.execute("second", {**second, "run": handle.id}))
            while not polos.engine.in_flight:
                await asyncio.sleep(0)
            while polos.engine.work:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not done.done()
            assert not late.done()

            polos_faults.let_go()
            await done
            with pytest.raises(CommandRefused):
                await late

    asyncio.run(main())


def test_a_refusal_waits_for_all_that_it_rests_on() -> None:
    """It may have been decided on two runs, of which one is on disk long before the other."""
    told: list[BaseException] = []
    one, two = (Resident(RunState(run=name), in_flight=1, last_unit=Unit(0)) for name in ("one", "two"))
    refused, error = Unit(0), CommandRefused("no")
    refused.residents = {"one": one, "two": two}
    refuse(refused, Work(lambda _unit: None, fail=told.append), error)

    for resident in (one, two):
        unit = resident.last_unit
        assert unit is not None
        assert [] == told
        resident.landed(1)
        reply(unit)

    assert [error] == told
