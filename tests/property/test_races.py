"""
The engine's own races, explored: what comes first, who dies meanwhile, and what arrives twice.

Each race is a test as a user would write it, so what it asks is what a user may rely on. Beside that, every schedule is
held against the engine's numbered promises by the kit itself. And each race is played by an engine that is broken in
the way that this race would show, for a race that can't be lost says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from polos import RetryPolicy, StepExecutionError, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.state import Phase
from polos.errors import EngineNotRunning, PolosStoreError, StoreFailed
from polos.runtime import recovery
from polos.runtime.engine import Engine
from polos.runtime.intake import Intake
from polos.runtime.topics import Topics
from polos.runtime.unit import Unit
from polos.store.faults import Fault
from polos.store.memory import MemoryLog
from polos.testing import exploration
from polos.testing.exploration import explore
from polos.testing.explorer import ExploredWorld
from polos.testing.simulation import Simulation

from tests.campaign import SEED, scaled
from tests.controls import broken
from tests.property.programs import program

CALLS: list[str] = []


async def act(name: str) -> str:
    """Have an effect."""
    CALLS.append(name)
    return name


def block(name: str) -> str:
    """Have an effect, on a thread."""
    CALLS.append(name)
    return name


@workflow(id="raced-steps")
async def steps(ctx, payload: dict) -> list[str]:
    """Take three steps, one of which may be called only once and one of which blocks."""
    first = await ctx.step.run("first", act, "first")
    once = await ctx.step.run("once", act, "once", effect="at_most_once", reconcile=lambda _: None)
    return [first, once, await ctx.step.run("last", block, "last")]


@workflow(id="raced-answer")
async def answer(ctx, payload: dict) -> Any:
    """Ask twice, the first time not for long: an answer that comes between counts for the second time."""
    try:
        return (await ctx.step.suspend("ask", {}, timeout=60)).data
    except StepExecutionError:
        return (await ctx.step.suspend("ask", {})).data


@workflow(id="raced-asks")
async def asks(ctx, payload: dict) -> list[Any]:
    """Ask twice."""
    return [(await ctx.step.suspend("ask", {})).data, (await ctx.step.suspend("ask", {})).data]


@workflow(id="raced-quick")
async def quick(ctx, payload: dict) -> str:
    """Take a step."""
    return str(await ctx.step.run("act", act, "act"))


@workflow(id="raced-forever")
async def forever(ctx, payload: dict) -> str:
    """Wait for what nobody sends."""
    return str(await ctx.step.wait_for_signal("never"))


@workflow(id="raced-parent")
async def parent(ctx, payload: dict) -> list[str]:
    """Wait for two children, one of which never ends by itself."""
    children = (("quick", quick), ("forever", forever))
    return list(await asyncio.gather(*(ctx.step.invoke_and_wait(name, child, {}) for name, child in children)))


@workflow(id="raced-once")
async def once(ctx, payload: dict) -> str:
    """Hear a signal, and find out whether it comes again."""
    first = await ctx.step.wait_for_signal("ring")
    try:
        second = await ctx.step.wait_for_signal("ring", timeout=60)
    except StepExecutionError:
        return f"{first}"
    return f"{first} {second}"


@workflow(id="raced-event")
async def event(ctx, payload: dict) -> Any:
    """Wait for an event, after a step."""
    await ctx.step.run("act", act, "act")
    return (await ctx.step.wait_for_event("event", "raced-topic")).data


@workflow(id="raced-retry", retries=RetryPolicy(max_retries=1, base_delay_seconds=1))
async def retry(ctx, payload: dict) -> list[str]:
    """Fail in the first attempt, while steps are under way whose results come whenever they come."""

    async def fail() -> None:
        await ctx.step.run("quick", act, "quick")
        if ctx.retry_count == 0:
            raise ValueError("the first attempt fails")

    slow = asyncio.gather(ctx.step.run("slow", act, "slow"), ctx.step.run("blocking", block, "blocking"))
    await fail()
    return list(await slow)


# ------------------------------------------------------------------------------------------------------ races


def cancel_against_completion(world: ExploredWorld) -> None:
    """Who is told that a run will stop finds it stopped, and who is told that it was over finds it completed."""
    run = world.start(quick, {})
    cancel = world.cancel(run)
    outcome = world.finish()
    assert cancel.call.reply is not None
    told = cancel.call.reply["detail"]
    cancelled = outcome.status == "cancelled"
    assert cancelled or outcome.result == "act"
    repeated = sum("a second time" in one.label or "once more" in one.label for one in world.happened)
    if not repeated:
        assert told == {"cancelled": cancelled}
    assert not cancelled or told == {"cancelled": True} or repeated


def resume_against_timeout(world: ExploredWorld) -> None:
    """An answer is used, before the time is up, after it, and in between."""
    run = world.start(answer, {})
    world.resume(run, "ask", "yes")
    assert "yes" == world.finish().result


def child_against_cancelled_parent(world: ExploredWorld) -> None:
    """With a parent its children end, whether they were about to end by themselves or would never have."""
    run = world.start(parent, {})
    world.cancel(run)
    assert "cancelled" == world.finish().status
    assert [] == world.sim.audit.living()


def two_clients(world: ExploredWorld) -> None:
    """Two answers reach two questions, one each, however close together they come."""
    run = world.start(asks, {})
    world.resume(run, "ask", "a")
    world.resume(run, "ask", "b")
    assert world.finish().result in [["a", "b"], ["b", "a"]]
    assert 2 == sum(isinstance(one, e.WaitSatisfied) for one in events_of(world, run.id))


def one_client_twice(world: ExploredWorld) -> None:
    """A signal that is sent twice under one id, on whichever way, is heard once."""
    run = world.start(once, {})
    world.signal(run, "ring", "ding")
    assert "ding" == world.finish().result


def event_against_eviction(world: ExploredWorld) -> None:
    """A run that waits gets the next event, wherever it is at that moment."""
    world.start(event, {})
    world.publish("raced-topic", "news")
    outcome = world.finish(may_wait=True)
    began, published = None, None
    with world.sim.store.log.reader() as reader:
        for record in reader.records():
            found = decode(record.type, record.schema_version, record.payload)
            if isinstance(found, e.WaitStarted):
                began = began or record.position
            elif isinstance(found, e.EventPublished):
                published = record.position
    assert began is not None
    assert published is not None
    assert ("completed" if began < published else "waiting") == outcome.status


def owner_lost(world: ExploredWorld) -> None:
    """An engine that has lost its store in the middle of a commit records nothing and begins nothing."""
    CALLS.clear()
    run = world.start(steps, {})
    outcome = world.finish(may_wait=True)
    once = [one for one in events_of(world, run.id) if isinstance(one, e.StepAttemptStarted)]
    assert CALLS.count("once") <= len(once)
    # Nobody can tell whether it has had its effect if the process died in the middle: then a person is asked.
    unknown = any(isinstance(one, e.StepOutcomeUnknown) for one in events_of(world, run.id))
    assert outcome.status == ("waiting" if unknown else "completed")


def retry_against_late_result(world: ExploredWorld) -> None:
    """What an attempt of a run leaves under way is taken over by the next one, not begun again."""
    CALLS.clear()
    world.start(retry, {})
    assert ["slow", "blocking"] == world.finish().result
    died = sum("the process dies" in one.label or "takes the store" in one.label for one in world.happened)
    again = sum("fails" in one.label for one in world.happened)
    for name in ("slow", "blocking", "quick"):
        assert CALLS.count(name) <= 1 + died + again, f"{name} was called {CALLS.count(name)} times"


def events_of(world: ExploredWorld, run: str) -> list[e.Event]:
    """Give what is recorded of a run."""
    return [one for one, _, _ in world.sim.audit.histories.get(run, [])]


# ------------------------------------------------------------------------------------------------- broken engines


def loses_early_answers(patch: pytest.MonkeyPatch) -> None:
    """An answer that nobody waits for at this moment is acknowledged and forgotten."""
    whole = Intake._resume

    def resume(self: Intake, unit: Unit, command_id: str, command: Any) -> Any:
        state = self._engine.loader.get(str(command["run"])).state
        waits = any(op.wait_kind == "suspend" for op in state.ops.values())
        return whole(self, unit, command_id, command) if waits else {"outcome": "accepted"}

    patch.setattr(Intake, "_resume", resume)


def forgets_busy_children(patch: pytest.MonkeyPatch) -> None:
    """A cancellation doesn't reach a child that has something on its way to the disk."""
    whole = Intake.deliver

    def deliver(self: Intake, unit: Unit, message: Any) -> None:
        resident = self._engine.residents.get(message.target)
        if not (message.kind == "cancel" and resident is not None and resident.in_flight):
            whole(self, unit, message)

    patch.setattr(Intake, "deliver", deliver)


def answers_early(patch: pytest.MonkeyPatch) -> None:
    """Callers are answered when their command is decided."""
    patch.setattr(Engine, "_submit", Engine._submit)  # so that it is put back
    broken.answers_before_the_commit()


def takes_every_command_for_new(patch: pytest.MonkeyPatch) -> None:
    """A command that comes again is another one."""
    whole, numbers = Intake._signal, iter(range(1_000_000))

    def signal(self: Intake, unit: Unit, command_id: str, command: Any) -> Any:
        return whole(self, unit, f"{command_id}-{next(numbers)}", command)

    patch.setattr(Intake, "_signal", signal)


def loses_what_comes_at_once(patch: pytest.MonkeyPatch) -> None:
    """An answer to a run that has something on its way to the disk is acknowledged and forgotten."""
    whole = Intake._resume

    def resume(self: Intake, unit: Unit, command_id: str, command: Any) -> Any:
        busy = self._engine.loader.get(str(command["run"])).in_flight
        return {"outcome": "accepted"} if busy else whole(self, unit, command_id, command)

    patch.setattr(Intake, "_resume", resume)


def forgets_the_evicted(patch: pytest.MonkeyPatch) -> None:
    """An event reaches only runs that are in memory."""
    whole = Topics._satisfy

    def satisfy(self: Topics, unit: Unit, run: str, name: str, event: Any, *, index: int) -> None:
        if run in self._engine.residents:
            whole(self, unit, run, name, event, index=index)

    patch.setattr(Topics, "_satisfy", satisfy)


def forgets_the_fence(patch: pytest.MonkeyPatch) -> None:
    """An old epoch may append."""
    whole = MemoryLog.append

    def append(self: MemoryLog, units: Any, *, epoch: Any) -> Any:
        with self.reader() as reader:
            newest = reader.head().epoch
        return whole(self, units, epoch=newest)

    patch.setattr(MemoryLog, "append", append)


def never_gives_up(patch: pytest.MonkeyPatch) -> None:
    """An engine that has lost its store tries again, as if the disk were full."""
    patch.setattr(recovery, "_FOR_GOOD", ())


def forgets_late_results(patch: pytest.MonkeyPatch) -> None:
    """What a step gives between two attempts of its run is nobody's."""
    whole = Engine.outcome

    def outcome(self: Engine, run: str, command: Any, settled: Callable[[object], None]) -> None:
        if self.loader.get(run).state.phase is Phase.BACKOFF:
            settled(None)
        else:
            whole(self, run, command, settled)

    patch.setattr(Engine, "outcome", outcome)


@dataclass(frozen=True)
class Race:
    """A race, what may come into it, and which engines lose it."""

    body: Callable[[ExploredWorld], None]
    breaks: tuple[Callable[[pytest.MonkeyPatch], None], ...]
    options: dict[str, Any] = field(default_factory=dict[str, Any])


RACES = {
    race.body.__name__: race
    for race in (
        Race(cancel_against_completion, (answers_early,), {"faults": 1}),
        Race(resume_against_timeout, (loses_early_answers,), {"faults": 1}),
        Race(child_against_cancelled_parent, (forgets_busy_children,)),
        Race(two_clients, (loses_what_comes_at_once,)),
        Race(one_client_twice, (takes_every_command_for_new,), {"repeats": 2, "inbox": 2}),
        Race(event_against_eviction, (forgets_the_evicted,), {"evictions": 2}),
        Race(owner_lost, (forgets_the_fence, never_gives_up), {"takeovers": 1, "faults": 2, "points_max": 200}),
        Race(retry_against_late_result, (forgets_late_results,)),
    )
}


@pytest.mark.parametrize("name", RACES)
def test_races(name: str) -> None:
    """Whoever is first, nothing is lost, done twice or left waiting."""
    race = RACES[name]
    folder = Path(__file__).parent / "explored"

    explore(runs=scaled(150, 20_000), seed=SEED, folder=folder, **race.options)(race.body)()


@pytest.mark.parametrize(
    ("name", "breaks"),
    [(name, breaks) for name, race in RACES.items() for breaks in race.breaks],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_a_broken_engine_loses(
    name: str, breaks: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is broken where two things meet is found by the race of these two."""
    monkeypatch.setattr(exploration, "SHRINK_TRIES_MAX", 10)
    breaks(monkeypatch)

    with pytest.raises(AssertionError):
        explore(runs=300, seed=SEED, folder=tmp_path, **RACES[name].options)(RACES[name].body)()


def test_what_an_unknown_commit_gave_up_is_stopped() -> None:
    """A step that was given up in a commit of unknown outcome is cancelled once it is found to have been made."""
    with Simulation([program], seed=1) as sim:
        call = sim.create(program, {"do": ["held", "a"]})
        sim.run_ready()
        assert {(call.run, "held-a")} == set(sim.world.held)

        sim.send("cancel", run=call.run)
        sim.plan.next(Fault.UNKNOWN_KEPT)
        sim.run_for(1)

        assert isinstance(sim.audit.end_of(call.run), e.RunCancelled)
        assert {} == sim.world.held


def test_an_engine_that_lost_its_store_refuses() -> None:
    """It takes no command and answers those that wait; the engine that has the store goes on with everything."""
    with Simulation([program], seed=1) as sim:
        call = sim.create(program, {"do": ["signal", "x", None]})
        sim.run_ready()
        former = sim.engine
        sim.take_over()
        task = sim.loop.create_task(former.execute("late", {"kind": "signal", "run": call.run, "name": "signal-x"}))
        sim.run_ready()
        after = sim.loop.create_task(former.execute("later", {"kind": "signal", "run": call.run, "name": "signal-x"}))
        sim.run_for(2)

        assert isinstance(task.exception(), StoreFailed)
        assert isinstance(after.exception(), EngineNotRunning)
        assert [call.run] == sim.audit.living()
        sim.send("signal", run=call.run, name="signal-x", data="x")
        sim.run_ready()
        assert "x" == sim.result(call.run)


@pytest.mark.parametrize("fault", [Fault.FULL, Fault.REFUSED, Fault.UNKNOWN_LOST])
def test_an_engine_that_lost_its_store_and_meets_a_full_disk_calls_nothing(fault: Fault) -> None:
    """What it reads when it goes back to what is on disk is its successor's: the steps that are owed there, too."""
    with Simulation([program], seed=1) as sim:
        call = sim.create(program, {"do": ["seq", [["signal", "x", None], ["held", "a"]]]})
        sim.run_ready()
        former = sim.engine
        sim.take_over()
        sim.send("signal", run=call.run, name="signal-x", data="x")
        sim.run_ready()
        assert {(call.run, "held-a")} == set(sim.world.held)

        sim.plan.next(fault)
        task = sim.loop.create_task(former.execute("late", {"kind": "signal", "run": call.run, "name": "other"}))
        sim.run_for(2)

        assert isinstance(task.exception(), PolosStoreError | EngineNotRunning)
        assert ["held-a"] == [effect.name for effect in sim.world.effects]
        sim.world.let_go(call.run, "held-a")
        sim.run_ready()
        assert ["x", "let go"] == sim.result(call.run)
