"""
Arguments that make no sense, refused where they are said: at the decoration or the call, with the argument's name.

One table for definitions, one for calls; what each line shows is that the text names what is wrong, so whoever reads it
needn't look for it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from math import inf, nan
from pathlib import Path
from typing import Any

import polos.engine.schedule as cron_module
import pytest
from polos import (
    BatchWorkflowInput,
    Polos,
    Queue,
    RateLimit,
    RetryPolicy,
    WorkflowContext,
    batch_invoke,
    queues,
    schedules,
    workflow,
)
from polos.engine.schedule import cron_of
from polos.errors import CommandRefused, UnknownSchedule

ODD = ("a\0b", "a\nb", "a\x1b[31mb", "a\u2028b", "a\u202eb")
LATER = datetime(2030, 1, 1, tzinfo=UTC)


@workflow(id="refusing")
async def refusing(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
    """Do nothing."""


@workflow(id="refusing_scheduled", schedule=True)
async def refusing_scheduled(ctx: WorkflowContext) -> None:
    """Do nothing, at times."""


def define(**options: Any) -> None:
    """Define a workflow."""

    @workflow(**{"id": "refused", **options})
    async def _refused(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        """Do nothing."""


def scheduled(**options: Any) -> dict[str, Any]:
    """Give a schedule with something wrong."""
    return {"schedule": {"cron": "* * * * *", **options}}


DEFINITIONS: list[tuple[dict[str, Any], str]] = [
    ({"id": ""}, "id"),
    ({"id": "\ud800"}, "id"),
    *(({"id": odd}, "id must have no control characters") for odd in ODD),
    ({"tags": "vip"}, "tags"),
    ({"tags": 5}, "tags"),
    ({"tags": [5]}, "tags"),
    ({"tags": ["a\nb"]}, "tags must have no control characters"),
    ({"retries": 5}, "retries"),
    ({"run_timeout_seconds": -1}, "run_timeout_seconds"),
    ({"run_timeout_seconds": "5"}, "run_timeout_seconds"),
    ({"run_timeout_seconds": True}, "run_timeout_seconds"),
    ({"cancel_grace_seconds": -1}, "cancel_grace_seconds"),
    ({"cancel_grace_seconds": "5"}, "cancel_grace_seconds"),
    ({"cancel_grace_seconds": nan}, "cancel_grace_seconds"),
    ({"activation_callbacks_max": 0}, "activation_callbacks_max"),
    ({"activation_callbacks_max": "5"}, "activation_callbacks_max"),
    # queues
    ({"queue": 5}, "queue"),
    ({"queue": ""}, "the name of a queue"),
    ({"queue": "a\nb"}, "the name of a queue must have no control characters"),
    ({"queue": {"limit": 3}}, "limit"),
    ({"queue": {"concurrency_limit": -3}}, "concurrency_limit"),
    ({"queue": {"key_concurrency_limit": 0}}, "key_concurrency_limit"),
    ({"queue": {"max_queued": -1}}, "max_queued"),
    ({"queue": {"rate_limit": {"limit": 1}}}, "rate_limit"),
    ({"queue": {"rate_limit": {"limit": 1, "period_seconds": -1}}}, "period_seconds"),
    ({"queue": "q", "schedule": "@daily"}, "queue and a schedule"),
    # schedules
    ({"schedule": 5}, "schedule"),
    ({"schedule": ["@daily"]}, "schedule"),
    ({"schedule": {}}, "cron"),
    ({"schedule": ""}, "cron"),
    ({"schedule": "@sometimes"}, "cron"),
    ({"schedule": "61 * * * *"}, "cron"),
    ({"schedule": "0 0 0 1 1 *"}, "cron must have five fields"),
    ({"schedule": "0 0 31 2 *"}, "cron .* never comes"),
    ({"schedule": "0 0 30 2,2 *"}, "cron .* never comes"),
    (scheduled(zone="UTC"), "zone"),
    (scheduled(timezone="Mars/Olympus"), "timezone"),
    (scheduled(timezone="../etc/passwd"), "timezone"),
    (scheduled(timezone="/etc/localtime"), "timezone"),
    (scheduled(timezone="UTC\0"), "timezone"),
    (scheduled(timezone=5), "timezone"),
    (scheduled(key=""), "key"),
    (scheduled(key="a\0b"), "key must have no control characters"),
    (scheduled(overlap="perhaps"), "overlap"),
    (scheduled(catch_up_seconds=-1), "catch_up_seconds"),
    (scheduled(catch_up_seconds="1"), "catch_up_seconds"),
    (scheduled(jitter_seconds=nan), "jitter_seconds"),
    (scheduled(jitter_seconds=True), "jitter_seconds"),
    ({"schedule": "@daily", "trigger_on_event": "orders"}, "schedule and trigger_on_event"),
    ({"schedule": True, "trigger_on_event": "orders"}, "schedule and trigger_on_event"),
    # triggers
    ({"trigger_on_event": ""}, "trigger_on_event"),
    ({"trigger_on_event": 5}, "trigger_on_event"),
    ({"trigger_on_event": "a\nb"}, "trigger_on_event must have no control characters"),
    ({"trigger_on_event": "orders/**x"}, "trigger_on_event"),
    ({"trigger_on_event": "t", "batch_size": 0}, "batch_size"),
    ({"trigger_on_event": "t", "batch_size": True}, "batch_size"),
    ({"trigger_on_event": "t", "batch_size": 10**9}, "batch_size"),
    ({"trigger_on_event": "t", "batch_timeout_seconds": -1}, "batch_timeout_seconds"),
    ({"trigger_on_event": "t", "batch_timeout_seconds": "1"}, "batch_timeout_seconds"),
    ({"trigger_on_event": "t", "trigger_filter": 5}, "trigger_filter"),
    ({"trigger_on_event": "t", "from_beginning": "yes"}, "from_beginning"),
    ({"trigger_filter": bool}, "trigger_filter"),
    ({"from_beginning": True}, "from_beginning"),
    # debouncing
    ({"debounce": 0}, "debounce seconds"),
    ({"debounce": -1}, "debounce seconds"),
    ({"debounce": "5"}, "debounce seconds"),
    ({"debounce": True}, "debounce seconds"),
    ({"debounce": nan}, "debounce seconds"),
    ({"debounce": {"max_seconds": 5}}, "debounce has 'seconds'"),
    ({"debounce": {"seconds": 5, "key": "k"}}, "key"),
    ({"debounce": {"seconds": 5, "max_seconds": 1}}, "max_seconds"),
]


@pytest.mark.parametrize(("options", "named"), DEFINITIONS)
def test_definitions(options: dict[str, Any], named: str) -> None:
    """What a workflow is told that makes no sense is refused where it is defined."""
    with pytest.raises((ValueError, TypeError), match=named):
        define(**options)


PARTS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    *((Queue, (odd,), {}, "the name of a queue must have no control characters") for odd in ODD),
    (Queue, ("q", -1), {}, "concurrency_limit"),
    (Queue, ("q", 1.5), {}, "concurrency_limit"),
    (Queue, ("q", True), {}, "concurrency_limit"),
    (Queue, ("q",), {"key_concurrency_limit": "3"}, "key_concurrency_limit"),
    (Queue, ("q",), {"max_queued": -1}, "max_queued"),
    (Queue, ("q",), {"rate_limit": 5}, "rate_limit"),
    (Queue, ("q",), {"key_rate_limit": (1, 2)}, "key_rate_limit"),
    (RateLimit, (0, 1), {}, "limit of a RateLimit"),
    (RateLimit, (1, -1), {}, "period_seconds"),
    (RateLimit, (1, inf), {}, "period_seconds"),
    (RateLimit, (1, "1"), {}, "period_seconds"),
    (RetryPolicy, (), {"max_retries": -1}, "max_retries"),
    (RetryPolicy, (), {"max_retries": "5"}, "max_retries"),
    (RetryPolicy, (), {"max_retries": True}, "max_retries"),
    (RetryPolicy, (), {"base_delay_seconds": nan}, "base_delay_seconds"),
    (RetryPolicy, (), {"base_delay_seconds": "1"}, "base_delay_seconds"),
    (RetryPolicy, (), {"max_delay_seconds": -1}, "max_delay_seconds"),
    (RetryPolicy, (), {"factor": 0.5}, "factor"),
    (RetryPolicy, (), {"factor": nan}, "factor"),
    (RetryPolicy, (), {"jitter": 2}, "jitter"),
    (RetryPolicy, (), {"jitter": None}, "jitter"),
]


@pytest.mark.parametrize(("make", "args", "options", "named"), PARTS)
def test_parts(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], named: str) -> None:
    """What is said of queues, rates and attempts is refused where it is said."""
    with pytest.raises((ValueError, TypeError), match=named):
        make(*args, **options)


CALLS: list[tuple[dict[str, Any], str]] = [
    ({"queue_name": ""}, "queue_name"),
    ({"queue_name": "a\nb"}, "queue_name must have no control characters"),
    ({"queue_concurrency_limit": -1}, "queue_concurrency_limit"),
    ({"queue_concurrency_limit": True}, "queue_concurrency_limit"),
    ({"concurrency_key": ""}, "concurrency_key"),
    ({"concurrency_key": 5}, "concurrency_key"),
    ({"priority": 1.5}, "priority"),
    ({"priority": True}, "priority"),
    ({"priority": 10**20}, "priority"),
    ({"start_after": 0}, "start_after"),
    ({"start_after": "5"}, "start_after"),
    ({"start_after": inf}, "start_after"),
    ({"start_at": "2030"}, "start_at"),
    ({"start_after": 1, "start_at": LATER}, "start_after and start_at"),
    ({"tags": 5}, "tags"),
    ({"tags": ["a\tb"]}, "tags must have no control characters"),
    ({"run_timeout_seconds": 0}, "run_timeout_seconds"),
    ({"session_id": 5}, "session_id"),
    ({"user_id": "\ud800"}, "user_id"),
    ({"initial_state": 5}, "initial_state"),
    ({"idempotency_key": ""}, "idempotency_key"),
    ({"singleton": 5}, "singleton"),
    ({"singleton": "s", "singleton_policy": "perhaps"}, "singleton_policy"),
    ({"singleton_policy": "skip"}, "singleton_policy"),
    ({"debounce_seconds": 0}, "debounce_seconds"),
    ({"debounce_seconds": "5"}, "debounce_seconds"),
    ({"debounce_seconds": True}, "debounce_seconds"),
    ({"debounce_seconds": nan}, "debounce_seconds"),
    ({"debounce_seconds": 1, "debounce_key": ""}, "debounce_key"),
    ({"debounce_seconds": 1, "debounce_key": 5}, "debounce_key"),
    ({"debounce_seconds": 5, "debounce_max_seconds": 1}, "debounce_max_seconds"),
    ({"debounce_seconds": 5, "debounce_max_seconds": "9"}, "debounce_max_seconds"),
    ({"debounce_key": "k"}, "debounce_key"),
    ({"debounce_max_seconds": 5}, "debounce_max_seconds"),
    ({"debounce_seconds": 1, "idempotency_key": "k"}, "debounce_seconds and idempotency_key"),
    ({"debounce_seconds": 1, "start_after": 5}, "debounce_seconds"),
    ({"debounce_seconds": 1, "start_at": LATER}, "debounce_seconds"),
    ({"debouncing": 1}, "debouncing"),
]


@pytest.mark.anyio
async def test_calls(tmp_path: Path) -> None:
    """What a call is told that makes no sense is refused by each way to start a run, and nothing is created."""
    in_batches = BatchWorkflowInput.model_fields.keys() - {"id", "payload"}
    async with Polos(data_dir=tmp_path) as polos:
        for given, named in CALLS:
            with pytest.raises((ValueError, TypeError), match=named):
                await polos.invoke("refusing", {}, **given)
            if given != {"queue_name": ""} and "queue_concurrency_limit" not in given:  # these it says otherwise
                renamed = {"queue" if name == "queue_name" else name: value for name, value in given.items()}
                with pytest.raises((ValueError, TypeError), match=named):
                    await refusing.invoke(polos, {}, **renamed)
            if given.keys() <= in_batches:
                with pytest.raises((ValueError, TypeError), match=named.split()[0]):  # Pydantic has words of its own
                    await batch_invoke(polos, [BatchWorkflowInput(id="refusing", payload={}, **given)])
        for workflow_id in ("", 5, *ODD):
            with pytest.raises((ValueError, TypeError), match="workflow_id"):
                await polos.invoke(workflow_id, {})  # type: ignore[arg-type]  # that is what is tried

        assert 0 == sum((await polos.count_executions()).values())


SCHEDULES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"workflow": ""}, ValueError, "workflow"),
    ({"workflow": "nobody"}, CommandRefused, "'nobody'"),
    ({"workflow": "refusing"}, CommandRefused, "'refusing'"),
    ({"cron": 5}, TypeError, "cron"),
    ({"cron": "0 0 31 2 *"}, ValueError, "cron"),
    ({"timezone": "Mars/Olympus"}, ValueError, "timezone"),
    ({"key": "a\nb"}, ValueError, "key"),
    ({"overlap": "perhaps"}, ValueError, "overlap"),
    ({"catch_up_seconds": -1}, ValueError, "catch_up_seconds"),
    ({"jitter_seconds": 10**12}, ValueError, "jitter_seconds"),
]


@pytest.mark.anyio
async def test_schedules_and_queues_at_run_time(tmp_path: Path) -> None:
    """What is said of schedules and queues while the engine runs is refused in the same words."""
    async with Polos(data_dir=tmp_path) as polos:
        for given, kind, named in SCHEDULES:
            with pytest.raises(kind, match=named):
                await schedules.create(polos, **{"workflow": "refusing_scheduled", "cron": "@daily", **given})
        for act in (schedules.pause, schedules.resume, schedules.delete, schedules.trigger):
            for wrong, kind in (("", ValueError), (5, TypeError), ("nobody:global", UnknownSchedule)):
                with pytest.raises(kind):
                    await act(polos, wrong)  # type: ignore[arg-type]  # that is what is tried
        made = await schedules.create(polos, "refusing_scheduled", "@daily")
        for from_, to, kind in (("2026", "2027", TypeError), (LATER, datetime(2026, 1, 1, tzinfo=UTC), CommandRefused)):
            with pytest.raises(kind):
                await schedules.backfill(polos, made, from_, to)  # type: ignore[arg-type]  # that is what is tried
        for limits in ({"concurrency_limit": -1}, {"max_queued": "1"}, {"rate_limit": 5}, {"key_concurrency_limit": 0}):
            with pytest.raises((ValueError, TypeError), match=next(iter(limits))):
                await queues.configure(polos, "q", **limits)
        for name in ("", 5, *ODD):
            with pytest.raises((ValueError, TypeError), match="name"):
                await queues.pause(polos, name)  # type: ignore[arg-type]

        assert [made] == [one.id for one in schedules.list(polos, "refusing_scheduled")]


def test_a_system_without_zones_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the operating system has no zone database the refusal names the package; UTC needs none."""
    monkeypatch.setattr(cron_module, "available_timezones", set)
    with pytest.raises(ValueError, match=r"timezone .* `pip install tzdata`"):
        cron_of("* * * * *", "Europe/Nowhere")

    assert "UTC" == cron_of("7 3 * * *", "UTC").timezone
