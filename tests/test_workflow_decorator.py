"""
The `workflow` decorator: what it accepts and what it refuses.

Signatures first, with the annotations that programs really write (D23), then settings, then the package's names.
"""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any, Dict, Optional, Union  # noqa: UP035  # what programs write

import polos
import pytest
from polos import registry
from polos.context import WorkflowContext
from polos.definition import RETRIES, Workflow, workflow
from polos.engine.retry import RetryPolicy
from polos.errors import (
    PolosUsageError,
    StepExecutionError,
)
from polos.types.events import EventPayload
from pydantic import BaseModel

from tests.fakeport import context

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]  # what a program imports for its checker alone


class Order(BaseModel):
    """A payload."""

    number: int = 0


class Line(BaseModel):
    """Another payload."""

    article: str


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})


# ------------------------------------------------------------------------------------------ defining


def test_bare_and_called():
    """The decorator makes a Workflow and registers it: under the function's name, or the id that was given."""

    @workflow
    async def bare(ctx):
        """Do nothing."""

    @workflow()
    async def called(ctx):
        """Do nothing."""

    @workflow(id="slack-assistant", description="answers")
    async def named(ctx):
        """Do nothing."""

    assert [bare, called, named] == [polos.get_workflow(name) for name in ("bare", "called", "slack-assistant")]
    assert (named.id, named.description, named.workflow_type) == ("slack-assistant", "answers", "workflow")
    assert {"bare", "called", "slack-assistant"} == set(polos.get_all_workflows())
    assert repr(named) == "<Workflow 'slack-assistant'>"


def test_a_later_definition_replaces_the_earlier():
    """The same id again silently stands for the new definition, and the copy that somebody took stays as it was."""

    @workflow(id="same")
    async def first(ctx):
        """Do nothing."""

    before = polos.get_all_workflows()

    @workflow(id="same")
    async def second(ctx):
        """Do nothing."""

    assert polos.get_workflow("same") is second
    assert before == {"same": first}


def test_a_definition_made_by_hand_isnt_registered():
    """The class makes definitions that nobody finds by id."""
    made = Workflow("by-hand", lambda ctx: None)

    assert polos.get_workflow("by-hand") is None
    assert (made.id, made.is_async, made.has_payload_param) == ("by-hand", False, False)


def test_what_isnt_a_function_is_refused():
    """Neither a number as id nor a class instance that can't be called makes a workflow."""
    with pytest.raises(TypeError, match="id must be a text, it is 3"):
        workflow(3)  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(TypeError, match="workflow decorates a function, it was given 'x'"):
        workflow(id="w")("x")  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(ValueError, match="id must not be empty"):
        workflow(id="")(lambda ctx: None)


# ----------------------------------------------------------------------------------------- signatures


async def plain(ctx, payload: dict): ...
async def typed_dict(ctx: WorkflowContext, payload: dict[str, Any]): ...
async def old_dict(ctx: WorkflowContext, payload: Dict[str, int]): ...  # noqa: UP006
async def model(ctx: WorkflowContext, payload: Order): ...
async def optional(ctx: WorkflowContext, payload: Optional[Order]): ...  # noqa: UP045
async def new_optional(ctx: WorkflowContext, payload: Order | None): ...
async def union(ctx: WorkflowContext, payload: Union[Order, Line]): ...  # noqa: UP007
async def mixed(ctx: WorkflowContext, payload: dict | Order): ...
async def annotated(ctx: WorkflowContext, payload: Annotated[Order, "x"]): ...
async def event(ctx: WorkflowContext, payload: EventPayload): ...
async def quoted(ctx: WorkflowContext, payload: "Order | None"): ...  # noqa: UP037
async def elsewhere(ctx: AgentContext, payload: dict[str, Missing]): ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("func", "schema", "admits_none"),
    [
        (plain, None, False),
        (typed_dict, None, False),
        (old_dict, None, False),
        (model, Order, False),
        (optional, Order, True),
        (new_optional, Order, True),
        (union, None, False),
        (mixed, Order, False),
        (annotated, Order, False),
        (event, EventPayload, False),
        (quoted, Order, True),
        (elsewhere, None, False),
    ],
)
def test_annotations_that_are_accepted(func: Any, schema: Any, admits_none: bool):
    """Dicts, models and unions of them are payloads, however they are written; all of these are postponed (D23)."""
    made: Workflow = workflow(func)

    assert made.has_payload_param
    assert made.payload_schema_class is schema
    assert made.signature.admits_none == admits_none


def test_classes_of_the_surrounding_function_are_found():
    """A postponed annotation may name a class that is defined beside the workflow, inside a function."""

    class Local(BaseModel):
        number: int

    @workflow
    async def called_bare(ctx, payload: Local):
        return payload.number

    @workflow(id="other")
    async def called(ctx, payload: Local | None):
        """Do nothing."""

    assert called_bare.payload_schema_class is Local
    assert called.payload_schema_class is Local
    assert asyncio.run(called_bare.body(context(), {"number": 4})) == 4


class Handler:
    """A callable object."""

    async def __call__(self, ctx: WorkflowContext, payload: Order) -> Any:
        return payload.number

    async def method(self, ctx: WorkflowContext, payload: Order) -> Any:
        return payload.number + 1


def test_whatever_can_be_called_can_be_a_workflow():
    """Partial functions, methods, callable objects and wrapped functions are workflows; their names are resolved."""

    @functools.singledispatch  # a plain wrapper from another module
    async def wrapped(ctx: WorkflowContext, payload: Order) -> Any:
        return payload.number * 5

    async def scaled(factor: int, ctx: WorkflowContext, payload: Order) -> Any:
        return factor * payload.number

    made: list[Workflow] = [
        workflow(id="partial")(functools.partial(scaled, 3)),
        workflow(Handler()),
        workflow(Handler().method),
        workflow(wrapped),
    ]

    assert [one.id for one in made] == ["partial", "Handler", "method", "wrapped"]
    assert [one.is_async for one in made] == [True, True, True, False]
    assert [one.payload_schema_class for one in made] == [Order] * 4
    assert [asyncio.run(one.body(context(), {"number": 2})) for one in made] == [6, 2, 3, 10]


async def no_parameter(): ...
async def three(ctx, payload: dict, more: int): ...
async def keyword(ctx, *, payload: dict): ...
async def several(ctx, *payload: dict): ...
async def wrong_context(ctx: int, payload: dict): ...
async def wrong_optional_context(ctx: dict | None): ...
async def bare_payload(ctx, payload): ...
async def text(ctx, payload: str): ...
async def items(ctx, payload: list[Order]): ...
async def anything(ctx, payload: Any): ...
async def unknown(ctx, payload: Missing | None): ...


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (no_parameter, "no_parameter must take a context and at most one payload, it takes 0"),
        (three, "three must take a context and at most one payload, it takes 3"),
        (keyword, "'payload' of workflow function keyword can't be given by position"),
        (several, "'payload' of workflow function several can't be given by position"),
        (wrong_context, "'ctx' of workflow function wrong_context must be a WorkflowContext or have no annotation"),
        (wrong_optional_context, "'ctx' of workflow function wrong_optional_context must be a WorkflowContext"),
        (bare_payload, "'payload' of workflow function bare_payload must be annotated as a dict.*no annotation"),
        (text, "'payload' of workflow function text must be annotated as a dict, a Pydantic model.*'str'"),
        (items, "'payload' of workflow function items must be annotated"),
        (anything, "'payload' of workflow function anything must be annotated"),
        (unknown, "'payload' of workflow function unknown is annotated 'Missing | None', which can't be resolved"),
    ],
)
def test_signatures_that_are_refused(func: Any, message: str):
    """What can't be called with a context and a payload is refused, naming function and parameter."""
    with pytest.raises(TypeError, match=message):
        workflow(func)
    assert polos.get_all_workflows() == {}


def test_subclasses_of_the_context_are_contexts():
    """A context may be annotated as a class of the program's own, and by a name that only its checker knows."""

    class ShopContext(WorkflowContext):
        """A context with more to it."""

    async def own(ctx: ShopContext): ...
    async def text(ctx: some.module.WorkflowContext): ...  # type: ignore[name-defined]  # noqa: F821

    assert workflow(own).is_async
    assert workflow(text).is_async


# -------------------------------------------------------------------------------------------- settings


def test_settings_have_the_defaults_of_polos():
    """Nothing said: a queue of its own, no schedule, no hooks, two retries at once, the engine's grace."""
    made: Workflow = workflow(lambda ctx: None)

    assert (made.queue_name, made.queue_concurrency_limit, made.trigger_on_event) == (None, None, None)
    assert (made.batch_size, made.batch_timeout_seconds, made.schedule, made.is_schedulable) == (1, None, None, False)
    assert (made.on_start, made.on_end, made.state_schema, made.output_schema) == ([], [], None, None)
    assert (made.run_timeout_seconds, made.cancel_grace_seconds, made.tags) == (None, None, ())
    assert made.retries == RETRIES
    assert (RETRIES.max_retries, RETRIES.base_delay_seconds) == (2, 0)
    assert RETRIES.non_retryable == (StepExecutionError, PolosUsageError)


def test_by_position_as_in_polos():
    """The first ten arguments can be given by position, in the order of Polos."""

    async def func(ctx, payload: dict): ...

    def hook(ctx, hook_context): ...

    made: Workflow = workflow("w", "says", None, "orders", 5, 30, None, hook, [hook], Order)(func)
    again = Workflow(
        "w", func, "says", "agent", "q", 3, "orders", 5, 30, None, hook, [hook], Line, list[Order], Order
    )  # fmt: skip

    assert (made.id, made.description, made.trigger_on_event, made.batch_size) == ("w", "says", "orders", 5)
    assert (made.batch_timeout_seconds, made.on_start, made.on_end, made.state_schema) == (30, [hook], [hook], Order)
    assert (again.workflow_type, again.queue_name, again.queue_concurrency_limit) == ("agent", "q", 3)
    assert (again.payload_schema_class, again.output_schema, again.state_schema) == (Line, list[Order], Order)


class Queue:
    """What a queue object looks like."""

    name = "shared"
    concurrency_limit = 4


@pytest.mark.parametrize(
    ("queue", "name", "limit"),
    [
        ("shared", "shared", None),
        ({"name": "shared", "concurrency_limit": 2}, "shared", 2),
        ({"concurrency_limit": 2}, "w", 2),
        (Queue(), "shared", 4),
        (None, None, None),
    ],
)
def test_queues(queue: object, name: str | None, limit: int | None):
    """A queue is a name, a dict or an object; a dict without a name is named like the workflow."""
    made: Workflow = workflow(id="w", queue=queue)(lambda ctx: None)

    assert (made.queue_name, made.queue_concurrency_limit) == (name, limit)


@pytest.mark.parametrize("schedule", [True, "0 8 * * 1-5", {"cron": "*/5 * * * *", "timezone": "Europe/Vienna"}])
def test_schedules(schedule: Any):
    """A cron text, a dict or True makes a workflow schedulable; False and None don't."""
    made: Workflow = workflow(id="w", schedule=schedule)(lambda ctx: None)
    never: Workflow = workflow(id="w", schedule=False)(lambda ctx: None)

    assert (made.schedule, made.is_schedulable) == (schedule, True)
    assert not never.is_schedulable


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"queue": 5}, ValueError, "queue must be a name, a Queue or a dict, it is 5"),
    ({"queue": {"name": 5}}, ValueError, "the name of a queue must be a text, it is 5"),
    ({"queue": ""}, ValueError, "the name of a queue must not be empty"),
    ({"queue": {"concurrency_limit": 0}}, ValueError, "concurrency_limit of queue 'w' must be a number from 1"),
    ({"queue": {"concurrency_limit": "2"}}, ValueError, "concurrency_limit of queue 'w' must be a number from 1"),
    ({"queue": "q", "schedule": "0 8 * * *"}, ValueError, "'w' has a queue and a schedule"),
    ({"schedule": True, "trigger_on_event": "t"}, ValueError, "'w' has a schedule and trigger_on_event"),
    ({"schedule": "0 8 * *"}, ValueError, "cron must have five fields, .*; it is '0 8"),
    ({"schedule": {"timezone": "UTC"}}, ValueError, "schedule must have 'cron', it is"),
    ({"schedule": {"cron": "0 8 * * *", "tz": "UTC"}}, ValueError, r"schedule can't have \['tz'\]"),
    ({"schedule": 5}, ValueError, "schedule must be a cron expression"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ({"batch_timeout_seconds": 0}, ValueError, "batch_timeout_seconds must be positive"),
    ({"run_timeout_seconds": -1}, ValueError, "run_timeout_seconds must be positive"),
    ({"cancel_grace_seconds": -1}, ValueError, "cancel_grace_seconds must not be negative"),
    ({"activation_callbacks_max": 0}, ValueError, "activation_callbacks_max must be at least 1"),
    ({"on_start": "hook"}, TypeError, "on_start must be a hook or a list of hooks, it holds 'hook'"),
    ({"on_end": [print, 5]}, TypeError, "on_end must be a hook or a list of hooks, it holds 5"),
    ({"state_schema": dict}, TypeError, "state_schema must be a Pydantic model"),
    ({"state_schema": Order()}, TypeError, "state_schema must be a Pydantic model"),
    ({"retries": 3}, TypeError, "retries must be a RetryPolicy, it is 3"),
    ({"tags": "vip"}, TypeError, "tags must be a sequence of texts, they are 'vip'"),
    ({"tags": ["vip", 3]}, TypeError, "each of tags must be a text, it is 3"),
    ({"run_timeout_seconds": 1e30}, ValueError, "at most a thousand years"),
    ({"cancel_grace_seconds": float("inf")}, ValueError, "cancel_grace_seconds"),
    ({"output_shema": Order}, TypeError, "output_shema"),
]


@pytest.mark.parametrize(("settings", "error", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_settings_that_are_refused(settings: dict[str, Any], error: type[Exception], message: str):
    """A setting that makes no sense is refused where it is written, and nothing is registered."""
    with pytest.raises(error, match=message):
        workflow(id="w", **settings)(lambda ctx: None)
    assert polos.get_all_workflows() == {}


def test_settings_of_our_own():
    """Retries, timeouts, tags and the result's type are said per workflow."""
    policy = RetryPolicy(max_retries=5)

    @workflow(
        retries=policy, run_timeout_seconds=9, cancel_grace_seconds=0, tags=["a"], output_schema=list[Order],
        activation_callbacks_max=10,
    )  # fmt: skip
    async def made(ctx) -> dict:
        return {}

    assert (made.retries, made.run_timeout_seconds, made.cancel_grace_seconds) == (policy, 9, 0)
    assert (made.tags, made.result_hint, made.activation_callbacks_max) == (("a",), list[Order], 10)


def test_which_bodies_are_replayed():
    """An async body is replayed unless it says otherwise; a plain function never is."""

    async def body(ctx): ...

    assert not workflow(body).direct
    assert workflow(id="w", deterministic=False)(body).direct
    assert workflow(lambda ctx: None).direct


# ------------------------------------------------------------------------------------------- the package


def test_the_package_gives_the_decorator_whatever_was_imported_before():
    """No module of ours takes the place of the function `polos.workflow`, in any order of imports."""
    imports = "import polos.step, polos.definition, polos.registry, polos.runtime"
    script = f"{imports}; from polos import workflow; print(workflow)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("<function workflow")


def test_public_names_are_found_when_they_are_used():
    """Every public name that stands in `__all__` is listed, and one that doesn't is an AttributeError."""
    assert {"workflow", "WorkflowContext", "RetryPolicy", "__version__"} <= set(dir(polos))
    assert set(polos.__all__) <= set(dir(polos))
    assert polos.Completed(3).value == 3
    with pytest.raises(AttributeError, match="module 'polos' has no attribute 'nothing'"):
        _ = polos.nothing  # type: ignore[attr-defined]  # the mistake under test


def test_every_public_name_is_there():
    """Each public name is found, and found once: the second look is an attribute like any other."""
    for name in polos.__all__:
        assert getattr(polos, name) is getattr(polos, name)

    assert polos.events.__name__ == "polos.features.events"
    assert polos.events.EventPayload is polos.EventPayload
