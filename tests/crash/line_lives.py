"""
Lives of an engine whose runs come from everywhere: from queues with keys, from schedules and from triggers.

Each life starts runs by hand, some of them with a key that an earlier life may have used, publishes events, fills in
past occurrences and lets one be fired now. Its clock goes three minutes ahead of that of the life before, so that
occurrences have been missed whenever an engine starts. A client beside it does the same by way of the inbox and lives
on when engines don't. All that any of them was told is noted in the ledger, and so is each effect.

What must show afterwards is in `line_checks`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from polos import EventPayload, Polos, PolosClient, Queue, SchedulePayload, WorkflowContext, events, schedules, workflow
from polos.clock import Alarm, SystemClock
from polos.definition import Workflow
from polos.engine.codec import decode
from polos.engine.events import EventPublished, RunCreated, TriggerFired, TriggerRegistered
from polos.engine.patterns import matches
from polos.engine.projections import RUN_PREFIX
from polos.errors import EngineNotRunning
from polos.points import arm
from polos.runtime.reads import ENDED_STATUSES
from polos.store.log import Log

from tests.crash.engine_lives import PATIENCE_SECONDS, described, die_at, light
from tests.crash.ledger import Ledger
from tests.crash.load import effect, threaded, witness

__all__ = [
    "BACKFILLED_FROM", "SCHEDULES", "SLOTS", "TRIGGERS", "Death",
    "attend", "due_events", "live", "name_of", "tick", "warm",
]  # fmt: skip

SLOTS: Final = 5  # of each engine
KEYS: Final = ("a", "b", "c")
AHEAD_SECONDS: Final = 180  # of each life's clock, beside the one before
CREATED_BY_CLIENT: Final = 30
BACKFILLED_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)

lane = Queue("crash lane", 3, key_concurrency_limit=1)


@workflow(id="crash_line_leg", queue=Queue("crash legs", 2))
async def leg(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """A child, in a queue of its own."""
    return await ctx.step.run("leg", effect)


@workflow(id="crash_line_order", queue=lane)
async def order(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    """What somebody asks for: steps, a child, a short wait, and an event for others."""
    found = {"first": await ctx.step.run("first", effect)}
    found["child"] = await ctx.step.invoke_and_wait("child", leg, {})
    await asyncio.sleep(0.002)
    await ctx.step.publish_event("tell", topic="crash/made", data={"n": ctx.execution_id})
    return {**found, "last": await ctx.step.run("last", threaded)}


@workflow(id="crash_line_tick", schedule=True)
async def tick(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    """An occurrence, in the queue that scheduled runs have of their own."""
    await ctx.step.run("tick", effect)
    return payload.timestamp.isoformat()


@workflow(id="crash_line_each", trigger_on_event="crash/asked")
async def each(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """One event."""
    return await ctx.step.run("each", threaded)


@workflow(id="crash_line_threes", trigger_on_event="crash/*", batch_size=3, batch_timeout_seconds=0.05)
async def threes(ctx: WorkflowContext, payload: dict[str, Any]) -> list[Any]:
    """Up to three events of a pattern, and a child for them."""
    await ctx.step.invoke_and_wait("child", leg, {})
    return [event["data"]["n"] for event in payload["events"]]


def counts(event: EventPayload) -> bool:
    """Tell whether an event counts for the trigger with a filter; it fails on some, which then don't."""
    if str(event.data["n"]).endswith("3"):
        raise ValueError(event.data)
    return not str(event.data["n"]).endswith("5")


@workflow(
    id="crash_line_picked", trigger_on_event="crash/**", trigger_filter=counts, batch_size=2, queue="crash picked"
)
async def picked(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """What a filter lets through, two at most."""
    return len(payload["events"])


WORKFLOWS = (leg, order, tick, each, threes, picked)
TRIGGERS = (each, threes, picked)
SCHEDULES = ("every", "hourly")  # their keys


class Ahead:
    """A clock that goes so much ahead of the machine's."""

    def __init__(self, seconds: float) -> None:
        self._system = SystemClock()
        self._ahead_us = round(seconds * 1e6)
        self.monotonic_us = self._system.monotonic_us
        self.call_after = self._system.call_after
        self.random = self._system.random
        self.uuid4 = self._system.uuid4

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, and those that it is ahead."""
        return self._system.now_us() + self._ahead_us

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Alarm:
        """Call back when it shows this."""
        return self._system.call_at(due_us - self._ahead_us, callback)


@dataclass(frozen=True, slots=True)
class Death:
    """
    How a life ends, if it is killed by itself.

    Attributes:
        point: the point at which it is killed; None for a moment of somebody else's choosing, or not at all.
        nth: at which time it comes there.
    """

    point: str | None = None
    nth: int = 1


def warm() -> None:
    """Read the sources of the workflows once, in the process that victims are forked from."""
    for one in WORKFLOWS:
        described(one)


def live(directory: Path, number: int, death: Death, *, last: bool = False) -> None:
    """Own the directory, start all kinds of runs, and wait until nothing is left to be done."""
    if death.point is not None:
        arm(die_at(death.point, death.nth))
    light()
    asyncio.run(_live(directory, number, last=last))


async def _live(directory: Path, number: int, *, last: bool) -> None:
    made = Polos(
        data_dir=directory / "data",
        clock=Ahead(AHEAD_SECONDS * number),
        max_concurrent_workflows=SLOTS,
        poisoned_after=1_000,
        inbox_poll_seconds=0.002,
    )
    async with made as polos:
        ledger = witness.use(directory, str(number), polos.engine.store.log)
        if not last:
            # The first life may die before it has both; what an earlier one has made stays as it is.
            every: Any = {"overlap": "allow_all", "catch_up_seconds": 86_400.0}
            await schedules.create(polos, tick.id, "* * * * *", key=SCHEDULES[0], **every)
            await schedules.create(polos, tick.id, "0 * * * *", key=SCHEDULES[1])
            parts = (_ask, _publish, _schedule)
            await asyncio.gather(*(part(polos, ledger, number) for part in parts))
        await _until_done(polos)
        if last:
            # No occurrence comes while the engine stops.
            for key in SCHEDULES:
                await schedules.pause(polos, f"{tick.id}:{key}")
            await _until_done(polos)


async def _ask(polos: PolosClient, ledger: Ledger, number: int) -> None:
    chance = Random(number)
    for index in range(3):
        # Every second life asks again for what the one before asked for, whether that was told or not.
        again = f"{number // 2}.{index}" if index else None
        handle = await order.invoke(polos, {}, idempotency_key=again, concurrency_key=chance.choice(KEYS))
        ledger.note("created", handle.id, again)
        ledger.note("ended", handle.id, (await polos._wait_ended(handle.id))["result"])


async def _publish(polos: PolosClient, ledger: Ledger, number: int) -> None:
    for index in range(2):
        names = [f"{number}.{index}.{one}" for one in range(3)]
        made = [events.EventData(data={"n": name}) for name in names]
        await events.batch_publish(polos, "crash/asked" if index else "crash/other", made)
        for name in names:
            ledger.note("published", name)


async def _schedule(polos: PolosClient, ledger: Ledger, number: int) -> None:
    # Each life goes on two hours behind the one before, and half of what it fills in may be there.
    begin = BACKFILLED_FROM + timedelta(hours=2 * number)
    for run in await schedules.backfill(polos, f"{tick.id}:{SCHEDULES[1]}", begin, begin + timedelta(hours=3)):
        ledger.note("created", run)
    ledger.note("filled", str(number), begin.timestamp())
    ledger.note("created", await schedules.trigger(polos, f"{tick.id}:{SCHEDULES[0]}"))


def due_events(log: Log) -> dict[str, tuple[list[Any], list[list[Any]]]]:
    """Give, by trigger, the events that count for it, and what its runs got, by the order of its firings."""
    published: list[tuple[int, EventPublished]] = []
    begins: dict[str, int] = {}
    fired: dict[str, list[str]] = {one.id: [] for one in TRIGGERS}
    inputs: dict[str, Any] = {}
    with log.reader() as reader:
        for record in reader.records():
            match decode(record.type, record.schema_version, record.payload):
                case EventPublished() as event:
                    published.append((record.position, event))
                case TriggerRegistered(trigger=trigger, cursor=cursor):
                    begins.setdefault(trigger, cursor)
                case TriggerFired(trigger=trigger, run=run):
                    fired[trigger].append(run)
                case RunCreated(input=given):
                    inputs[record.stream.removeprefix(RUN_PREFIX)] = given
                case _:
                    pass
    found: dict[str, tuple[list[Any], list[list[Any]]]] = {}
    for one in TRIGGERS:
        names = [name_of(event) for at, event in published if at > begins[one.id] and _counts(one, event)]
        batches = [inputs[run].get("events", [inputs[run]]) for run in fired[one.id]]
        found[one.id] = (names, [[event["data"]["n"] for event in batch] for batch in batches])
    return found


def name_of(event: EventPublished) -> str:
    """Give what tells a published event from all others; none for what runs publish of themselves."""
    return str(event.data.get("n", "")) if isinstance(event.data, dict) else ""


def _counts(trigger: Workflow[Any], event: EventPublished) -> bool:
    name = name_of(event)
    return matches(str(trigger.trigger_on_event), event.topic) and (trigger is not picked or name[-1] not in "35")


async def _until_done(polos: Polos) -> None:
    """Wait until every run has ended, every occurrence was decided, and every event was seen by every trigger."""
    connection = polos._connection()
    moves = connection.moves()
    while True:
        head = moves.head()
        counted = await polos.count_executions()
        under_way = sum(count for status, count in counted.items() if status not in ENDED_STATUSES)
        if not under_way and not connection.store.inbox.pending() and _all_decided(polos) and _all_seen(polos):
            return
        await moves.behind(head)


def _all_decided(polos: Polos) -> bool:
    now_us = polos._clock.now_us()
    for key in SCHEDULES:
        with polos.engine.store.log.reader() as reader:
            records = list(reader.stream(f"schedule/{tick.id}:{key}"))
        next_us, paused = 0, False
        for record in records:
            event = decode(record.type, record.schema_version, record.payload)
            next_us, paused = getattr(event, "next_us", None) or next_us, getattr(event, "paused", paused)
        if not paused and next_us <= now_us:
            return False
    return True


def _all_seen(polos: Polos) -> bool:
    due = due_events(polos.engine.store.log)
    return all(len(names) == sum(map(len, batches)) for names, batches in due.values())


async def attend(directory: Path) -> None:
    """Be the client: ask and publish by way of the inbox, and note what is answered."""
    ledger = Ledger(directory)
    polos = PolosClient(data_dir=directory / "data", client_timeout_seconds=PATIENCE_SECONDS)
    chance = Random(0)
    for index in range(CREATED_BY_CLIENT):
        again = f"client {index // 2}"
        handle = await order.invoke(polos, {}, idempotency_key=again, concurrency_key=chance.choice(KEYS))
        if handle.accepted:  # between two lives nobody can know yet which run it will be
            ledger.note("created", handle.id, again)
        with suppress(EngineNotRunning):  # who says so says that the event is kept, too
            await events.publish(polos, "crash/asked", events.EventData(data={"n": f"client {index}"}))
        ledger.note("published", f"client {index}")
    await asyncio.Event().wait()
