"""
What a history means to today's code: folded, shown, replayed.

`told` is what is kept of it in `expected.json` and compared ever after. Of a run's state only what has a name in the
glossary is kept, as plain JSON; the fields of `RunState` are ours to change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.evolve import evolve
from polos.engine.projections import RUN_PREFIX, Rows, fold_rows
from polos.engine.state import RunState
from polos.replay.driver import Driver
from polos.runtime.bodies import Bodies
from polos.runtime.loading import Stored, input_of, replay
from polos.runtime.public_events import RunInfo, public_events
from polos.runtime.unit import Resident
from polos.store.log import Record
from polos.testing.replays import differences_of
from polos.testing.simulation import Simulation

from tests.golden.form import Case
from tests.property.replaying import attempts

__all__ = ["fold", "replayed", "rows_of", "told"]

_ASKS = "polos.agents.models.call_model"  # as it is recorded


def rows_of(records: Iterable[Record]) -> Rows:
    """Give the rows of a log."""
    return fold_rows((found.stream, decode(found.type, found.schema_version, found.payload), found.time_us)
                     for found in records)  # fmt: skip


def told(case: Case) -> dict[str, Any]:
    """Give what a history says, as JSON."""
    records = case.records()
    runs = {run: fold(run, history) for run, history in case.histories().items()}
    rows = sorted(rows_of(records).items(), key=lambda row: tuple(map(str, row[0])))
    return {
        "rows": [[list(key), value.decode()] for key, value in rows],
        "runs": {run: _state(state) for run, state in runs.items()},
        "stream": [shown for record in records for shown in _shown(record, runs, case)],
    }


def fold(run: str, history: Iterable[Stored]) -> RunState:
    """Fold a run's stream."""
    state = RunState(run=run)
    for event, time_us, _ in history:
        evolve(state, event, time_us=time_us)
    return state


def _state(state: RunState) -> dict[str, Any]:
    return {
        "phase": str(state.phase),
        "version": state.version,
        "attempt": state.attempt,
        "aside": state.aside,
        "state": state.state_value,
        "open": {name: [str(op.kind), str(op.status), op.attempt] for name, op in state.ops.items()},
        "finished": dict(state.finished),
        "patches": dict(state.patches),
        "kept": {
            f"{kind} {key}": [signal.id for signal in kept] for (kind, key), kept in state.signals.items() if kept
        },
        "children": dict(state.children),
        "owed": [[str(debt.kind), debt.name, debt.due_us, debt.attempt] for debt in state.owed.values()],
    }


def _shown(record: Record, runs: dict[str, RunState], case: Case) -> list[Any]:
    event = decode(record.type, record.schema_version, record.payload)
    state = runs.get(record.stream.removeprefix(RUN_PREFIX)) if record.stream.startswith(RUN_PREFIX) else None
    info = payload = None
    if state is not None:
        info = RunInfo(
            run=state.run,
            handle=state.chain or state.run,
            workflow=state.workflow,
            kind=state.kind,
            root=state.root,
            root_workflow=state.root_workflow,
        )
        created = case.histories()[state.run][0][0]
        assert isinstance(created, e.RunCreated), "a run's stream begins with its creation"
        payload = created.input
    return [
        [shown.sequence_id, shown.id, shown.topic, shown.event_type, shown.data]
        for shown in public_events(record, event, info, payload=payload)
    ]


def replayed(case: Case) -> dict[str, Any]:
    """
    Replay every attempt of every run of a case on its code.

    Returns:
        For each run, attempt by attempt: what the code asked for after each fact, what it asked for in another way
        than is recorded, and how it ended. Nothing in it depends on where or under which Python it was replayed.

    Raises:
        Divergence: the code asks for something else than what is recorded.
    """
    workflows = {workflow.id: workflow for workflow in case.workflows}
    found: dict[str, Any] = {}
    # The engine lends its bodies and never starts: nothing can be appended.
    sim = Simulation([])
    sim.start()
    sim.engine.bodies = Bodies(workflows.get)
    try:
        for run, history in case.histories().items():
            created = history[0][0]
            assert isinstance(created, e.RunCreated), "a run's stream begins with its creation"
            if workflows[created.workflow].direct:
                continue  # not replayed: it looks up what is finished, when it begins anew
            found[run] = [_attempt(sim, run, start, events) for start, events in attempts(history)]
    finally:
        sim.crash()
    return found


def _attempt(sim: Simulation, run: str, start: int, history: list[Stored]) -> dict[str, Any]:
    resident = Resident(fold(run, history[:start]), durable=start)
    created = history[0][0]
    assert isinstance(created, e.RunCreated), "a run's stream begins with its creation"
    resident.input = input_of(event for event, _, _ in history)
    code: Any = sim.engine.bodies.make(sim.engine, resident, python=None)
    if code._earlier is not None:
        code._earlier = replace(code._earlier, event=lambda version: history[version - 1][0])  # there is no log to read
    asked: list[Any] = []
    settle = Driver._settle

    def note(code: Driver) -> Any:
        names = [
            f"{type(item.request.event).__name__} {getattr(item.request.event, 'name', '')}" for item in code._asked
        ]
        asked.append([code.cause, names])
        return settle(code)

    # What a model is asked holds words of polos's own: how to shorten a talk, to judge by a rule, to use a tool. They
    # may be improved; whoever replays a run is told, and goes on.
    worded = {event.name for event, _, _ in history if isinstance(event, e.StepScheduled) and event.function == _ASKS}
    differences = differences_of(code)
    try:
        with patch.object(Driver, "_settle", note):
            unseen = replay(code, history, attempt_version=start)
        return {
            "asked": asked,
            "differences": [str(one) for one in differences if not (one.what == "digest" and one.name in worded)],
            "unseen": [fact.version for fact in unseen],
            "end": None if code.outcome is None else _end(code._finish(code.outcome, code.cause).event),
            "recorded": _recorded_end(history),
        }
    finally:
        code.discard()


_ENDS = (e.RunCompleted, e.RunFailed, e.RunCancelled, e.RunRetried, e.RunContinued)


def _recorded_end(history: list[Stored]) -> list[Any] | None:
    """Give how the code ended, as it is recorded; None if it didn't, or wasn't asked."""
    for event, _, _ in reversed(history):
        if isinstance(event, _ENDS):
            return _end(event) if event.cause else None
    return None


def _end(event: e.Event) -> list[Any]:
    match event:
        case e.RunCompleted():
            return ["completed", event.result, event.result_type]
        case e.RunFailed() | e.RunRetried():
            # Whether another attempt followed was decided at the time, with the time of then.
            return ["failed", event.error.type, event.error.message]
        case e.RunContinued():
            return ["continued", event.workflow, event.input]
        case _:
            return [type(event).__name__]
