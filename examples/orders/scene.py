"""
The people and processes of the demo: customers, a clerk, a worker, and somebody who pulls the plug.

All but the worker live in the demo's own process, which is a client of the data directory like any other: it places
orders and answers approvals by `PolosClient`, while the worker runs and while it doesn't. What is asked for while no
worker runs is kept for the next one.

The plug is pulled by SIGKILL at moments that come from a seeded generator, only while orders are under way. Each
pull notes the time and how far the log had got, so that recovery can be read off the log afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.orders.order import Order, clerk_approves
from examples.orders.workflows import PROVIDER_PATH, PROVIDER_SABOTAGE
from polos import PolosClient
from polos.errors import ClientTimeout
from polos.store.directory import open_store
from polos.store.follow import Follower
from polos.store.log import Position

ENDED = ("completed", "failed", "cancelled")
ROOT = Path(__file__).resolve().parents[2]


class DemoFailed(Exception):
    """The demo can't go on."""


@dataclass(frozen=True)
class Kill:
    """The worker died here, and this is how far the log had got."""

    at_us: int
    position: int


@dataclass
class Board:
    """How things stand, as last seen in the log."""

    orders: int
    placed: int = 0
    approvals: int = 0
    states: Counter[str] = field(default_factory=Counter)
    asking: list[str] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)

    @property
    def ended(self) -> int:
        return sum(self.states[state] for state in ENDED)

    @property
    def under_way(self) -> int:
        return self.states.total() - self.ended


class WorkerProcess:
    """The worker, in a process of its own."""

    def __init__(self, folder: Path, *, sabotage: str | None) -> None:
        self._arguments = [sys.executable, "-m", "examples.orders.worker", str(folder / "data")]
        self._log = folder / "worker.log"
        self._environment = {**os.environ, PROVIDER_PATH: str(folder / "provider.sqlite")}
        if sabotage:
            self._environment[PROVIDER_SABOTAGE] = sabotage
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter, our own code
                self._arguments, cwd=ROOT, env=self._environment, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def check(self) -> None:
        """Complain if the worker died by itself."""
        if self._process is not None and self._process.poll() is not None:
            last = self._log.read_text(encoding="utf-8", errors="replace")[-2_000:]
            raise DemoFailed(f"the worker ended by itself, with status {self._process.returncode}:\n{last}")

    def kill(self) -> int:
        """Kill it, and give the time at which that was done."""
        assert self._process is not None, "only a worker that was started is killed"
        self.check()
        at_us = time.time_ns() // 1_000
        self._process.send_signal(signal.SIGKILL)
        self._end()
        return at_us

    def stop(self) -> int:
        """Ask it to stop, and give the status with which it did."""
        assert self._process is not None, "only a worker that was started is stopped"
        self._process.send_signal(signal.SIGTERM)
        return self._end()

    def _end(self) -> int:
        process, self._process = self._process, None
        assert process is not None, "only a worker that was started ends"
        assert process.stdin is not None, "it was started with a pipe"
        status = process.wait(timeout=60)
        process.stdin.close()
        return status

    def close(self) -> None:
        """Leave nothing behind, however the demo ends."""
        if self._process is not None:
            self._process.kill()
            self._end()


class Scene:
    """The whole scene; `play` runs it until every order has ended."""

    def __init__(
        self,
        folder: Path,
        orders: list[Order],
        *,
        kills: int,
        pause: float,
        seed: int,
        sabotage: str | None,
        note: Callable[[str], None],
    ) -> None:
        self.board = Board(orders=len(orders))
        self._orders = orders
        self._kills = kills
        self._pause = pause
        self._random = random.Random(seed)
        self._note = note
        self._worker = WorkerProcess(folder, sabotage=sabotage)
        data_dir = folder / "data"
        open_store(data_dir).close()  # made here, so that orders can be placed before the worker is up
        self._store = open_store(data_dir, read_only=True)
        self._client = PolosClient.over(self._store)
        self._released = 0  # orders that may be placed by now, so that some are left for after the next kill
        self._may_order = asyncio.Semaphore(0)
        self._release(self._share(0))

    async def play(self, show: Callable[[Board], None]) -> int:
        """Run it, and give the status with which the worker stopped in the end."""
        try:
            self._worker.start()
            async with asyncio.TaskGroup() as people:
                people.create_task(self._customers())
                people.create_task(self._plug())
                people.create_task(self._clerk(show))
            return self._worker.stop()
        except* DemoFailed as failures:
            raise failures.exceptions[0] from None
        finally:
            self._worker.close()
            self._store.close()

    # -------------------------------------------------------------------------------------- customers

    def _share(self, kills: int) -> int:
        """Tell how many orders are placed before the next kill, so that some are under way at each."""
        return -(-len(self._orders) * (kills + 1) // (self._kills + 1))

    def _release(self, orders: int) -> None:
        """Let so many orders, in all, be placed from now on."""
        for _ in range(self._released, min(orders, len(self._orders))):
            self._released += 1
            self._may_order.release()

    async def _customers(self) -> None:
        pace = self._pause / (len(self._orders) / (self._kills + 1))  # seconds
        for order in self._orders:
            await self._may_order.acquire()
            with contextlib.suppress(ClientTimeout):  # the worker died over it; it is kept, and decided once
                await self._client.invoke("order", order, tags=["shop", order.country])
            self.board.placed += 1
            await asyncio.sleep(self._random.uniform(0, 2 * pace))

    # ------------------------------------------------------------------------------------------ clerk

    async def _clerk(self, show: Callable[[Board], None]) -> None:
        answered: set[str] = set()
        while self.board.ended < len(self._orders) or len(self.board.kills) < self._kills:
            self._worker.check()
            await self._look()
            for run in self.board.asking:
                if run not in answered:
                    answered.add(run)
                    await self._answer(run)
            show(self.board)
            await asyncio.sleep(0.1)

    async def _look(self) -> None:
        runs: list[dict[str, Any]] = await self._client.list_executions(workflow_id="order", limit=10_000)
        self.board.states = Counter(run["status"] for run in runs)
        self.board.asking = [run["id"] for run in runs if run["waiting_reason"] == "suspend"]

    async def _answer(self, run: str) -> None:
        order = Order.model_validate((await self._client.get_execution(run))["payload"])
        answer = {"approved": clerk_approves(order), "by": "the clerk"}
        with contextlib.suppress(ClientTimeout):  # as with orders
            await self._client.resume("order", run, "approval", answer)
        self.board.approvals += 1

    # ------------------------------------------------------------------------------------------- plug

    async def _plug(self) -> None:
        await self._grown_behind(0)
        for number in range(1, self._kills + 1):
            await asyncio.sleep(self._pause * self._random.uniform(0.4, 1.6))
            while not await self._is_busy():  # killed idle, it would show nothing
                if self.board.ended == len(self._orders):
                    raise DemoFailed(f"every order has ended before kill {number}; a shorter --pause would help")
                self._release(self._released + 1)
                await asyncio.sleep(0.1)
            kill = Kill(self._worker.kill(), self._position())
            self.board.kills.append(kill)
            self._note(f"kill {number} of {self._kills}: SIGKILL at log position {kill.position:,}")
            self._worker.start()
            await self._grown_behind(kill.position)
            self._release(self._share(number))

    async def _is_busy(self) -> bool:
        """Tell whether the worker has taken up an order that hasn't ended; those that wait for it don't count."""
        await self._look()
        return self.board.under_way > self.board.states["queued"]

    async def _grown_behind(self, position: int) -> None:
        with Follower(self._store.log, after=Position(position), poll_seconds=0.02) as log:
            async for _ in log:
                return

    def _position(self) -> int:
        with self._store.log.reader() as reader:
            return reader.head().position
