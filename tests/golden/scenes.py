"""
How golden histories were made: for each case, what happens to its workflows from the outside.

A scene is needed once, by `python -m tests.golden.make`. It may be changed or dropped when it no longer fits the code
around it; what it made stays. Its workflows are those of the case's own `workflow.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import orjson
from polos.definition import workflow
from polos.engine import commands as c
from polos.engine.messages import Message, message_to_json
from polos.points import arm
from polos.runtime.app import _record_start
from polos.runtime.unit import Unit, Work
from polos.store.inbox import InboxItem
from polos.testing.simulation import Simulation
from polos.testing.world import Crashed

from tests.golden.scenes_of_agents import OF_AGENTS
from tests.golden.scenes_of_leaving import OF_LEAVING

__all__ = ["SCENES", "Queries"]

# Asked of the engine that goes on with the history: run, name, arguments and the answer of then.
Queries = list[dict[str, Any]]
Scene = Callable[[Simulation, ModuleType], "Queries | None"]


def steps(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.steps, {"number": 7, "items": ["tea", "bread"]})
    sim.settle()


def step_retries(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.step_retries, None)
    sim.create(program.failing, None)
    sim.settle()


def unknown_outcome(sim: Simulation, program: ModuleType) -> None:
    run = sim.create(program.unknown_outcome, None).run
    for outcome, more in (
        ("completed", {"value": "charged, says the bank"}),
        ("failed", {"message": "refused, says the bank"}),
        ("not_done", {}),
    ):
        program.WORLD["hangs"] = True
        sim.run_for(1)
        sim.recover()
        sim.run_for(1)
        program.WORLD["hangs"] = False
        sim.send("resolve", run=run, step=outcome, outcome=outcome, by="accounting", **more)
        program.WORLD["hangs"] = outcome != "not_done"
        sim.run_for(1)
    sim.settle()


def reconcile(sim: Simulation, program: ModuleType) -> None:
    run = sim.create(program.reconcile, None).run
    sim.run_for(1)  # spring hangs
    sim.recover()  # ... was sent; summer hangs
    sim.run_for(1)
    sim.crash()
    program.WORLD["hangs"] = False
    sim.start()  # ... was not sent, and is sent now; autumn is sent, so its question never comes
    sim.settle()
    second = sim.create(program.reconcile, None).run
    assert run != second
    program.WORLD["hangs"] = True
    sim.run_for(1)
    sim.recover()


def pure_steps(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.pure, {"n": 20})
    sim.settle()


def deltas(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.deltas, {"to": 3})
    sim.run_for(100)


def gather(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.gather, None)
    sim.create(program.given_up, None)
    sim.run_for(100)


def timers(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.timers, None)
    sim.settle()


def pinned(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.pinned, None)
    sim.run_for(10)
    sim.recover()
    sim.run_for(8000)


def topics(sim: Simulation, program: ModuleType) -> None:
    sim.send("publish", topic="news", events=[{"event_type": "old", "data": {"n": 1}}, {"data": "two"}])
    sim.run_for(1)
    sim.create(program.reader, None)
    sim.run_for(5)
    sim.create(program.writer, {"text": "rain"})
    sim.settle()


def signals(sim: Simulation, program: ModuleType) -> None:
    run = sim.create(program.signals, None).run
    sim.run_for(1)
    sent: list[tuple[str, Any]] = [("go", {"at": "once"}), ("item", "bread"), ("item", "jam"), ("stray", 1)]
    for name, data in sent:
        call = sim.send("signal", run=run, name=name, data=data)
        sim.run_for(1)
        sim.send_again(call)
    sim.run_for(120)
    sim.send("signal", run=run, name="item", data=None)
    sim.settle()


def suspends(sim: Simulation, program: ModuleType) -> None:
    run = sim.create(program.suspends, None).run
    sim.run_for(1)
    sim.send("resume", run=run, key="early", data="before it was asked")
    sim.send("resume", run=run, key="approve", data={"ok": True})
    sim.run_for(130)
    sim.send("resume", run=run, key="approve#2", data={"ok": "by its name"})
    sim.run_for(70)
    sim.create(program.answering, {"run": run})
    sim.settle()


def children(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.parent, None)
    sim.settle()


def cancellation(sim: Simulation, program: ModuleType) -> None:
    first = sim.create(program.cleaning, None).run
    second = sim.create(program.stubborn, None).run
    third = sim.create(program.family, {}).run
    fourth = sim.create(program.late, None).run
    fifth = sim.create(program.stubborn, None).run
    sim.run_for(10)
    sim.send("cancel", run=first, by="ada", reason="the weather")
    for run in (second, third, fourth, fifth):
        sim.send("cancel", run=run)
    sim.run_for(1)
    sim.send("cancel", run=fifth, by="ada")  # asked twice: at once
    sim.run_for(200)


def updates(sim: Simulation, program: ModuleType) -> Queries:
    first = sim.create(program.updates, None).run
    second = sim.create(program.updates, None).run
    sim.run_for(1)
    for run in (first, second):
        for name, data in (("seats", 5), ("seats", 12), ("fail", "tables"), ("wait", None)):
            sim.send("update", run=run, name=name, data=data)
            sim.run_for(1)
    sim.send("signal", run=first, name="arrived")
    sim.run_for(1)
    return [{"run": second, "name": "summary", "args": [3], "value": "15 seats"}]


def state(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.counter, {"names": ["a", "bcd"]}, initial_state={"count": 10}, tags=["extra"], user="ada")
    sim.create(program.plain, None, initial_state={"old": 1, "kept": [None]}, session="s-1")
    sim.settle()


def continue_as_new(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.rounds, {"round": 1})
    sim.create(program.watcher, None)
    sim.run_for(1)


def direct_bodies(sim: Simulation, program: ModuleType) -> None:
    run = sim.create(program.direct, {"n": 1}).run
    sim.create(program.plain, {"n": 5})
    sim.create(program.plain_failing, None)
    sim.run_for(10)
    sim.recover()
    sim.run_for(30)
    sim.recover()
    sim.run_for(1)
    sim.send("resume", run=run, key="ok", data="yes")
    sim.settle()
    sim.create(program.direct, {"n": 100})
    sim.run_for(40)


def run_retries(sim: Simulation, program: ModuleType) -> None:
    run = sim.create(program.run_retries, None).run
    sim.run_for(2)
    sim.send("signal", run=run, name="hello", data="from outside")
    sim.create(program.always_failing, None)
    sim.settle()


def run_timeout(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.run_timeout, None)
    sim.settle()


def divergence(sim: Simulation, program: ModuleType) -> None:
    original = program.divergence
    run = sim.create(original, None).run
    sim.settle()
    sim.crash()
    sim.workflows[original.id] = workflow(id=original.id)(program.changed)
    sim.start()
    sim.send("signal", run=run, name="go", data={"who": "somebody"})
    sim.run_for(5)
    sim.crash()
    sim.workflows[original.id] = original
    sim.start()
    sim.settle()


def set_aside(sim: Simulation, program: ModuleType) -> None:
    original = program.set_aside
    first, second = (sim.create(original, None).run for _ in range(2))
    sim.settle()

    def poison(unit: Unit) -> None:
        aside = c.SetAside(
            reason="poisoned", message="its code was on the loop when the process died, 3 times in a row"
        )
        sim.engine.decide_on(unit, sim.engine.loader.get(second), aside)

    sim.engine.post(Work(poison))
    sim.run_for(1)
    sim.crash()
    del sim.workflows[original.id]
    sim.start()
    sim.send("signal", run=first, name="go", data="while the code was missing")
    sim.run_for(5)
    sim.crash()
    sim.workflows[original.id] = original
    sim.start()
    sim.run_for(5)
    sim.send("readmit", run=second, by="ada")
    sim.run_for(5)
    sim.send("signal", run=second, name="go", data="later")
    sim.settle()


def large_result(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.large_result, {"n": 12_000})
    sim.settle()


def recorded_values(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.values, None)
    sim.create(program.patched, None)
    original = program.patched
    sim.run_for(1)
    sim.workflows[original.id] = workflow(id=original.id)(program.without_the_patch)
    sim.create(original, None)
    sim.run_for(1)
    sim.crash()
    sim.workflows[original.id] = original
    sim.start()
    sim.settle()


def generators(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.generators, None)
    sim.settle()


def synchronization(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.synchronization, None)
    sim.settle()


def two_logs(sim: Simulation, program: ModuleType) -> None:
    sent: list[Message] = []

    def carry(message: Message, done: Callable[[], None]) -> None:
        sent.append(message)
        done()

    near = sim.create(program.near_parent, None).run
    sim.engine.is_local = lambda run: run == near
    sim.engine.carry = carry
    sim.run_for(1)
    (start,) = sent
    assert start.kind == "start"
    body: dict[str, Any] = {"name": "far", "child": start.target, "status": "completed", "result": 42}
    answer = Message(id=f"{start.target}:3", kind="finished", target=near, body=body)
    sim.send("message", message=message_to_json(answer))
    sim.settle()


def inbox(sim: Simulation, program: ModuleType) -> None:
    run = sim.create(program.inbox, None).run
    _record_start(sim.engine, clean=True)
    sim.run_for(1)
    sim.recover()
    _record_start(sim.engine, clean=False)
    for number, (target, data) in enumerate([("nobody", 1), (run, {"from": "another process"})]):
        command = {"kind": "signal", "run": target, "name": "from outside", "data": data}
        payload = orjson.dumps({"command": command, "by": "process 1"})
        sim.engine.intake._consume(InboxItem(command_id=f"command-{number}", payload=payload))
        sim.run_for(1)
    sim.settle()


def unfinished(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.unfinished, None)
    sim.create(program.waiting_parent, None)
    sim.run_for(60)


def queues(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.queued, {"to": "ada"}, queue="golden mail", concurrency_key="a")
    sim.create(program.queued, {"to": "bob"}, queue="golden mail", concurrency_key="a", start_after=5)
    sim.run_for(1)
    sim.send("queue", queue="golden mail", changes={"paused": True})
    for number in range(4):
        sim.create(program.queued, {"to": number}, queue="golden mail", concurrency_key="b", priority=number)
    sim.run_for(10)
    sim.create(program.sender, None)
    sim.run_for(10)
    sim.recover()
    sim.send("queue", queue="golden mail", changes={"paused": False, "max_queued": None}, by="ada")
    sim.settle()


def retries(sim: Simulation, program: ModuleType) -> None:
    run = sim.create(program.retried, {"to": "ada"}).run
    sim.settle()  # nobody answers
    sim.send("retry", run=run, by="ada")
    sim.run_for(1)
    sim.send("resume", run=run, key="ok", data="yes")
    sim.settle()  # the child fails
    sim.recover()
    program.WORLD["up"] = True
    sim.send("retry", run=run, by="ada", reason="the van is back")
    sim.settle()
    charged = sim.create(program.given_up, None).run
    sim.run_for(1)
    sim.send("cancel", run=charged)
    sim.run_for(1)
    sim.send("retry", run=charged)
    sim.settle()
    sim.send("resolve", run=charged, step="charge", outcome="completed", value="charged")
    sim.settle()


def debounced(sim: Simulation, program: ModuleType) -> None:
    def call(number: int, key: str) -> None:
        sim.create(
            program.debounced, {"n": number}, initial_state={"of": key},
            debounce_seconds=10, debounce_key=key, debounce_max_seconds=25,
        )  # fmt: skip

    for number in range(4):
        call(number, "a")
        sim.run_for(7)
    call(4, "b")
    sim.run_for(1)
    call(5, "b")
    sim.recover()
    call(6, "c")
    sim.run_for(1)
    sim.send("cancel", run=sim.calls[-1].run)
    sim.settle()


def triggers(sim: Simulation, program: ModuleType) -> None:
    def publish(topic: str, *numbers: int) -> None:
        sim.send("publish", topic=topic, events=[{"data": {"n": number}} for number in numbers])
        sim.run_for(1)

    sim.run_for(1)
    publish("golden/each", 1, 2)
    publish("golden/others/deep", 13, 3, 4, 5)
    sim.run_for(60)
    sim.send("trigger", trigger="golden_each", paused=True, by="ada")
    publish("golden/each", 6)
    sim.recover()
    sim.run_for(60)
    publish("golden/none", *range(100, 350))
    sim.send("trigger", trigger="golden_each", paused=False, to=0)
    sim.settle()


def schedules(sim: Simulation, program: ModuleType) -> None:
    # By the day: an engine that goes on with each prefix does so for ten days.
    day = 86_400
    said: dict[str, Any] = {"cron": "@daily", "key": "ada", "overlap": "buffer_one"}
    sim.send("schedule", action="set", workflow="golden_scheduled", said=said, by="ada")
    sim.run_for(4.5 * day)
    sim.crash()
    sim.clock.advance(5 * day * 1_000_000)
    sim.start()
    sim.run_for(10)
    schedule = "golden_scheduled:ada"
    said |= {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "catch_up_seconds": 60, "jitter_seconds": 30}
    sim.send("schedule", action="set", workflow="golden_scheduled", said=said)
    sim.send("schedule", action="pause", schedule=schedule)
    sim.run_for(1)
    sim.send("schedule", action="resume", schedule=schedule)
    sim.send("schedule", action="trigger", schedule=schedule, run=sim.new_run_id())
    sim.run_for(1)
    now_us = sim.clock.now_us()
    from_us = now_us - 2 * day * 1_000_000
    sim.send("schedule", action="backfill", schedule=schedule, from_us=from_us, to_us=now_us)
    sim.run_for(6 * day)
    sim.send("schedule", action="delete", schedule=schedule, by="bob")
    sim.settle()


def sessions(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.session, {"n": 1}, session="a talk", user="ada")
    sim.create(program.session, {"n": 0})
    sim.create(program.session, {"n": 0}, user="bob")
    sim.create(program.direct, None, session="a talk")
    sim.settle()


def _seal(sim: Simulation) -> None:
    """Let three hours pass, and die as soon as something is sealed: then it leaves the log, which has to have it."""

    def die(point: str) -> None:
        if point == "archive_sealed_before_taken_out":
            raise Crashed

    arm(die)
    sim.run_for(3 * 3600)
    arm(None)


def archive(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.kept, None)
    sim.create(program.archived, {"n": 0})
    sim.create(program.archived, {"n": 3}, user="ada")
    sim.create(program.archived, {"n": -1})
    sim.run_for(60)
    sim.create(program.archived, {"n": 1})
    sim.run_for(60)
    _seal(sim)


def pruned(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.pruned, {})
    sim.run_for(60)
    _seal(sim)


def archive_count(sim: Simulation, program: ModuleType) -> None:
    for number in range(3):
        sim.create(program.counted, {"n": number})
    _seal(sim)


def retry_policies(sim: Simulation, program: ModuleType) -> None:
    for fails in (False, True):
        sim.create(program.policies, {"fails": fails})
        sim.settle()


def definitions(sim: Simulation, program: ModuleType) -> None:
    early = program.from_beginning
    sim.crash()
    del sim.workflows[early.id]
    sim.start()
    sim.send("publish", topic="golden/early", events=[{"data": "before anybody listened"}])
    sim.run_for(1)
    sim.crash()
    sim.workflows[early.id] = early
    sim.start()
    for text in ("a", "a b", "a b c", "a b c d"):
        sim.create(program.held_back, {"text": text})
        sim.run_for(4)
    sim.settle()


def once(sim: Simulation, program: ModuleType) -> None:
    def call(number: int, **options: Any) -> str:
        made = sim.create(program.once, {"n": number}, **options).run
        sim.run_for(1)
        return made

    call(1, idempotency_key="order-1")
    call(2, idempotency_key="order-1")
    call(3, singleton="shop", idempotency_key="order-2")
    sim.recover()
    call(4, idempotency_key="order-1")
    call(5, singleton="shop")
    call(6, singleton="shop", singleton_policy="queue")
    last = call(7, singleton="shop", singleton_policy="queue")
    sim.run_for(70)
    call(8, singleton="shop", singleton_policy="cancel_old")
    sim.settle()
    assert last not in sim.audit.living()
    call(9, idempotency_key="order-1")
    sim.settle()


def key_rates(sim: Simulation, program: ModuleType) -> None:
    for number, key in enumerate(["a", "a", "a", "b", None, "a"]):
        sim.create(program.key_rated, {"n": number}, concurrency_key=key)
    sim.run_for(10)
    sim.recover()
    sim.settle()


def detached(sim: Simulation, program: ModuleType) -> None:
    parent = sim.create(program.leaving, {}).run
    waiting = sim.create(program.left, None).run
    sim.create(program.chain, {"round": 1}, seconds=90)
    sim.run_for(70)
    sim.send("cancel", run=parent)
    (child,) = (run for run, state in sim.audit.states.items() if state.parent == waiting)
    sim.send("cancel", run=child, by="ada")
    sim.settle()


def typed_results(sim: Simulation, program: ModuleType) -> None:
    program.WORLD["hangs"] = True
    run = sim.create(program.typed, {}).run
    sim.run_for(1)
    sim.recover()
    program.WORLD["hangs"] = False
    sim.run_for(1)
    sim.send("update", run=run, name="receipt", data=3)
    sim.run_for(1)
    sim.send("signal", run=run, name="go")
    sim.settle()


def scheduled_in_code(sim: Simulation, program: ModuleType) -> None:
    def declare() -> None:
        sim.engine.schedules.declare(sim.workflows.values())  # as `Polos` does when it starts
        sim.run_for(2 * 86_400)

    declare()
    for schedule in ({"cron": "0 7 * * *", "timezone": "Europe/Berlin"}, None):
        options: dict[str, Any] = {} if schedule is None else {"schedule": schedule}
        sim.crash()
        sim.workflows[program.scheduled.id] = workflow(id=program.scheduled.id, **options)(program.unscheduled)
        sim.start()
        declare()


SCENES: dict[str, Scene] = {
    scene.__name__: scene
    for scene in (
        steps, step_retries, unknown_outcome, reconcile, pure_steps, gather, timers, topics, signals, suspends,
        children, cancellation, updates, state, continue_as_new, direct_bodies, run_retries, run_timeout, divergence,
        set_aside, large_result, queues, triggers, schedules, recorded_values, generators, synchronization, two_logs,
        inbox, unfinished, deltas, retries, debounced, archive, sessions, pinned, once, key_rates, detached, pruned,
        archive_count, retry_policies, definitions,
        typed_results, scheduled_in_code, *OF_AGENTS, *OF_LEAVING,
    )
}  # fmt: skip
