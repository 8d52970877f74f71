"""
Workflows that do a little of everything, with a witness.

Each effect notes in the ledger that it is called, with how far the log is, and that it is done, with a token that
nobody else can have. The token is its result, so whoever compares log and ledger can tell which call a recorded
result came from.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from polos import WorkflowState, workflow
from polos.context import current_step
from polos.store.log import Log

from tests.crash.ledger import Ledger

__all__ = ["LARGE", "WORKFLOWS", "Witness", "answer_to", "direct", "mixed", "quick", "witness"]

LARGE = 70_000  # bytes of a result that becomes a blob


class Witness:
    """The ledger of this process, and the log that its effects look at."""

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._failed: set[str] = set()
        self._lock = threading.Lock()
        self._calls = 0
        self.life = ""
        self.log: Log | None = None

    def use(self, directory: Path, life: str, log: Log | None = None) -> Ledger:
        """Note in the ledger of a directory from now on; `life` tells tokens of different processes apart."""
        self._ledger = Ledger(directory)
        self.life, self.log = life, log
        self._failed.clear()
        return self._ledger

    @property
    def ledger(self) -> Ledger:
        """The ledger in use."""
        assert self._ledger is not None, "use() comes first"
        return self._ledger

    def call(self, *, size: int = 0) -> str:
        """Be an effect: note call and end; gives the token."""
        key = self.note_call()
        with self._lock:
            self._calls += 1
            token = f"{self.life}.{self._calls}".ljust(size, ".")
        self.ledger.note("done", key, token)
        return token

    def fail_once(self) -> None:
        """Raise the first time that this process comes here for a step."""
        key = current_step.get()
        assert key is not None, "an effect is called by a step"
        if self.first_time(key):
            self.note_call()
            raise ConnectionError("not the first time")

    def first_time(self, key: str) -> bool:
        """Tell whether this process asks for the first time."""
        with self._lock:
            first = key not in self._failed
            self._failed.add(key)
        return first

    def note_call(self) -> str:
        """Note that the running step is called; gives its key."""
        key = current_step.get()
        assert key is not None, "an effect is called by a step"
        self.note_head("call", key)
        return key

    def note_head(self, kind: str, key: str) -> None:
        """Note something with how far the log is."""
        head = 0
        if self.log is not None:
            with self.log.reader() as reader:
                head = reader.head().position
        self.ledger.note(kind, key, head)


witness = Witness()


class Progress(WorkflowState):
    """What a mixed run keeps in `ctx.state`."""

    came: list[str] = []  # noqa: RUF012  # a model's default


def answer_to(run: str) -> str:
    """Give what a client answers to a suspended run."""
    return f"answer to {run}"


async def effect() -> str:
    """Have an effect, on the loop."""
    return witness.call()


async def flaky() -> str:
    """Have an effect, but not at the first call of a process."""
    witness.fail_once()
    return witness.call()


async def large() -> str:
    """Have an effect with a result that becomes a blob."""
    return witness.call(size=LARGE)


def threaded() -> str:
    """Have an effect, in a thread."""
    return witness.call()


@workflow(id="quick")
async def quick(ctx, payload: dict) -> list[str]:
    """A child: two steps, one after another."""
    return [await ctx.step.run("first", effect), await ctx.step.run("second", threaded)]


@workflow(id="direct", deterministic=False)
async def direct(ctx, payload: dict) -> Any:
    """A child whose body may do I/O itself, and notes that it was told a result."""
    token = await ctx.step.run("before", effect)
    witness.ledger.note("told", f"{ctx.execution_id}/before", token)
    await ctx.step.run("after", threaded)
    return token


@workflow(id="mixed", state_schema=Progress)
async def mixed(ctx, payload: dict) -> dict[str, Any]:
    """A little of everything; the result says what each part gave."""
    found: dict[str, Any] = {"first": await ctx.step.run("first", effect)}
    ctx.state.came = ["first"]
    left, right = await asyncio.gather(ctx.step.run("left", effect), ctx.step.run("right", threaded))
    found |= {"left": left, "right": right, "id": await ctx.step.uuid("id")}
    found["flaky"] = await ctx.step.run("flaky", flaky, max_retries=200, base_delay=0.001, max_delay=0.001)
    found["once"] = await ctx.step.run("once", effect, effect="at_most_once")
    await asyncio.sleep(0.003)
    found["pure"] = await ctx.step.run("pure", effect, effect="pure")
    if payload["number"] % 2 == 1:
        found["large"] = await ctx.step.run("large", large)
    children = (ctx.step.invoke_and_wait("quick", quick, {}), ctx.step.invoke_and_wait("direct", direct, {}))
    found["quick"], found["direct"] = await asyncio.gather(*children)
    ctx.state.came = ["first", "children"]
    if payload["number"] % 2 == 0:
        found["answer"] = (await ctx.step.suspend("ask", {"who": "anybody"})).data
    found["last"] = await ctx.step.run("last", threaded)
    return found


WORKFLOWS = (mixed, quick, direct)
