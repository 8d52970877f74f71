"""
What a root run is created with.

Filled in here, by the client, is what the caller left out and this process knows: the defaults of the
workflow, if it is registered here, and session and user of the surrounding run, if there is one. What
an engine in another process knows it fills in itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Unpack, cast

from polos.checking import name, optional_name, optional_text, positive, tags_of
from polos.children import encode_initial_state
from polos.clock import Clock, RunIds
from polos.context import current_context
from polos.engine import events as e
from polos.engine.json import Json
from polos.errors import ValueRefused
from polos.once import Once, once_fields
from polos.registry import get_workflow
from polos.values import encode

__all__ = ["recorded", "root_run"]

PRIORITY_MAX: Final = 2**31


def recorded(value: Any, what: str) -> Json:
    """
    Give a value as it is recorded.

    Raises:
        TypeError: it isn't JSON, and no model either.
    """
    try:
        return encode(value, what=what)[0].value
    except ValueRefused as refused:
        raise TypeError(f"the {what} isn't JSON: {refused}") from refused


def root_run(
    workflow_id: str,
    payload: Any,
    *,
    clock: Clock,
    ids: RunIds | None = None,
    deployment: str,
    session: str | None = None,
    user: str | None = None,
    initial_state: Any = None,
    seconds: float | None = None,
    queue: str | None = None,
    queue_limit: int | None = None,
    concurrency_key: str | None = None,
    priority: int = 0,
    start_after: float | None = None,
    start_at: datetime | None = None,
    tags: Sequence[str] = (),
    **once: Unpack[Once],
) -> e.RunCreated:
    """
    Give what a root run is created with; its id is that of its root, and of a session that nobody named.

    Raises:
        TypeError: the payload or the state isn't JSON, or a name is no text.
        ValueError: the state is over its limit, a name is empty or can't be written, a number isn't positive.
    """
    name("workflow_id", workflow_id)
    optional_name("queue_name", queue)
    for what, given in {"concurrency_key": concurrency_key, "deployment_id": deployment}.items():
        optional_text(what, given)
    for what, given in {"session_id": session, "user_id": user}.items():
        optional_text(what, None if given == "" else given)  # programs that have none pass an empty one
    _check_numbers(seconds, queue_limit, priority)
    tags = tags_of(tags)
    around = current_context()
    if around is not None:
        session = session or around.session_id
        user = user or around.user_id
    workflow = get_workflow(workflow_id)
    said = once_fields(once, None if workflow is None else workflow.debounce)
    if said.get("debounce_us") is not None and not (start_after is None and start_at is None):
        raise ValueError("start_after, start_at and debounce_seconds each say when a run begins; give one of them")
    if workflow is not None:
        seconds = workflow.run_timeout_seconds if seconds is None else seconds
        tags = (*workflow.tags, *(tag for tag in tags if tag not in workflow.tags))
        if queue is None:
            queue, queue_limit = workflow.queue_name, workflow.queue_concurrency_limit
    run = (ids or RunIds(clock)).new()
    return e.RunCreated(
        workflow=workflow_id,
        input=recorded(payload, "payload"),
        root=run, root_workflow=workflow_id,
        run_timeout_us=None if seconds is None else round(seconds * 1e6),
        initial_state=encode_initial_state(initial_state),
        queue=queue, queue_limit=queue_limit, concurrency_key=concurrency_key, priority=priority,
        start_after_us=_start_us(clock, start_after, start_at),
        session=session or run, user=user or None, listed=bool(session or user), tags=tags,
        deployment=deployment, kind="workflow" if workflow is None else workflow.workflow_type, **said,
    )  # fmt: skip


def _check_numbers(seconds: float | None, queue_limit: int | None, priority: int) -> None:
    positive("run_timeout_seconds", seconds)
    wrong = isinstance(queue_limit, bool) or not isinstance(cast("object", queue_limit), int)
    if queue_limit is not None and (wrong or queue_limit < 1):
        raise ValueError(f"queue_concurrency_limit must be a number from 1, it is {queue_limit!r}")
    if isinstance(priority, bool) or not isinstance(cast("object", priority), int) or abs(priority) > PRIORITY_MAX:
        raise ValueError(f"priority must be a whole number of at most {PRIORITY_MAX}, it is {priority!r}")


def _start_us(clock: Clock, start_after: float | None, start_at: datetime | None) -> int | None:
    if start_after is None and start_at is None:
        return None
    if start_after is not None and start_at is not None:
        raise ValueError("start_after and start_at say the same in two ways; give one of them")
    positive("start_after", start_after)
    if start_after is not None:
        return clock.now_us() + round(start_after * 1e6)
    if not isinstance(cast("object", start_at), datetime):
        raise TypeError(f"start_at must be a datetime, it is {start_at!r}")
    assert start_at is not None, "one of the two was given"
    moment = start_at if start_at.tzinfo is not None else start_at.replace(tzinfo=UTC)
    return max(round(moment.timestamp() * 1e6), 0)
