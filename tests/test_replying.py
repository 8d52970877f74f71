"""Refusals come no earlier than what they rest on is durable: a crash in between would make them untrue."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from polos import BatchWorkflowInput, Polos, WorkflowContext, workflow
from polos.engine.state import RunState
from polos.errors import CommandRefused
from polos.runtime.replying import refuse, reply
from polos.runtime.unit import Resident, Unit, Work
from polos.testing import CapturedEvents, FaultPlan


@workflow(id="given_much")
async def given_much(ctx: WorkflowContext, payload: dict[str, str]) -> int:
    """Take much."""
    return len(payload["much"])


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


def test_who_rests_on_a_run_is_answered_though_a_blob_is_slow(
    polos: Polos, polos_events: CapturedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that has only looked at a run waits for its blob: what changes that run meanwhile stays behind it."""
    may_go = threading.Event()

    async def main() -> None:
        async with polos:
            handle = await asked_once.invoke(polos, idempotency_key="one")
            await polos_events.wait_for("WaitStarted", run=handle)
            engine, blobs = polos.engine, polos.engine.store.blobs
            put = blobs.put

            def slow(data: bytes) -> str:
                if len(data) > 100_000:
                    may_go.wait()
                return put(data)

            monkeypatch.setattr(blobs, "put", slow)
            same = BatchWorkflowInput(id="asked_once", idempotency_key="one")
            wanted = [BatchWorkflowInput(id="given_much", payload={"much": "x" * 100_000}), same]
            looked = asyncio.ensure_future(polos.batch_invoke(wanted))
            try:
                while not engine.in_flight:
                    await asyncio.sleep(0)
                noted = asyncio.ensure_future(handle.signal("note"))
                await asyncio.sleep(0)
                while engine.work:
                    await asyncio.sleep(0)
                # This has nothing to do with either: when it is durable, so is what doesn't wait.
                await engine.execute("apart", {"kind": "publish", "topic": "apart", "events": [{"data": 1}]})
                again = asyncio.ensure_future(asked_once.invoke(polos, idempotency_key="one"))
                await asyncio.sleep(0)
                while engine.work:
                    await asyncio.sleep(0)
            finally:
                may_go.set()

            found, _, once_more = await asyncio.gather(looked, noted, again)
            assert [handle.id, handle.id] == [found[1].id, once_more.id]

    asyncio.run(main())
