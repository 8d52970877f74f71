"""
The current code against a recorded run: the assertion that tests make.

Nothing is performed: no function of a step is called, nothing is sent, no network and no key is needed. What differs is
told in one message (`polos.testing.differences`); how it is found stands in `polos.testing.recorded_history`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from polos import registry
from polos.definition import Workflow
from polos.errors import PolosUsageError
from polos.testing import differences as d
from polos.testing.accepting import ACCEPTING, REWRITTEN
from polos.testing.comparing import Comparer
from polos.testing.recorded import BadRecording, RecordedRun
from polos.testing.recorded_history import History

__all__ = ["assert_replays", "differences"]

__tracebackhide__ = True  # pytest shows the test's own lines, and the differences


def assert_replays(
    recording: str | os.PathLike[str] | RecordedRun,
    workflow: Workflow[Any],
    *,
    comparers: Mapping[type[Any], Comparer] | None = None,
) -> None:
    """
    Run the current code of a workflow against a recorded run: it must do what the recording says.

    An example stands at `RecordedRun`.

    No function of a step is called and nothing is written but, with `pytest --polos-accept`, the recording: it takes
    over what the code does now if nothing has to be invented for it, and stays as it is otherwise.

    Args:
        recording: a file written by `polos test record`, or what it holds.
        workflow: the workflow whose code is run. The workflows of recorded children are looked up by their ids.
        comparers: by types of events, more ways to compare; see `polos.testing.comparing`.

    Raises:
        RunDiffers: the code differs; lists every difference that was found.
        BadRecording: the file isn't a whole recorded run, or is one of another workflow.
        PolosUsageError: it is no workflow, or its body isn't deterministic, so that it is never replayed.
    """
    if not isinstance(cast("object", workflow), Workflow):
        raise PolosUsageError(f"assert_replays takes a workflow, made with `@workflow`; this is {workflow!r}")
    loaded = recording if isinstance(recording, RecordedRun) else RecordedRun.load(recording)
    where = "the recording" if isinstance(recording, RecordedRun) else os.fspath(recording)
    accepting = ACCEPTING.get() and not isinstance(recording, RecordedRun)
    if not loaded.sealed and not accepting:
        raise BadRecording(
            f"{where} was edited: its records aren't those of its digest. Record it again, or, if the edit is meant, "
            f"have it sealed by `pytest --polos-accept`"
        )
    if loaded.workflow != workflow.id:
        raise BadRecording(f"{where} is a run of {loaded.workflow!r}, not of {workflow.id!r}")
    found = differences(loaded, workflow, comparers=comparers)
    if accepting and (found or not loaded.sealed) and all(item.accepted is not None for item in found):
        changed = _accepted(loaded, found)
        found = differences(changed, workflow, comparers=comparers)
        if not found:
            changed.save(Path(cast("Any", recording)))
            REWRITTEN.append(where)
            return
    if found:
        raise d.RunDiffers(where, workflow.id, found)


def differences(
    recording: RecordedRun, workflow: Workflow[Any], *, comparers: Mapping[type[Any], Comparer] | None = None
) -> list[d.Difference]:
    """Give what differs, in the order of the history; arguments and errors as for `assert_replays`."""

    def find(name: str) -> Workflow[Any] | None:
        return workflow if name == workflow.id else registry.get_workflow(name)

    def compare() -> list[d.Difference]:
        history = History(recording, find, comparers or {})
        runs = dict.fromkeys([recording.run, *recording.runs()])
        return [difference for run in runs for difference in history.of(run)]

    return _off_the_loop(compare)


def _off_the_loop(work: Callable[[], list[d.Difference]]) -> list[d.Difference]:
    """Do something where no event loop runs: the code of a workflow can't be entered from a task."""
    if not _on_a_loop():
        return work()
    found: list[d.Difference] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.extend(work())
        except BaseException as error:  # noqa: BLE001  # it is raised again on the thread that asked
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _accepted(recording: RecordedRun, found: Iterable[d.Difference]) -> RecordedRun:
    """Put what the code does now in the place of what is recorded."""
    events = {(item.run, item.version): item.accepted for item in found if item.accepted is not None}
    return replace(
        recording,
        sealed=True,
        records=tuple(
            record if (event := events.get((record.run, record.version))) is None else record.having(event)
            for record in recording.records
        ),
    )
