"""
One run instead of two: idempotency keys and singletons, also when calls race and engines die.

What is looked at is the log, and what callers are told.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from polos import Polos, PolosClient, WorkflowContext, workflow
from polos.engine import events as e
from polos.engine.state import Phase, RunState
from polos.store.faults import Fault
from polos.testing.simulation import Call, Simulation

from tests.test_queues import ended, under_way


async def nap(seconds: float) -> None:
    """Take a while, unless somebody has enough of it."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


@workflow(id="slow")
async def slow(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Work for three seconds, and wait in between."""
    await ctx.step.run("before", nap, 1.0)
    await ctx.step.wait_for("pause", seconds=60)
    await ctx.step.run("after", nap, 2.0)
    return payload["n"]


def told(call: Call) -> str:
    """Give the run that a caller was told of."""
    assert call.reply is not None, call.error
    detail: Any = call.reply.get("detail")
    return str(detail["runs"][0]) if detail else call.run


def begun_at_once(sim: Simulation, key: str) -> int:
    """Give how many runs of a singleton were ever begun at once."""
    most = 0
    for _, states in under_way(sim):
        begun = [state for state in states.values() if state.singleton == key and is_begun(state)]
        most = max(most, len(begun))
    return most


def is_begun(state: RunState) -> bool:
    """Tell whether a run was begun and hasn't ended."""
    return state.phase in (Phase.ACTIVE, Phase.BACKOFF) or (state.phase is Phase.CANCELLING and state.attempt > 0)


def test_a_key_gives_the_run_that_there_is() -> None:
    """Calls with one key, also two in one commit, make one run; another key and another workflow make others."""

    @workflow(id="other")
    async def other(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        return None

    with Simulation([slow, other], latency_us_max=10_000) as sim:
        first, second = (sim.create(slow, {"n": n}, idempotency_key="k") for n in range(2))
        different = sim.create(slow, {"n": 2}, idempotency_key="l")
        elsewhere = sim.create(other, {}, idempotency_key="k")
        sim.run_for(1)
        sim.recover()
        third = sim.create(slow, {"n": 3}, idempotency_key="k")
        sim.settle()
        late = sim.create(slow, {"n": 4}, idempotency_key="k")
        sim.run_for(1)

        assert [first.run] * 4 == [told(call) for call in (first, second, third, late)]
        assert ["accepted", "existing", "existing"] == [call.reply["outcome"] for call in (first, second, late)]  # type: ignore[index]
        assert [different.run, elsewhere.run] == [told(different), told(elsewhere)]
        assert 3 == len(sim.audit.states)


def test_a_key_is_forgotten_after_its_window() -> None:
    """A day later the same key makes another run, which counts from then on."""
    with Simulation([slow]) as sim:
        runs: list[str] = []
        for seconds in (0, 80_000, 10_000, 80_000):
            sim.run_for(seconds)
            call = sim.create(slow, {"n": 1}, idempotency_key="k")
            sim.run_for(1)
            runs.append(told(call))

    assert runs[0] == runs[1]
    assert runs[2] == runs[3] != runs[0]


def test_nobody_is_told_of_a_run_that_isnt_durable() -> None:
    """A call that finds a run on its way waits for it; if the commit fails, both are decided anew."""
    with Simulation([slow], latency_us_max=1_000) as sim:
        sim.run_ready()
        sim.plan.next(Fault.REFUSED)
        calls = [sim.create(slow, {"n": n}, idempotency_key="k") for n in range(2)]
        sim.run_ready()
        early = [call.reply for call in calls]
        sim.run_for(1)

        assert [None, None] == early
        assert [calls[0].run] * 2 == [told(call) for call in calls]
        assert [calls[0].run] == list(sim.audit.states)


@pytest.mark.parametrize("crash", [False, True])
def test_a_singleton_is_skipped_while_there_is_one(crash: bool) -> None:
    """With "skip", which is the default, a call gives the run that is alive; after its end there is a new one."""
    with Simulation([slow]) as sim:
        first = sim.create(slow, {"n": 0}, singleton="s")
        second = sim.create(slow, {"n": 1}, singleton="s")
        sim.run_for(10)
        if crash:
            sim.recover()
        third = sim.create(slow, {"n": 2}, singleton="s")
        other = sim.create(slow, {"n": 3}, singleton="t")
        sim.settle()
        fourth = sim.create(slow, {"n": 4}, singleton="s")
        sim.settle()

        assert [first.run] * 3 == [told(call) for call in (first, second, third)]
        assert [other.run, fourth.run] == [told(other), told(fourth)]
        assert 3 == ended(sim)


@pytest.mark.parametrize("crash", [False, True])
def test_singletons_wait_for_each_other(crash: bool) -> None:
    """With "queue" they go one after the other, in the order of the calls, and one that is cancelled is left out."""
    with Simulation([slow]) as sim:
        calls: list[Call] = []
        for number in range(5):
            calls.append(sim.create(slow, {"n": number}, singleton="s", singleton_policy="queue"))
            sim.run_for(0.1)
        sim.run_for(10)
        sim.send("cancel", run=calls[2].run)
        for _ in range(10):
            sim.run_for(31)
            if crash:
                sim.recover()
        sim.settle()
        by_end = sorted(sim.audit.states.values(), key=lambda state: state.ended_us or 0)

        assert 1 == begun_at_once(sim, "s")
        assert 4 == ended(sim)
        assert [0, 1, 3, 4] == [sim.result(state.run) for state in by_end if state.phase is Phase.COMPLETED]


@pytest.mark.parametrize("crash", [False, True])
def test_a_new_singleton_takes_the_place_of_the_old(crash: bool) -> None:
    """With "cancel_old" those that are there are cancelled, and the new one begins when the last of them has ended."""
    with Simulation([slow]) as sim:
        calls: list[Call] = []
        for number in range(4):
            calls.append(sim.create(slow, {"n": number}, singleton="s", singleton_policy="cancel_old"))
            sim.run_for(0.5 if number == 1 else 10)
            if crash:
                sim.recover()
        sim.settle()
        ends = [type(sim.audit.end_of(call.run)) for call in calls]

        assert 1 == begun_at_once(sim, "s")
        assert [e.RunCancelled] * 3 + [e.RunCompleted] == ends
        assert "singleton" == sim.audit.states[calls[0].run].cancelled_by


def test_a_successor_keeps_the_place() -> None:
    """A singleton that goes on as new isn't overtaken by those that wait."""

    @workflow(id="rounds")
    async def rounds(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("nap", nap, 1.0)
        if payload["left"]:
            ctx.continue_as_new({**payload, "left": payload["left"] - 1})
        return payload["n"]

    with Simulation([rounds]) as sim:
        for number in range(2):
            sim.create(rounds, {"n": number, "left": 2}, singleton="s", singleton_policy="queue")
        sim.settle()
        begun = sorted((state.started_us or 0, run) for run, state in sim.audit.states.items())
        inputs: list[Any] = [sim.audit.histories[run][0][0].input for _, run in begun]  # type: ignore[union-attr]

    assert [0, 0, 0, 1, 1, 1] == [one["n"] for one in inputs]


@pytest.mark.parametrize("number", range(30))
def test_one_at_a_time_whatever_happens(number: int) -> None:
    """Under crashes and failed commits no two runs of a singleton are begun at once, and each ends."""
    chance = Random(number)
    with Simulation([slow], latency_us_max=10_000, seed=number) as sim:
        calls: list[Call] = []
        for _ in range(12):
            policy = chance.choice(["skip", "queue", "cancel_old"])
            calls.append(sim.draft_run(slow, {"n": 1}, singleton=f"s{chance.randrange(2)}", singleton_policy=policy))
            sim.send_again(calls[-1])
            match chance.randrange(6):
                case 0:
                    sim.recover()
                case 1:
                    sim.plan.next(chance.choice(list(Fault)))
                case 2:
                    sim.run_for(70)
                case 3:
                    sim.world.crash_at.add(sim.world.ticks + chance.randrange(1, 10))
                case _:
                    sim.run_for(0.5)
            if not sim.alive:
                sim.world.crash_at.clear()
                sim.start()
        sim.plan.never()
        sim.world.crash_at.clear()
        sim.settle()

        for key in ("s0", "s1"):
            assert begun_at_once(sim, key) <= 1
        assert not [state.run for state in sim.audit.states.values() if state.ended_us is None]


@pytest.mark.anyio
async def test_clients_are_given_what_is_there(tmp_path: Any) -> None:
    """Handles name the run that there is, from the engine's process and from another; `run` waits for that one."""
    async with Polos(data_dir=tmp_path) as polos, PolosClient(data_dir=tmp_path) as client:
        first = await slow.invoke(polos, {"n": 1}, idempotency_key="k", singleton="s")
        again = await polos.invoke("slow", {"n": 2}, idempotency_key="k")
        there = await slow.invoke(client, {"n": 3}, singleton="s", singleton_policy="skip")
        assert [first.id] * 2 == [again.id, there.id]
        assert 1 == len(await polos.list_executions(workflow_id="slow"))
        await first.cancel()

        @workflow(id="quick, and once")
        async def quick(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
            return payload["n"]

        assert [1, 1] == [await quick.run(polos, {"n": n}, idempotency_key="q") for n in (1, 2)]


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"idempotency_key": ""}, ValueError, "idempotency_key must not be empty"),
        ({"idempotency_key": 3}, TypeError, "idempotency_key must be a text, it is 3"),
        ({"singleton": "\ud800"}, ValueError, "singleton must be a text that can be written"),
        (
            {"singleton": "s", "singleton_policy": "often"},
            ValueError,
            "singleton_policy must be one of skip, cancel_old",
        ),
        ({"singleton_policy": "skip"}, ValueError, "singleton_policy says what holds for a singleton"),
        ({"once": True}, TypeError, r"a run can't be started with \['once'\]"),
    ],
)
@pytest.mark.anyio
async def test_what_an_invoke_cant_say(tmp_path: Any, given: Any, kind: type[Exception], message: str) -> None:
    """Bad arguments are refused at the call, by their names."""
    async with Polos(data_dir=tmp_path) as polos:
        with pytest.raises(kind, match=message):
            await slow.invoke(polos, {"n": 1}, **given)


@pytest.mark.parametrize(
    "given", [{"singleton": "s"}, {"singleton": "s", "singleton_policy": "x"}, {"singleton_policy": "skip"}]
)
def test_foreign_singletons_are_looked_at(given: Any) -> None:
    """A command of any origin with half of a singleton is refused."""
    with Simulation([slow]) as sim:
        created: Any = {"workflow": "slow", "root": "r", "root_workflow": "slow", **given}
        call = sim.send("create", run="r", runs=[{"run": "r", "created": created}])
        sim.run_for(1)

        assert "can't be created with singleton" in str(call.error)
