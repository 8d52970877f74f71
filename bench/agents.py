"""
Agents: what the engine adds to a call of a model, how soon a delta is with its reader, what `import polos` costs.

Run as `python -m bench agents`. The model is a scripted one, which answers at once, so that what is measured is the
engine: conversation, request, intent, outcome, usage, and the commits for them. Beside it the same calls are made of
the model alone. A call of an unknown tool makes the turns go on without anything else to do.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.measures import Budget, Sample, Subject, compare, flush_seconds, measured
from polos import Agent, Polos, WorkflowContext, events, max_steps, workflow
from polos.llm import LLMRequest, Reply, get_provider, output_item, script, user_item

__all__ = ["delays", "engine", "import_seconds", "main", "model_alone"]

TURNS = 20
RUNS = 10
DELTAS = 300
BETWEEN_SECONDS = 0.002  # of two deltas: a fast model
OVERHEAD_BUDGET_SECONDS = 0.002
IMPORT_BUDGET_SECONDS = 0.1
DELAY_BUDGET_SECONDS = 0.001

script(
    "bench_agents",
    [Reply(text="Let me see what comes of it.", tool_calls=[("nobody", {})])] * (TURNS - 1) + [Reply(text="Done.")],
)
agents = {
    streams: Agent(
        id=f"bench_agent_{'streams' if streams else 'waits'}", provider="scripted", model="bench_agents",
        stop_conditions=[max_steps(count=TURNS)], stream_to_workflow=streams,
    )
    for streams in (False, True)
}  # fmt: skip


def model_alone(folder: Path, *, runs: int) -> Sample:
    """Make the calls of so many runs without an engine."""

    async def work() -> Sample:
        provider = get_provider("scripted")
        with measured(runs * TURNS, folder) as sample:
            for _ in range(runs):
                items = [user_item("Go on.")]
                for _turn in range(TURNS):
                    reply = await provider.generate(LLMRequest(model="bench_agents", items=items))
                    items = [*items, *reply.items]
                    items += [output_item(call, "Error: there is no tool 'nobody'") for call in reply.tool_calls]
        return sample

    return asyncio.run(work())


def engine(folder: Path, *, runs: int, streams: bool) -> Sample:
    """Have an agent make them, one run after another."""

    async def work() -> Sample:
        async with Polos(data_dir=folder) as polos:
            found = await agents[streams].run(polos, "Go on.")
            with measured(runs * TURNS, folder) as sample:
                for _ in range(runs):
                    found = await agents[streams].run(polos, "Go on.")
        assert found.total_steps == TURNS, "every call was made"
        return sample

    return asyncio.run(work())


async def tick(ctx: WorkflowContext, count: int) -> None:
    """Send deltas that say when they were sent."""
    for _ in range(count):
        ctx.step.emit("text_delta", {"content": time.perf_counter()})
        await asyncio.sleep(BETWEEN_SECONDS)


@workflow(id="bench_deltas")
async def ticking(ctx: WorkflowContext, payload: dict[str, int]) -> None:
    await ctx.step.run("tick", tick, ctx, payload["count"])


def delays(folder: Path, *, count: int) -> list[float]:
    """Give the seconds from each delta in a step to a reader in the process, in order of size."""

    async def work() -> list[float]:
        async with Polos(data_dir=folder) as polos:
            handle = await ticking.invoke(polos, {"count": count})
            stream = events.stream_workflow(polos, ticking.id, handle.id, from_sequence=0, previews=True)
            found = [
                time.perf_counter() - event.data["content"]
                async for event in stream
                if event.event_type == "text_delta"
            ]
        return sorted(found)

    return asyncio.run(work())


def import_seconds(*, times: int) -> float:
    """Give the least time that `import polos` took in a fresh interpreter."""
    program = "import time; t = time.perf_counter(); import polos; print(time.perf_counter() - t)"
    return min(float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(times))


def main(*, root: Path | None, rounds: int, scale: float) -> None:
    """Print the tables."""
    runs = max(round(RUNS * scale), 1)
    subjects = [
        Subject("model alone", partial(model_alone, runs=runs)),
        Subject("agent", partial(engine, runs=runs, streams=False), Budget(per_second=1 / OVERHEAD_BUDGET_SECONDS)),
        Subject("agent, streaming", partial(engine, runs=runs, streams=True)),
    ]
    compare(f"agents: {runs * TURNS} calls of a model that answers at once", subjects, root=root, rounds=rounds)
    for subject in subjects[1:]:
        added = statistics.median(
            (ours.seconds - theirs.seconds) / ours.units
            for ours, theirs in zip(subject.samples, subjects[0].samples, strict=True)
        )
        print(f"{subject.name}: adds {added * 1e3:.2f} ms to a call, of {OVERHEAD_BUDGET_SECONDS * 1e3:.0f} ms")
    with tempfile.TemporaryDirectory(dir=root) as name:
        flush = flush_seconds(Path(name))
        found = delays(Path(name) / "store", count=max(round(DELTAS * scale), 10))
    print(
        f"\ndeltas: {len(found)} of them, {BETWEEN_SECONDS * 1e3:.0f} ms apart, are with a reader in the process after"
        f" {statistics.median(found) * 1e6:.0f} µs in the middle and {found[round(len(found) * 0.99) - 1] * 1e6:.0f} µs"
        f" at the 99th of 100, of {DELAY_BUDGET_SECONDS * 1e6:.0f} µs; a flush takes {flush * 1e6:.0f} µs"
    )
    took = import_seconds(times=max(rounds, 3))
    print(f"import polos: {took * 1e3:.0f} ms, of {IMPORT_BUDGET_SECONDS * 1e3:.0f} ms")
