"""
From a workflow's definition and a run's state to code that can be run.

`Bodies` knows the workflows of this program. It builds the context, decodes the input, and says how an
attempt that ended is recorded: completed, failed, tried again, cancelled or continued.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from polos import values
from polos.context import ContinueAsNew, WorkflowContext
from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.commands import Request
from polos.engine.json import Json
from polos.engine.retry import next_delay_us, retryable
from polos.engine.state import Phase, RunState
from polos.errors import ExecutionCancelledError, PolosUsageError, StepExecutionError, ValueRefused, WorkflowNeverWaits
from polos.queueing import Queue
from polos.replay.driver import Driver
from polos.replay.facts import Earlier, Outcome
from polos.runtime.code import describe_code
from polos.runtime.direct import DirectCode
from polos.runtime.performer import failure_of
from polos.runtime.ports import RunCode

if TYPE_CHECKING:
    from polos.definition import Workflow
    from polos.retention import Retention
    from polos.runtime.engine import Engine
    from polos.runtime.unit import Resident

_log = logging.getLogger("polos")

__all__ = ["Bodies", "Described"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What is recorded of a workflow's code."""

    code: str
    python: str
    direct: bool
    modules: Mapping[str, str] = field(default_factory=dict[str, str])
    sources: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    git_commit: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict[str, str])
    pinned: str | None = None  # the version that its runs are pinned to


class Bodies:
    """The workflows that an engine can run."""

    def __init__(
        self,
        find: Callable[[str], Workflow[Any] | None],
        *,
        described: dict[int, Described] | None = None,
        driver: Callable[..., Driver] = Driver,
        find_version: Callable[[str, str], Workflow[Any] | None] | None = None,
        known: Callable[[], Iterable[Workflow[Any]]] = tuple,
    ) -> None:
        """
        Take the way to look a workflow up.

        Args:
            find: gives a workflow by id, None if there is none.
            described: what is known of the code of workflows, by their `id()`, for who starts many engines: sources
                are read once. The workflows must outlive it.
            driver: makes what runs a body that can be replayed; the test kit has some that look closer.
            find_version: gives a workflow by id and version; None if there is no version but the one that `find` gives.
            known: gives all workflows there are by now.
        """
        self._known = known
        self._find_version = find_version
        self._find = find
        self._driver = driver
        self._described: dict[int, Described] = {} if described is None else described
        self._kept: dict[str, DirectCode] = {}

    def missing(self, state: RunState) -> tuple[str, str] | None:
        """Tell why there is no code for a run, as reason and text; None if there is."""
        if self._of(state) is not None:
            return None
        if self._find(state.workflow) is None:
            return "no_code", f"no workflow {state.workflow!r} is registered in this program"
        return "pinned", (
            f"it began under version {state.pinned!r} of workflow {state.workflow!r} and is pinned to it, and this "
            f"program has no such version"
        )

    def _of(self, state: RunState) -> Workflow[Any] | None:
        """Give the definition that runs a run: today's, or the version that it is pinned to."""
        today = self._find(state.workflow)
        if state.pinned is None or (today is not None and today.version == state.pinned):
            return today
        return None if self._find_version is None else self._find_version(state.workflow, state.pinned)

    def find(self, workflow: str) -> Workflow[Any] | None:
        """Give the definition of a workflow, None if there is none."""
        return self._find(workflow)

    def _get(self, state: RunState) -> Workflow[Any]:
        found = self._of(state)
        assert found is not None, "missing() was asked first"
        return found

    def cancel_grace_seconds(self, workflow: str) -> float | None:
        """Give a workflow's own grace, None if it has none."""
        found = self._find(workflow)
        return None if found is None else found.cancel_grace_seconds

    def queue(self, workflow: str) -> Queue | None:
        """Give what a workflow says of its queue, None if it says nothing."""
        found = self._find(workflow)
        return None if found is None else found.queue

    def queues(self) -> set[str]:
        """Give the names of the queues that workflows name, or have to themselves."""
        return {found.id if found.queue is None else found.queue.name for found in self._known()}

    def retention(self, workflow: str) -> Retention | Literal[False] | None:
        """Give what a workflow says of how long its runs are kept: a policy, False for ever, None for nothing."""
        found = self._find(workflow)
        return None if found is None else found.retention

    def describe(self, state: RunState) -> Described:
        """Give what is recorded of the code that runs a run."""
        return self.describe_workflow(self._get(state))

    def describe_workflow(self, found: Workflow[Any]) -> Described:
        """Give what is recorded of a workflow's code."""
        known = self._described.get(id(found))
        if known is None:
            info = describe_code(found.func, name=found.id)
            known = Described(
                code=info.digest,
                python=info.python,
                direct=found.direct,
                modules=info.modules,
                sources=info.sources,
                git_commit=info.git_commit,
                packages=info.packages,
                pinned=found.version if found.pin else None,
            )
            self._described[id(found)] = known
        return known

    def first_state(self, state: RunState) -> Json:
        """
        Give what `ctx.state` of a run begins with; None if the workflow says nothing about it.

        It is recorded, so that everybody sees it from the first moment, and replay begins with it whatever a default
        gives by then.
        """
        workflow = self._get(state)
        if workflow.state_schema is None:
            return None
        try:
            first = _context(state, workflow.state_schema, state.initial_state, None).dump_state()
            _context(state, workflow.state_schema, first, None)
        except Exception:  # noqa: BLE001  # validators and defaults are the program's; the body fails by it, and says so
            return None
        return first

    def make(self, engine: Engine, resident: Resident, *, python: str | None) -> RunCode:
        """Make the code of a run's current attempt; nothing runs yet."""
        workflow = self._get(resident.state)
        if workflow.direct:
            direct = DirectCode(engine, resident)
            direct.bind(_Body(self, engine, resident, workflow, direct))
            return direct
        settings = engine.settings
        driver = self._driver(
            run=resident.run,
            values=engine.clock,
            new_run_id=engine.new_run_id,
            start_us=resident.state.attempt_us,
            python=python,
            wait_threshold_us=round(settings.wait_threshold_seconds * 1e6),
            report=_Report(resident.run),
            earlier=_earlier(engine, resident) if resident.state.attempt > 1 else None,
            activation_callbacks_max=workflow.activation_callbacks_max or settings.activation_callbacks_max,
        )
        body = _Body(self, engine, resident, workflow, driver)
        driver.bind(body.main, body.finish, body.context.dump_state, body.encode)
        return driver

    def keep(self, code: DirectCode) -> None:
        """Hold code that does I/O itself while its run is read again."""
        self._kept[code.run] = code

    def take_kept(self, run: str) -> DirectCode | None:
        """Give back what was held."""
        return self._kept.pop(run, None)

    @staticmethod
    def plain(value: Any) -> Json:
        """Make an answer JSON."""
        encoded, _ = values.encode(value, what="answer")
        return encoded.value


@dataclass(frozen=True, slots=True)
class _Report:
    """Logs what a task of a body raised and nobody looked at, as plain asyncio would."""

    run: str

    def __call__(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        _log.error("run %s: %s", self.run, context.get("message"), exc_info=error)


def _earlier(engine: Engine, resident: Resident) -> Earlier:
    return Earlier(
        finished=resident.state.finished.get,
        event=lambda version: engine.loader.event_at(resident.run, version)[0],
    )


def _context(
    state: RunState, schema: type[BaseModel] | None, first: Json, port: Driver | DirectCode | None
) -> WorkflowContext:
    return WorkflowContext(
        state.workflow,
        state.run,
        state.deployment,
        state.session,
        state.user,
        state.parent,
        state.root,
        state.root_workflow,
        state.retries,
        dt.datetime.fromtimestamp(state.created_us / 1e6, tz=dt.UTC),
        state.kind,
        state_schema=schema,
        initial_state=first if isinstance(first, dict) else None,
        port=port,
    )


class _Body:
    """One attempt's body: context, main coroutine, and what its end means."""

    def __init__(
        self, bodies: Bodies, engine: Engine, resident: Resident, workflow: Workflow[Any], port: Driver | DirectCode
    ) -> None:
        self._bodies = bodies
        self._engine = engine
        self._resident = resident
        self._workflow = workflow
        self._port = port
        self._refused: ValueRefused | None = None
        state, schema = resident.state, workflow.state_schema
        try:
            self.context = _context(state, schema, state.attempt_state, port)
        except Exception as error:  # noqa: BLE001  # validators and defaults are the program's own code
            name = getattr(schema, "__name__", schema)
            self._refused = ValueRefused(f"the state that the run begins with is no {name}: {error}")
            self.context = _context(state, None, None, port)

    @property
    def in_thread(self) -> bool:
        """Whether the body is a plain function."""
        return not self._workflow.is_async

    async def main(self) -> Any:
        """Run the body."""
        if self._refused is not None:
            raise self._refused
        return await self._workflow.body(self.context, self._resident.input)

    def encode(self, value: Any) -> tuple[Json, str | None]:
        """Make a value JSON."""
        encoded, _ = values.encode(value, bytes_max=self._engine.settings.result_bytes_max, what="answer")
        return encoded.value, encoded.type

    # --------------------------------------------------------------------------------- the end

    def finish(self, outcome: Outcome, cause: int) -> Request:
        """Say how an attempt that ended is recorded."""
        error = outcome.error
        if error is None:
            return self._completed(outcome.result, cause)
        if isinstance(error, ContinueAsNew):
            return self._continued(error, cause)
        # ExecutionCancelledError ends a body only when the engine closes the run: that is a cancellation, too.
        if isinstance(error, asyncio.CancelledError | ExecutionCancelledError):
            return Request(event=e.RunCancelled(cause=cause, by=self._port.cancel_by or "body"))
        return Request(event=self._failed(error, cause))

    def _completed(self, result: Any, cause: int) -> Request:
        bytes_max = self._engine.settings.result_bytes_max
        try:
            encoded, _ = values.encode(
                result, hint=self._workflow.result_hint, bytes_max=bytes_max, what="result of the workflow"
            )
        except PolosUsageError as error:
            # The body would give the same again: another attempt can't help.
            return Request(event=e.RunFailed(cause=cause, error=failure_of(error)))
        return Request(event=e.RunCompleted(cause=cause, result=encoded.value, result_type=encoded.type))

    def _failed(self, error: BaseException, cause: int) -> e.RunFailed | e.RunRetried:
        state = self._resident.state
        failure = failure_of(error)
        policy = self._workflow.retries
        final = isinstance(error, StepExecutionError | WorkflowNeverWaits | PolosUsageError)
        if final or not isinstance(error, Exception) or state.phase is not Phase.ACTIVE or state.kind == "tool":
            return e.RunFailed(cause=cause, error=failure)
        delay_us = None
        if retryable(policy, error):
            chance = self._engine.clock.random()
            delay_us = next_delay_us(policy, failed_attempts=state.retries + 1, chance=chance)
        if delay_us is None:
            return e.RunFailed(cause=cause, error=failure)
        due_us = self._engine.now_us() + delay_us
        return e.RunRetried(cause=cause, attempt=state.attempt, error=failure, due_us=due_us)

    def _continued(self, request: ContinueAsNew, cause: int) -> Request:
        state = self._resident.state
        successor = self._engine.new_run_id()
        try:
            encoded, _ = values.encode(request.input, what="input of the successor")
        except PolosUsageError as error:
            return Request(event=e.RunFailed(cause=cause, error=failure_of(error)))
        event = e.RunContinued(cause=cause, successor=successor, workflow=state.workflow, input=encoded.value)
        alive = tuple(child for child in state.children if self._engine.loader.is_alive(child))
        return Request(event=event, spec=_successor_spec(state, encoded.value, alive))


def _successor_spec(state: RunState, payload: Json, children: tuple[str, ...]) -> e.RunCreated:
    chain = state.chain or state.run
    return e.RunCreated(
        workflow=state.workflow,
        input=payload,
        root=state.root,
        root_workflow=state.root_workflow,
        parent=state.parent,
        step=state.step,
        wanted=state.wanted,
        detached=state.detached,
        run_timeout_us=state.run_timeout_us,
        deadline_us=state.deadline_us,
        initial_state=state.initial_state,
        queue=state.queue,
        queue_limit=state.queue_limit,
        concurrency_key=state.concurrency_key,
        priority=state.priority,
        session=state.session,
        user=state.user,
        listed=state.listed,
        tags=state.tags,
        deployment=state.deployment,
        singleton=state.singleton,
        singleton_policy=None if state.singleton is None else "queue",
        continues=state.run,
        chain=chain,
        kind=state.kind,
        adopts=children,
    )
