"""
Waiting with `ctx.step`: for moments, answers, events and signals.

What is asked for, what an answer looks like, and how each wait ends without one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from polos import registry
from polos.context import WorkflowContext
from polos.definition import workflow
from polos.engine import events as e
from polos.errors import StepExecutionError, ValueRefused
from polos.types.events import EventPayload
from pydantic import BaseModel

from tests.fakeport import NOW_US, FakePort, context, play


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


# -------------------------------------------------------------------------------------------- timers


def test_wait_for_adds_up():
    """The time to wait is the sum of its parts, reckoned from the fact that the code runs on."""
    port = FakePort()
    port.answer(e.TimerFired(name="nap"), e.TimerFired(name="long"))

    async def body(ctx: WorkflowContext) -> Any:
        await ctx.step.wait_for("nap", seconds=1.5)
        await ctx.step.wait_for("long", 1, minutes=2, hours=3, days=4, weeks=5)

    total = timedelta(seconds=1, minutes=2, hours=3, days=4, weeks=5)

    assert play(context(port), body) is None
    assert port.asked == [
        e.TimerStarted(cause=7, name="nap", due_us=NOW_US + 1_500_000, short=True),
        e.TimerStarted(cause=7, name="long", due_us=NOW_US + int(total.total_seconds()) * 1_000_000, short=False),
    ]


def test_wait_for_goes_on_from_now():
    """A wait that is asked for behind `now` is reckoned from what it said: the body sees that time pass, at least."""
    port = FakePort()
    port.answer(e.TimerFired(name="nap"))

    async def body(ctx: WorkflowContext) -> int:
        begun = await ctx.step.now()
        await ctx.step.wait_for("nap", seconds=1)
        return begun

    begun = play(context(port), body)
    (timer,) = (event for event in port.asked if isinstance(event, e.TimerStarted))

    assert begun * 1_000 > NOW_US
    assert timer.due_us == begun * 1_000 + 1_000_000


@pytest.mark.parametrize(
    "parts", [{}, {"seconds": 0}, {"seconds": -1}, {"seconds": 60, "minutes": -1}, {"seconds": 1e-9}, {"weeks": 1e12},
              {"seconds": float("nan")}, {"days": 4_000_000}]
)  # fmt: skip
def test_wait_for_refuses_times_that_arent_ahead(parts: dict[str, float]):
    """A time that isn't positive, or that no calendar has, fails the wait and asks for nothing."""
    port = FakePort()

    with pytest.raises(StepExecutionError, match=r"^wait_for 'w': "):
        play(context(port), lambda ctx: ctx.step.wait_for("w", **parts))
    assert port.asked == []


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 1, 0, 0, 20),  # noqa: DTZ001  # a naive one is in UTC
        datetime(2026, 1, 1, 0, 0, 20, tzinfo=UTC),
        datetime(2026, 1, 1, 2, 0, 20, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_wait_until_knows_time_zones(moment: datetime):
    """A moment is waited for in its time zone; without one it is in UTC."""
    port = FakePort()
    port.answer(e.TimerFired(name="w"))
    play(context(port), lambda ctx: ctx.step.wait_until("w", moment))

    assert port.asked == [e.TimerStarted(cause=7, name="w", due_us=NOW_US + 20_000_000, short=False)]


def test_wait_until_the_past_is_a_recorded_failure():
    """A moment that is over fails the wait like a step, so that a later attempt finds the failure."""
    port = FakePort()
    port.perform = False
    past = datetime(2025, 12, 31, 23, 0, tzinfo=UTC)
    message = "wait_until 'w': 2025-12-31T23:00:00.000000+00:00 was over at 2026-01-01T00:00:00.000000+00:00"
    port.answer(e.StepFailed(name="w", attempt=1, error=e.Failure(type="StepExecutionError", message=message)))

    with pytest.raises(StepExecutionError) as caught:
        play(context(port), lambda ctx: ctx.step.wait_until("w", past))
    asked, call = port.asked[0], port.calls[0]

    assert str(caught.value) == message
    assert isinstance(asked, e.StepScheduled)
    assert (asked.name, asked.effect) == ("w", "pure")
    assert call is not None
    with pytest.raises(StepExecutionError, match="was over at"):
        call.func(*call.args, **call.kwargs)


def test_wait_until_in_a_later_attempt_trusts_the_first():
    """What was ahead when the first attempt asked is over by now: that attempt's end of the wait counts."""
    past = datetime(2025, 12, 31, tzinfo=UTC)
    ended, failed = FakePort(), FakePort()
    reused = e.ResultReused(cause=7, name="w", version=3)
    ended.answer(reused, source=e.TimerFired(name="w"))
    failed.answer(reused, source=e.StepFailed(name="w", attempt=1, error=FAILURE))

    assert play(context(ended, retry_count=1), lambda ctx: ctx.step.wait_until("w", past)) is None
    with pytest.raises(StepExecutionError, match=r"^no money$"):
        play(context(failed, retry_count=1), lambda ctx: ctx.step.wait_until("w", past))


def test_wait_until_in_a_direct_body_asks_in_any_case():
    """A body that begins anew after a crash can't tell whether the moment was ahead, so it is no error."""
    port = FakePort(direct=True)
    port.answer(e.TimerFired(name="w"))

    assert play(context(port), lambda ctx: ctx.step.wait_until("w", datetime(2020, 1, 1, tzinfo=UTC))) is None
    assert isinstance(port.asked[0], e.TimerStarted)


def test_wait_until_wants_a_datetime():
    """Anything but a datetime is refused by name."""
    with pytest.raises(TypeError, match="timestamp must be a datetime, it is 5"):
        play(context(), lambda ctx: ctx.step.wait_until("w", 5))  # type: ignore[arg-type]  # the mistake under test


# ---------------------------------------------------------------------------------------------- waits


def satisfied(name: str, kind: str, key: str, **given: Any) -> e.WaitSatisfied:
    return e.WaitSatisfied(name=name, kind=kind, key=key, created_us=NOW_US, event_id="event-1", **given)


def test_suspend_gives_an_answer_of_both_forms():
    """An answer can be read as an object and as a dict, and knows where it comes from (D13)."""
    port = FakePort()
    port.answer(satisfied("approval", "suspend", "approval", data={"approved": True}, event_type="resume_approval"))
    answer = play(context(port), lambda ctx: ctx.step.suspend("approval", {"amount": 5}, timeout=60))

    assert port.asked == [
        e.WaitStarted(
            cause=7, name="approval", kind="suspend", key="approval", data={"amount": 5}, expires_us=NOW_US + 60_000_000
        )
    ]
    assert answer == {
        "sequence_id": 100 * 4096,
        "topic": "workflow/order/run-1",
        "event_type": "resume_approval",
        "data": {"approved": True},
        "id": "event-1",
        "created_at": "2026-01-01T00:00:00.000000+00:00",
    }
    assert answer.data == answer["data"] == answer.get("data", {}) == {"approved": True}
    assert (answer.sequence_id, answer.event_type, answer.id) == (409_600, "resume_approval", "event-1")
    with pytest.raises(AttributeError, match="a resume has no 'approved'"):
        _ = answer.approved


def test_suspend_belongs_to_the_tree_of_its_run():
    """The topic is that of the root, also in a child; the key is the program's, whatever the name."""
    port = FakePort()
    port.answer(satisfied("a", "suspend", "a"), satisfied("a#2", "suspend", "a"))
    ctx = context(port, root_execution_id="run-0", root_workflow_id="shop")

    async def body(ctx: WorkflowContext) -> Any:
        await ctx.step.suspend("a", {})
        return await ctx.step.suspend("a", Receipt(cents=3))

    answer = play(ctx, body)
    second = port.asked[1]

    assert (answer.topic, answer.event_type) == ("workflow/shop/run-0", "resume_a")
    assert isinstance(second, e.WaitStarted)
    assert (second.name, second.key, second.data) == ("a#2", "a", {"cents": 3})


def test_waits_expire_with_the_recorded_moment():
    """A wait that ran out of time raises with what kind it was and when it expired (D16)."""
    port = FakePort()
    port.answer(*(e.WaitExpired(name=name, kind="", due_us=NOW_US) for name in ("s", "e", "go")))
    moment = "2026-01-01T00:00:00.000000+00:00"
    cases: list[tuple[Callable[[WorkflowContext], Any], str]] = [
        (lambda ctx: ctx.step.suspend("s", {}, timeout=1), f"Suspend expired at {moment}"),
        (lambda ctx: ctx.step.wait_for_event("e", "topic", timeout=1), f"Event wait expired at {moment}"),
        (lambda ctx: ctx.step.wait_for_signal("go", timeout=1), f"Signal wait expired at {moment}"),
    ]

    for body, message in cases:
        with pytest.raises(StepExecutionError) as caught:
            play(context(port), body)

        assert str(caught.value) == message


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e30])
def test_a_timeout_must_be_ahead(timeout: float):
    """A timeout that isn't a positive number of seconds is refused, and nothing is asked for."""
    port = FakePort()

    with pytest.raises(ValueError, match=r"^timeout must be positive"):
        play(context(port), lambda ctx: ctx.step.suspend("s", {}, timeout=timeout))
    assert port.asked == []


def test_wait_for_event_gives_the_event():
    """An event comes with its place: as said, or reckoned from how far behind the answer it stands."""
    port = FakePort()
    port.answer(
        satisfied("a", "topic", "orders", data={"n": 1}, event_type="new", sequence_id=77),
        satisfied("b", "topic", "orders", data={"n": 2}, back=3),
    )

    async def body(ctx: WorkflowContext) -> Any:
        first = await ctx.step.wait_for_event("a", "orders", 5, since=12)
        return first, await ctx.step.wait_for_event("b", topic="orders")

    first, second = play(context(port), body)

    assert first == EventPayload(
        id="event-1",
        sequence_id=77,
        topic="orders",
        event_type="new",
        data={"n": 1},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert second.sequence_id == 97 * 4096
    assert port.asked[0] == e.WaitStarted(
        cause=7, name="a", kind="topic", key="orders", expires_us=NOW_US + 5_000_000, since=12
    )


@pytest.mark.parametrize("since", [-1, 1 << 63, "5", 1.5])
def test_since_must_be_a_place(since: Any):
    """What isn't a sequence id is refused, and nothing is asked for."""
    port = FakePort()

    with pytest.raises(ValueError, match="since must be a sequence_id"):
        play(context(port), lambda ctx: ctx.step.wait_for_event("e", "orders", since=since))
    assert port.asked == []


def test_wait_for_signal_gives_the_data():
    """A signal is waited for by its name and gives what was sent."""
    port = FakePort()
    port.answer(satisfied("go", "signal", "go", data=[1, 2]), satisfied("go#2", "signal", "go", data=None))

    async def body(ctx: WorkflowContext) -> Any:
        return await ctx.step.wait_for_signal("go"), await ctx.step.wait_for_signal("go")

    assert play(context(port), body) == ([1, 2], None)
    assert [event.key for event in port.asked if isinstance(event, e.WaitStarted)] == ["go", "go"]


def test_what_is_waited_for_needs_a_name():
    """Topics and signals are texts that aren't empty."""
    with pytest.raises(ValueError, match="topic must not be empty"):
        play(context(), lambda ctx: ctx.step.wait_for_event("e", ""))
    with pytest.raises(TypeError, match="name must be a text, it is None"):
        play(context(), lambda ctx: ctx.step.wait_for_signal(None))  # type: ignore[arg-type]  # the mistake under test


def test_data_that_isnt_json_is_refused():
    """What a suspend shows must be recordable; the message names it."""
    with pytest.raises(ValueRefused, match="data of suspend 's'"):
        play(context(), lambda ctx: ctx.step.suspend("s", {"when": object()}))


def test_an_answer_can_be_dumped():
    """An answer to a suspend goes through the JSON of the standard library like the dict that it is."""
    port = FakePort()
    port.answer(satisfied("a", "suspend", "a", data={"ok": 1}))
    answer = play(context(port), lambda ctx: ctx.step.suspend("a", {}))

    assert json.loads(json.dumps(answer))["data"] == {"ok": 1}
