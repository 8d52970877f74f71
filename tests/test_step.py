"""
What `ctx.step` asks for, and what it makes of the answers.

On a port that answers from a script: which request a method makes, which mistakes it refuses before it asks, and that
an answer means the same whichever event brings it.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from typing import Any

import pytest
from polos import registry
from polos.calls import function_name
from polos.context import WorkflowContext, current_step
from polos.definition import workflow
from polos.engine import events as e
from polos.engine.retry import RetryPolicy
from polos.errors import PolosUsageError, StepExecutionError
from polos.types import Completed
from pydantic import BaseModel

from tests.fakeport import NOW_US, FakePort, context, play
from tests.ids import stable_id


class Receipt(BaseModel):
    """A step's typed result."""

    cents: int


FAILURE = e.Failure(type="ValueError", message="no money", traceback="Traceback: no money")


def charge(cents: int) -> Receipt:
    return Receipt(cents=cents)


async def fetch(url: str) -> str:
    return f"body of {url}"


@pytest.fixture(autouse=True)
def _workflows(monkeypatch: pytest.MonkeyPatch):
    """Give each test a registry of its own, with a child workflow in it."""
    monkeypatch.setattr(registry, "_workflows", {})

    @workflow(id="ship", tags=["logistics"], run_timeout_seconds=60, queue={"name": "ships", "concurrency_limit": 2})
    async def ship(ctx: WorkflowContext, payload: dict[str, Any]) -> Receipt:
        return Receipt(cents=1)


# ------------------------------------------------------------------------------------------------ run


def test_run_asks_for_a_step():
    """A step is asked for under its key, with function, digest and task path."""
    port = FakePort()
    result = play(context(port), lambda ctx: ctx.step.run("fetch", fetch, "http://x"))
    asked = port.asked[0]

    assert result == "body of http://x"
    assert isinstance(asked, e.StepScheduled)
    assert (asked.name, asked.cause, asked.effect, asked.path) == ("fetch", 7, "idempotent", "main")
    assert asked.function == "tests.test_step.fetch"
    assert len(asked.digest) == 64


def test_run_hands_over_the_call():
    """What performs the step gets function, arguments, policy, timeout and the context of the place that asked."""
    port = FakePort()
    place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")

    async def body(ctx: WorkflowContext) -> Any:
        place.set("body")
        return await ctx.step.run(
            "fetch", fetch, "http://x", max_retries=4, base_delay=0.5, max_delay=3, jitter=0.1, retry_on=OSError,
            non_retryable=[KeyError, TypeError], timeout_seconds=9,
        )  # fmt: skip

    play(context(port), body)
    call = port.calls[0]

    assert call is not None
    assert (call.key, call.func, call.args, call.kwargs) == ("fetch", fetch, ("http://x",), {})
    assert call.policy == RetryPolicy(
        max_retries=4, base_delay_seconds=0.5, max_delay_seconds=3, jitter=0.1, retry_on=(OSError,),
        non_retryable=(KeyError, TypeError),
    )  # fmt: skip
    assert (call.timeout_seconds, call.effect, call.reconcile) == (9, "idempotent", None)
    assert call.context is not None
    assert call.context[place] == "body"


def test_run_has_the_defaults_of_polos():
    """Without settings a step is tried three times, one and two seconds apart."""
    port = FakePort()
    play(context(port), lambda ctx: ctx.step.run("fetch", fetch, "x"))

    assert port.calls[0] is not None
    assert port.calls[0].policy == RetryPolicy(max_retries=2, base_delay_seconds=1.0, max_delay_seconds=10.0)


def test_run_without_a_key_is_named_by_place_and_function():
    """A step without a key is named by task path and function, however the function is wrapped."""
    port = FakePort()

    class Downloader:
        async def __call__(self, url: str) -> str:
            return url

    async def body(ctx: WorkflowContext) -> None:
        await ctx.step.run(fetch, "a")
        await ctx.step.run(functools.partial(fetch, "b"))
        await ctx.step.run(lambda: 1)
        await ctx.step.run(Downloader(), "c")
        await ctx.step.run(fetch, url="d")

    play(context(port), body)

    assert port.names == [
        "main/fetch",
        "main/fetch#2",
        "main/<lambda>",
        "main/Downloader",
        "main/fetch#3",
    ]


def test_a_key_used_twice_is_two_steps():
    """The second use of a key is its own step, and a # of the program is escaped (D11)."""
    port = FakePort()

    async def body(ctx: WorkflowContext) -> None:
        for _ in range(3):
            await ctx.step.run("fetch", fetch, "x")
        await ctx.step.run("fetch#2", fetch, "x")

    play(context(port), body)

    assert port.names == ["fetch", "fetch#2", "fetch#3", "fetch##2"]


def test_gathered_steps_are_named_in_program_order():
    """Steps of a gather take their names in the order of its arguments, before any of them is answered."""
    port = FakePort()

    async def body(ctx: WorkflowContext) -> Any:
        return await asyncio.gather(*(ctx.step.run("fetch", fetch, str(number)) for number in range(3)))

    assert play(context(port), body) == ["body of 0", "body of 1", "body of 2"]
    assert port.names == ["fetch", "fetch#2", "fetch#3"]


def test_keywords_go_to_the_function():
    """Keywords that aren't ours reach the function."""
    port = FakePort()
    result = play(context(port), lambda ctx: ctx.step.run("join", lambda a, b, sep: f"{a}{sep}{b}", 1, sep="-", b=2))

    assert result == "1-2"


def test_a_function_keeps_keywords_that_are_older_than_ours():
    """A keyword that the function itself takes goes to the function, if it is one that Polos doesn't know."""
    port = FakePort()

    def legacy(*, timeout_seconds: int, effect: str) -> str:
        return f"{timeout_seconds} {effect}"

    def open_ended(**anything: Any) -> list[str]:
        return list(anything)

    async def body(ctx: WorkflowContext) -> list[Any]:
        first = await ctx.step.run("a", legacy, timeout_seconds=3, effect="loud", jitter=0.5)
        return [first, await ctx.step.run("b", open_ended, timeout_seconds=3, size=1)]

    assert play(context(port), body) == ["3 loud", ["size"]]
    assert port.calls[0] is not None
    assert (port.calls[0].timeout_seconds, port.calls[0].policy.jitter) == (None, 0.5)
    assert port.calls[1] is not None
    assert port.calls[1].timeout_seconds == 3


def test_a_function_that_is_wrapped_keeps_the_keywords_of_the_wrapped_one():
    """What counts is the signature that a function shows; a name that can't be given by keyword isn't kept."""
    port = FakePort()

    def legacy(*, effect: str) -> str:
        return effect

    @functools.wraps(legacy)
    def wrapped(*given: Any, **named: Any) -> str:
        return legacy(*given, **named)

    def positional(jitter: float, /, **named: Any) -> Any:
        return [jitter, named]

    async def body(ctx: WorkflowContext) -> list[Any]:
        first = await ctx.step.run("a", wrapped, effect="loud")
        return [first, await ctx.step.run("b", positional, 7, jitter=0.5)]

    assert ["loud", [7, {}]] == play(context(port), body)
    assert port.calls[1] is not None
    assert 0.5 == port.calls[1].policy.jitter


def test_functions_without_a_signature_can_be_steps():
    """A function written in C that has no signature takes our settings all the same."""
    port = FakePort()

    assert play(context(port), lambda ctx: ctx.step.run("max", max, 3, 5, timeout_seconds=3)) == 5
    assert port.calls[0] is not None
    assert port.calls[0].timeout_seconds == 3


def test_arguments_are_those_of_the_moment_of_asking():
    """What the body changes while a step waits to be called doesn't reach the step."""
    port = FakePort()
    seen: list[Any] = []

    async def body(ctx: WorkflowContext) -> None:
        items = [1]
        task = asyncio.create_task(ctx.step.run("use", seen.append, items))
        await asyncio.sleep(0)
        items.append(2)
        await task

    play(context(port), body)

    assert seen == [[1]]


def test_the_digest_is_over_the_arguments():
    """Equal arguments have equal digests; others don't."""
    port = FakePort()

    async def body(ctx: WorkflowContext) -> None:
        for cents in (5, 5, 6):
            await ctx.step.run("charge", lambda cents: cents, cents=cents)

    play(context(port), body)
    first, second, third = [event.digest for event in port.asked if isinstance(event, e.StepScheduled)]

    assert first == second
    assert first != third


def test_a_result_is_read_from_its_record():
    """A typed result comes from JSON, by return annotation and recorded type, never from the function's object."""
    port = FakePort()
    port.answer(
        e.StepCompleted(name="typed", attempt=1, value={"cents": 5}),
        e.StepCompleted(name="by path", attempt=1, value={"cents": 6}, type=f"{__name__}.Receipt"),
        e.StepCompleted(name="plain", attempt=1, value={"cents": 7}),
    )

    async def body(ctx: WorkflowContext) -> list[Any]:
        return [
            await ctx.step.run("typed", charge, 1),
            await ctx.step.run("by path", lambda: None),
            await ctx.step.run("plain", lambda: None),
        ]

    assert play(context(port), body) == [Receipt(cents=5), Receipt(cents=6), {"cents": 7}]


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}])
def test_falsy_results_stay_what_they_are(value: Any):
    """A falsy result is given back as it is recorded (D2)."""
    port = FakePort()
    port.answer(e.StepCompleted(name="s", attempt=1, value=value))

    found = play(context(port), lambda ctx: ctx.step.run("s", lambda: "called"))

    assert found == value
    assert type(found) is type(value)


def test_a_failed_step_raises_with_what_is_recorded():
    """A step that failed raises StepExecutionError with retries made, message, type and traceback text."""
    port = FakePort()
    port.answer(e.StepFailed(name="s", attempt=3, error=FAILURE))

    with pytest.raises(StepExecutionError) as caught:
        play(context(port), lambda ctx: ctx.step.run("s", charge, 1))

    assert str(caught.value) == "Step execution failed after 2 retries: no money"
    assert caught.value.reason == str(caught.value)
    assert (caught.value.error_type, caught.value.traceback) == ("ValueError", "Traceback: no money")


def test_an_answer_of_an_earlier_attempt_means_the_same():
    """A result or failure that an earlier attempt of the run got is what that attempt got."""
    port = FakePort()
    reused = [e.ResultReused(cause=7, name=name, version=3) for name in ("good", "bad")]
    port.answer(reused[0], source=e.StepCompleted(name="good", attempt=1, value={"cents": 5}))
    port.answer(reused[1], source=e.StepFailed(name="bad", attempt=1, error=FAILURE))

    assert play(context(port), lambda ctx: ctx.step.run("good", charge, 1)) == Receipt(cents=5)
    with pytest.raises(StepExecutionError, match="Step execution failed after 0 retries: no money"):
        play(context(port), lambda ctx: ctx.step.run("bad", charge, 1))


def test_a_resolved_step_gives_what_was_said():
    """A step of unknown outcome ends as somebody said: with a value, with an error, or failed without one."""
    port = FakePort()
    port.answer(
        e.StepResolved(name="done", outcome="completed", by="ann", value={"cents": 5}),
        e.StepResolved(name="bad", outcome="failed", by="ann", error=FAILURE),
        e.StepResolved(name="worse", outcome="failed", by="ann"),
    )

    assert play(context(port), lambda ctx: ctx.step.run("done", charge, 1)) == Receipt(cents=5)
    with pytest.raises(StepExecutionError, match=r"^Step execution failed: ann said so: no money$"):
        play(context(port), lambda ctx: ctx.step.run("bad", charge, 1))
    with pytest.raises(StepExecutionError, match=r"^Step execution failed: ann said so$"):
        play(context(port), lambda ctx: ctx.step.run("worse", charge, 1))


def test_a_name_used_for_another_thing_is_refused():
    """A name that an earlier attempt used for another kind of request is refused, not misread."""
    port = FakePort()
    for name in ("s", "t", "w", "c"):
        source: e.Event = e.TimerFired(name=name) if name != "t" else e.StepCompleted(name=name, attempt=1)
        port.answer(e.ResultReused(cause=7, name=name, version=3), source=source)

    async def s(ctx: WorkflowContext) -> None:
        await ctx.step.run("s", charge, 1)

    async def t(ctx: WorkflowContext) -> None:
        await ctx.step.wait_for("t", seconds=1)

    async def w(ctx: WorkflowContext) -> None:
        await ctx.step.suspend("w", {})

    async def c(ctx: WorkflowContext) -> None:
        await ctx.step.invoke_and_wait("c", "ship", {})

    for body in (s, t, w, c):
        with pytest.raises(PolosUsageError, match="give one of the two another step key"):
            play(context(port), body)


MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_retries": -1}, ValueError, "max_retries"),
    ({"max_retries": 1.5}, ValueError, "max_retries"),
    ({"max_retries": True}, ValueError, "max_retries"),
    ({"base_delay": -0.1}, ValueError, "base_delay"),
    ({"base_delay": float("nan")}, ValueError, "base_delay"),
    ({"max_delay": float("inf")}, ValueError, "max_delay"),
    ({"jitter": 1.5}, ValueError, "jitter"),
    ({"jitter": -1}, ValueError, "jitter"),
    ({"timeout_seconds": 0}, ValueError, "timeout_seconds"),
    ({"timeout_seconds": 1e30}, ValueError, "timeout_seconds"),
    ({"max_delay": 1e30}, ValueError, "max_delay"),
    ({"timeout_seconds": float("nan")}, ValueError, "timeout_seconds"),
    ({"effect": "twice"}, ValueError, "effect"),
    ({"retry_on": "OSError"}, TypeError, "retry_on"),
    ({"retry_on": (OSError, 3)}, TypeError, "retry_on"),
    ({"non_retryable": int}, TypeError, "non_retryable"),
    ({"effect": "at_most_once", "reconcile": "later"}, TypeError, "reconcile"),
    ({"reconcile": lambda: Completed(1)}, ValueError, "reconcile"),
]


@pytest.mark.parametrize(("settings", "error", "named"), MISTAKES, ids=[stable_id(case[0]) for case in MISTAKES])
def test_a_mistake_in_a_policy_is_refused_at_the_call(settings: dict[str, Any], error: type[Exception], named: str):
    """A setting that makes no sense raises with the argument's name, and nothing is asked for."""
    port = FakePort()

    with pytest.raises(error, match=rf"^{named}\b"):
        play(context(port), lambda ctx: ctx.step.run("s", charge, 1, **settings))
    assert port.asked == []


def test_true_is_no_number_also_if_one_is_known():
    """A policy that was accepted before doesn't let one pass that is equal but wrong."""
    port = FakePort()
    play(context(port), lambda ctx: ctx.step.run("a", fetch, "x", max_retries=1))

    with pytest.raises(ValueError, match="max_retries"):
        play(context(port), lambda ctx: ctx.step.run("b", fetch, "x", max_retries=True))


def test_keys_may_be_in_any_script():
    """A key is any text that can be written."""
    port = FakePort()
    play(context(port), lambda ctx: ctx.step.run("Zahlung für 東京 🚚", fetch, "x"))

    assert port.names == ["Zahlung für 東京 🚚"]


def test_a_mistaken_call_takes_a_name_all_the_same():
    """A body that catches the refusal has the same names behind it as one that made no mistake."""
    port = FakePort()

    async def body(ctx: WorkflowContext) -> None:
        with pytest.raises(ValueError, match="jitter"):
            await ctx.step.run("s", charge, 1, jitter=2)
        await ctx.step.run("s", fetch, "x")

    play(context(port), body)

    assert port.names == ["s#2"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("key",), TypeError, "func of step 'key' is missing"),
        (("key", None), TypeError, "func of step 'key' must be callable, it is None"),
        (("key", 3), TypeError, "func of step 'key' must be callable, it is 3"),
        ((3, charge), TypeError, "step_key must be a text, it is 3"),
        (("", charge), ValueError, "step_key must not be empty"),
        (("half \ud800", charge), ValueError, r"step_key must be a text that can be written, it is 'half \\ud800'"),
    ],
)
def test_what_is_no_step_is_refused(arguments: tuple[Any, ...], error: type[Exception], message: str):
    """A missing function, or a key that is no text, is refused with the argument's name."""
    port = FakePort()

    with pytest.raises(error, match=message):
        play(context(port), lambda ctx: ctx.step.run(*arguments))
    assert port.asked == []


def test_at_most_once_isnt_retried_unless_told_so():
    """An exception says nothing about the effect, so at_most_once retries only what is named."""
    port = FakePort()

    async def body(ctx: WorkflowContext) -> None:
        await ctx.step.run("a", lambda: 1, effect="at_most_once")
        await ctx.step.run("b", lambda: 1, effect="at_most_once", retry_on=(OSError,), reconcile=lambda: Completed(2))

    play(context(port), body)
    first, second = port.calls

    assert first is not None
    assert second is not None
    assert (first.effect, first.policy.retry_on) == ("at_most_once", ())
    assert second.policy.retry_on == (OSError,)
    assert second.reconcile is not None
    assert [event.effect for event in port.asked if isinstance(event, e.StepScheduled)] == ["at_most_once"] * 2


def test_steps_inside_steps_are_refused():
    """The function of a step can't ask for steps: its place in the history would be nobody's."""
    port = FakePort()
    ctx = context(port)

    async def nested() -> None:
        current_step.set("run-1/outer")
        await ctx.step.run("inner", charge, 1)

    with pytest.raises(PolosUsageError, match="used by the function of step 'run-1/outer'"):
        play(ctx, lambda ctx: ctx.step.run("outer", nested))
    assert port.names == ["outer"]


def test_the_idempotency_key_is_for_functions_of_steps():
    """The key is what the performer set; outside of a step there is none, and the error says so."""
    ctx = context()

    with pytest.raises(PolosUsageError, match="no step is performed here"):
        _ = ctx.step.idempotency_key

    def inside() -> str:
        current_step.set("run-1/charge")
        return ctx.step.idempotency_key

    assert contextvars.copy_context().run(inside) == "run-1/charge"


def test_without_a_running_workflow_steps_say_so():
    """A context that no engine made refuses with a reason."""
    ctx = WorkflowContext("order", "run-1", None, None)

    for ask in (lambda: ctx.step.run("s", charge, 1), ctx.step.uuid, lambda: ctx.step.wait_for("w", 1)):
        with pytest.raises(PolosUsageError, match="belongs to no running workflow"):
            asyncio.run(ask())


# --------------------------------------------------------------------------------------------- events


def test_publish_event_sends_once():
    """An event is a message to a topic, named by its key."""
    port = FakePort()

    async def body(ctx: WorkflowContext) -> None:
        await ctx.step.publish_event("p", "orders", {"n": 1}, "created")
        await ctx.step.publish_event("p", "orders", Receipt(cents=2))
        await ctx.step.publish_workflow_event("q", {"at": 50}, event_type="progress")

    play(context(port), body)
    tree = "workflow/order/run-1"

    assert port.asked == [
        e.MessageSent(cause=7, name="p", kind="publish", target="orders",
                      body={"topic": "orders", "data": {"n": 1}, "event_type": "created"}),
        e.MessageSent(cause=7, name="p#2", kind="publish", target="orders",
                      body={"topic": "orders", "data": {"cents": 2}, "event_type": None}),
        e.MessageSent(cause=7, name="q", kind="publish", target=tree,
                      body={"topic": tree, "data": {"at": 50}, "event_type": "progress"}),
    ]  # fmt: skip


def test_resume_sends_an_answer():
    """A resume is a message to the suspended run with the key and the data."""
    port = FakePort()
    play(context(port), lambda ctx: ctx.step.resume("r", "approval", "run-9", "review", {"approved": True}))
    asked = port.asked[0]

    assert isinstance(asked, e.MessageSent)
    assert (asked.name, asked.kind, asked.target) == ("r", "resume", "run-9")
    assert isinstance(asked.body, dict)
    assert (asked.body["key"], asked.body["data"]) == ("approval", {"approved": True})


# --------------------------------------------------------------------------------------------- values


def test_recorded_values():
    """uuid, now and random are recorded under their key or their place; now is in milliseconds."""
    port = FakePort()

    async def body(ctx: WorkflowContext) -> Any:
        return [
            await ctx.step.uuid("id"),
            await ctx.step.now("t"),
            await ctx.step.random("r"),
            await ctx.step.uuid(),
            await ctx.step.now(),
        ]

    uuid = "00000000-0000-4000-8000-000000000001"

    assert play(context(port), body) == [uuid, NOW_US // 1000 + 1, 0.25, uuid, NOW_US // 1000 + 1]
    assert [(event.name, event.kind) for event in port.asked if isinstance(event, e.ValueRecorded)] == [
        ("id", "uuid"), ("t", "now"), ("r", "random"), ("main/uuid", "uuid"), ("main/now", "now"),
    ]  # fmt: skip


def test_now_never_lies_before_what_is_recorded():
    """A clock that was set back doesn't take `now` behind the fact that the code runs on."""
    port = FakePort()
    port.values.time_us = NOW_US - 60_000_000

    assert play(context(port), lambda ctx: ctx.step.now("t")) == NOW_US // 1000


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (str.upper, ("upper", "builtins.str.upper")),
        ("a".join, ("join", "builtins.str.join")),
        (len, ("len", "builtins.len")),
        ({}.get, ("get", "builtins.dict.get")),
    ],
)
def test_any_function_has_a_name(function: Callable[..., Any], name: tuple[str, str]) -> None:
    """Methods of built-in types can be steps, although they have no module."""
    assert name == function_name(function)
