"""
`ctx.step`: everything durable that a workflow body can do.

Each method is a *request*: it takes its name in program order, asks the code of the run (the port) to record it, and
gives back what the recorded answer means. Live, the answer comes when the thing has happened; in replay it is in the
log already. Nothing here knows which of the two is going on.

A name is taken when the method begins to run, which for `asyncio.gather` is the order of its arguments, and before
anything is awaited. Requests of one batch are made in one go for the same reason: they belong to one activation and
so to one commit.

Step methods are for bodies. A function that a step calls runs outside the order of the history, so what it asked
for could not be matched in replay; each method refuses there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast, final, overload

from pydantic import BaseModel

from polos.agents.step import AgentSteps
from polos.calls import MISSING, function_name, optional_text, read_options, sort_arguments, step_call, text
from polos.checking import short, writable
from polos.children import ChildOptions, batch_requests, child_request, ended, handle, settled
from polos.context import Port, WorkflowContext, current_step
from polos.definition import Workflow
from polos.engine import events as e
from polos.engine.json import Json
from polos.errors import PolosUsageError
from polos.in_step import InStep
from polos.outcomes import instant, replayed_step, rfc3339, step_result
from polos.types.answers import ResumeEvent
from polos.types.events import EventPayload
from polos.types.types import BatchStepResult, BatchWorkflowInput
from polos.values import decode, digest_arguments, encode
from polos.waits import due_in, due_of, refuse_past, sleep_until, wait

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from polos.runtime.handle import ExecutionHandle

    # An id of a workflow says nothing about its result, which is of any type then.
    _T = TypeVar("_T", default=Any)
else:
    from typing import TypeVar

    _T = TypeVar("_T")

__all__ = ["Step"]


@final
class Step(InStep, AgentSteps):
    """What a body can do that lasts. Reached as `ctx.step`."""

    def __init__(self, context: WorkflowContext) -> None:
        """Belong to a context."""
        self._context = context

    def _port(self) -> Port:
        step = current_step.get()
        if step is not None:
            raise PolosUsageError(
                f"ctx.step was used by the function of step {step!r}; only a workflow's body can ask for steps: return "
                f"a value and let the body go on from there"
            )
        return self._context.require_port()

    # ------------------------------------------------------------------------------------- steps

    @overload
    async def run(
        self, step_key: str, func: Callable[..., Awaitable[_T]], *args: Any,
        max_retries: int = 2, base_delay: float = 1.0, max_delay: float = 10.0, **kwargs: Any,
    ) -> _T: ...  # fmt: skip

    @overload
    async def run(
        self, step_key: str, func: Callable[..., _T], *args: Any,
        max_retries: int = 2, base_delay: float = 1.0, max_delay: float = 10.0, **kwargs: Any,
    ) -> _T: ...  # fmt: skip

    @overload
    async def run(
        self, step_key: Callable[..., Awaitable[_T]], *args: Any,
        max_retries: int = 2, base_delay: float = 1.0, max_delay: float = 10.0, **kwargs: Any,
    ) -> _T: ...  # fmt: skip

    @overload
    async def run(
        self, step_key: Callable[..., _T], *args: Any,
        max_retries: int = 2, base_delay: float = 1.0, max_delay: float = 10.0, **kwargs: Any,
    ) -> _T: ...  # fmt: skip

    async def run(
        self, step_key: Any, func: Any = MISSING, *args: Any,
        max_retries: int = 2, base_delay: float = 1.0, max_delay: float = 10.0, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """
        Call a function, and never again once it is known to have returned: a step.

        An async function runs on the program's own event loop, any other in a thread, both in this place's context and
        with copies of data; other objects are passed as they are. If it raises it is called again, later and later.

        ```python run
        import polos

        async def charge(cents: int) -> str:
            return f"charged {cents}"

        @polos.workflow(id="pay")
        async def pay(ctx, payload: dict):
            return await ctx.step.run("charge", charge, payload["cents"], max_retries=5, timeout_seconds=30)
        ```

        Args:
            step_key: names the step in this run; may be left out, and the function then comes first.
            func: the function.
            *args: its positional arguments.
            max_retries: calls after the first.
            base_delay: seconds before the second call.
            max_delay: no delay is longer.
            **kwargs: its named arguments; and, unless the function itself takes one of that name: `jitter` (share of
                each delay of which a random part is taken off), `retry_on` and `non_retryable` (exception types),
                `timeout_seconds` (of each call), `effect` ("idempotent": may be called again after a crash in its
                middle; "at_most_once": never is, and its outcome may become unknown; "pure": has none), `reconcile`
                (asked, with its arguments, what happened: answers `Completed(value)`, `NotDone()` or `StillUnknown()`).

        Returns:
            What the function returned, read from its record.

        Durable:
            when it returns, as far as anybody outside can tell; the function is never called again.

        Raises:
            StepExecutionError: every call failed; the same in replay.
            ValueError, TypeError: an argument or a setting makes no sense.
        """
        port = self._port()
        key, called, arguments = sort_arguments(step_key, func, args)
        short_name, full_name = function_name(called)
        options = read_options(called, kwargs)
        name = port.name(key, short_name)  # first: the names of later steps don't depend on whether settings are right
        if port.replaying and port.knows_answer(name):
            return await replayed_step(port, name, called)
        call = step_call(
            name, called, arguments, kwargs,
            max_retries=max_retries, base_delay=base_delay, max_delay=max_delay, options=options,
        )  # fmt: skip
        asked = e.StepScheduled(
            cause=port.cause, name=name, function=full_name, digest=digest_arguments(arguments, kwargs),
            effect=call.effect, path=port.path,
        )  # fmt: skip
        return step_result(name, await port.ask(asked, call=call), call.hint)

    # ------------------------------------------------------------------------------------ waiting

    async def wait_for(
        self, step_key: str, seconds: float | None = None, minutes: float | None = None,
        hours: float | None = None, days: float | None = None, weeks: float | None = None,
    ) -> None:  # fmt: skip
        """
        Wait for some time: the sum of what is given. A restart in between makes no difference.

        Args:
            step_key: names the wait in this run.
            seconds: how many.
            minutes: how many.
            hours: how many.
            days: how many.
            weeks: how many.

        Durable:
            from the commit in which it is asked for.

        Raises:
            StepExecutionError: the sum isn't positive.
        """
        port = self._port()
        name = _name(port, step_key)
        due_us = due_in(port, step_key, seconds=seconds, minutes=minutes, hours=hours, days=days, weeks=weeks)
        await sleep_until(port, name, due_us)

    async def wait_until(self, step_key: str, timestamp: datetime) -> None:
        """
        Wait until a moment.

        Args:
            step_key: names the wait in this run.
            timestamp: the moment; without a time zone it is in UTC.

        Durable:
            from the commit in which it is asked for.

        Raises:
            StepExecutionError: the moment was over when it was asked for. In a body that began anew (a later attempt,
                or a direct body after a crash) a moment that is over by now is no error: it may have lain ahead then.
        """
        port = self._port()
        if not isinstance(cast("object", timestamp), datetime):
            raise TypeError(f"timestamp must be a datetime, it is {timestamp!r}")
        name = _name(port, step_key)
        due_us = due_of(timestamp)
        if due_us > port.fact_us or port.direct or self._context.retry_count:
            await sleep_until(port, name, due_us)
        else:
            await refuse_past(port, name, step_key, due_us)

    async def suspend(self, step_key: str, data: Any, timeout: float | None = None) -> ResumeEvent:
        """
        Wait for somebody's answer: a person's, mostly.

        Readers of the run's stream see an event `suspend_{step_key}` with the data. An answer that comes before is
        kept.

        Args:
            step_key: names the suspend in this run; the answer names it, too.
            data: what the answerer is shown; a dict or a model.
            timeout: seconds to wait at most.

        Returns:
            The answer; what was answered is its `data`.

        Durable:
            from the commit in which it is asked for.

        Raises:
            StepExecutionError: nobody answered in time.
            ValueRefused: the data can't be recorded.
        """
        port = self._port()
        name = _name(port, step_key)
        shown = encode(data, what=f"data of suspend {step_key!r}")[0].value
        answer = await wait(port, name, "suspend", step_key, data=shown, timeout=timeout)
        return ResumeEvent(
            data=decode(answer.event.data),
            sequence_id=answer.sequence_id,
            topic=self._tree_topic,
            event_type=f"resume_{step_key}",
            id=answer.event.event_id,
            created_at=rfc3339(answer.event.created_us),
        )

    async def resume(
        self, step_key: str, suspend_step_key: str, suspend_execution_id: str, suspend_workflow_id: str, data: Any
    ) -> None:
        """
        Answer the suspend of another run.

        Args:
            step_key: names this request in this run.
            suspend_step_key: key of the suspend.
            suspend_execution_id: the suspended run, or the root of its tree.
            suspend_workflow_id: its workflow.
            data: the answer; a dict or a model.

        Durable:
            with what the body asks for next.

        Raises:
            ValueRefused: the data can't be recorded.
            ValueError: a name can't be written.
        """
        for what, given in (
            ("suspend_step_key", suspend_step_key),
            ("suspend_execution_id", suspend_execution_id),
            ("suspend_workflow_id", suspend_workflow_id),
        ):
            writable(what, given)
        port = self._port()
        name = _name(port, step_key)
        answer = encode(data, what=f"answer to {suspend_step_key!r}")[0].value
        body: dict[str, Json] = {"key": suspend_step_key, "data": answer, "workflow": suspend_workflow_id}
        await port.tell(
            e.MessageSent(cause=port.cause, name=name, kind="resume", target=suspend_execution_id, body=body)
        )

    async def wait_for_event(
        self, step_key: str, topic: str, timeout: float | None = None, *, since: int | None = None
    ) -> EventPayload:
        """
        Wait for an event of a topic: the first one published after this was asked for.

        Args:
            step_key: names the wait in this run.
            topic: the topic.
            timeout: seconds to wait at most.
            since: look further back: events behind this `sequence_id` count as well.

        Returns:
            The event.

        Durable:
            from the commit in which it is asked for; nothing that is published later is missed.

        Raises:
            StepExecutionError: no event came in time.
        """
        port = self._port()
        text("topic", topic)
        name = _name(port, step_key)
        answer = await wait(port, name, "topic", topic, timeout=timeout, since=since)
        return EventPayload(
            id=answer.event.event_id or "",
            sequence_id=answer.sequence_id,
            topic=topic,
            event_type=answer.event.event_type,
            data=decode(answer.event.data),
            created_at=instant(answer.event.created_us),
        )

    async def wait_for_signal(self, name: str, timeout: float | None = None) -> Any:
        """
        Wait for a signal: data that somebody sends to this run under a name.

        Signals that came before are kept and taken first, in their order.

        Args:
            name: the signal's name.
            timeout: seconds to wait at most.

        Returns:
            The data.

        Durable:
            from the commit in which it is asked for.

        Raises:
            StepExecutionError: no signal came in time.
        """
        port = self._port()
        text("name", name)
        answer = await wait(port, port.name(name, name), "signal", name, timeout=timeout)
        return decode(answer.event.data)

    # ---------------------------------------------------------------------------------- children

    async def invoke(  # noqa: PLR0917  # the order that programs use
        self, step_key: str, workflow: str | Workflow[Any], payload: Any = None,
        initial_state: BaseModel | dict[str, Any] | None = None, queue: str | None = None,
        concurrency_key: str | None = None, run_timeout_seconds: float | None = None,
        *, detached: bool = False, tags: Sequence[str] = (),
    ) -> ExecutionHandle:  # fmt: skip
        """
        Start a child run, and don't wait for it.

        Args:
            step_key: names the request in this run.
            workflow: a workflow, or its id.
            payload: what it is given; a dict or a model.
            initial_state: what its `ctx.state` begins with.
            queue: its queue; the workflow's own by default.
            concurrency_key: counted for itself within the queue.
            run_timeout_seconds: after which it is cancelled.
            detached: not cancelled when this run is.
            tags: tags beside those of the workflow.

        Returns:
            A handle of the child.

        Durable:
            with what the body asks for next; the child starts then.

        Raises:
            StepExecutionError: there is no such workflow.
            ValueError: it takes a payload and there is none.
            TypeError: the payload isn't JSON.
        """
        port = self._port()
        options = ChildOptions(
            initial_state=initial_state, queue=queue, concurrency_key=concurrency_key,
            run_timeout_seconds=run_timeout_seconds, detached=detached, tags=tags,
        )  # fmt: skip
        name = _name(port, step_key)
        wanted = child_request(self._context, port, name, workflow, payload, options, wanted=False)
        return handle(self._context, port, step_key, await port.tell(wanted.event, spec=wanted.spec))

    async def invoke_and_wait(  # noqa: PLR0917  # the order that programs use
        self, step_key: str, workflow: str | Workflow[_T], payload: Any = None,
        initial_state: BaseModel | dict[str, Any] | None = None, queue: str | None = None,
        concurrency_key: str | None = None, run_timeout_seconds: float | None = None,
        *, detached: bool = False, tags: Sequence[str] = (),
    ) -> _T:  # fmt: skip
        """
        Start a child run and wait for its result.

        A body that stops waiting (a timeout, a cancellation) cancels the child, unless it is `detached`.

        Args:
            step_key: names the request in this run.
            workflow: a workflow, or its id.
            payload: what it is given; a dict or a model.
            initial_state: what its `ctx.state` begins with.
            queue: its queue; the workflow's own by default.
            concurrency_key: counted for itself within the queue.
            run_timeout_seconds: after which it is cancelled.
            detached: not cancelled with this run, nor when it stops waiting.
            tags: tags beside those of the workflow.

        Returns:
            The child's result, typed.

        Durable:
            from the commit in which it is asked for.

        Raises:
            StepExecutionError: the child failed or was cancelled, or there is no such workflow.
            ValueError: it takes a payload and there is none.
            TypeError: the payload isn't JSON.
        """
        port = self._port()
        options = ChildOptions(
            initial_state=initial_state, queue=queue, concurrency_key=concurrency_key,
            run_timeout_seconds=run_timeout_seconds, detached=detached, tags=tags,
        )  # fmt: skip
        name = _name(port, step_key)
        wanted = child_request(self._context, port, name, workflow, payload, options, wanted=True)
        return cast("_T", await ended(port, wanted))  # decoded by the hint of that very workflow

    async def batch_invoke(self, step_key: str, workflows: Sequence[BatchWorkflowInput]) -> list[ExecutionHandle]:
        """
        Start several child runs, and don't wait for them.

        Args:
            step_key: names the batch in this run.
            workflows: what is to be started.

        Returns:
            Handles, in the order of the requests.

        Durable:
            with what the body asks for next, all or none.

        Raises:
            StepExecutionError: there is no such workflow; nothing is started then.
            ValueError: a payload is missing.
            TypeError: a payload isn't JSON.
        """
        port = self._port()
        text("step_key", step_key)
        batch = batch_requests(self._context, port, step_key, workflows, wanted=False)
        if port.direct:  # each is told of when it is durable, which takes time; together they share it
            told = await asyncio.gather(*(port.tell(one.event, spec=one.spec) for one in batch))
        else:
            told = [await port.tell(one.event, spec=one.spec) for one in batch]
        return [handle(self._context, port, step_key, recorded) for recorded in told]

    async def batch_invoke_and_wait(
        self, step_key: str, workflows: Sequence[BatchWorkflowInput]
    ) -> list[BatchStepResult]:
        """
        Start several child runs and wait for all of them. One that fails doesn't raise.

        ```python run
        import polos
        from polos import BatchWorkflowInput

        @polos.workflow(id="review_all")
        async def review_all(ctx, payload: dict):
            reviews = [BatchWorkflowInput(id="review", payload={"document": one}) for one in payload["documents"]]
            results = await ctx.step.batch_invoke_and_wait("reviews", reviews)
            return [result.result for result in results if result.success]
        ```

        Args:
            step_key: names the batch in this run.
            workflows: what is to be started.

        Returns:
            How each ended, in the order of the requests.

        Durable:
            from the commit in which it is asked for, all or none.

        Raises:
            StepExecutionError: there is no such workflow; nothing is started then.
            ValueError: a payload is missing.
            TypeError: a payload isn't JSON.
        """
        port = self._port()
        text("step_key", step_key)
        batch = batch_requests(self._context, port, step_key, workflows, wanted=True)
        return list(await asyncio.gather(*(settled(port, one) for one in batch)))

    # ------------------------------------------------------------------------------------- events

    async def publish_event(self, step_key: str, topic: str, data: Any, event_type: str | None = None) -> None:
        """
        Publish an event on a topic, once.

        Args:
            step_key: names the request in this run.
            topic: the topic.
            data: the event's data; a dict or a model.
            event_type: the event's type.

        Durable:
            with what the body asks for next; it is published in that commit.

        Raises:
            ValueRefused: the data can't be recorded.
        """
        port = self._port()
        short("topic", topic)
        optional_text("event_type", event_type)
        name = _name(port, step_key)
        record = encode(data, what=f"data of event {step_key!r}")[0].value
        body: dict[str, Json] = {"topic": topic, "data": record, "event_type": event_type}
        await port.tell(e.MessageSent(cause=port.cause, name=name, kind="publish", target=topic, body=body))

    async def publish_workflow_event(self, step_key: str, data: Any, event_type: str | None = None) -> None:
        """
        Publish an event to the readers of this run's tree, once.

        Args:
            step_key: names the request in this run.
            data: the event's data; a dict or a model.
            event_type: the event's type.

        Durable:
            with what the body asks for next; it is published in that commit.

        Raises:
            ValueRefused: the data can't be recorded.
        """
        await self.publish_event(step_key, self._tree_topic, data, event_type)

    @property
    def _tree_topic(self) -> str:
        return f"workflow/{self._context.root_workflow_id}/{self._context.root_execution_id}"

    # ------------------------------------------------------------------------------------- values

    async def uuid(self, step_key: str | None = None) -> str:
        """
        Give a random UUID, version 4: the same one in replay.

        Args:
            step_key: names the value in this run; may be left out.
        """
        port = self._port()
        return str(await port.record(optional_text("step_key", step_key), "uuid", port.values.uuid4))

    async def now(self, step_key: str | None = None) -> int:
        """
        Give the time in milliseconds since the epoch: the same one in replay, and never before what is recorded.

        Args:
            step_key: names the value in this run; may be left out.
        """
        port = self._port()
        key = optional_text("step_key", step_key)
        made = await port.record(key, "now", lambda: max(port.values.now_us(), port.fact_us) // 1_000)
        found = cast("int", made)  # what `make` gave, recorded
        port.fact_us = max(port.fact_us, found * 1_000)  # a wait that is asked for now doesn't end sooner by this clock
        return found

    async def random(self, step_key: str | None = None) -> float:
        """
        Give a random number from 0 up to, but not including, 1: the same one in replay.

        Args:
            step_key: names the value in this run; may be left out.
        """
        port = self._port()
        found = await port.record(optional_text("step_key", step_key), "random", port.values.random)
        return cast("float", found)  # as in `now`

    def trace(self, name: str, attributes: Mapping[str, Any] | None = None) -> AbstractContextManager[Any]:
        """
        Make a span of OpenTelemetry around a part of the body. Not durable.

        While the run is being replayed, and without that library, the span takes every call and does nothing.

        Args:
            name: the span's name.
            attributes: its attributes.

        Returns:
            A context manager that gives the span.
        """
        from polos.tracing import trace

        return trace(self._context, name, attributes)


def _name(port: Port, step_key: str) -> str:
    text("step_key", step_key)
    return port.name(step_key, step_key)
