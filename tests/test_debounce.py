"""
Debounced calls: a flurry of them is one run, which has what the last of them gave and begins a while after it.

What is looked at is the log, and what callers are told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from polos import BatchWorkflowInput, Polos, PolosClient, WorkflowContext, batch_invoke, workflow
from polos.engine import events as e
from polos.errors import CommandRefused
from polos.store.faults import Fault
from polos.testing.simulation import Call, Simulation

from tests.campaign import scaled
from tests.test_dedup import told


@workflow(id="saved")
async def saved(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Give what came in."""
    return payload["n"]


@workflow(id="always_debounced", debounce={"seconds": 5, "max_seconds": 12})
async def always(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Give what came in."""
    return payload["n"]


def ends(sim: Simulation) -> list[tuple[float, Any]]:
    """Give when runs began, in seconds from the first record, and what they had."""
    found: list[tuple[float, Any]] = []
    with sim.store.log.reader() as reader:
        zero = next(reader.records()).time_us
    for run, history in sim.audit.histories.items():
        begun = [at_us for event, at_us, _ in history if isinstance(event, e.RunStarted)]
        if begun:
            found.append(((begun[0] - zero) / 1e6, sim.result(run)))
    return sorted(found)


def test_a_flurry_is_one_run_with_the_last_payload() -> None:
    """Calls within the window of one another give one run, some seconds after the last; a later call another one."""
    with Simulation([saved]) as sim:
        calls: list[Call] = []
        for number in range(4):
            calls.append(sim.create(saved, {"n": number}, debounce_seconds=10, debounce_key="doc"))
            sim.run_for(4)
        other = sim.create(saved, {"n": "other"}, debounce_seconds=1, debounce_key="else")
        plain = sim.create(saved, {"n": "plain"})
        sim.run_for(5)
        early = ends(sim)
        sim.run_for(2)
        late = sim.create(saved, {"n": 9}, debounce_seconds=10, debounce_key="doc")
        sim.settle()

        assert [calls[0].run] * 4 == [told(call) for call in calls]
        assert [other.run, plain.run, late.run] == [told(call) for call in (other, plain, late)]
        assert [(16, "plain"), (17, "other")] == early
        assert [(16, "plain"), (17, "other"), (22, 3), (33, 9)] == ends(sim)
        sim.audit.check_rows()


def test_it_begins_at_most_so_long_after_the_first_call() -> None:
    """With a longest wait a flurry that doesn't end is a run all the same, and then another one."""
    with Simulation([always]) as sim:
        for number in range(8):
            sim.create(always, {"n": number})
            sim.run_for(3)
        sim.settle()

        assert [(12, 3), (24, 7)] == ends(sim)


def test_a_call_says_more_than_the_workflow() -> None:
    """Seconds at the call count instead of the workflow's."""
    with Simulation([always]) as sim:
        sim.create(always, {"n": 1}, debounce_seconds=2, debounce_max_seconds=3)
        sim.run_for(1)
        sim.create(always, {"n": 2}, debounce_seconds=2, debounce_max_seconds=3)
        sim.settle()

        assert [(3, 2)] == ends(sim)


def test_state_comes_from_the_last_call_too() -> None:
    """`initial_state` is what the last call gave, not a mixture."""

    @workflow(id="stateful_debounced")
    async def stateful(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return [payload["n"], dict(ctx.state)]

    with Simulation([stateful]) as sim:
        sim.create(stateful, {"n": 1}, debounce_seconds=5, initial_state={"a": 1, "b": 1})
        sim.run_ready()
        sim.create(stateful, {"n": 2}, debounce_seconds=5, initial_state={"a": 2})
        sim.settle()

        assert [(5, [2, {"a": 2}])] == ends(sim)


def test_calls_of_one_batch_are_a_flurry_too() -> None:
    """Within one command the last of a key counts, beside a flurry that is there and without one."""
    with Simulation([saved]) as sim:
        sim.create(saved, {"n": 0}, debounce_seconds=5, debounce_key="b")
        sim.run_for(1)
        drafts = [
            sim.draft_run(saved, {"n": f"{key}{n}"}, debounce_seconds=5, debounce_key=key)
            for n in range(2)
            for key in "ab"
        ]
        same = [sim.draft_run(saved, {"n": "k"}, idempotency_key="k") for _ in range(2)]
        runs: Any = [one for draft in (*drafts, *same) for one in draft.command["runs"]]  # type: ignore[union-attr]
        call = sim.send("create", run=runs[0]["run"], runs=runs)
        sim.settle()
        names: Any = call.reply["detail"]["runs"]  # type: ignore[index, call-overload]

        assert [names[0], names[1]] * 2 == names[:4]
        assert names[4] == names[5]
        assert [(1, "k"), (6, "a1"), (6, "b1")] == ends(sim)


@pytest.mark.parametrize("crash", [False, True])
def test_a_run_that_is_due_and_waits_for_its_turn_is_no_flurry_any_more(crash: bool) -> None:
    """When the seconds are over, the next call begins a flurry of its own, though the first run hasn't begun yet."""
    with Simulation([saved]) as sim:
        sim.send("queue", queue="saved", changes={"paused": True})
        first = sim.create(saved, {"n": 1}, debounce_seconds=5)
        sim.run_for(6)
        if crash:
            sim.recover()
        second = sim.create(saved, {"n": 2}, debounce_seconds=5)
        sim.run_for(1)
        third = sim.create(saved, {"n": 3}, debounce_seconds=5)
        sim.run_for(10)
        sim.send("queue", queue="saved", changes={"paused": False})
        sim.settle()

        assert [first.run, second.run, second.run] == [told(call) for call in (first, second, third)]
        assert [(17, 1), (17, 3)] == ends(sim)


def test_one_that_is_cancelled_is_replaced_by_another_run() -> None:
    """A call after the waiting run was cancelled begins a flurry of its own."""
    with Simulation([saved]) as sim:
        first = sim.create(saved, {"n": 1}, debounce_seconds=5)
        sim.run_for(1)
        sim.send("cancel", run=first.run)
        second = sim.create(saved, {"n": 2}, debounce_seconds=5)
        sim.settle()

        assert first.run != told(second)
        assert [(6, 2)] == ends(sim)


@pytest.mark.parametrize("fault", [None, *Fault])
def test_a_flurry_survives_crashes_and_failed_commits(fault: Fault | None) -> None:
    """Killed, or with a disk that fails, in the middle of a flurry: it is one run still, with the last payload."""
    with Simulation([saved], latency_us_max=1_000) as sim:
        for number in range(5):
            if fault is not None:
                sim.plan.next(fault)
            sim.create(saved, {"n": number}, debounce_seconds=10)
            sim.run_for(3)
            if fault is None:
                sim.recover()
        sim.settle()
        sim.audit.check_rows()

        assert [4] == [result for _, result in ends(sim)]


@dataclass
class Flurry:
    """What the model knows of a run that waits."""

    due: float
    until: float
    last: int


@pytest.mark.parametrize("seed", range(scaled(40, 1_000)))
def test_runs_are_those_of_a_small_model(seed: int) -> None:
    """Whatever the calls, the pauses and the crashes: the runs and their beginnings are those of ten lines of code."""
    chance = Random(seed)
    window, most = chance.choice([(2, None), (5, 8), (3, 3)])
    waiting: dict[str, Flurry] = {}
    expected: list[tuple[float, int]] = []
    now = 0.0
    with Simulation([saved], seed=seed) as sim:
        sim.create(saved, {"n": -1})
        sim.run_ready()
        for number in range(40):
            match chance.randrange(4):
                case 0:
                    step = chance.choice([0.5, 1, 2.5, 7])
                    sim.run_for(step)
                    now += step
                case 1:
                    sim.recover()
                    sim.run_ready()
                case _:
                    key = chance.choice("ab")
                    sim.create(saved, {"n": number}, debounce_seconds=window, debounce_key=key,
                               debounce_max_seconds=most)  # fmt: skip
                    sim.run_ready()
                    until = now + most if most else float("inf")
                    held = waiting.setdefault(key, Flurry(0, until, number))
                    held.due, held.last = min(now + window, held.until), number
            for key in [key for key, held in waiting.items() if held.due <= now]:
                held = waiting.pop(key)
                expected.append((held.due, held.last))
        sim.settle()
        expected += [(held.due, held.last) for held in waiting.values()]
        sim.audit.check_rows()

        assert sorted(expected) == ends(sim)[1:]


@pytest.mark.anyio
async def test_handles_name_the_run_that_there_will_be(tmp_path: Path) -> None:
    """From the engine's process, from another, in a batch, and when no engine runs."""
    async with Polos(data_dir=tmp_path) as polos, PolosClient(data_dir=tmp_path) as client:
        first = await saved.invoke(polos, {"n": 1}, debounce_seconds=1_000)
        second = await saved.invoke(client, {"n": 2}, debounce_seconds=1_000)
        third, *_ = await batch_invoke(
            polos, [BatchWorkflowInput(id="saved", payload={"n": 3}, debounce_seconds=1_000)]
        )
    async with PolosClient(data_dir=tmp_path) as client:
        fourth = await saved.invoke(client, {"n": 4}, debounce_seconds=1_000)
    async with Polos(data_dir=tmp_path) as polos:
        polos.engine.intake.look()
        fifth = await saved.invoke(polos, {"n": 5}, debounce_seconds=1_000, debounce_key="other")
        found = await polos.get_execution(first.id)
        page = await polos.list_executions(workflow_id="saved")

    assert [first.id] * 3 == [first.id, second.id, third.id]
    assert not fourth.accepted
    assert ("queued", {"n": 4}) == (found["status"], found["payload"])
    assert [fifth.id, first.id] == [one["id"] for one in page]


@pytest.mark.anyio
async def test_a_kept_call_that_nobody_could_have_made_is_refused(tmp_path: Path) -> None:
    """A command from elsewhere is looked at field by field."""
    async with Polos(data_dir=tmp_path) as polos:
        for wrong in (
            {"debounce": "k"},
            {"debounce_us": 5},
            {"debounce_max_us": 5},
            {"debounce": "k", "debounce_us": 5, "idempotency_key": "i"},
            {"debounce": "k", "debounce_us": 5, "start_after_us": 5},
            {"debounce": "k", "debounce_us": -5},
        ):
            run = polos.engine.new_run_id()
            created: Any = {"workflow": "saved", "root": run, "root_workflow": "saved", **wrong}
            with pytest.raises(CommandRefused):
                await polos.engine.execute("c", {"kind": "create", "runs": [{"run": run, "created": created}]})
