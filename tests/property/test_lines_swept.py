"""
Generated programs whose runs come from queues, schedules and triggers together, crashed all along their lives.

A program is a handful of requests, each with a key, a queue and a concurrency key, and each a list of things to do:
steps, children in queues of their own, timers, and events that start other runs, which may publish once more. A
schedule comes round every minute beside them. Each program is lived once without being disturbed; then again and
again, with the engine crashed at another tick of its world and at one more at random. What comes of it must be the
same: the result of every request, every occurrence once, and every event once for each trigger.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from polos import SchedulePayload, WorkflowContext, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.state import ENDED
from polos.runtime.settings import Settings
from polos.testing.simulation import Call, Simulation

from tests.campaign import LONG, SEED, scaled
from tests.queue_walk import QueueWalk, walk

PROGRAMS = scaled(5, 300)
CRASHES = 20  # of a program in the short campaign; the long one crashes it at each tick
SLOTS = 4
SETTINGS = Settings(inbox_poll_seconds=0, max_concurrent_workflows=SLOTS)
LIFE_SECONDS = 400
SCHEDULE = "swept tick:k"
KINDS = ("step", "step", "child", "both", "nap", "long nap", "publish", "publish")


async def nap(seconds: float) -> float:
    """Take a while."""
    loop = asyncio.get_running_loop()
    waited = loop.create_future()
    alarm = loop.call_later(seconds, waited.set_result, None)
    try:
        await waited
    finally:
        alarm.cancel()
    return seconds


@workflow(id="swept leaf")
async def leaf(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """A child."""
    await ctx.step.run("nap", nap, payload["seconds"])
    return f"{payload['name']} done"


@workflow(id="swept request")
async def request(ctx: WorkflowContext, payload: dict[str, Any]) -> list[Any]:
    """Do what the payload says, one thing after another; the result tells what each gave."""
    found: list[Any] = []
    for number, (kind, seconds, queue) in enumerate(payload["does"]):
        name = f"{payload['name']}.{number}"
        given = {"name": name, "seconds": seconds}
        match kind:
            case "step":
                found.append(await ctx.step.run(name, nap, seconds))
            case "child":
                found.append(await ctx.step.invoke_and_wait(name, leaf, given, queue=queue, concurrency_key="x"))
            case "both":
                children = (ctx.step.invoke_and_wait(f"{name} {side}", leaf, given, queue=queue) for side in "lr")
                found.append(await asyncio.gather(ctx.step.run(name, nap, seconds), *children))
            case "publish":
                await ctx.step.publish_event(name, topic=f"swept/{number % 2}", data={"n": name, "left": number % 3})
            case _:
                await ctx.step.wait_for(name, seconds=seconds if kind == "nap" else seconds + 30)
    return found


@workflow(id="swept each", trigger_on_event="swept/0")
async def each(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """One event, which may be told again under another name."""
    data = payload["data"]
    if data["left"]:
        await ctx.step.publish_event("on", topic="swept/1", data={"n": f"{data['n']}+", "left": data["left"] - 1})
    return str(await ctx.step.invoke_and_wait("leaf", leaf, {"name": data["n"], "seconds": 0.5}, queue="narrow"))


@workflow(id="swept batch", trigger_on_event="swept/*", batch_size=3, batch_timeout_seconds=4)
async def batch(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Up to three events of a pattern."""
    await ctx.step.run("nap", nap, 0.25)
    return len(payload["events"])


@workflow(id="swept tick", schedule=True)
async def tick(ctx: WorkflowContext, payload: SchedulePayload) -> str:
    """An occurrence; some tell of themselves."""
    if payload.timestamp.minute % 2:
        await ctx.step.publish_event("tell", topic="swept/1", data={"n": payload.timestamp.isoformat(), "left": 0})
    return await ctx.step.invoke_and_wait("leaf", leaf, {"name": payload.timestamp.isoformat(), "seconds": 20.0})


WORKFLOWS = (leaf, request, each, batch, tick)


@dataclass(frozen=True)
class Program:
    """
    What is asked for.

    Attributes:
        requests: name, what it does, and how it is queued.
        overlap: of the schedule.
        latency_us: an append takes up to so much.
    """

    requests: list[tuple[str, list[Any], dict[str, Any]]]
    overlap: str
    latency_us: int


def program_of(number: int) -> Program:
    """Draw a program."""
    chance = Random(f"{SEED} swept {number}")
    requests: list[tuple[str, list[Any], dict[str, Any]]] = []
    for index in range(chance.randint(3, 6)):
        does = [
            (chance.choice(KINDS), chance.choice([0.1, 1.0, 7.0]), chance.choice([None, "narrow"]))
            for _ in range(chance.randint(1, 4))
        ]
        options: dict[str, Any] = {
            "queue": chance.choice(["lane", "narrow"]),
            "concurrency_key": chance.choice(["a", "b", None]),
        }
        options |= {"idempotency_key": f"request {index}", "priority": chance.choice([0, 0, 5])}
        requests.append((f"r{index}", does, options))
    # One that has something for each trigger, so that every program does.
    last: list[Any] = [("publish", 0.1, None), ("child", 0.1, "narrow"), ("publish", 0.1, None)]
    requests.append(("last", last, {"queue": "lane", "concurrency_key": "a", "idempotency_key": "last"}))
    return Program(requests, chance.choice(["allow_all", "buffer_all"]), chance.choice([0, 50_000]))


def live(program: Program, number: int, crash_at: set[int]) -> Simulation:
    """Live a program's life, crashed at these ticks."""
    with Simulation(WORKFLOWS, seed=number, settings=SETTINGS, latency_us_max=program.latency_us) as sim:
        sim.world.crash_at |= crash_at
        end_us = sim.clock.now_us() + LIFE_SECONDS * 1_000_000
        limits: dict[str, Any] = {
            "lane": {"concurrency_limit": 2, "key_concurrency_limit": 1},
            "narrow": {"concurrency_limit": 1},
        }
        for name, changes in limits.items():
            _insist(sim, sim.draft("queue", queue=name, changes=changes, create=True))
        said: dict[str, Any] = {"cron": "* * * * *", "key": "k", "overlap": program.overlap, "catch_up_seconds": 86_400}
        _insist(sim, sim.draft("schedule", action="set", workflow="swept tick", said=said))
        for name, does, options in program.requests:
            # Whoever isn't answered asks again as somebody who knows nothing of the first time: the key tells.
            payload = {"name": name, "does": does}
            while _insist(sim, sim.draft_run(request, payload, **options), again=False).reply is None:
                pass
        while sim.clock.now_us() < end_us:
            _revive(sim)
            sim.run_for((end_us - sim.clock.now_us()) / 1e6)
        _insist(sim, sim.draft("schedule", action="pause", schedule=SCHEDULE))
        while not sim.alive or _under_way(sim):
            _revive(sim)
            sim.settle()
        return sim


def _under_way(sim: Simulation) -> bool:
    return any(state.phase not in ENDED for state in sim.audit.states.values())


def _revive(sim: Simulation) -> None:
    while not sim.alive:
        sim.start()


def _insist(sim: Simulation, call: Call, *, again: bool = True) -> Call:
    """Send a command until it is answered, or once."""
    while call.reply is None:
        _revive(sim)
        sim.send_again(call)
        sim.run_for(0.2)
        if not again:
            break
    return call


def outcome(sim: Simulation) -> dict[str, Any]:
    """Give what a life came to, without ids of runs and without the boundaries of batches."""
    found: dict[str, Any] = {"requests": [], "published": Counter(), "occurrences": []}
    handed: dict[str, list[str]] = {each.id: [], batch.id: []}
    with sim.store.log.reader() as reader:
        events = [decode(record.type, record.schema_version, record.payload) for record in reader.records()]
    fired = {event.run: event for event in events if isinstance(event, e.ScheduleFired)}
    triggered = [event for event in events if isinstance(event, e.TriggerFired)]
    for event in events:
        if isinstance(event, e.EventPublished) and event.topic.startswith("swept/"):
            data: Any = event.data
            found["published"][event.topic, data["n"]] += 1
    for run, history in sim.audit.histories.items():
        created = history[0][0]
        assert isinstance(created, e.RunCreated)
        if created.workflow == request.id:
            found["requests"].append((str(created.idempotency_key), sim.result(run)))
        elif created.workflow == tick.id:
            found["occurrences"].append((fired[run].occurrence_us, sim.result(run)))
    for one in triggered:
        created = sim.audit.histories[one.run][0][0]
        assert isinstance(created, e.RunCreated)
        payload: Any = created.input
        handed[one.trigger] += [event["data"]["n"] for event in payload.get("events", [payload])]
    found["requests"].sort()
    found["occurrences"].sort()
    return {**found, "handed": {trigger: Counter(names) for trigger, names in handed.items()}}


def check(sim: Simulation) -> None:
    """Every run ended, every event was handed out once, and no limit was exceeded at any record."""
    found = outcome(sim)
    published: Counter[Any] = found["published"]
    by_name = Counter(name for _, name in published.elements())

    assert [] == [run for run, state in sim.audit.states.items() if state.phase not in ENDED]
    assert {1} == set(published.values())
    assert by_name == found["handed"][batch.id]
    assert Counter(name for topic, name in published if topic == "swept/0") == found["handed"][each.id]
    assert [] == walk(sim.store.log, QueueWalk(slots=SLOTS, turns=False)).wrong
    sim.audit.check_rows()


@pytest.mark.parametrize("number", range(PROGRAMS))
def test_crashed_programs_come_to_what_undisturbed_ones_do(number: int) -> None:
    """Wherever the engine crashes, requests, occurrences and events come to what they come to without a crash."""
    program = program_of(number)
    undisturbed = live(program, number, set())
    check(undisturbed)
    expected, ticks = outcome(undisturbed), undisturbed.world.ticks
    chance = Random(f"{SEED} crashes {number}")
    crashes = range(1, ticks + 1) if LONG else sorted(chance.sample(range(1, ticks + 1), CRASHES))

    assert len(expected["occurrences"]) > 3
    assert len(expected["requests"]) == len(program.requests)
    for at in crashes:
        sim = live(program, number, {at, at + chance.randrange(1, ticks)})
        assert sim.world.life > 1, "it was crashed"
        check(sim)
        assert expected == outcome(sim), f"crashed at tick {at}"
