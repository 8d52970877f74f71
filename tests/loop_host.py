"""
A host of the workflow loop that keeps everything in memory.

It stands where the driver stands in the engine: a step is a future that it resolves, a timer fires when it says so,
and every request and fact goes into a transcript. The order of facts comes from a seed. It needs the standard library
and polos.replay.loop only, so that every Python on the machine can run it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from polos.errors import RunEvicted
from polos.replay.loop import LoopTimer, WorkflowLoop

Fact = tuple[str, str]  # what happened, and to which step or timer


class StepError(Exception):
    """A step that failed."""


class Play:
    """One run of a program: a host, its open steps and timers, and the transcript of all that happened."""

    def __init__(self, program: Callable[[Play], Coroutine[Any, Any, Any]], seed: int = 0) -> None:
        self.program = program
        self.random = random.Random(seed)
        self.transcript: list[str] = []
        self.facts: list[Fact] = []
        self.steps: dict[str, asyncio.Future[str]] = {}
        self.timers: dict[str, LoopTimer] = {}
        self.counts: dict[str, int] = {}
        self.evicted = False
        self.ended = False
        self.loop = WorkflowLoop(self, start_time=0.0)
        self.main: asyncio.Task[Any] | None = None

    # What the loop tells its host.

    def timer_started(self, timer: LoopTimer) -> None:
        self.note(f"timer {timer.name} due {timer.due:g}")
        self.timers[timer.name] = timer

    def timer_cancelled(self, timer: LoopTimer) -> None:
        self.note(f"no timer {timer.name}")
        del self.timers[timer.name]

    def unhandled(self, context: dict[str, Any]) -> None:
        self.note(f"unhandled {context.get('exception')!r}")

    # What a program calls.

    def note(self, line: str) -> None:
        assert not self.evicted, f"an evicted run did something: {line}"
        self.transcript.append(line)

    async def step(self, name: str) -> str:
        """Wait for the host to do a step; one whose name starts with `bad` fails."""
        if self.evicted:
            raise RunEvicted
        key = f"{self.loop.current_path()}/{name}"
        self.counts[key] = self.counts.get(key, 0) + 1
        if self.counts[key] > 1:
            key += f"#{self.counts[key]}"
        self.note(f"ask {key}")
        self.steps[key] = future = self.loop.create_future()
        try:
            result: str = await future
            return result
        except asyncio.CancelledError:
            self.note(f"abandon {key}")
            raise
        finally:
            self.steps.pop(key, None)

    # What a test calls.

    def deliver(self, fact: Fact) -> None:
        """Deliver one fact."""
        kind, name = fact
        self.facts.append(fact)
        now = self.loop.time() + 1.0
        if kind == "timer":
            now = max(now, self.timers[name].due)
        self.loop.activate(lambda: self._happen(kind, name), now)
        assert self.main is not None
        if self.main.done() and not self.ended:
            self.ended = True
            self._end(self.main)

    def _happen(self, kind: str, name: str) -> None:
        self.note(f"{self.loop.time():g} {kind} {name}".rstrip())
        if kind == "start":
            self.main = self.loop.start(self.program(self))
        elif kind == "cancel":
            assert self.main is not None
            self.main.cancel()
        elif kind == "timer":
            self.loop.fire(self.timers.pop(name))
        elif name.rpartition("/")[2].startswith("bad"):
            self.steps[name].set_exception(StepError(name))
        else:
            self.steps[name].set_result(f"<{name}>")

    def _end(self, main: asyncio.Task[Any]) -> None:
        # Before the rest is cancelled, so that a failure is retrieved whatever comes of it.
        if main.cancelled():
            self.note("cancelled")
        elif (error := main.exception()) is not None:
            self.note(f"failed {describe(error)}")
        else:
            self.note(f"result {main.result()}")
        assert self.loop.cancel_remaining() == []

    def choose(self) -> Fact | None:
        """Pick the next fact out of those that are possible."""
        possible = [("step", name) for name, future in self.steps.items() if not future.done()]
        possible += [("timer", name) for name in self.timers]
        return self.random.choice(possible) if possible else None

    def go_on(self, facts_max: int = 10_000) -> Play:
        """Deliver facts until the program ends or `facts_max` facts were delivered."""
        while not self.ended and len(self.facts) < facts_max:
            fact = self.choose() if self.main is not None else ("start", "")
            assert fact is not None, f"the program waits for nothing: {self.transcript[-5:]}"
            if self.main is not None and self.cancels_at == len(self.facts):
                fact = ("cancel", "")
            self.deliver(fact)
        return self

    cancels_at = -1

    def replay(self, facts: list[Fact]) -> Play:
        """Deliver recorded facts."""
        for fact in facts:
            self.deliver(fact)
        return self

    def evict(self) -> list[str]:
        """Close the code; whatever it still tries to do is an error."""
        self.evicted = True
        return self.loop.discard()


def describe(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return f"{type(error).__name__}({', '.join(describe(one) for one in error.exceptions)})"
    return f"{type(error).__name__}({error})"


class Host:
    """A host that does nothing by itself and takes down what it hears."""

    def __init__(self, **options: Any) -> None:
        self.refuses = False
        self.started: list[LoopTimer] = []
        self.cancelled: list[LoopTimer] = []
        self.errors: list[str] = []
        self.loop = WorkflowLoop(self, **{"start_time": 100.0, **options})

    def timer_started(self, timer: LoopTimer) -> None:
        if self.refuses:
            raise LookupError("no timers here")
        self.started.append(timer)

    def timer_cancelled(self, timer: LoopTimer) -> None:
        self.cancelled.append(timer)

    def unhandled(self, context: dict[str, Any]) -> None:
        self.errors.append(str(context.get("exception", context["message"])))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a main task and run it until it waits."""
        main = self.loop.start(coroutine)
        self.loop.activate(lambda: None, 100.0)
        return main
