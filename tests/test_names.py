"""
Names that the log can't hold, and arguments that would mean something else than they say.

A topic, a queue, a trigger or a schedule has a stream, and the log refuses a stream whose name is too long each time
that it is tried. So whoever asks for one has to be told, or would wait for ever.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from polos import BatchWorkflowInput, Polos, RateLimit, WorkflowContext, archive, queues, schedules, triggers, workflow
from polos.checking import NAME_BYTES_MAX, short
from polos.engine import events as e
from polos.errors import CommandRefused, PolosUsageError
from polos.features import events
from polos.testing import Simulation

LONG = "ü" * 5_001
LONGEST = "ü" * 5_000
WITHOUT_DATA: dict[str, Any] = {"data": {}, "event_type": None}


@workflow(id="names_publish")
async def publishing(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Publish on a topic, and survive if that can't be."""
    try:
        await ctx.step.publish_event("told", payload["topic"], {})
    except ValueError as error:
        return str(error)
    return "published"


@workflow(id="names_parent")
async def parenting(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Start a child in a queue, and survive if that can't be."""
    try:
        await ctx.step.invoke_and_wait("child", publishing, {"topic": "t"}, queue=payload["queue"])
    except ValueError as error:
        return str(error)
    return "ended"


@workflow(id="names_scheduled", schedule=True)
async def scheduled(ctx: WorkflowContext) -> None:
    """Do nothing."""


def test_the_longest_name_fits_the_log() -> None:
    """A topic, a queue and a schedule may have the longest name, though a schedule's id quotes the workflow's."""
    said = {"cron": "@daily", "timezone": "UTC", "key": LONGEST, "overlap": "skip"}
    with Simulation([publishing, scheduled]) as sim:
        calls = [
            sim.send("publish", topic=LONGEST, events=[WITHOUT_DATA]),
            sim.send("queue", queue=LONGEST, changes={"paused": True}, create=True),
            sim.send(
                "schedule", action="set", workflow=scheduled.id,
                said={**said, "catch_up_seconds": None, "jitter_seconds": 0},
            ),
        ]  # fmt: skip
        sim.run_ready()

        assert ["published", "accepted", "accepted"] == [(call.reply or {}).get("outcome") for call in calls]
        assert NAME_BYTES_MAX == len(LONGEST.encode())
        assert len(f"schedule/{'%C3%BC' * len(LONGEST)}:{LONGEST}") < 65_536


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("publish", {"topic": LONG, "events": [WITHOUT_DATA]}),
        ("queue", {"queue": LONG, "changes": {"paused": True}}),
        ("trigger", {"trigger": LONG, "paused": True}),
    ],
)
def test_a_command_with_a_name_that_is_too_long_is_refused(kind: str, fields: dict[str, Any]) -> None:
    """Another program's command is answered, and doesn't wait for a commit that never comes."""
    with Simulation([publishing]) as sim:
        call = sim.send(kind, **fields)
        sim.run_ready()

        assert isinstance(call.error, CommandRefused)
        assert "at most 10000 bytes" in str(call.error)


@pytest.mark.parametrize("field", ["workflow", "queue"])
def test_a_run_of_a_name_that_is_too_long_is_refused(field: str) -> None:
    """A run that another program asks for can't have a queue or a workflow that has no stream."""
    with Simulation([publishing]) as sim:
        call = sim.draft_run(publishing, {"topic": "t"})
        runs: Any = call.command["runs"]
        runs[0]["created"][field] = LONG
        sim.send_again(call)
        sim.run_ready()

        assert isinstance(call.error, CommandRefused)
        assert str(call.error).startswith(f"{field} must have at most")


def test_a_body_is_told_that_a_name_is_too_long() -> None:
    """What a body asks for in vain is an error at its line: the run would hang in its commit otherwise."""
    with Simulation([publishing, parenting]) as sim:
        told = sim.create(publishing, {"topic": LONG}).run
        parent = sim.create(parenting, {"queue": LONG}).run
        fits = sim.create(publishing, {"topic": LONGEST}).run
        sim.settle()

        assert sim.result(told).startswith("topic must have at most 10000 bytes, it has 10002")
        assert sim.result(parent).startswith("queue must have at most 10000 bytes, it has 10002")
        assert "published" == sim.result(fits)
        assert all(isinstance(sim.audit.end_of(run), e.RunCompleted) for run in sim.audit.states)


@pytest.mark.parametrize(
    ("define", "named"),
    [
        (lambda: workflow(id=LONG), "id must have at most"),
        (lambda: workflow(id="names_queue", queue=LONG), "the name of a queue must have at most"),
        (lambda: workflow(id="names_topic", trigger_on_event=LONG), "trigger_on_event must have at most"),
        (lambda: workflow(id="names_key", schedule={"cron": "@daily", "key": LONG}), "key must have at most"),
        (lambda: RateLimit(1, 1e-7), "period_seconds of a RateLimit must be a positive number, a microsecond at least"),
    ],
)
def test_definitions_are_refused(define: Callable[[], Any], named: str) -> None:
    """A name that is too long, and a period that would be none, are refused where they are said."""

    async def body(ctx: WorkflowContext) -> None:
        """Do nothing."""

    with pytest.raises(ValueError, match=named):
        define()(body)


def test_pinned_is_true_or_false() -> None:
    """A text is no answer to whether runs are pinned: "no" would be yes."""

    async def body(ctx: WorkflowContext) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="pin must be True or False, it is 'no'"):
        workflow(id="names_pin", version="1", pin="no")(body)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # the mistake


async def answer(call: Callable[[], Any]) -> None:
    """Make a call that may have to be awaited."""
    made = call()
    if inspect.isawaitable(made):
        await made


@pytest.mark.anyio
async def test_calls_are_refused_with_the_argument(tmp_path: Path) -> None:
    """Each call that makes no sense says which argument is wrong, and nothing is done."""
    wrong: Any = "no"
    async with Polos(tmp_path) as polos:
        calls: list[tuple[Callable[[], Any], type[Exception], str]] = [
            (lambda: queues.pause(polos, LONG), ValueError, "name must have at most"),
            (lambda: events.publish(polos, LONG, events.EventData(data={})), ValueError, "topic must have at most"),
            (lambda: schedules.create(polos, scheduled.id, "@daily", key=LONG), ValueError, "key must have at most"),
            (lambda: publishing.invoke(polos, {}, queue=LONG), ValueError, "queue_name must have at most"),
            (lambda: publishing.invoke(polos, {}, user_id=[]), TypeError, "user_id must be a text, it is []"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            (lambda: polos.cancel_many(everything=wrong), TypeError, "everything must be True or False, it is 'no'"),
            (lambda: polos.retry_many(everything=wrong), TypeError, "everything must be True or False, it is 'no'"),
            (lambda: polos.cancel_many(workflow_id="x", limit=wrong), PolosUsageError, "limit is a number from 1"),
            (lambda: polos.count_executions(since=wrong), ValueError, "since is an instant"),
            (lambda: polos.count_executions(since=3), TypeError, "since must be a datetime or a text, it is 3"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            (lambda: polos.list_executions(limit=wrong), PolosUsageError, "limit is 1 to 10000, not 'no'"),
            (lambda: archive.list(polos, limit=wrong), PolosUsageError, "limit is 1 to 10000, not 'no'"),
            (lambda: triggers.failures(polos, "x", limit=wrong), TypeError, "limit must be a whole number"),
            (lambda: polos.batch_invoke([wrong]), TypeError, "each of workflows must be a BatchWorkflowInput"),
            (lambda: polos.drain(wrong), TypeError, "timeout_seconds must be a number of seconds, it is 'no'"),
            (lambda: polos.drain(float("nan")), ValueError, "timeout_seconds must not be negative"),
        ]
        for call, kind, named in calls:
            with pytest.raises(kind) as caught:
                await answer(call)

            assert str(caught.value).startswith(named)

        made = await polos.batch_invoke([BatchWorkflowInput(id=publishing.id, payload={"topic": "t"})])
        assert 1 == len(made)
        assert 1 == sum((await polos.count_executions()).values())


def test_a_deployment_is_a_text(tmp_path: Path) -> None:
    """A number isn't recorded as the name of a deployment."""
    wrong: Any = 3
    with pytest.raises(TypeError, match="deployment_id must be a text, it is 3"):
        Polos(tmp_path, deployment_id=wrong)


def test_a_short_name_is_no_empty_one() -> None:
    """What is checked for its length is checked for being a name as well."""
    for given, kind in (("", ValueError), (None, TypeError), ("\ud800", ValueError)):
        with pytest.raises(kind, match="topic must"):
            short("topic", given)


@pytest.mark.parametrize("run", [None, 3, "", "x" * 201])
def test_a_schedule_is_triggered_only_with_the_id_of_a_run(run: Any) -> None:
    """Another program that fires a schedule names the run; without a name that a run can have nothing is made."""
    said = {"cron": "@daily", "timezone": "UTC", "key": "k", "overlap": "skip"}
    with Simulation([scheduled]) as sim:
        sim.send(
            "schedule",
            action="set",
            workflow=scheduled.id,
            said={**said, "catch_up_seconds": None, "jitter_seconds": 0},
        )
        sim.run_ready()
        call = sim.send("schedule", action="trigger", schedule=f"{scheduled.id}:k", run=run)
        sim.run_ready()

        assert isinstance(call.error, CommandRefused)
        assert {} == sim.audit.states
