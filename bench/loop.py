"""
What the workflow loop costs beside asyncio's own: CPU per operation, and memory per idle run.

Run as `python -m bench.loop`. Both loops do the same; on the workflow loop a "step" is a future that is resolved
in an activation of its own, on asyncio one that is resolved by a callback. The best of several rounds is printed,
because everything else on the machine only ever adds to the time.
"""

from __future__ import annotations

import asyncio
import sys
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

from polos.replay.loop import LoopTimer, WorkflowLoop

COUNT = 20_000
ROUNDS = 7


class Host:
    """A host that has nothing to do."""

    def timer_started(self, timer: LoopTimer) -> None:
        pass

    def timer_cancelled(self, timer: LoopTimer) -> None:
        pass

    def unhandled(self, context: dict[str, Any]) -> None:
        raise AssertionError(context)


class Steps:
    """Hands out futures and remembers the last one."""

    def __init__(self) -> None:
        self.waiting: asyncio.Future[None] | None = None

    async def step(self) -> None:
        self.waiting = asyncio.get_running_loop().create_future()
        await self.waiting

    def resolve(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.set_result(None)


async def steps(source: Steps) -> None:
    for _ in range(COUNT):
        await source.step()


async def tasks(_: Steps) -> None:
    async def nothing() -> None:
        pass

    for _number in range(COUNT):
        await asyncio.create_task(nothing())


async def gathered(_: Steps) -> None:
    async def nothing() -> None:
        pass

    for _number in range(COUNT // 100):
        await asyncio.gather(*(nothing() for _ in range(100)))


async def yields(_: Steps) -> None:
    for _number in range(COUNT):
        await asyncio.sleep(0)


Program = Callable[[Steps], Coroutine[Any, Any, None]]


def on_workflow_loop(program: Program) -> float:
    source = Steps()
    loop = WorkflowLoop(Host(), start_time=0.0, activation_callbacks_max=10**9)
    main = loop.start(program(source))
    started = time.process_time()
    loop.activate(lambda: None, 0.0)
    while not main.done():
        loop.activate(source.resolve, 1.0)
    return (time.process_time() - started) / COUNT * 1e6


def on_asyncio(program: Program) -> float:
    source = Steps()
    loop = asyncio.new_event_loop()

    def resolve() -> None:
        source.resolve()
        if not running.done():
            loop.call_soon(resolve)

    async def run() -> None:
        await running

    running = loop.create_task(program(source))
    if program is steps:
        loop.call_soon(resolve)
    started = time.process_time()
    loop.run_until_complete(run())
    used = time.process_time() - started
    loop.close()
    return used / COUNT * 1e6


def memory_of_idle_runs(count: int = 5_000) -> float:
    """Give the bytes an idle run takes: loop, main task, the future it waits for."""

    async def idle() -> None:
        await asyncio.get_running_loop().create_future()

    host, loops = Host(), []
    tracemalloc.start()
    for _ in range(count):
        loop = WorkflowLoop(host, start_time=0.0)
        loop.start(idle())
        loop.activate(lambda: None, 0.0)
        loops.append(loop)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for loop in loops:
        loop.discard()
    return used / count


def main() -> None:
    print(f"Python {sys.version.split()[0]}, µs of CPU per operation, best of {ROUNDS}")
    print(f"{'':12}{'workflow':>10}{'asyncio':>10}{'ratio':>8}")
    for program in (steps, tasks, gathered, yields):
        ours = min(on_workflow_loop(program) for _ in range(ROUNDS))
        theirs = min(on_asyncio(program) for _ in range(ROUNDS))
        print(f"{program.__name__:12}{ours:10.2f}{theirs:10.2f}{ours / theirs:8.2f}")
    print(f"an idle run takes {memory_of_idle_runs():.0f} bytes")


if __name__ == "__main__":
    main()
