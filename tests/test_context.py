"""What a body is handed: ids, state, a logger that keeps the output rule, and a way to spans."""

from __future__ import annotations

import asyncio
import logging
import sys
import types
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from polos.context import ContinueAsNew, WorkflowContext, WorkflowState, current_context, current_step, enter_body
from polos.errors import PolosUsageError, ValueRefused
from polos.tracing import NoSpan
from pydantic import BaseModel, Field, ValidationError

from tests.fakeport import NOW_US, FakePort, context, play


class Counter(WorkflowState):
    """A state schema."""

    count: int = 0


class Priced(BaseModel):
    """A state schema that JSON alone couldn't hold."""

    price: Decimal = Decimal("1.10")
    when: datetime = Field(default=datetime(2026, 1, 1, tzinfo=UTC), alias="at")


# ---------------------------------------------------------------------------------------------- ids


def test_constructed_by_position():
    """A context can be built by position, in the order that programs use."""
    created = datetime(2026, 1, 1, tzinfo=UTC)
    event, channels = object(), [object()]
    ctx = WorkflowContext(
        "w", "run", "blue", "s", "u", "parent", "root", "root-w", 2, created, "tool", "trace", "span", Counter,
        {"count": 3}, event, channels, {"from": "chat"},
    )  # fmt: skip

    assert (ctx.workflow_id, ctx.execution_id, ctx.deployment_id, ctx.session_id, ctx.user_id) == (
        "w", "run", "blue", "s", "u",
    )  # fmt: skip
    assert (ctx.parent_execution_id, ctx.root_execution_id, ctx.root_workflow_id) == ("parent", "root", "root-w")
    assert (ctx.retry_count, ctx.created_at, ctx.workflow_type) == (2, created, "tool")
    assert (ctx.otel_traceparent, ctx.otel_span_id, ctx.state_schema) == ("trace", "span", Counter)
    assert (ctx.state, ctx.cancel_event, ctx.channels) == (Counter(count=3), event, channels)
    assert ctx.channel_context == {"from": "chat"}
    assert ctx.port is None


def test_a_root_is_its_own_root():
    """Without a parent a run is the root of its tree, of type workflow, without channels and state."""
    ctx = WorkflowContext("w", "run", None, None)

    assert (ctx.root_execution_id, ctx.root_workflow_id, ctx.workflow_type) == ("run", "w", "workflow")
    assert (ctx.channels, ctx.channel_context, ctx.state, ctx.retry_count) == ([], None, None, 0)


def test_to_dict():
    """The ids as JSON are those that programs know, without the root's workflow."""
    ctx = WorkflowContext("w", "run", "blue", "s", "u", created_at=datetime(2026, 1, 1, tzinfo=UTC))

    assert ctx.to_dict() == {
        "workflow_id": "w", "execution_id": "run", "deployment_id": "blue", "parent_execution_id": None,
        "root_execution_id": "run", "retry_count": 0, "created_at": "2026-01-01T00:00:00+00:00",
        "session_id": "s", "user_id": "u",
    }  # fmt: skip
    assert WorkflowContext("w", "run", None, None).to_dict()["created_at"] is None


# --------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize(
    ("schema", "initial", "state"),
    [
        (None, None, None),
        (None, {"count": 1}, {"count": 1}),
        (None, Counter(count=2), {"count": 2}),
        (Counter, None, Counter()),
        (Counter, {"count": 3}, Counter(count=3)),
        (Counter, Counter(count=4), Counter(count=4)),
        (
            Priced,
            {"price": "2.50", "at": "2026-02-03T00:00:00Z"},
            Priced(price=Decimal("2.50"), at=datetime(2026, 2, 3, tzinfo=UTC)),
        ),
    ],
)
def test_the_first_state(schema: Any, initial: Any, state: Any):
    """State begins as the schema says, or as a plain dict if there is only an initial value (D22)."""
    ctx = context(state_schema=schema, initial_state=initial)

    assert ctx.state == state
    assert type(ctx.state) is type(state)
    assert state is None or ctx.state is not initial


def test_an_initial_state_that_doesnt_fit_is_refused():
    """An initial state that isn't what the schema says is a validation error."""
    with pytest.raises(ValidationError, match="count"):
        context(state_schema=Counter, initial_state={"count": "many"})


def test_a_state_refuses_wrong_values_where_they_are_assigned():
    """Assignments to a WorkflowState are validated."""
    ctx = context(state_schema=Counter)

    with pytest.raises(ValidationError, match="count"):
        ctx.state.count = "many"
    assert ctx.state.count == 0


def test_a_dumped_state_shares_nothing():
    """What is recorded of a state doesn't change when the state does."""
    plain = context(initial_state={"items": [1]})
    typed = context(state_schema=Counter)
    before = [plain.dump_state(), typed.dump_state()]
    plain.state["items"].append(2)
    typed.state.count = 5

    assert before == [{"items": [1]}, {"count": 0}]
    assert [plain.dump_state(), typed.dump_state()] == [{"items": [1, 2]}, {"count": 5}]
    assert context().dump_state() is None


def test_a_dumped_state_can_be_an_initial_state():
    """A state that is dumped and given again as the first one is the same state, aliases and types included."""
    first = context(state_schema=Priced)
    again = context(state_schema=Priced, initial_state=first.dump_state())

    assert first.dump_state() == {"price": "1.10", "at": "2026-01-01T00:00:00Z"}
    assert again.state == first.state


@pytest.mark.parametrize("state", [{"x": object()}, {1: "x"}, {"x": float("nan")}, [1], "text"])
def test_a_state_that_cant_be_recorded_is_refused(state: Any):
    """What isn't a model, a JSON object or nothing can't be a state."""
    ctx = context()
    ctx.state = state

    with pytest.raises(ValueRefused, match="state"):
        ctx.dump_state()


class Unwritable(BaseModel):
    """A state with a field that has no JSON."""

    model_config = {"arbitrary_types_allowed": True}
    thing: Any = None


def test_a_model_that_cant_be_written_is_refused():
    """A model with a value that has no JSON is refused, not half written."""
    ctx = context(state_schema=Unwritable)
    ctx.state.thing = object()

    with pytest.raises(ValueRefused, match="the state can't be recorded"):
        ctx.dump_state()


# --------------------------------------------------------------------------------- what goes to the port


def test_patches_queries_and_updates_go_to_the_port():
    """A context passes on what a body registers and asks."""
    port = FakePort()
    ctx = context(port)

    def validator(data: Any) -> None: ...

    ctx.on_query("state", lambda: 5)
    ctx.on_update("add", lambda data: data + 1, validator)

    assert [ctx.patched("new"), ctx.patched("old")] == [True, False]
    assert port.queries["state"]() == 5
    assert port.updates["add"][1] is validator


@pytest.mark.parametrize(
    ("register", "named"),
    [
        (lambda ctx: ctx.on_query("q", None), "func"),
        (lambda ctx: ctx.on_update("u", "x"), "func"),
        (lambda ctx: ctx.on_update("u", print, 3), "validator"),
    ],
    ids=["query", "update", "validator"],
)
def test_handlers_must_be_callable(register: Any, named: str):
    """A handler that can't be called is refused where it is registered."""
    with pytest.raises(TypeError, match=f"^{named} must be callable"):
        register(context())


def test_an_update_belongs_to_the_body():
    """A handler runs inside its run and in no step, wherever the update came from."""
    port = FakePort()
    ctx = context(port)
    port.answer()

    async def handler(data: str) -> Any:
        return [current_context() is ctx, await ctx.step.run("s", lambda: data)]

    ctx.on_update("u", handler)

    async def from_a_step() -> Any:
        current_step.set("run-0/outer")
        return await port.updates["u"][0]("sent")

    assert asyncio.run(from_a_step()) == [True, "sent"]


def test_cancel_requested():
    """A body can see that somebody asked it to stop."""
    port = FakePort()
    ctx = context(port)
    before = ctx.cancel_requested
    port.cancelled_by = "ann"

    assert [before, ctx.cancel_requested] == [False, True]
    assert not WorkflowContext("w", "run", None, None).cancel_requested


def test_continue_as_new_leaves_the_body():
    """The end that begins anew passes `except Exception` and carries the next input."""
    ctx = context()

    async def body(ctx: WorkflowContext) -> None:
        try:
            ctx.continue_as_new({"page": 2})
        except Exception:  # what a body may have
            pytest.fail("swallowed")

    with pytest.raises(ContinueAsNew) as caught:
        play(ctx, body)

    assert caught.value.input == {"page": 2}
    assert not isinstance(caught.value, Exception)


def test_without_a_port_what_is_recorded_says_so():
    """A context that no engine made refuses what it would have to record."""
    ctx = WorkflowContext("w", "run", None, None)

    for ask in (lambda: ctx.patched("p"), lambda: ctx.on_query("q", print), lambda: ctx.on_update("u", print)):
        with pytest.raises(PolosUsageError, match="belongs to no running workflow"):
            ask()


def test_the_current_context_is_that_of_the_task():
    """Two bodies at once each see their own run; outside there is none."""
    first, second = context(execution_id="a"), context(execution_id="b")

    async def body(ctx: WorkflowContext) -> Any:
        enter_body(ctx)
        await asyncio.sleep(0)
        return current_context()

    async def main() -> Any:
        return [*await asyncio.gather(body(first), body(second)), current_context()]

    assert asyncio.run(main()) == [first, second, None]


# --------------------------------------------------------------------------------------------- logger


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Take what the workflow's logger emits, from INFO up."""
    caplog.set_level(logging.INFO, logger="polos.workflows.order")
    return caplog


def test_a_line_waits_until_what_led_to_it_is_durable(lines: pytest.LogCaptureFixture):
    """A line is kept by the port, with its values of now, and comes out when the port says so."""
    port = FakePort()
    ctx = context(port, initial_state={"n": 1})
    ctx.logger.info("state %s", ctx.state)
    ctx.state["n"] = 2
    before = list(lines.messages)
    for action in port.held:
        action()

    assert before == []
    assert lines.messages == ["state {'n': 1}"]
    assert {"execution_id": "run-1", "workflow_id": "order"}.items() <= lines.records[0].__dict__.items()
    assert lines.records[0].filename == "test_context.py"
    assert lines.records[0].name == "polos.workflows.order"


def test_a_replayed_body_says_nothing(lines: pytest.LogCaptureFixture):
    """Lines of a body that is being replayed were said before; a step of it is live all the same."""
    port = FakePort()
    port.replaying = True
    ctx = context(port)
    ctx.logger.error("again")

    async def step() -> None:
        current_step.set("run-1/s")
        ctx.logger.info("in the step")

    asyncio.run(step())

    assert lines.messages == ["in the step"]
    assert port.held == []


def test_levels_are_those_of_the_workflows_logger(lines: pytest.LogCaptureFixture):
    """The program's configuration of the workflow's logger decides what is said."""
    ctx = context()
    ctx.logger.debug("hidden")

    assert not ctx.logger.isEnabledFor(logging.DEBUG)
    assert ctx.logger.isEnabledFor(logging.INFO)
    assert ctx.logger.getEffectiveLevel() == logging.INFO


def test_exceptions_are_logged_with_their_traceback(lines: pytest.LogCaptureFixture):
    """An exception is logged as any logger would, and without a port at once."""
    ctx = WorkflowContext("order", "run-1", None, None)
    try:
        raise ValueError("no money")
    except ValueError:
        ctx.logger.exception("failed", extra={"order": 5})

    assert "ValueError: no money" in lines.text
    assert lines.records[0].__dict__["order"] == 5


def test_a_format_that_doesnt_fit_is_the_handlers_to_report(lines: pytest.LogCaptureFixture):
    """A line whose arguments don't fit neither fails the body nor gets lost: it reaches the handlers as it is."""
    port = FakePort()
    records: list[logging.LogRecord] = []

    class Taker(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    target = logging.getLogger("polos.workflows.order")
    target.propagate, taker = False, Taker()
    target.addHandler(taker)
    try:
        context(port).logger.info("%d apples", "many")
        port.held[0]()
    finally:
        target.removeHandler(taker)
        target.propagate = True

    assert [(record.msg, record.args) for record in records] == [("%d apples", ("many",))]


# ---------------------------------------------------------------------------------------------- trace


class FakeSpan:
    """A span that remembers what was done to it."""

    def __init__(self, name: str, attributes: dict[str, Any], start_time: int) -> None:
        self.name, self.attributes, self.start_time = name, attributes, start_time
        self.ended: int | None = None
        self.errors: list[BaseException] = []
        self.status: Any = None

    def end(self, end_time: int) -> None:
        self.ended = end_time

    def record_exception(self, error: BaseException) -> None:
        self.errors.append(error)

    def set_status(self, status: Any) -> None:
        self.status = status


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[FakeSpan]:
    """Put a stand-in where OpenTelemetry would be."""
    made: list[FakeSpan] = []

    class Tracer:
        def start_span(self, name: str, attributes: dict[str, Any], start_time: int) -> FakeSpan:
            made.append(FakeSpan(name, attributes, start_time))
            return made[-1]

    @contextmanager
    def use_span(span: FakeSpan, **settings: bool):
        assert settings == {"end_on_exit": False, "record_exception": False, "set_status_on_exception": False}
        yield span

    package, trace = types.ModuleType("opentelemetry"), types.ModuleType("opentelemetry.trace")
    package.__spec__ = types.SimpleNamespace(name="opentelemetry")  # type: ignore[assignment]  # all that is looked at
    vars(trace).update(
        get_tracer=lambda name: Tracer(), use_span=use_span, Status=lambda code, text: (code, text),
        StatusCode=types.SimpleNamespace(ERROR="ERROR"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "opentelemetry", package)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", trace)
    return made


def test_a_span_ends_when_what_it_tells_of_is_durable(spans: list[FakeSpan]):
    """A span names the run, takes its times from the engine's clock, and is exported by the port."""
    port = FakePort()
    ctx = context(port)
    with ctx.step.trace("load", {"rows": 5}) as span:
        port.values.time_us += 10
    before = spans[0].ended
    port.held[0]()

    assert [span] == spans
    assert span.name == "load"
    assert span.attributes == {"polos.execution_id": "run-1", "polos.workflow_id": "order", "rows": 5}
    assert span.start_time == (NOW_US + 1_500) * 1000
    assert before is None
    assert spans[0].ended == (NOW_US + 1_510) * 1000


def test_a_span_of_an_exception(spans: list[FakeSpan]):
    """An exception marks the span as failed and goes on."""
    port = FakePort()
    error = ValueError("no money")

    with pytest.raises(ValueError, match="no money"), context(port).step.trace("pay"):
        raise error
    assert (spans[0].errors, spans[0].status) == ([error], ("ERROR", "no money"))
    assert len(port.held) == 1


def test_a_span_in_a_step_is_live(spans: list[FakeSpan]):
    """The function of a step has its spans at once, also if its body was only replayed so far."""
    port = FakePort()
    port.replaying = True
    ctx = context(port)

    async def step() -> None:
        current_step.set("run-1/s")
        with ctx.step.trace("inside"):
            pass

    asyncio.run(step())

    assert spans[0].ended is not None
    assert port.held == []


def test_a_replayed_body_makes_no_spans(spans: list[FakeSpan]):
    """In replay the span is one that nobody sees and that takes every call."""
    port = FakePort()
    port.replaying = True
    with context(port).step.trace("load") as span:
        span.set_attribute("rows", 5)
        span.add_event("half", {"n": 1})

    assert spans == []
    assert isinstance(span, NoSpan)
    assert not span.is_recording()
    with pytest.raises(AttributeError):
        span.__fspath__()


def test_without_opentelemetry_there_is_a_span_all_the_same(monkeypatch: pytest.MonkeyPatch):
    """A body needs no library to be traced."""
    monkeypatch.setattr("polos.tracing.find_spec", lambda name: None)
    with context().step.trace("load") as span:
        span.set_attribute("rows", 5)

    assert isinstance(span, NoSpan)
