"""
Tools: functions of the program that a model may ask for.

Each call is a run: it has a history, can be waited for, cancelled and looked at, and may use all of `ctx.step`. Its
body may do I/O itself, so after a crash it begins anew and looks up what it had finished. Where calling it twice would
do harm, say so: with `effect="at_most_once"` a call that may have happened isn't repeated; `reconcile` is asked, and
where it doesn't know, a person.

An **approval** belongs to what was approved: run, tool and the digest of the arguments stand in the question, and the
decision is an event of the run. The call is scheduled by one record that names the approval (`_call`), so approval and
call can't come apart: there is no moment at which one of the two is durable alone, and no second call finds it unused.
Arguments that are others when the body begins anew (a hook was changed meanwhile) have another digest, and need an
approval of their own.
"""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Unpack, cast

from pydantic import BaseModel, ValidationError

from polos.arguments import digest_arguments
from polos.calls import EFFECTS, positive, text
from polos.context import WorkflowContext, is_async
from polos.definition import Workflow
from polos.definition_checks import Hook
from polos.engine.json import Json
from polos.engine.retry import RetryPolicy
from polos.errors import StepExecutionError
from polos.llm.jsonish import an_object
from polos.once import Once
from polos.queueing import read_queue
from polos.registry import register
from polos.signature import Signature, read_signature
from polos.types.answers import Completed, NotDone
from polos.values import return_hint

__all__ = ["Tool", "ToolApproval", "ToolRejected", "tool"]

ToolApproval = Literal["always", "none"]

_NO_PARAMETERS: Final[dict[str, Any]] = {"type": "object", "properties": {}}
_NEVER_AGAIN: Final = RetryPolicy(max_retries=0)
_NO_RESULTS: Final = (tuple, set, frozenset, bytes)


class ToolRejected(RuntimeError):
    """Somebody decided that a tool isn't to be called, or nobody decided in time; the model is told."""


class Tool(Workflow[Any]):
    """
    A function that a model may ask for.

    ```python run
    from pydantic import BaseModel
    from polos import Tool, WorkflowContext

    class Sum(BaseModel):
        a: int
        b: int

    async def add(ctx: WorkflowContext, input: Sum) -> int:
        return input.a + input.b

    adder = Tool("add", description="Add two numbers.", func=add)
    print(adder.to_llm_tool_definition()["function"]["parameters"]["required"])
    ```

    Args:
        id: what models call it; the function's name by default.
        description: what models are told of it; the function's docstring by default.
        parameters: JSON schema of its arguments; that of the function's input by default.
        func: takes a context and, if it wants input, a Pydantic model; async or not.
        queue: of its runs: a name, a `Queue`, or a dict.
        on_start: hooks before the function.
        on_end: hooks behind it.
        approval: "always" to ask a person before each call.
        **options: `effect` ("idempotent", "at_most_once" or "pure"), `reconcile`, `timeout_seconds` (of a call),
            `approval_timeout_seconds`; what else programs give is ignored, as Polos does.

    Attributes:
        parameters: JSON schema of its arguments.
        approval: "always" if a person is asked before each call.
        approval_timeout_seconds: how long the question stands; None for ever.
        effect: what a second call after a crash would do: see `polos.step.Step.run`.
        reconcile: asked, with the input, what became of a call that may have happened.
    """

    def __init__(  # noqa: PLR0917  # the order that programs use
        self,
        id: str | None = None,
        description: str | None = None,
        parameters: dict[str, Any] | None = None,
        func: Callable[..., Any] | None = None,
        queue: object = None,
        on_start: Hook | Sequence[Hook] | None = None,
        on_end: Hook | Sequence[Hook] | None = None,
        approval: ToolApproval | None = None,
        **options: Any,
    ) -> None:
        """
        Define a tool and register it; the arguments are told at the class.

        Raises:
            TypeError: the function takes or gives what a model can't.
            ValueError: a setting makes no sense.
        """
        called = func if func is not None else self._default_execute
        known_as = id if id is not None else getattr(called, "__name__", type(self).__name__)
        own_queue = read_queue(queue, known_as)
        signature = _signature(called, options.get("names"), parameters)
        super().__init__(
            known_as,
            called,
            description if description is not None else (inspect.getdoc(called) or known_as),
            "tool",
            None if own_queue is None else own_queue.name,
            None if own_queue is None else own_queue.concurrency_limit,
            on_start=on_start,
            on_end=on_end,
            retries=_NEVER_AGAIN,
            deterministic=False,
            run_timeout_seconds=options.get("timeout_seconds"),
            queue=own_queue,
            signature=signature,
        )
        if approval not in (None, "always", "none"):
            raise ValueError(f"approval must be 'always' or 'none', it is {approval!r}")
        self.approval: ToolApproval | None = approval
        self.approval_timeout_seconds: float | None = options.get("approval_timeout_seconds")
        positive("approval_timeout_seconds", self.approval_timeout_seconds)
        self.effect: str = options.get("effect", "idempotent")
        if self.effect not in EFFECTS:
            raise ValueError(f"effect must be one of {', '.join(EFFECTS)}; it is {self.effect!r}")
        self.reconcile: Callable[..., Any] | None = options.get("reconcile")
        if self.reconcile is not None and self.effect != "at_most_once":
            raise ValueError(f"reconcile is asked about tools with effect='at_most_once'; this one is {self.effect!r}")
        schema = signature.schema
        self.parameters: dict[str, Any] = (
            parameters if parameters is not None else _NO_PARAMETERS if schema is None else schema.model_json_schema()
        )
        _check_result(called)
        register(self)

    async def _default_execute(self, ctx: WorkflowContext, input: dict[str, Any]) -> Any:
        """Do what the tool does; for classes that define it instead of giving a function."""
        raise NotImplementedError(f"tool {self.id!r} has no function")

    def get_tool_type(self) -> str:
        """Give the kind of tool."""
        return "default"

    def get_tool_metadata(self) -> dict[str, Any] | None:
        """Give what else is told of it; None if nothing."""
        return None

    def to_llm_tool_definition(self) -> dict[str, Any]:
        """Give the tool as models are told of it."""
        return {
            "type": "function",
            "function": {"name": self.id, "description": self.description, "parameters": self.parameters},
        }

    def known_as(self, id: str) -> Tool:
        """Give the same tool under another id, under which it is registered as well."""
        other = copy.copy(self)
        other.id = id
        return other

    def check_arguments(self, arguments: dict[str, Any]) -> dict[str, Json]:
        """
        Check arguments that a model gave.

        Returns:
            The payload of the call, as it is recorded.

        Raises:
            ValueError: they don't fit the tool's input; says where.
        """
        schema = self.payload_schema_class
        if schema is not None:
            try:
                schema.model_validate(arguments)
            except ValidationError as error:
                wrong = "; ".join(
                    f"{'.'.join(map(str, one['loc'])) or 'input'}: {one['msg']}" for one in error.errors()
                )
                raise ValueError(f"invalid arguments: {wrong}") from error
        return arguments

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
    ) -> Any:
        """
        Call the tool in a run of its own and wait for the result; arguments as for `Workflow.run`.

        Raises:
            ValueError: the payload isn't what the tool takes.
            RuntimeError: the call failed.
        """
        if self.has_payload_param and payload is None and not self.signature.admits_none:
            raise ValueError(f"tool {self.id!r} takes input, and none was given")
        if not self.has_payload_param and payload not in (None, {}):
            raise ValueError(f"tool {self.id!r} takes no input, it was given {payload!r}")
        schema = self.payload_schema_class
        if schema is not None and payload is not None and not isinstance(payload, schema):
            told = an_object(payload)
            if told is None:
                raise ValueError(f"tool {self.id!r} takes a {schema.__name__} or a dict, it was given {payload!r}")
            self.check_arguments(told)
        return await super().run(
            client, payload, queue, concurrency_key, session_id, user_id, timeout, initial_state, **once
        )  # fmt: skip

    # ------------------------------------------------------------------------------------- a call

    async def call(self, context: WorkflowContext, arguments: tuple[Any, ...], record: Json) -> Any:
        """Ask a person if one is to be asked, then call the function; see the module."""
        if self.approval != "always" and self.effect != "at_most_once":
            return await super().call(context, arguments, record)
        digest = digest_arguments((self.id, record), {})
        approval = await self._approved(context, record, digest) if self.approval == "always" else None
        while True:
            if await _schedule(context, {"tool": self.id, "digest": digest, "approval": approval}, self.effect):
                return await super().call(context, arguments, record)
            answer = await self._became(context, arguments, record)
            if not isinstance(answer, NotDone):
                return answer.value

    async def _approved(self, context: WorkflowContext, record: Json, digest: str) -> dict[str, Json]:
        """
        Wait until somebody decides.

        Returns:
            What the record of the call says of the approval.

        Raises:
            ToolRejected: the decision was no, or there was none in time.
        """
        port = context.require_port()
        wanted = {"run": context.execution_id, "tool": self.id, "digest": digest}
        while True:
            approval_id = await context.step.uuid("_approval_id")
            asked = await port.record("_approval", "approval", lambda: cast("Json", wanted))
            if asked == wanted:
                break
            # Asked for before the body began anew, about other arguments: that answer is for them.
        key = f"approve_{self.id}_{approval_id}"
        try:
            answer = await context.step.suspend(
                key, self._question(record, wanted), timeout=self.approval_timeout_seconds
            )
        except StepExecutionError as expired:
            raise ToolRejected(f'Tool "{self.id}" was not approved in time.') from expired
        decision = an_object(answer.data) or {}
        if decision.get("digest") not in (None, digest):
            raise ToolRejected(f'Tool "{self.id}" was approved for other arguments than these.')
        if decision.get("approved") is not True:
            feedback = decision.get("feedback")
            said = f" Feedback: {feedback}" if feedback else ""
            raise ToolRejected(f'Tool "{self.id}" was rejected by the user.{said}')
        approver = decision.get("approver")
        return {"key": key, "event": answer.id, "approver": None if approver is None else str(approver)}

    def _question(self, record: Json, wanted: dict[str, str]) -> dict[str, Any]:
        fields: list[dict[str, Any]] = [
            {"key": "approved", "type": "boolean", "label": "Approve this call?", "required": True, "default": False},
            {"key": "feedback", "type": "textarea", "label": "Feedback", "required": False},
        ]
        form = {
            "title": f"Approve tool: {self.id}",
            "description": self.description,
            "fields": fields,
            "context": {"tool": self.id, "input": record},
        }
        return {"_form": form, "_source": "tool_approval", "_tool": self.id, "_approval": wanted}

    async def _became(self, context: WorkflowContext, arguments: tuple[Any, ...], record: Json) -> Completed | NotDone:
        """
        Find out what became of a call that may have happened before a crash.

        Raises:
            StepExecutionError: a person says that it failed, or gives what is no answer.
        """
        if self.reconcile is not None:
            answer = await context.step.run("_reconcile", _with_instances(self.reconcile), *arguments[1:])
            if isinstance(answer, Completed | NotDone):
                return answer
        number = await context.step.uuid("_resolve_id")
        form = {
            "title": f"What became of tool {self.id}?",
            "description": "The program died while it was called. Was its effect had?",
            "fields": [
                {"key": "outcome", "type": "select", "label": "Outcome", "required": True, "options": [
                    {"label": one.replace("_", " "), "value": one} for one in ("completed", "failed", "not_done")
                ]},
                {"key": "value", "type": "textarea", "label": "Its result, if it completed", "required": False},
            ],
            "context": {"tool": self.id, "input": record},
        }  # fmt: skip
        question = {"_form": form, "_source": "tool_outcome_unknown", "_tool": self.id}
        decision = (await context.step.suspend(f"resolve_{self.id}_{number}", question)).data
        told = an_object(decision) or {}
        outcome = told.get("outcome")
        if outcome == "not_done":
            return NotDone()
        if outcome == "completed":
            return Completed(told.get("value"))
        if outcome == "failed":
            raise StepExecutionError(f"tool {self.id!r} was called before a crash, and is said to have failed")
        raise StepExecutionError(
            f"tool {self.id!r} was called before a crash, and what became of it isn't known: it was answered "
            f'{decision!r:.200}, and an answer is {{"outcome": "completed", "value": ...}}, {{"outcome": "not_done"}} '
            f'or {{"outcome": "failed"}}'
        )


def _with_instances(reconcile: Callable[..., Any]) -> Callable[..., Any]:
    """Have a `reconcile` answer what can be recorded where it answers the class `NotDone`, as that of a step may."""

    @functools.wraps(reconcile)
    async def asked(*arguments: Any) -> Any:
        answer = await reconcile(*arguments)
        return NotDone() if answer is NotDone else answer

    @functools.wraps(reconcile)
    def asked_in_thread(*arguments: Any) -> Any:
        answer = reconcile(*arguments)
        return NotDone() if answer is NotDone else answer

    return asked if is_async(reconcile) else asked_in_thread


async def _schedule(context: WorkflowContext, call: dict[str, Json], effect: str) -> bool:
    """
    Record that the function is called next, and in which life of the body; durable when it returns.

    Returns:
        Whether it may be called: not if a life before this one scheduled a call that may be called only once.
    """
    port = context.require_port()
    # A body that isn't replayed has one cause all its life, the record by which it began, and no other life has that.
    # A drawn number would say less: chance may be said again, as it is where a clock of the test kit draws from a seed.
    own = port.cause
    while True:
        made = an_object(await port.record("_call", "tool_call", lambda: {**call, "life": own})) or {}
        if made.get("life") == own:
            return True
        if effect == "at_most_once":
            return False
        if all(made.get(name) == said for name, said in call.items()):
            return True  # this very call, scheduled before a crash
        # That one had other arguments, or another approval: this one has to have a record of its own.


def tool(
    id: Any = None, description: str | None = None, parameters: dict[str, Any] | None = None, **options: Any
) -> Any:
    """
    Make a tool of a function and register it.

    ```python run
    from pydantic import BaseModel
    from polos import WorkflowContext, tool

    class City(BaseModel):
        name: str

    @tool(description="Tell the weather of a city.")
    async def get_weather(ctx: WorkflowContext, input: City) -> dict:
        return {"city": input.name, "weather": "rain"}

    print(get_weather.id, list(get_weather.parameters["properties"]))
    ```

    Args:
        id: what models call it; the function's name by default.
        description: what models are told of it; the function's docstring by default.
        parameters: JSON schema of its arguments; that of the function's input by default.
        **options: `queue`, `on_start`, `on_end`, `approval` and what else `Tool` takes.

    Returns:
        A `Tool`.

    Raises:
        TypeError: the function takes or gives what a model can't.
        ValueError: a setting makes no sense.
    """
    if callable(id):
        return Tool(func=id, names=_names_around())
    if id is not None:
        text("id", id)
    names = _names_around()

    def decorate(func: Callable[..., Any]) -> Tool:
        if not callable(func):
            raise TypeError(f"tool decorates a function, it was given {func!r}")
        return Tool(id, description, parameters, func, names=names, **options)

    return decorate


def _names_around() -> dict[str, Any]:
    """Give the local names of whoever uses the decorator: annotations may be postponed and name classes there."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    assert frame.f_back.f_back is not None
    return frame.f_back.f_back.f_locals


def _signature(func: Callable[..., Any], names: dict[str, Any] | None, parameters: dict[str, Any] | None) -> Signature:
    signature = read_signature(func, names)
    if signature.takes_payload and signature.schema is None and parameters is None:
        called = getattr(func, "__qualname__", repr(func))
        raise TypeError(
            f"tool {called} takes input that says nothing of its fields: annotate it with a Pydantic model, or give "
            f"the JSON schema of the arguments as parameters="
        )
    return signature


def _check_result(func: Callable[..., Any]) -> None:
    hint = return_hint(func)
    for one in (hint, *typing.get_args(hint)):
        if one in _NO_RESULTS or typing.get_origin(one) in _NO_RESULTS:
            called = getattr(func, "__qualname__", repr(func))
            raise TypeError(
                f"tool {called} gives {hint!r}, which a model can't be told: give a model, a dict or a list"
            )
