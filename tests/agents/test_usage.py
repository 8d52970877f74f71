"""What calls of models used and cost: by run, tree, session and user, each call once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from polos import Agent, Polos, PolosClient, WorkflowContext, workflow
from polos.engine.usage import count_usage
from polos.errors import ModelUnavailable, PolosUsageError, UnknownRun
from polos.llm import Attempts, Reply, script
from polos.testing.simulation import Simulation
from polos.types.usage import ModelUsage, UsageReport

pytestmark = pytest.mark.anyio

USED = {"input_tokens": 1_000, "output_tokens": 100, "total_tokens": 1_100}


def agent(name: str, replies: Any = None, **options: Any) -> Agent:
    """Make an agent whose calls use so much; its model has the name of one that has a price."""
    script(name, replies or (lambda _: Reply(text="Yes.", usage=USED)))
    return Agent(id=f"usage of {name}", provider="scripted", model=name, **options)


priced = agent("gpt-5")
free = agent("nobody-knows")


@workflow(id="usage_asks")
async def asks(ctx: WorkflowContext) -> None:
    """Ask two agents."""
    for one in (priced, free):
        await ctx.step.agent_invoke_and_wait("ask", one.with_input("Well?"))


async def test_sums_by_session_user_and_tree(tmp_path: Path):
    """Each call is counted with its run, and so with the run's session, its user and the tree above it."""
    async with Polos(tmp_path) as polos:
        await priced.run(polos, "Well?", session_id="s", user_id="u")
        await priced.run(polos, "And?", session_id="s")
        handle = await asks.invoke(polos, session_id="t", user_id="u")
        await polos._wait_ended(handle.id, None)
        session, user = await polos.usage(session_id="s"), await polos.usage(user_id="u")
        tree, own = await polos.usage(execution_id=handle.id), await polos.usage(workflow_id=asks.id)
    everything = await PolosClient(data_dir=tmp_path).usage()

    assert (2, 2_000, 200, 2) == (session.calls, session.input_tokens, session.output_tokens, session.runs)
    assert (session.microdollars, 0) == (2 * (1_000 * 125 // 100 + 100 * 10), session.unpriced_calls)
    assert (3, 1) == (user.calls, user.unpriced_calls)
    assert {"gpt-5": (1, 0), "nobody-knows": (1, 1)} == {
        name: (one.calls, one.unpriced_calls) for name, one in tree.by_model.items()
    }
    assert UsageReport() == own
    assert (4, everything.microdollars / 1e6) == (everything.calls, everything.dollars)


async def test_a_call_that_was_tried_again_is_one(tmp_path: Path):
    """Attempts that failed add no call: what they used nobody knows."""
    retried = agent("gpt-5-mini", [Attempts([ModelUnavailable("down", retry_after_seconds=0.01), Reply(usage=USED)])])
    async with Polos(tmp_path) as polos:
        found = await retried.run(polos, "Well?")
        report = await polos.usage(execution_id=found.agent_run_id)

    assert (1, 1_100) == (report.calls, report.total_tokens)
    assert found.cost_microdollars == report.microdollars > 0


def test_a_crash_counts_nothing_twice():
    """Killed anywhere and gone on, a run has used what it has used."""

    def used(crash_after: int | None) -> Any:
        with Simulation([priced, free, asks]) as sim:
            wanted = sim.create(asks, None)
            if crash_after is not None:
                sim.run_turns(crash_after)
                sim.crash()
                sim.recover()
                if not wanted.answered:
                    sim.send_again(wanted)
            sim.settle()
            with sim.store.log.reader() as reader:
                return sorted(value for _, value in reader.rows(("usage",)))

    whole = used(None)

    assert 2 == len(whole)
    assert [whole] * 20 == [used(turns) for turns in range(1, 61, 3)]


async def test_what_cannot_be_summed(tmp_path: Path):
    """A run that isn't there, and two questions at once, are refused."""
    async with Polos(tmp_path) as polos:
        with pytest.raises(UnknownRun, match="nobody"):
            await polos.usage(execution_id="nobody")
        with pytest.raises(PolosUsageError, match="one of the two"):
            await polos.usage(execution_id="x", session_id="s")


@pytest.mark.parametrize(
    ("call", "sums"),
    [
        ({"model": "m", "input_tokens": 3, "microdollars": 5}, {"calls": 1, "input_tokens": 3, "microdollars": 5}),
        ({"model": "m", "input_tokens": "3"}, {"calls": 1, "unpriced_calls": 1}),
        (None, {"calls": 1, "unpriced_calls": 1}),
    ],
)
def test_what_a_record_counts(call: Any, sums: dict[str, int]):
    """Numbers count; what is none, in a record of whatever age, counts nothing."""
    total: dict[str, dict[str, int]] = {}
    count_usage(total, call)

    assert [sums] == list(total.values())
    assert ModelUsage(**sums).calls == 1
