"""What each record shows in a stream, and under which number."""

from __future__ import annotations

from typing import Any

import pytest
from polos.engine import events as e
from polos.runtime.public_events import RunInfo, position_of, public_events, sequence_id
from polos.store.log import Position, Record, Version

from tests.histories import START_US, run_id

A, B = run_id(1), run_id(2)
BROKEN = e.Failure(type="ValueError", message="no card")
TREE = f"workflow/order/{A}"

INFO = RunInfo(run=A, handle=A, workflow="order", kind="workflow", root=A, root_workflow="order")
CHILD = RunInfo(run=B, handle=B, workflow="ship", kind="agent", root=A, root_workflow="order")
META = {"execution_id": A, "workflow_id": "order"}
CHILD_META = {"execution_id": B, "workflow_id": "ship"}
RECORD = Record(
    position=Position(7),
    stream=f"run/{A}",
    version=Version(1),
    type="",
    schema_version=1,
    time_us=START_US,
    payload=b"",
)


@pytest.mark.parametrize(
    ("info", "event", "shown"),
    [
        (INFO, e.RunStarted(attempt=1), ("workflow_start", {"payload": "in", "_metadata": META})),
        (CHILD, e.RunStarted(attempt=1), ("agent_start", {"payload": "in", "_metadata": CHILD_META})),
        (INFO, e.RunCompleted(cause=1, result=0), ("workflow_finish", {"result": 0, "_metadata": META})),
        (
            CHILD,
            e.RunFailed(cause=1, error=BROKEN),
            ("agent_failed", {"error": "no card", "error_type": "ValueError", "_metadata": CHILD_META}),
        ),
        (INFO, e.RunCancelled(cause=1, by="ann"), ("workflow_cancelled", {"cancelled_by": "ann", "_metadata": META})),
        (
            INFO,
            e.StepScheduled(cause=1, name="pay#2", function="shop.pay", digest="d"),
            ("step_start", {"step_key": "pay#2", "step_type": "run", "data": {"func": "shop.pay"}, "_metadata": META}),
        ),
        (
            INFO,
            e.StepCompleted(name="pay", attempt=1, value=None),
            ("step_finish", {"step_key": "pay", "step_type": "run", "data": {"result": None}, "_metadata": META}),
        ),
        (
            INFO,
            e.StepResolved(name="pay", outcome="completed", by="ann", value=3),
            ("step_finish", {"step_key": "pay", "step_type": "run", "data": {"result": 3}, "_metadata": META}),
        ),
        (
            INFO,
            e.StepFailed(name="pay", attempt=3, error=BROKEN),
            (
                "step_failed",
                {
                    "step_key": "pay",
                    "step_type": "run",
                    "data": {"error": "no card", "error_type": "ValueError"},
                    "_metadata": META,
                },
            ),
        ),
        (
            CHILD,
            e.WaitStarted(cause=1, name="ok#2", kind="suspend", key="ok", data={"sum": 3}),
            (
                "suspend_ok",
                {
                    "sum": 3,
                    "_approval_url": f"http://here/approve/{A}/ok",
                    "_metadata": {**CHILD_META, "step_key": "ok#2"},
                },
            ),
        ),
        (INFO, e.WaitStarted(cause=1, name="ok", kind="suspend", key="ok", data=[1]), ("suspend_ok", [1])),
        (INFO, e.WaitSatisfied(name="ok#2", kind="suspend", key="ok", data={"yes": 1}), ("resume_ok", {"yes": 1})),
        (INFO, e.EventPublished(topic="orders", data={"n": 1}, event_type="new", event_id="e1"), ("new", {"n": 1})),
        (None, e.EventPublished(topic="orders", event_id="e1"), (None, {})),
    ],
)
def test_what_a_record_shows(info: RunInfo | None, event: e.Event, shown: tuple[str | None, Any]):
    """Each kind of record that programs know shows one public event of the documented form."""
    (found,) = public_events(RECORD, event, info, api_url="http://here", payload="in")

    assert shown == (found.event_type, found.data)
    assert (7 * 4096, "2026-01-01T00:00:00.000000+00:00") == (found.sequence_id, found.created_at)
    topic, event_id = ("orders", "e1") if isinstance(event, e.EventPublished) else (TREE, "7-0")
    assert (topic, event_id) == (found.topic, found.id)


@pytest.mark.parametrize(
    "event",
    [
        e.RunStarted(attempt=2),
        e.RunRetried(cause=1, attempt=1, error=BROKEN, due_us=1),
        e.RunContinued(cause=1, successor=B, workflow="order"),
        e.StepAttemptFailed(name="pay", attempt=1, error=BROKEN, due_us=1),
        e.StepResolved(name="pay", outcome="not_done", by="ann"),
        e.ResultReused(cause=1, name="pay", version=1),
        e.WaitStarted(cause=1, name="t", kind="topic", key="orders"),
        e.WaitSatisfied(name="t", kind="topic", key="orders"),
        e.SignalReceived(kind="suspend", key="ok", signal_id="s"),
        e.TimerFired(name="nap"),
        e.StateChanged(cause=1),
        e.InboxConsumed(command_id="c", outcome="accepted"),
    ],
)
def test_what_shows_nothing(event: e.Event):
    """Bookkeeping, and whatever no program was promised, isn't shown."""
    assert [] == public_events(RECORD, event, INFO)
    assert [] == public_events(RECORD, event, None)


def test_a_chunk_shows_its_deltas():
    """Each delta of a chunk is an event with a number of its own within the record."""
    chunk = e.StreamChunk(
        name="llm",
        attempt=1,
        first_index=5,
        deltas=({"event_type": "text_delta", "content": "a"}, {"event_type": "tool_call", "tool_call": {}}),
    )
    known = {"step": "llm", "step_key": "llm", "attempt": 1, "_metadata": META}

    assert [
        (7 * 4096, "text_delta", {**known, "chunk_index": 5, "content": "a"}),
        (7 * 4096 + 1, "tool_call", {**known, "chunk_index": 6, "tool_call": {}}),
    ] == [(event.sequence_id, event.event_type, event.data) for event in public_events(RECORD, chunk, INFO)]


def test_numbers_name_their_record():
    """A sequence id is position and place; the position can be had back."""
    assert (9 * 4096 + 3, 9) == (sequence_id(9, 3), position_of(sequence_id(9, 3)))
