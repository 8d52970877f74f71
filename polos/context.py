"""
What a workflow body is handed: `WorkflowContext`, and the state that it keeps in `ctx.state`.

A context knows its run and owns nothing. Whatever it is asked for goes through its *port*, the code of the run
(`polos.replay.driver.Driver`, or the one for bodies that may do I/O), which records it. The port is the only way
out, so that a body can't reach anything that replay wouldn't see. A context without a port serves tests of a body's
arithmetic and what only looks at ids; asking it for a step says so.

Two context variables tell where a piece of code runs. `current_context` is the run, in its body and in its steps: a
client called there passes session and user on, and `Workflow.run`, which would wait for another run behind the log's
back, refuses. `current_step` is the idempotency key of the step that is being performed. A body begins with its own
values for both (`enter_body`): the loop that starts it may have been woken from inside somebody else's step.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, cast, final

import orjson
from pydantic import BaseModel, ConfigDict

from polos.checking import writable
from polos.engine import events as e
from polos.errors import PolosUsageError, ValueRefused
from polos.values import encode

if TYPE_CHECKING:
    from polos.engine.json import Json
    from polos.replay.facts import Fact, StepCall, Values
    from polos.step import Step

__all__ = [
    "ContinueAsNew",
    "Port",
    "StepAttempt",
    "StepResources",
    "WorkflowContext",
    "WorkflowState",
    "current_attempt",
    "current_context",
    "current_step",
    "enter_body",
]

current_step: ContextVar[str | None] = ContextVar("polos_current_step", default=None)
current_attempt: ContextVar[StepAttempt | None] = ContextVar("polos_current_attempt", default=None)
_current_context: ContextVar[WorkflowContext | None] = ContextVar("polos_current_context", default=None)


class StepResources(Protocol):
    """What an engine offers to the functions of steps, beside calling them."""

    def get(self, make: Callable[[], Any]) -> Any:
        """Give what is shared and was made by this; closed when the engine stops."""
        ...

    def topic(self, topic: str) -> list[tuple[int, str | None, Any]]:
        """Give the events of a topic: number, type and data of each."""
        ...


class StepAttempt(Protocol):
    """The attempt of a step that runs here, as its function may use it."""

    @property
    def resources(self) -> StepResources:
        """What the engine offers: shared connections, and the log to read."""
        ...

    def send(self, event_type: str, data: dict[str, Json]) -> None:
        """Send one delta to the readers of the run's stream."""
        ...


class Port(Protocol):
    """What the code of a run offers to the context: the ways in which a body can ask for something."""

    direct: bool
    cause: int
    fact_us: int
    replaying: bool

    @property
    def path(self) -> str:
        """Task path of the running code."""
        ...

    @property
    def values(self) -> Values:
        """Where live values come from."""
        ...

    @property
    def cancel_by(self) -> str | None:
        """Who asked for the cancellation that the code has seen."""
        ...

    def name(self, key: str | None, fallback: str) -> str:
        """Give a request its name, in program order."""
        ...

    def knows_answer(self, name: str, /) -> bool:
        """Tell whether this replays a request and its answer, and nobody compares what it asks for."""
        ...

    def new_run_id(self) -> str:
        """Make a child's id."""
        ...

    def is_short(self, delay_us: int) -> bool:
        """Tell whether a timer leaves the run `running`."""
        ...

    async def ask(self, event: e.Event, *, spec: e.RunCreated | None = None, call: StepCall | None = None) -> Fact:
        """Ask for something that a later fact answers, and wait for it."""
        ...

    async def tell(self, event: e.Event, *, spec: e.RunCreated | None = None) -> e.Event:
        """Ask for something that needs no answer; gives the event as it is recorded."""
        ...

    async def record(self, key: str | None, kind: str, make: Callable[[], Json]) -> Json:
        """Give a recorded value, made once."""
        ...

    async def note(self, key: str | None, kind: str, value: Json) -> None:
        """Record a value that the code computed: in replay it is computed again, for whoever compares."""
        ...

    def patched(self, name: str) -> bool:
        """Tell whether this attempt began with the code that has the patch."""
        ...

    def on_query(self, name: str, func: Callable[..., Any]) -> None:
        """Register a function that answers queries."""
        ...

    def on_update(self, name: str, func: Callable[..., Any], validator: Callable[..., Any] | None) -> None:
        """Register the handler of an update."""
        ...


class ContinueAsNew(BaseException):
    """
    The run ends here and a successor takes over its handle.

    A BaseException, so that ``except Exception`` in a workflow body doesn't swallow it.

    Attributes:
        input: the successor's payload.
    """

    def __init__(self, input: object = None) -> None:
        """Take the successor's payload."""
        super().__init__("the run continues as a new one")
        self.input = input


class WorkflowState(BaseModel):
    """
    Base of a state schema: a model whose fields are validated also when they are assigned.

    Any Pydantic model can be a state schema; this one refuses wrong values where they are assigned.

    ```python run
    import pydantic
    import polos

    class Counter(polos.WorkflowState):
        count: int = 0

    counter = Counter()
    counter.count = 5
    try:
        counter.count = "many"
    except pydantic.ValidationError:
        print("still", counter.count)
    ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(validate_assignment=True)


def current_context() -> WorkflowContext | None:
    """Give the context of the run whose body or step is running here; None outside any run."""
    return _current_context.get()


def enter_body(context: WorkflowContext) -> None:
    """Make this task the body of a run: clients used in it belong to the run, and it is in no step."""
    _current_context.set(context)
    current_step.set(None)
    current_attempt.set(None)


class _RunLogger(logging.Logger):
    """
    A logger of one run: silent in replay, and silent until what led to a line is durable.

    It makes its records itself and hands them to the logger of the workflow, which filters and emits as the program
    has configured it.
    """

    def __init__(self, context: WorkflowContext) -> None:
        super().__init__(f"polos.workflows.{context.workflow_id}")
        self._context = context
        self._target = logging.getLogger(self.name)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the standard library's name
        # A step runs live even if its body has only been replayed so far.
        port = self._context.port
        silent = port is not None and port.replaying and current_step.get() is None
        return not silent and self._target.isEnabledFor(level)

    def getEffectiveLevel(self) -> int:  # noqa: N802  # the standard library's name
        return self._target.getEffectiveLevel()

    def handle(self, record: logging.LogRecord) -> None:
        record.__dict__["execution_id"] = self._context.execution_id
        record.__dict__["workflow_id"] = self._context.workflow_id
        if current_step.get() is not None:
            self._target.handle(record)
            return
        # The line comes out later, and what it was given may be something else by then. A format that doesn't fit
        # is left as it is: handlers report it, as they do for every logger.
        with suppress(Exception):
            record.msg, record.args = record.getMessage(), None
        self._context.emit(lambda: self._target.handle(record))


@final
class _NoPort:
    """Stands where a port is missing: everything that is asked of it explains what is wrong."""

    def __getattr__(self, name: str) -> NoReturn:
        raise PolosUsageError(
            "this context belongs to no running workflow; ctx.step and what is recorded work in a body that an "
            "engine runs"
        )


class WorkflowContext:
    """
    A run as its body sees it. The engine makes it; a body receives it as its first argument.

    ```python run
    import asyncio, tempfile
    from polos import Polos, WorkflowContext, workflow

    @workflow
    async def count(ctx: WorkflowContext, payload: dict) -> int:
        ctx.logger.info("counting in run %s of user %s", ctx.execution_id, ctx.user_id)
        ctx.state["seen"] = await ctx.step.run("count", lambda: len(payload["items"]))
        return ctx.state["seen"]

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                print(await count.run(polos, {"items": "abc"}, initial_state={"seen": 0}))

    asyncio.run(main())
    ```

    Attributes:
        workflow_id: id of the workflow.
        execution_id: id of the run.
        deployment_id: the deployment that the run belongs to.
        session_id: the session, shared by all runs of a conversation.
        user_id: on whose behalf the run works; opaque.
        parent_execution_id: the run that started this one.
        root_execution_id: the run at the top of the tree; the run itself if nothing started it.
        root_workflow_id: workflow of that run.
        retry_count: attempts of the run before this one.
        created_at: when the run was created.
        workflow_type: "workflow", "agent" or "tool".
        state: an instance of the state schema; a dict if only an initial state was given; else None. What changes in
            it is recorded.
        state_schema: the schema.
        step: everything durable; see `polos.step.Step`.
        logger: a `logging.Logger` that is silent while the run is being replayed.
        cancel_event: kept for programs that hand one in; a body asks `cancel_requested`.
        channels: where suspends are announced.
        channel_context: where the run came from, if a channel started it.
        otel_traceparent: trace that the run belongs to.
        otel_span_id: span of the run.
        port: the code of the run, through which everything is asked for.
    """

    def __init__(  # noqa: PLR0917  # programs construct contexts in their own tests, by position
        self,
        workflow_id: str,
        execution_id: str,
        deployment_id: str | None,
        session_id: str | None,
        user_id: str | None = None,
        parent_execution_id: str | None = None,
        root_execution_id: str | None = None,
        root_workflow_id: str | None = None,
        retry_count: int = 0,
        created_at: datetime | None = None,
        workflow_type: str = "workflow",
        otel_traceparent: str | None = None,
        otel_span_id: str | None = None,
        state_schema: type[BaseModel] | None = None,
        initial_state: BaseModel | dict[str, Any] | None = None,
        cancel_event: Any = None,
        channels: list[Any] | None = None,
        channel_context: Any = None,
        *,
        port: Port | None = None,
    ) -> None:
        from polos.step import Step

        self.workflow_id = workflow_id
        self.execution_id = execution_id
        self.deployment_id = deployment_id
        self.session_id = session_id
        self.user_id = user_id
        self.parent_execution_id = parent_execution_id
        self.root_execution_id: str = root_execution_id or execution_id
        self.root_workflow_id: str = root_workflow_id or workflow_id
        self.retry_count = retry_count
        self.created_at = created_at
        self.workflow_type = workflow_type
        self.otel_traceparent = otel_traceparent
        self.otel_span_id = otel_span_id
        self.state_schema = state_schema
        self.cancel_event = cancel_event
        self.channels: list[Any] = channels or []
        self.channel_context = channel_context
        self.port = port
        self.state: Any = _state(state_schema, initial_state)
        self.step: Step = Step(self)

    @functools.cached_property
    def logger(self) -> logging.Logger:
        """A logger that is silent while the run is being replayed; made when it is first asked for."""
        return _RunLogger(self)

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked the run to stop; a body that cleans up may look at it."""
        return self.port is not None and self.port.cancel_by is not None

    def patched(self, id: str) -> bool:
        """
        Tell whether this attempt began with the code that has a patch.

        Lets code change under runs that are under way: those that passed this place before the patch was deployed
        are told False and take the old way.

        Args:
            id: names the patch; the answer is the same for each id, however often it is asked.

        Durable:
            with what the body asks for next; the same live and in replay.

        Raises:
            ValueError: the id can't be written.
        """
        writable("id", id)
        return self.require_port().patched(id)

    async def set_tag(self, *tags: str) -> None:
        """
        Give the run tags, by which it is found (`list_executions(tag=...)`) beside those that it was started with.

        ```python run
        import asyncio, tempfile
        from polos import Polos, workflow

        @workflow(id="tagged_order", tags=["order"])
        async def order(ctx, payload: dict):
            if payload["cents"] > 100_000:
                await ctx.set_tag("large", f"customer:{payload['customer']}")

        async def main():
            with tempfile.TemporaryDirectory() as folder:
                async with Polos(folder) as polos:
                    await order.run(polos, {"cents": 200_000, "customer": "ada"})
                    print([run["tags"] for run in await polos.list_executions(tag="customer:ada")])

        asyncio.run(main())
        ```

        Args:
            tags: texts; one that the run has already stays as it is.

        Durable:
            with what the body asks for next; a body that isn't replayed gets on when it is durable.

        Raises:
            TypeError: a tag is no text.
            ValueError: a tag is empty or can't be written.
        """
        await self._change_tags(tags, ())

    async def remove_tag(self, *tags: str) -> None:
        """
        Take tags away from the run; those that it doesn't have don't matter.

        An example of tags stands at `set_tag`, and so does what this raises.
        """
        await self._change_tags((), tags)

    async def _change_tags(self, added: tuple[str, ...], removed: tuple[str, ...]) -> None:
        # Imported on use: it brings the values of steps, which know contexts.
        from polos.calls import text

        for tag in (*added, *removed):
            text("a tag", tag)
        port = self.require_port()
        if added or removed:
            await port.tell(e.TagsChanged(cause=port.cause, added=added, removed=removed))

    def continue_as_new(self, input: object = None) -> NoReturn:
        """
        End this run and start its successor, in one commit and under the same handle.

        Keeps the history of a workflow that goes on for ever short.

        Args:
            input: the successor's payload.

        Raises:
            ContinueAsNew: always; let it pass.
        """
        raise ContinueAsNew(input)

    def on_query(self, name: str, func: Callable[..., Any]) -> None:
        """
        Register a function that answers queries.

        Args:
            name: what `handle.query` asks for.
            func: called with the query's arguments, outside the body's order of things; must only look.
        """
        _require_callable("func", func)
        self.require_port().on_query(name, func)

    def on_update(self, name: str, func: Callable[[Any], Any], validator: Callable[[Any], Any] | None = None) -> None:
        """
        Register the handler of an update.

        Args:
            name: what `handle.update` asks for.
            func: called with the update's data, as a task of the body; may be async and use `ctx.step`.
            validator: called first; what it raises refuses the update, which then leaves no trace.
        """
        _require_callable("func", func)
        if validator is not None:
            _require_callable("validator", validator)
            if is_async(validator):
                raise TypeError(f"validator must be a plain function, {validator!r} is async: nobody would await it")

        def handler(data: Any) -> Any:
            # Updates come from anywhere, also from inside somebody's step; the handler belongs to this body.
            enter_body(self)
            return func(data)

        self.require_port().on_update(name, handler, validator)

    def to_dict(self) -> dict[str, Any]:
        """Give the run's ids as JSON."""
        return {
            "workflow_id": self.workflow_id,
            "execution_id": self.execution_id,
            "deployment_id": self.deployment_id,
            "parent_execution_id": self.parent_execution_id,
            "root_execution_id": self.root_execution_id,
            "retry_count": self.retry_count,
            "created_at": self.created_at.isoformat() if self.created_at else None,
            "session_id": self.session_id,
            "user_id": self.user_id,
        }

    def dump_state(self) -> dict[str, Json] | None:
        """
        Give `state` as a JSON object that shares nothing with it; None if there is none.

        Raises:
            ValueRefused: it holds what can't be recorded.
        """
        state: object = self.state
        if state is None:
            return None
        if type(state) is dict:
            # The driver compares states to see what changed, so it must not be handed the dict that changes.
            return cast("dict[str, Json]", encode(cast("dict[str, Json]", state), what="state")[0].value)
        if isinstance(state, BaseModel):
            try:
                found = orjson.loads(state.model_dump_json(by_alias=True, round_trip=True))
            except ValueError as error:
                raise ValueRefused(f"the state can't be recorded: {error}") from error
            assert isinstance(found, dict), "a model is written as an object"
            return cast("dict[str, Json]", found)
        raise ValueRefused(f"ctx.state must be a Pydantic model, a dict or None, it is a {type(state).__name__}")

    def require_port(self) -> Port:
        """
        Give the code of the run.

        Raises:
            PolosUsageError: the context has none.
        """
        return self.port if self.port is not None else cast("Port", _NoPort())

    def emit(self, action: Callable[[], None]) -> None:
        """Do something that leaves the process, once everything that led to it is durable."""
        hold: Callable[[Callable[[], None]], None] | None = getattr(self.port, "when_durable", None)
        if hold is None:
            action()
        else:
            hold(action)


def _state(schema: type[BaseModel] | None, initial: BaseModel | dict[str, Any] | None) -> Any:
    """Build a run's first state: from the schema, else a plain dict (D22)."""
    if schema is None:
        if isinstance(initial, BaseModel):
            return initial.model_dump(mode="json")
        return None if initial is None else orjson.loads(orjson.dumps(initial))
    if isinstance(initial, BaseModel):
        initial = initial.model_dump(by_alias=True, round_trip=True)
    return schema() if initial is None else schema.model_validate(initial)


def is_async(func: object) -> bool:
    """Tell whether calling this gives something to await."""
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004  # a callable object's method is looked at


def _require_callable(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be callable, it is {value!r}")
