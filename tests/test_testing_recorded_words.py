"""What recorded runs say of slips: of who names the wrong thing, edits a file, or wants to know what was rewritten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from polos import WorkflowContext
from polos.errors import PolosUsageError
from polos.testing import differences as d
from polos.testing import plugin
from polos.testing.recorded import BadRecording, RecordedRun
from polos.testing.recorded_replay import assert_replays, differences

from tests import test_testing_recorded as kit
from tests.test_testing_recorded import Order, charge, charge_today, current, defined, first, note, other_amount, parcel

record, recording, accepting = kit.record, kit.recording, kit.accepting  # fixtures


def test_what_cannot_be_compared_is_told(recording: RecordedRun, tmp_path: Path):
    """A folder instead of a file, and a function instead of its workflow, are told as that."""
    with pytest.raises(BadRecording, match="can't be read: Is a directory"):
        RecordedRun.load(tmp_path)
    with pytest.raises(PolosUsageError, match="takes a workflow, made with `@workflow`; this is <function first"):
        assert_replays(recording, first)  # type: ignore[arg-type]  # this is the mistake


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [("RunCreated", "workflow", 7), ("StepScheduled", "cause", "x"), ("RunStarted", "attempt", True)],
)
def test_a_sealed_slip_is_told(recording: RecordedRun, kind: str, field: str, value: Any):
    """A value of another type, sealed with the rest, is a slip of who edited the file, and is named as that."""
    records = tuple(
        replace(one, fields={**one.fields, field: value}) if one.type == kind else one for one in recording.records
    )
    with pytest.raises(BadRecording, match=rf"can't be read: of a {kind} {field} can't be {value!r}"):
        assert_replays(replace(recording, records=records), current())


def test_numbers_that_no_log_has_are_told(recording: RecordedRun):
    """A cause that comes later, and a time beyond all clocks, are refused as what they are."""
    late = tuple(
        replace(one, fields={**one.fields, "cause": 99}) if one.type == "StepScheduled" else one
        for one in recording.records
    )
    with pytest.raises(BadRecording, match="record 3 is said to be caused by record 99"):
        assert_replays(replace(recording, records=late), current())

    beyond = tuple(replace(one, time_us=2**63) for one in recording.records)
    with pytest.raises(BadRecording, match="the file has a record with a number that no log has"):
        RecordedRun.from_bytes(replace(recording, records=beyond).to_bytes(), where="the file")


def test_an_end_names_its_line(recording: RecordedRun):
    """A run that fails instead of returning says where that was raised."""

    async def fails(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await first(ctx, payload)
        raise ValueError("no")

    (difference,) = differences(recording, defined(fails, state_schema=Order))

    assert d.EndChanged is type(difference)
    assert f"{__file__}:{fails.__code__.co_firstlineno + 2}" == difference.line


def test_a_default_that_was_added_is_told_as_one(recording: RecordedRun):
    """A record that can be read fits its type: what differs is how it would be written today."""

    async def today(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        receipt = await ctx.step.run("charge", charge_today, payload["cents"])
        await ctx.step.wait_for("pause", hours=1)
        ctx.state.paid = receipt.cents
        price = await ctx.step.invoke_and_wait("ship", parcel, {"weight": 3})
        await ctx.step.run("thank", note, "thanks")
        return {"paid": receipt.cents, "price": price}

    (told,) = [
        one for one in differences(recording, defined(today, state_schema=Order)) if type(one) is d.SchemaChanged
    ]

    assert "SchemaChanged: step 'charge': its type writes it as another record now" == told.lines()[0]


def test_what_was_rewritten_is_said(recording: RecordedRun, tmp_path: Path, accepting: None):
    """A run that accepts leaves the names of the files that it has rewritten, for pytest's summary, each once."""
    taken: list[tuple[str, object]] = []
    item: Any = SimpleNamespace(user_properties=taken)
    path = tmp_path / "order.json"
    recording.save(path)
    assert_replays(path, current())
    plugin.pytest_runtest_makereport(item)
    assert [] == taken

    assert_replays(path, defined(other_amount, state_schema=Order))
    plugin.pytest_runtest_makereport(item)
    plugin.pytest_runtest_makereport(item)
    assert [(plugin.REWRITTEN, str(path))] == taken


async def asked_first(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """What was recorded, behind a step that is new."""
    await ctx.step.run("look", note, "is it in stock?")
    return await first(ctx, payload)


async def said_first(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """A message that is new, which nothing waits for, and then less than was recorded."""
    await ctx.step.publish_event("tell", "orders", {})
    receipt = await ctx.step.run("charge", charge, payload["cents"])
    return {"paid": receipt.cents}


def test_nothing_behind_a_new_step_is_called_gone(recording: RecordedRun):
    """Code that waits for a new step was never seen to leave out what is recorded; that is told as not compared."""
    extra, behind = differences(recording, defined(asked_first, state_schema=Order))

    assert (d.ExtraStep, d.NotReached) == (type(extra), type(behind))
    assert extra.note.endswith("note\nthe recording has step 'charge' at this point")
    assert behind.note == "not compared: charge, pause, ship, StateChanged, thank"


def test_code_that_came_to_its_end_leaves_out_what_it_did_not_ask_for(recording: RecordedRun):
    """What is new and holds nothing up hides nothing that is gone."""
    found = differences(recording, defined(said_first, state_schema=Order))

    assert ["pause", "ship", "", "thank"] == [one.step for one in found if isinstance(one, d.MissingStep)]
    assert not [one for one in found if isinstance(one, d.NotReached)]
