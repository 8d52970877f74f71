"""
The `workflow` decorator and what it makes: a `Workflow`, the definition that runs are made of.

A definition is data about a function: what it takes and gives, how its runs are retried, timed out and cancelled,
what starts them. The engine asks it for `body`, the coroutine of one attempt, and never calls the function itself;
so how a recorded payload becomes an argument stands in one place, live and in replay.

Whether a body is replayed is decided here, too. An ``async`` function is, unless it says ``deterministic=False``.
A plain function can't be: it runs in a thread, where nothing keeps it from doing I/O, so it is *direct* as well and
begins anew after a crash.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, Unpack, cast, overload

from pydantic import BaseModel

from polos.checking import count, name, not_negative, optional_text, positive
from polos.checking import tags_of as read_tags
from polos.context import WorkflowContext, current_context, enter_body, is_async
from polos.definition_checks import Hook, check_events, check_state_schema, read_hooks
from polos.engine.json import Json
from polos.engine.retry import RetryPolicy
from polos.errors import (
    ExecutionCancelledError,
    PolosUsageError,
    StepExecutionError,
    ValueRefused,
    WorkflowTimeoutError,
)
from polos.once import Debounce, Once, read_debounce
from polos.queueing import Queue, read_queue
from polos.registry import get_all_workflows, get_workflow, register
from polos.retention import Retention, read_retention
from polos.scheduling import SaidSchedule, read_schedule
from polos.signature import Signature, read_signature
from polos.triggering import Filter, Trigger, read_trigger
from polos.values import decode, encode, return_hint

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from polos.runtime.handle import ExecutionHandle

    # With a default, so that programs can write `Workflow` where the result's type doesn't matter.
    ResultT_co = TypeVar("ResultT_co", covariant=True, default=Any)
    ResultT = TypeVar("ResultT")
else:
    from typing import TypeVar

    ResultT_co = TypeVar("ResultT_co", covariant=True)
    ResultT = TypeVar("ResultT")

__all__ = ["RETRIES", "Workflow", "get_all_workflows", "get_workflow", "workflow"]

# Two more attempts, at once (D25). A failed step stays failed and a usage error comes back, so neither is tried again.
RETRIES: Final = RetryPolicy(max_retries=2, base_delay_seconds=0, non_retryable=(StepExecutionError, PolosUsageError))


class Workflow(Generic[ResultT_co]):
    """
    A definition that runs are made of. Made by the `workflow` decorator.

    ```python run
    import asyncio, tempfile
    from polos import Polos, Workflow, workflow

    @workflow(id="greet", tags=["demo"])
    async def greet(ctx, payload: dict) -> str:
        return f"Hello, {payload['name']}!"

    definition: Workflow[str] = greet

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                print(await definition.run(polos, {"name": "Ada"}))
                handle = await definition.invoke(polos, {"name": "Grace"})
                print(handle.workflow_id, definition.tags)

    asyncio.run(main())
    ```

    Attributes:
        id: what the log and clients call it.
        func: the function.
        description: for people.
        workflow_type: "workflow", "agent" or "tool".
        queue_name: the queue of its runs; None for one of its own.
        queue_concurrency_limit: how many runs of that queue may run at once.
        queue: all that was said of that queue; None if nothing was.
        trigger_on_event: topic whose events start runs.
        batch_size: how many events start one run.
        batch_timeout_seconds: how long a batch waits to be full.
        trigger: all that was said of the events that start runs; None if none do.
        schedule: a cron expression, a dict, True for "schedulable later", or None.
        said_schedule: the same, read; None if there is none yet.
        on_start: hooks before the body.
        on_end: hooks behind it.
        payload_schema_class: the payload's model, if it has one.
        output_schema: declared type of the result.
        state_schema: model of `ctx.state`.
        is_async: whether the function is.
        has_payload_param: whether it takes a payload.
        is_schedulable: whether a schedule may start it.
        retries: when a failed attempt of a run is followed by another.
        run_timeout_seconds: after which a run is cancelled, if nothing else is said when it is started.
        cancel_grace_seconds: how long a cancelled run may clean up; None for the engine's setting.
        deterministic: whether an async body is replayed.
        direct: whether the body may do I/O itself and begins anew after a crash.
        tags: tags of every run.
        debounce: what it says of flurries of calls; None if nothing.
        activation_callbacks_max: how long a body may go on without waiting; None for the engine's setting.
        retention: when its trees of runs are archived; False for never, None for the engine's setting.
        version: of the code; None if nothing was said.
        pin: whether a run is only ever run by the version that began it.
    """

    def __init__(  # noqa: PLR0917  # subclasses and tests of programs construct it by position
        self,
        id: str,
        func: Callable[..., Any],
        description: str | None = None,
        workflow_type: str = "workflow",
        queue_name: str | None = None,
        queue_concurrency_limit: int | None = None,
        trigger_on_event: str | None = None,
        batch_size: int = 1,
        batch_timeout_seconds: float | None = None,
        schedule: bool | str | dict[str, Any] | None = None,  # noqa: FBT001  # True means: may be scheduled later
        on_start: Hook | Sequence[Hook] | None = None,
        on_end: Hook | Sequence[Hook] | None = None,
        payload_schema_class: type[BaseModel] | None = None,
        output_schema: object = None,
        state_schema: type[BaseModel] | None = None,
        *,
        retries: RetryPolicy | None = None,
        run_timeout_seconds: float | None = None,
        cancel_grace_seconds: float | None = None,
        deterministic: bool = True,
        tags: Sequence[str] = (),
        activation_callbacks_max: int | None = None,
        signature: Signature | None = None,
        queue: Queue | None = None,
        trigger_filter: Filter | None = None,
        from_beginning: bool = False,
        debounce: object = None,
        retention: object = None,
        version: str | None = None,
        pin: bool = False,
    ) -> None:
        self.signature: Signature = signature if signature is not None else read_signature(func)
        self.id, self.func = id, func
        self.description, self.workflow_type = description, workflow_type
        self.queue: Queue | None = queue or _queue_of(id, queue_name, queue_concurrency_limit, bool(schedule))
        self.queue_name, self.queue_concurrency_limit = queue_name, queue_concurrency_limit
        self.retention: Retention | Literal[False] | None = read_retention(retention, f"workflow {id!r}")
        self.trigger_on_event = trigger_on_event
        self.batch_size, self.batch_timeout_seconds = batch_size, batch_timeout_seconds
        self.trigger: Trigger | None = read_trigger(
            trigger_on_event, batch_size, batch_timeout_seconds, trigger_filter, from_beginning
        )
        self.schedule = schedule
        self.said_schedule: SaidSchedule | None = read_schedule(schedule)
        self.on_start: list[Hook] = read_hooks("on_start", on_start)
        self.on_end: list[Hook] = read_hooks("on_end", on_end)
        self.payload_schema_class: type[BaseModel] | None = payload_schema_class or self.signature.schema
        self.output_schema, self.state_schema = output_schema, state_schema
        self.debounce: Debounce | None = read_debounce(debounce)
        self.retries: RetryPolicy = RETRIES if retries is None else retries
        self.run_timeout_seconds = run_timeout_seconds
        self.cancel_grace_seconds: float | None = cancel_grace_seconds
        self.deterministic = deterministic
        self.tags: tuple[str, ...] = read_tags(tags)
        self.activation_callbacks_max = activation_callbacks_max
        self.version, self.pin = version, pin
        self.is_async: bool = is_async(func)
        self._check()

    def _check(self) -> None:
        name("id", self.id)
        optional_text("version", self.version)
        if not isinstance(cast("object", self.pin), bool):
            raise TypeError(f"pin must be True or False, it is {self.pin!r}")
        if self.pin and self.version is None:
            raise ValueError(f"workflow {self.id!r} has pin=True and no version= that its runs could be pinned to")
        positive("run_timeout_seconds", self.run_timeout_seconds)
        not_negative("cancel_grace_seconds", self.cancel_grace_seconds)
        if self.activation_callbacks_max is not None:
            count("activation_callbacks_max", self.activation_callbacks_max)
        if not isinstance(cast("object", self.retries), RetryPolicy):
            raise TypeError(f"retries must be a RetryPolicy, it is {self.retries!r}")
        check_state_schema(self.state_schema)
        if self.is_schedulable and self.trigger_on_event:
            raise ValueError(f"workflow {self.id!r} has a schedule and trigger_on_event; it can have one of them")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}>"

    @property
    def has_payload_param(self) -> bool:
        """Whether the function takes a payload."""
        return self.signature.takes_payload

    @property
    def is_schedulable(self) -> bool:
        """Whether a schedule may start it."""
        return self.schedule is not None and self.schedule is not False

    @property
    def direct(self) -> bool:
        """Whether the body may do I/O itself, so that it begins anew after a crash instead of being replayed."""
        return not (self.is_async and self.deterministic)

    @cached_property
    def result_hint(self) -> object:
        """Type of the result: the declared schema, else the function's return annotation."""
        return self.output_schema if self.output_schema is not None else return_hint(self.func)

    # --------------------------------------------------------------------------- for the engine

    def encode_payload(self, payload: object) -> Json:
        """
        Give a payload as it is recorded.

        Args:
            payload: a dict, a model, or whatever else JSON can hold.

        Returns:
            The record; None if the function takes no payload.

        Raises:
            ValueError: the function takes a payload and there is none, or there are no events for one that a topic
                triggers.
            TypeError: it isn't JSON.
        """
        if not self.has_payload_param:
            return None
        if payload is None:
            if self.signature.admits_none:
                return None
            raise ValueError(f"workflow {self.id!r} takes a payload, and none was given")
        if self.trigger is not None:
            check_events(self.id, payload, batched=self.trigger.batched)
        try:
            # A dict is recorded as it is: made a model first, its validators would see it twice.
            hint = self.signature.hint if isinstance(payload, BaseModel) else None
            return encode(payload, hint=hint, what="payload")[0].value
        except ValueRefused as refused:
            raise TypeError(f"the payload of workflow {self.id!r} isn't JSON: {refused}") from refused

    async def body(self, context: WorkflowContext, record: Json) -> Any:
        """
        Run the function once: the main coroutine of one attempt.

        Args:
            context: the attempt's context.
            record: the recorded payload.

        Returns:
            What the function returns, not recorded yet.
        """
        enter_body(context)
        context = self.context_of(context)
        if self.on_start or self.on_end:
            from polos.middleware.around import with_hooks

            return await with_hooks(self, context, record)
        return await self.call(context, self.arguments(context, record), record)

    def context_of(self, context: WorkflowContext) -> WorkflowContext:
        """Give the context that the function gets: this one; an agent makes it its own."""
        return context

    def arguments(self, context: WorkflowContext, record: Json) -> tuple[Any, ...]:
        """Give what the function is called with."""
        if self.has_payload_param and not (record is None and self.signature.has_default):
            return (context, decode(record, hint=self.signature.hint))
        return (context,)

    @property
    def hook_config(self) -> Any:
        """What hooks are told of the settings of an agent; None for anything else."""
        return None

    def hook_payload(self, payload: Any) -> Any:
        """Give a payload as hooks are told of it."""
        return payload

    def typed(self, found: Any) -> Any:
        """Give a result as what the definition knows of it beyond its record."""
        return found

    def hook_changes(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Give what hooks changed of a payload as changes of what is recorded of it."""
        return changes

    def hook_output(self, result: Any, output: Json) -> Any:  # noqa: ARG002  # agents look at both
        """Give what the output is after a hook said what it is to be."""
        return output

    async def call(self, context: WorkflowContext, arguments: tuple[Any, ...], record: Json) -> Any:  # noqa: ARG002  # tools look at both
        """
        Call the function.

        Args:
            context: the attempt's context.
            arguments: what it is given.
            record: the payload as JSON.
        """
        if self.is_async:
            return await self.func(*arguments)
        result = await asyncio.to_thread(self.func, *arguments)
        # A plain wrapper around an async function gives back what is still to be awaited.
        return await result if inspect.isawaitable(result) else result

    # ------------------------------------------------------------------------------ for programs

    async def invoke(  # noqa: PLR0917  # the order that programs use
        self,
        client: Any,
        payload: object = None,
        queue: str | None = None,
        concurrency_key: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        initial_state: BaseModel | dict[str, Any] | None = None,
        run_timeout_seconds: float | None = None,
        *,
        priority: int = 0,
        start_after: float | None = None,
        start_at: datetime | None = None,
        tags: Sequence[str] = (),
        **once: Unpack[Once],
    ) -> ExecutionHandle:
        """
        Start a run, and don't wait for it.

        Args:
            client: a `Polos` or a `PolosClient`.
            payload: a dict or a model.
            queue: the run's queue; the workflow's own by default.
            concurrency_key: counted for itself within the queue.
            session_id: the session it belongs to.
            user_id: on whose behalf it works.
            initial_state: what `ctx.state` begins with.
            run_timeout_seconds: after which it is cancelled.
            priority: the higher, the sooner it gets its turn in its queue; children inherit it.
            start_after: seconds after which it may begin.
            start_at: moment from which on it may begin; UTC if it names no zone.
            tags: beside those of the workflow.
            once: `idempotency_key`, `singleton`, `debounce_seconds` and what goes with them; see `polos.once.Once`.

        Returns:
            A handle of the run.

        Durable:
            when it returns, and the handle says `accepted`.

        Raises:
            RuntimeError: called inside a run, where `ctx.step.invoke` starts others.
            ValueError, TypeError: the payload is missing, or it isn't JSON.
        """
        if current_context() is not None:
            raise RuntimeError(
                f"workflow {self.id!r} can't be started like this inside a run: the start would not be part of the "
                f"run's history. Use ctx.step.invoke or ctx.step.invoke_and_wait"
            )
        positive("run_timeout_seconds", run_timeout_seconds)
        limit = None if queue is not None and queue != self.queue_name else self.queue_concurrency_limit
        seconds = self.run_timeout_seconds if run_timeout_seconds is None else run_timeout_seconds
        return cast("ExecutionHandle", await client.invoke(
            self.id, self.encode_payload(payload), queue_name=optional_text("queue", queue) or self.queue_name,
            queue_concurrency_limit=limit, concurrency_key=concurrency_key,
            session_id=session_id, user_id=user_id, initial_state=initial_state, run_timeout_seconds=seconds,
            priority=priority, start_after=start_after, start_at=start_at,
            tags=(*self.tags, *(tag for tag in read_tags(tags) if tag not in self.tags)), **once,
        ))  # fmt: skip

    async def run(  # noqa: PLR0917  # the order that programs use
        self,
        client: Any,
        payload: object = None,
        queue: str | None = None,
        concurrency_key: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        timeout: float | None = 600.0,
        initial_state: BaseModel | dict[str, Any] | None = None,
        **once: Unpack[Once],
    ) -> ResultT_co:
        """
        Start a run and wait for its result.

        Args:
            client: a `Polos` or a `PolosClient`.
            payload: a dict or a model.
            queue: the run's queue; the workflow's own by default.
            concurrency_key: counted for itself within the queue.
            session_id: the session it belongs to.
            user_id: on whose behalf it works.
            timeout: seconds after which the run is cancelled and waiting ends; None waits for ever.
            initial_state: what `ctx.state` begins with.
            once: as for `invoke`; what is waited for then is the run that was there already.

        Returns:
            The result, typed.

        Durable:
            when it returns.

        Raises:
            RuntimeError: the run failed, or this is called inside a run.
            WorkflowTimeoutError: it didn't end in time; says what it waits for.
            ExecutionCancelledError: somebody cancelled it.
            ValueError: the function takes a payload and there is none.
            TypeError: the payload isn't JSON.
        """
        positive("timeout", timeout)
        handle = await self.invoke(
            client, payload, queue, concurrency_key, session_id, user_id, initial_state,
            run_timeout_seconds=timeout, **once,
        )  # fmt: skip
        end = await client._wait_end(handle.id, timeout)  # noqa: SLF001  # ours, and offered for this
        match end.status:
            case "completed":
                result = decode(end.result, hint=self.result_hint, type=end.type)
                return cast("ResultT_co", result)  # what the function is annotated with
            case "failed":
                raise RuntimeError(f"Workflow execution failed: {end.error}")
            case status:
                assert status == "cancelled", "waiting ends with the run"
                if end.by == "timeout":
                    raise WorkflowTimeoutError(handle.id, timeout)
                raise ExecutionCancelledError(f"run {handle.id} of workflow {self.id!r} was cancelled by {end.by}")


class _Decorator(Protocol):
    """What `workflow(...)` gives: it makes a definition of a function."""

    @overload
    def __call__(self, func: Callable[..., Coroutine[Any, Any, ResultT]], /) -> Workflow[ResultT]: ...

    @overload
    def __call__(self, func: Callable[..., ResultT], /) -> Workflow[ResultT]: ...


@overload
def workflow(id: Callable[..., Coroutine[Any, Any, ResultT]], /) -> Workflow[ResultT]: ...


@overload
def workflow(id: Callable[..., ResultT], /) -> Workflow[ResultT]: ...


@overload
def workflow(  # the order that programs use
    id: str | None = None,
    description: str | None = None,
    queue: object = None,
    trigger_on_event: str | None = None,
    batch_size: int = 1,
    batch_timeout_seconds: float | None = None,
    schedule: bool | str | dict[str, Any] | None = None,  # noqa: FBT001
    on_start: Hook | Sequence[Hook] | None = None,
    on_end: Hook | Sequence[Hook] | None = None,
    state_schema: type[BaseModel] | None = None,
    *,
    output_schema: object = None,
    retries: RetryPolicy | None = None,
    run_timeout_seconds: float | None = None,
    cancel_grace_seconds: float | None = None,
    deterministic: bool = True,
    tags: Sequence[str] = (),
    activation_callbacks_max: int | None = None,
    trigger_filter: Filter | None = None,
    from_beginning: bool = False,
    debounce: object = None,
    retention: object = None,
    version: str | None = None,
    pin: bool = False,
) -> _Decorator: ...


def workflow(id: Any = None, description: Any = None, queue: object = None, *rest: Any, **options: Any) -> Any:
    """
    Make a workflow of a function and register it under its id.

    Used bare (`@workflow`) or called (`@workflow(id="order")`). The function takes a `WorkflowContext` and, if it
    wants one, a payload: a dict or a Pydantic model. A later definition of the same id replaces this one.

    ```python run
    from polos import WorkflowContext, workflow

    @workflow(id="greet")
    async def greet(ctx: WorkflowContext, payload: dict) -> str:
        return await ctx.step.run("compose", lambda: f"Hello, {payload['name']}!")

    print(greet.id, greet.has_payload_param)
    ```

    Args:
        id: the workflow's id; the function's name by default.
        description: for people.
        queue: a name, a `Queue`, or a dict with the arguments of one; by default a queue of its own.
        *rest: more by position, in the order in which they stand in the list of names below.
        **options: `trigger_on_event` (topic or pattern whose events start runs), `batch_size` and
            `batch_timeout_seconds` (of such events), `trigger_filter` (tells of an event whether it counts),
            `from_beginning` (True for a new trigger that wants history), `schedule` (cron text, dict, True for "later",
            False for "never"), `on_start` and `on_end` (hooks), `state_schema` (model of `ctx.state`), `output_schema`
            (type of the result, instead of the return annotation), `retries` (policy for attempts of a run; two more
            at once by default), `run_timeout_seconds`, `cancel_grace_seconds` (time for cleaning up; the engine's
            setting, 120, by default), `deterministic` (False for a body that does I/O itself and begins anew after a
            crash), `tags`, `activation_callbacks_max`, `debounce` (seconds, or a dict with `seconds` and `max_seconds`:
            its calls are debounced, as told at `polos.once.Once`), `retention` (a `Retention` or a dict with its
            arguments: when runs that have ended are archived; False for never), `version` (of the code, a text), `pin`
            (True: a run is only ever run by the version that began it).

    Returns:
        A `Workflow`, not a function.

    Raises:
        TypeError: the function, or an argument, isn't what it must be; names function and parameter.
        ValueError: an argument has a value that makes no sense.
    """
    names = sys._getframe(1).f_locals  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # the only way to classes of the function around a definition
    if callable(id):
        return _define(id, names, None, description, queue, *rest, **options)
    if id is not None and not isinstance(id, str):
        raise TypeError(f"id must be a text, it is {id!r}")
    return partial(_decorate, names=names, id=id, settings=(description, queue, *rest), options=options)


def _decorate(
    func: Callable[..., Any],
    *,
    names: dict[str, Any],
    id: str | None,
    settings: tuple[Any, ...],
    options: dict[str, Any],
) -> Workflow[Any]:
    return _define(func, names, id, *settings, **options)


def _define(  # noqa: PLR0917  # takes the decorator's arguments as they were given
    func: Callable[..., Any],
    names: dict[str, Any],
    id: str | None,
    description: str | None = None,
    queue: object = None,
    trigger_on_event: str | None = None,
    batch_size: int = 1,
    batch_timeout_seconds: float | None = None,
    schedule: bool | str | dict[str, Any] | None = None,  # noqa: FBT001
    on_start: Hook | Sequence[Hook] | None = None,
    on_end: Hook | Sequence[Hook] | None = None,
    state_schema: type[BaseModel] | None = None,
    **ours: Any,
) -> Workflow[Any]:
    if not callable(func):
        raise TypeError(f"workflow decorates a function, it was given {func!r}")
    known_as = id if id is not None else getattr(func, "__name__", type(func).__name__)
    own_queue = read_queue(queue, known_as)
    if queue is not None and schedule:
        raise ValueError(f"workflow {known_as!r} has a queue and a schedule; scheduled runs have a queue of their own")
    made: Workflow[Any] = Workflow(
        known_as,
        func,
        description,
        "workflow",
        None if own_queue is None else own_queue.name,
        None if own_queue is None else own_queue.concurrency_limit,
        trigger_on_event,
        batch_size,
        batch_timeout_seconds,
        schedule,
        on_start,
        on_end,
        state_schema=state_schema,
        queue=own_queue,
        signature=read_signature(func, names),
        **ours,
    )
    register(made)
    return made


def _queue_of(id: str, name: str | None, limit: int | None, scheduled: bool) -> Queue | None:  # noqa: FBT001  # private
    if name is not None or limit is not None:
        return Queue(name or id, limit)
    return Queue(id, 1) if scheduled else None  # one run of each schedule
