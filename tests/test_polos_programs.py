"""
Programs as Polos's own examples write them, on queues, events and schedules, and when each counts as working.

They are written anew from what the reference of the public API says of examples 12, 15 and 16, on virtual time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from polos import (
    BatchEventPayload,
    EventPayload,
    Polos,
    SchedulePayload,
    WorkflowContext,
    queue,
    schedules,
    workflow,
)
from polos.testing.simulation import Simulation

from tests.test_queues import nap

MONDAY = datetime(2026, 11, 23, 8, tzinfo=UTC)
SHARED = queue("programs shared", concurrency_limit=3)


@workflow(id="programs_shared", queue=SHARED)
async def shared(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Take two seconds, three at a time."""
    await ctx.step.run("work", nap, 2.0)
    return payload["n"]


@workflow(id="programs_named", queue="programs named")
async def named(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Take two seconds, in a queue that has a name alone."""
    await ctx.step.run("work", nap, 2.0)
    return payload["n"]


@workflow(id="programs_single", queue={"name": "programs single", "concurrency_limit": 1})
async def single(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Take two seconds, one at a time."""
    await ctx.step.run("work", nap, 2.0)
    return payload["n"]


@pytest.mark.parametrize(
    ("program", "options", "seconds"),
    [
        (single, {}, 6),
        (shared, {}, 2),
        (named, {}, 2),
        (named, {"queue": "programs given", "queue_limit": 1}, 6),
    ],
)
def test_shared_queues(program: Any, options: dict[str, Any], seconds: int) -> None:
    """Three runs of two seconds take six where one goes at a time, and two where all may (example 12)."""
    with Simulation([shared, named, single]) as sim:
        began_us = sim.clock.now_us()
        calls = [sim.create(program, {"n": number}, **options) for number in range(3)]
        sim.settle()
        took_us = max(state.ended_us or 0 for state in sim.audit.states.values()) - began_us

        assert [0, 1, 2] == [sim.result(call.run) for call in calls]
        assert seconds == took_us // 1_000_000


@workflow(id="programs_order_created", trigger_on_event="programs/orders")
async def order_created(ctx: WorkflowContext, payload: EventPayload) -> Any:
    """Process an order."""
    return payload.data["order"]


@workflow(id="programs_signup", trigger_on_event="programs/signups")
async def signup(ctx: WorkflowContext, payload: EventPayload) -> Any:
    """Welcome a user."""
    return payload.data["user"]


@workflow(id="programs_batch", trigger_on_event="programs/clicks", batch_size=10, batch_timeout_seconds=30)
async def batch(ctx: WorkflowContext, payload: BatchEventPayload) -> Any:
    """Take events together."""
    return len(payload.events)


@workflow(id="programs_waiter")
async def waiter(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Publish, then wait for an answer on a topic."""
    await ctx.step.publish_event("announce", "programs/orders", {"order": "from a workflow"})
    event = await ctx.step.wait_for_event("answer", topic="programs/answers")
    return event.data


def test_event_triggered() -> None:
    """Two orders and a sign-up start their workflows, a waiter goes on, five of a batch of ten go after 30 s (15)."""
    with Simulation([order_created, signup, batch, waiter]) as sim:
        waiting = sim.create(waiter, {}).run
        sim.run_for(1)
        sim.send("publish", topic="programs/orders", events=[{"data": {"order": "A-1"}}])
        sim.send("publish", topic="programs/signups", events=[{"data": {"user": "ada"}}])
        sim.send("publish", topic="programs/clicks", events=[{"data": {"n": number}} for number in range(5)])
        sim.send("publish", topic="programs/answers", events=[{"data": {"yes": True}}])
        sim.run_for(29)
        early = results(sim)
        sim.run_for(2)
        late = results(sim)

        assert {"yes": True} == sim.result(waiting)
        assert ["A-1", "ada", "from a workflow"] == sorted(early)
        assert ["5", "A-1", "ada", "from a workflow"] == sorted(late)


def results(sim: Simulation) -> list[str]:
    """Give what the runs returned that events started."""
    return [
        str(sim.result(run))
        for run, state in sim.audit.states.items()
        if state.workflow != "programs_waiter" and state.ended_us is not None
    ]


@pytest.mark.anyio
async def test_scheduled_workflows(tmp_path: Path) -> None:
    """Four schedules, also after a second start; runs by hand have a payload of their own; weekdays are (16)."""

    @workflow(id="programs_morning", schedule="0 8 * * 1-5")
    async def morning(ctx: WorkflowContext, payload: SchedulePayload) -> dict[str, int]:
        return {"records": 150}

    @workflow(id="programs_cleanup", schedule={"cron": "0 3 * * *", "timezone": "America/New_York"})
    async def cleanup(ctx: WorkflowContext, payload: SchedulePayload) -> dict[str, int]:
        return {"files": 25}

    @workflow(id="programs_reminder", schedule=True)
    async def reminder(ctx: WorkflowContext, payload: SchedulePayload) -> str:
        return payload.key

    async def start() -> list[str]:
        async with Polos(data_dir=tmp_path) as polos:
            for user in ("bob", "eve"):
                await schedules.create(polos, reminder.id, "0 9 * * *", key=user)
            by_hand = SchedulePayload(
                timestamp=MONDAY, last_timestamp=None, timezone="UTC", schedule_id="by-hand", key="global",
                upcoming=MONDAY,
            )  # fmt: skip
            assert {"records": 150} == await morning.run(polos, by_hand)
            assert {"files": 25} == await cleanup.run(polos, by_hand)
            days = {moment.isoweekday() for moment in schedules.get(polos, "programs_morning:global").upcoming}
            assert {1, 2, 3, 4, 5} == days
            return sorted(one.id for one in schedules.list(polos) if one.workflow.startswith("programs_"))

    four = ["programs_cleanup:global", "programs_morning:global", "programs_reminder:bob", "programs_reminder:eve"]
    assert [four, four] == [await start(), await start()]
