"""
The floor: durable steps with nothing around them.

asyncio, orjson and LMDB, one event for an intent and one for a result, one row a run, and the one rule that makes
steps durable: a step is called when its intent is on disk, and its result goes to disk together with the next intent.
No engine can do with less, so what an engine adds is told by the ratio to this. There are two: one commits on the
loop's own thread, one hands over to a writer thread; both put everything that waits into one commit.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import lmdb
import orjson

from bench.measures import Sample, measured

__all__ = ["Floor", "ThreadedFloor", "children", "many_runs", "replay", "sequential", "wakeups"]

_Waiting = tuple[list[tuple[str, bytes]], "asyncio.Future[None]"]


class Floor:
    """Steps whose commits are made on the loop's thread."""

    def __init__(self, folder: Path) -> None:
        self._env = lmdb.open(str(folder), map_size=64 << 30, max_dbs=2)
        self._log = self._env.open_db(b"log")
        self._runs = self._env.open_db(b"runs")
        with self._env.begin() as txn:
            self._position: int = txn.stat(self._log)["entries"]
        self._waiting: list[_Waiting] = []

    def close(self) -> None:
        self._env.close()

    async def durable(self, events: list[tuple[str, bytes]]) -> None:
        """Have events of a run on disk."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self.submit(loop, (events, done))
        await done

    def submit(self, loop: asyncio.AbstractEventLoop, item: _Waiting) -> None:
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append(item)

    def _flush(self) -> None:
        items, self._waiting = self._waiting, []
        self.commit(items)
        answer(items)

    def commit(self, items: list[_Waiting]) -> None:
        with self._env.begin(write=True) as txn:
            for events, _ in items:
                for _, event in events:
                    self._position += 1
                    txn.put(self._position.to_bytes(8, "big"), event, append=True, db=self._log)
                txn.put(events[-1][0].encode(), self._position.to_bytes(8, "big"), db=self._runs)

    def recorded(self) -> list[Any]:
        """Read the whole log."""
        with self._env.begin() as txn:
            return [orjson.loads(value) for value in txn.cursor(self._log).iternext(keys=False)]


class ThreadedFloor(Floor):
    """Steps whose commits are made by a thread."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, loop: asyncio.AbstractEventLoop, item: _Waiting) -> None:
        self._loop = loop
        self._queue.put(item)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        super().close()

    def _write(self) -> None:
        while (first := self._queue.get()) is not None:
            items = [first]
            while not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    self._queue.put(None)
                    break
                items.append(item)
            self.commit(items)
            assert self._loop is not None
            self._loop.call_soon_threadsafe(answer, items)


def answer(items: list[_Waiting]) -> None:
    for _, done in items:
        done.set_result(None)


async def work(number: int) -> int:
    """Be a step."""
    return number


async def run_steps(floor: Floor, run: str, steps: int) -> None:
    """Be a workflow of steps one after another."""

    def event(kind: str, number: int, value: object = None) -> tuple[str, bytes]:
        return run, orjson.dumps({"type": kind, "run": run, "name": f"step-{number}", "value": value})

    await floor.durable([event("scheduled", 0)])
    for number in range(steps):
        value = await work(number)
        following = event("scheduled", number + 1) if number + 1 < steps else event("completed run", number)
        await floor.durable([event("completed", number, value), following])


def _timed(folder: Path, kind: type[Floor], units: int, body: Callable[[Floor], Awaitable[Any]]) -> Sample:
    async def main() -> Sample:
        floor = kind(folder)
        try:
            with measured(units, folder) as sample:
                await body(floor)
        finally:
            floor.close()
        return sample

    return asyncio.run(main())


def sequential(folder: Path, steps: int, kind: type[Floor]) -> Sample:
    """One run, steps one after another."""
    return _timed(folder, kind, steps, lambda floor: run_steps(floor, "run", steps))


def many_runs(folder: Path, runs: int, steps: int, kind: type[Floor]) -> Sample:
    """Many runs at once."""

    async def body(floor: Floor) -> None:
        await asyncio.gather(*(run_steps(floor, f"run-{number:06}", steps) for number in range(runs)))

    return _timed(folder, kind, runs * steps, body)


def children(folder: Path, count: int, kind: type[Floor]) -> Sample:
    """A parent that begins many children in one commit, and waits for all of them."""

    def event(run: str, kind: str) -> tuple[str, bytes]:
        return run, orjson.dumps({"type": kind, "run": run, "value": 1})

    async def body(floor: Floor) -> None:
        runs = [f"run-{number:06}" for number in range(count)]
        await floor.durable([event("parent", "started"), *(event(run, "created") for run in runs)])
        await asyncio.gather(*(floor.durable([event(run, "started"), event(run, "completed")]) for run in runs))
        await floor.durable([event("parent", "completed")])

    return _timed(folder, kind, count, body)


def wakeups(folder: Path, count: int, kind: type[Floor]) -> list[float]:
    """Give the seconds from a signal until the task that waits for it has its next step durable, in order of size."""

    def event(kind: str) -> tuple[str, bytes]:
        return "run", orjson.dumps({"type": kind, "run": "run", "value": 1})

    async def body() -> list[float]:
        floor, found = kind(folder), []
        loop = asyncio.get_running_loop()
        for _ in range(count):
            woken: asyncio.Future[None] = loop.create_future()

            async def wait(woken: asyncio.Future[None] = woken) -> float:
                await woken
                await floor.durable([event("received"), event("scheduled")])
                return time.perf_counter()

            task = asyncio.create_task(wait())
            await asyncio.sleep(0)
            began = time.perf_counter()
            woken.set_result(None)
            found.append(await task - began)
        floor.close()
        return sorted(found)

    return asyncio.run(body())


def replay(folder: Path, steps: int) -> Sample:
    """Read one run's history from a log that was just opened, and run its code against it."""

    async def record() -> None:
        floor = Floor(folder)
        for first in range(0, steps, 1_000):
            event = {"type": "completed", "run": "run", "value": 1}
            names = [f"step-{number}" for number in range(first, min(first + 1_000, steps))]
            await floor.durable([("run", orjson.dumps(event | {"name": name})) for name in names])
        floor.close()

    async def body() -> int:
        floor = Floor(folder)
        results = {event["name"]: event["value"] for event in floor.recorded()}
        floor.close()

        async def step(name: str) -> int:
            value: int = results[name]
            return value

        return sum([await step(f"step-{number}") for number in range(steps)])

    asyncio.run(record())
    with measured(steps, folder) as sample:
        assert steps == asyncio.run(body())
    return sample
