"""
A stand-in for the code of a run: keeps what a body asks for and answers from a script.

It has no loop, no log and no engine, so a test of `ctx.step` says in one place what was asked and what comes back.
Names are counted as the real driver counts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from polos.context import WorkflowContext, enter_body
from polos.engine import events as e
from polos.engine.json import Json
from polos.replay.facts import Counters, Fact, StepCall

__all__ = ["NOW_US", "FakePort", "FakeValues", "context", "play"]

NOW_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


class FakeValues:
    """A clock and dice that always show the same."""

    def __init__(self, now_us: int = NOW_US + 1_500) -> None:
        self.time_us = now_us

    def now_us(self) -> int:
        return self.time_us

    def random(self) -> float:
        return 0.25

    def uuid4(self) -> str:
        return "00000000-0000-4000-8000-000000000001"


class FakePort:
    """Keeps requests; gives scripted events as answers, by name."""

    def __init__(self, *, direct: bool = False) -> None:
        self.direct = direct
        self.replaying = False
        self.cause = 7
        self.fact_us = NOW_US
        self.cancelled_by: str | None = None
        self.script: dict[str, e.Event] = {}
        self.sources: dict[str, e.Event] = {}
        self.asked: list[e.Event] = []
        self.specs: list[e.RunCreated | None] = []
        self.calls: list[StepCall | None] = []
        self.queries: dict[str, Callable[..., Any]] = {}
        self.updates: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {}
        self.held: list[Callable[[], None]] = []
        self.values = FakeValues()
        self.path = "main"
        self.perform = True
        self._counters = Counters()
        self._children = 0

    @property
    def cancel_by(self) -> str | None:
        return self.cancelled_by

    def answer(self, *events: e.Event, source: e.Event | None = None) -> None:
        """Say what comes back for the names of these events."""
        for event in events:
            name = str(getattr(event, "name", ""))
            self.script[name] = event
            if source is not None:
                self.sources[name] = source

    def name(self, key: str | None, fallback: str) -> str:
        return self._counters.name(f"{self.path}/{fallback}" if key is None else key)

    def knows_answer(self, _name: str) -> bool:
        return False

    def new_run_id(self) -> str:
        self._children += 1
        return f"child-{self._children}"

    def is_short(self, delay_us: int) -> bool:
        return delay_us <= 10_000_000

    async def ask(self, event: e.Event, *, spec: e.RunCreated | None = None, call: StepCall | None = None) -> Fact:
        self._keep(event, spec, call)
        name = str(getattr(event, "name", ""))
        await asyncio.sleep(0)  # an answer never comes at once
        found = self.script.get(name)
        if found is None:
            assert call is not None, f"the script has no answer for {event}"
            found = e.StepCompleted(name=name, attempt=1, value=await _performed(call))
        return Fact(version=8, event=found, time_us=NOW_US, position=100, source=self.sources.get(name))

    async def tell(self, event: e.Event, *, spec: e.RunCreated | None = None) -> e.Event:
        self._keep(event, spec, None)
        return self.script.get(str(getattr(event, "name", "")), event)

    async def record(self, key: str | None, kind: str, make: Callable[[], Json]) -> Json:
        value = make()
        self.asked.append(e.ValueRecorded(cause=self.cause, name=self.name(key, kind), kind=kind, value=value))
        return value

    async def note(self, key: str | None, kind: str, value: Json) -> None:
        await self.record(key, kind, lambda: value)

    def patched(self, name: str) -> bool:
        return name == "new"

    def on_query(self, name: str, func: Callable[..., Any]) -> None:
        self.queries[name] = func

    def on_update(self, name: str, func: Callable[..., Any], validator: Callable[..., Any] | None) -> None:
        self.updates[name] = (func, validator)

    def when_durable(self, action: Callable[[], None]) -> None:
        self.held.append(action)

    def _keep(self, event: e.Event, spec: e.RunCreated | None, call: StepCall | None) -> None:
        self.asked.append(event)
        self.specs.append(spec)
        self.calls.append(call)

    @property
    def names(self) -> list[str]:
        """Names of what was asked for, in order."""
        return [str(getattr(event, "name", "")) for event in self.asked]


async def _performed(call: StepCall) -> Any:
    assert call.context is not None
    value = call.context.run(call.func, *call.args, **call.kwargs)
    return await value if asyncio.iscoroutine(value) else value


def context(port: FakePort | None = None, **given: Any) -> WorkflowContext:
    """Make a context on a port."""
    settings: dict[str, Any] = {"workflow_id": "order", "execution_id": "run-1", "deployment_id": "blue"}
    settings |= {"session_id": "session-1", "user_id": "user-1"}
    return WorkflowContext(**(settings | given), port=port or FakePort())


def play(ctx: WorkflowContext, body: Callable[[WorkflowContext], Coroutine[Any, Any, Any]]) -> Any:
    """Run a body to its end, inside its run."""

    async def main() -> Any:
        enter_body(ctx)
        return await body(ctx)

    return asyncio.run(main())
