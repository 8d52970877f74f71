"""One engine on each of two logs: every message between runs of different logs goes through the other's inbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from polos import Workflow
from polos.clock import SystemClock
from polos.context import WorkflowContext
from polos.definition import workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.messages import Message, message_to_json
from polos.engine.projections import fold_rows
from polos.runtime.bodies import Bodies
from polos.runtime.engine import Engine
from polos.runtime.settings import Settings
from polos.store.directory import Store, open_store


@workflow(id="two_logs_child")
async def child(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    """Double a number, or fail."""
    if payload["n"] < 0:
        raise ValueError("negative")
    return await ctx.step.run("double", lambda: payload["n"] * 2)


@workflow(id="two_logs_parent")
async def parent(ctx: WorkflowContext, payload: dict[str, int]) -> list[object]:
    """Start children and gather how they ended."""
    results: list[object] = []
    for number in range(payload["n"]):
        try:
            results.append(await ctx.step.invoke_and_wait("child", child, {"n": number - 1}))
        except Exception as error:  # how it failed is what is looked at
            results.append(type(error).__name__)
    return results


_WORKFLOWS: dict[str, Workflow[object]] = {"two_logs_child": child, "two_logs_parent": parent}


class Pair:
    """Two engines; a run lives on the first if the last digit of its id is even, on the second otherwise."""

    def __init__(self, stores: list[Store], *, twice: bool) -> None:
        self.sent: list[str] = []
        self._twice = twice
        self.engines = [
            Engine(store, clock=SystemClock(), settings=Settings(), bodies=Bodies(_WORKFLOWS.get)) for store in stores
        ]
        for number, engine in enumerate(self.engines):
            engine.is_local = self._lives_on(number)
            engine.carry = self.carry

    def _lives_on(self, number: int) -> Callable[[str], bool]:
        return lambda run: self.home(run) == number

    @staticmethod
    def home(run: str) -> int:
        """Tell which log a run belongs to."""
        return int(run[-1], 16) % 2

    def carry(self, message: Message, sent: Callable[[], None]) -> None:
        """Put a message into the inbox of the log where its receiver lives; on order, two times."""
        inbox = self.engines[self.home(message.target)].store.inbox
        payload = orjson.dumps({"command": {"kind": "message", "message": message_to_json(message)}, "by": "a log"})
        for copy in range(2 if self._twice else 1):
            inbox.put(f"{message.id.replace(':', '-')}-{copy}", payload)
        self.sent.append(message.kind)
        sent()


async def _ended(pair: Pair, run: str) -> e.Event:
    engine = pair.engines[pair.home(run)]
    while not await engine.watchers.watch(run, engine.loop):
        pass
    return engine.loader.events(run)[-1][0]


@pytest.mark.parametrize("twice", [False, True])
def test_runs_of_two_logs_reach_each_other(tmp_path: Path, twice: bool) -> None:
    """Parents and children of different logs work as those of one, also when every message comes two times."""

    async def main() -> tuple[list[e.Event], Pair, list[Store]]:
        stores = [open_store(tmp_path / name) for name in ("first", "second")]
        pair = Pair(stores, twice=twice)
        for engine in pair.engines:
            await engine.start()
        runs = [pair.engines[0].new_run_id() for _ in range(6)]
        waiting = [asyncio.create_task(_ended(pair, run)) for run in runs]
        for run in runs:
            created: dict[str, object] = {
                "workflow": parent.id, "input": {"n": 4}, "root": run, "root_workflow": parent.id
            }  # fmt: skip
            command: dict[str, object] = {"kind": "create", "runs": [{"run": run, "created": created}]}
            await pair.engines[pair.home(run)].execute(f"command-{run}", command)  # type: ignore[arg-type]  # plain JSON
        ends = await asyncio.gather(*waiting)
        for engine in pair.engines:
            await engine.stop()
        return ends, pair, stores

    ends, pair, stores = asyncio.run(main())

    assert [[type(end).__name__, getattr(end, "result", None)] for end in ends] == [
        ["RunCompleted", ["StepExecutionError", 0, 2, 4]]
    ] * 6
    assert "start" in pair.sent
    assert "finished" in pair.sent
    for store in stores:
        with store.log.reader() as reader:
            rows = dict(reader.rows())
            records = [(r.stream, decode(r.type, r.schema_version, r.payload), r.time_us) for r in reader.records()]
        assert fold_rows(records) == rows
        assert not [key for key in rows if key[0] == "outbox"]
        store.close()
