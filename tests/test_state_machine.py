"""The transition tables: walked over their full cross product, and the page that shows them."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from polos.engine import events as e
from polos.engine.diagram import render
from polos.engine.evolve import IllegalHistory, evolve
from polos.engine.state import ENDED, OP_TRANSITIONS, RUN_TRANSITIONS, OpKind, OpStatus, Phase, RunState

# What brings a run into each phase.
_CREATED = e.RunCreated(workflow="w", root="r", root_workflow="w")
_STARTED = e.RunStarted(attempt=1)
_FAILURE = e.Failure(type="ValueError", message="no")
_WAYS: dict[Phase, list[e.Event]] = {
    Phase.ABSENT: [],
    Phase.QUEUED: [_CREATED],
    Phase.ACTIVE: [_CREATED, _STARTED],
    Phase.BACKOFF: [_CREATED, _STARTED, e.RunRetried(cause=2, attempt=1, error=_FAILURE, due_us=5)],
    Phase.CANCELLING: [_CREATED, _STARTED, e.CancelRequested(by="x", grace_due_us=9)],
    Phase.COMPLETED: [_CREATED, _STARTED, e.RunCompleted(cause=2)],
    Phase.FAILED: [_CREATED, _STARTED, e.RunFailed(cause=2, error=_FAILURE)],
    Phase.CANCELLED: [_CREATED, _STARTED, e.RunCancelled(cause=2, by="x")],
    Phase.CONTINUED: [_CREATED, _STARTED, e.RunContinued(cause=2, successor="s", workflow="w")],
}

_SAMPLES: dict[type[Any], dict[str, Any]] = {
    e.RunCreated: {"workflow": "w", "root": "r", "root_workflow": "w"},
    e.MessageOwed: {"message": {"id": "m", "kind": "resume", "target": "t", "body": {}}},
    e.RunForked: {"origin": "o", "at": 1},
    e.StreamChunk: {"first_index": 0},
}


def sample(kind: type[Any]) -> e.Event:
    """Make some event of a type, about a request named "x"."""
    given = dict(_SAMPLES.get(kind, {}))
    for spec in dataclasses.fields(kind):
        if spec.name in given or spec.default is not dataclasses.MISSING:
            continue
        if spec.default_factory is not dataclasses.MISSING:
            continue
        text = str(spec.type)
        given[spec.name] = _FAILURE if "Failure" in text else 1 if "int" in text else False if "bool" in text else "x"
    event: e.Event = kind(**given)
    return event


def in_phase(phase: Phase) -> RunState:
    """Bring a run into a phase."""
    state = RunState(run="r")
    for event in _WAYS[phase]:
        evolve(state, event, time_us=1)

    assert phase is state.phase
    return state


@pytest.mark.parametrize("phase", list(Phase))
def test_what_a_phase_doesnt_allow_raises_and_changes_nothing(phase: Phase) -> None:
    """Every event that the table lacks for a phase is refused, and the run stays what it was."""
    refused = [kind for kind in e.EVENTS.values() if kind not in RUN_TRANSITIONS[phase]]
    for kind in refused:
        state = in_phase(phase)
        before = copy.deepcopy(state)
        with pytest.raises(IllegalHistory):
            evolve(state, sample(kind), time_us=2)

        assert before == state

    assert refused


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in ENDED])
def test_what_a_phase_allows_leads_where_the_table_says(phase: Phase) -> None:
    """Events about the run as a whole move it as the table says."""
    for kind, target in RUN_TRANSITIONS[phase].items():
        if _is_about_a_request(kind):
            continue
        state = in_phase(phase)
        evolve(state, sample(kind), time_us=2)

        assert target is state.phase


def _is_about_a_request(kind: type[Any]) -> bool:
    return any(kind in row for table in OP_TRANSITIONS.values() for row in table.values())


_OPENINGS: dict[OpKind, e.Event] = {
    OpKind.STEP: e.StepScheduled(cause=2, name="x", function="f", digest="d"),
    OpKind.TIMER: e.TimerStarted(cause=2, name="x", due_us=7),
    OpKind.WAIT: e.WaitStarted(cause=2, name="x", kind="suspend", key="x"),
    OpKind.CHILD: e.ChildStarted(cause=2, name="x", child="c", workflow="w", wanted=True),
}
_STEP_WAYS: dict[OpStatus, list[e.Event]] = {
    OpStatus.OPEN: [],
    OpStatus.STARTED: [e.StepAttemptStarted(name="x", attempt=1)],
    OpStatus.BACKOFF: [e.StepAttemptFailed(name="x", attempt=1, error=_FAILURE, due_us=3)],
    OpStatus.UNKNOWN: [
        e.StepAttemptStarted(name="x", attempt=1),
        e.StepOutcomeUnknown(name="x", attempt=1, reason="r"),
    ],
}


@pytest.mark.parametrize("kind", list(OpKind))
def test_requests_move_along_their_table_and_no_other_way(kind: OpKind) -> None:
    """Each status of each kind of request takes exactly the events of its row."""
    closers = {event for table in OP_TRANSITIONS.values() for row in table.values() for event in row}
    closers -= {type(opening) for opening in _OPENINGS.values()}
    for status, row in OP_TRANSITIONS[kind].items():
        if status is OpStatus.NEW:
            continue
        for event_type in closers:
            state = in_phase(Phase.ACTIVE)
            for event in [_OPENINGS[kind], *(_STEP_WAYS[status] if kind is OpKind.STEP else [])]:
                evolve(state, event, time_us=1)
            if event_type not in row:
                before = copy.deepcopy(state)
                with pytest.raises(IllegalHistory):
                    evolve(state, sample(event_type), time_us=2)

                assert before == state
                continue
            evolve(state, sample(event_type), time_us=2)
            left = state.ops["x"].status if "x" in state.ops else OpStatus.CLOSED

            assert row[event_type] is left


def test_the_page_shows_the_tables(root: Path) -> None:
    """docs/state-machine.md is what the tables give."""
    assert (root / "docs" / "state-machine.md").read_text(encoding="utf-8") == render()
