"""
What a data directory must show after whatever happened to it, beside the ledger of what really happened.

Each check is a function on a `Found` that raises AssertionError, named by the promise it holds the engine to. The
crash tests use them after their kills, and the controls use the same ones on engines that break those promises on
purpose; a check that no control makes fail would be decoration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import RUN_PREFIX, Rows, fold_rows
from polos.store.check import verify
from polos.store.directory import open_store
from polos.store.log import Log, Record

from tests.crash.ledger import Excerpt, Ledger, short
from tests.crash.load import answer_to

__all__ = [
    "CHECKS",
    "Found",
    "answers_stand",
    "at_most_once",
    "called_before_recorded",
    "commands_decided_once",
    "ended",
    "every_run_ended",
    "find",
    "findings",
    "fold",
    "recorded_came_from_a_call",
    "results_add_up",
    "rows_are_the_fold",
    "steps_complete_once",
    "store_is_sound",
    "time_never_goes_back",
]

Stored = tuple[e.Event, int]  # event and position


@dataclass(frozen=True, slots=True)
class Found:
    """
    What was found in a directory.

    Attributes:
        directory: where.
        ledger: what really happened.
        runs: each run's events.
        inbox: outcomes of inbox commands, by command id.
        rows: the rows of the log.
        folded: the rows it must have.
        pending: ids of commands still in the inbox.
        times: of the records of each stream, in their order.
    """

    directory: Path
    ledger: Ledger | Excerpt
    runs: dict[str, list[Stored]]
    inbox: list[tuple[str, str]]
    rows: dict[Any, bytes]
    folded: Rows
    pending: tuple[str, ...]
    times: dict[str, list[int]]

    def events(self, *kinds: type[Any]) -> Iterator[tuple[str, Any, int]]:
        """Give run, event and position of the events of these kinds."""
        for run, stored in self.runs.items():
            for event, position in stored:
                if isinstance(event, kinds):
                    yield run, event, position

    def created(self, run: str) -> e.RunCreated:
        """Give what a run was created with."""
        event = self.runs[run][0][0]
        assert isinstance(event, e.RunCreated), "a run begins with its creation"
        return event


def fold(records: Iterable[Record]) -> Iterator[tuple[Any, bytes]]:
    """Give the rows that records fold to, as `polos.store.check.verify` wants them."""
    events = (
        (record.stream, decode(record.type, record.schema_version, record.payload), record.time_us)
        for record in records
    )
    yield from fold_rows(events).items()


def find(directory: Path) -> Found:
    """Read a directory that nobody owns; run it in a child if the test's own process opens stores."""
    store = open_store(directory / "data", read_only=True)
    try:
        return findings(directory, store.log, tuple(item.command_id for item in store.inbox.pending()))
    finally:
        store.close()


def findings(directory: Path, log: Log, pending: tuple[str, ...] = ()) -> Found:
    """Give what a log and the ledger of a directory say."""
    runs: dict[str, list[Stored]] = {}
    inbox: list[tuple[str, str]] = []
    times: dict[str, list[int]] = {}

    def told() -> Iterator[tuple[str, e.Event, int]]:
        for record in reader.records():
            event = decode(record.type, record.schema_version, record.payload)
            times.setdefault(record.stream, []).append(record.time_us)
            if record.stream.startswith(RUN_PREFIX):
                runs.setdefault(record.stream.removeprefix(RUN_PREFIX), []).append((event, int(record.position)))
            elif isinstance(event, e.InboxConsumed):
                inbox.append((event.command_id, event.outcome))
            yield record.stream, event, record.time_us

    with log.reader() as reader:
        folded = fold_rows(told())
        rows = dict(reader.rows())
    return Found(
        directory=directory,
        ledger=Ledger(directory),
        runs=runs,
        inbox=inbox,
        rows=rows,
        folded=folded,
        pending=pending,
        times=times,
    )


_ENDS = (e.RunCompleted, e.RunFailed, e.RunCancelled, e.RunContinued)


def ended(found: Found) -> dict[str, Any]:
    """Give the event that ended each run that ended."""
    return {run: event for run, event, _ in found.events(*_ENDS)}


def _once_keys(found: Found) -> set[str]:
    return {f"{run}/{event.name}" for run, event, _ in found.events(e.StepScheduled) if event.effect == "at_most_once"}


def _completions(found: Found) -> dict[str, tuple[Any, int]]:
    return {f"{run}/{event.name}": (event.value, at) for run, event, at in found.events(e.StepCompleted)}


# ------------------------------------------------------------------------------------------ the checks


def steps_complete_once(found: Found) -> None:
    """E3: a step completes at most once."""
    kinds = (e.StepCompleted, e.StepFailed, e.StepResolved)
    ends = Counter(
        (run, event.name)
        for run, event, _ in found.events(*kinds)
        if not (isinstance(event, e.StepResolved) and event.outcome == "not_done")
    )

    assert {} == {step: count for step, count in ends.items() if count > 1}, "a step ended twice"


def called_before_recorded(found: Found) -> None:
    """A step is never called once its completion is recorded (E8), nor before its intent is, unless it is pure."""
    completed = _completions(found)
    intents = [(f"{run}/{event.name}", event, at) for run, event, at in found.events(e.StepScheduled)]
    scheduled = {key: 0 if event.effect == "pure" else at for key, event, at in reversed(intents)}
    late, early = [], []
    for line in found.ledger.lines("call"):
        head = line.more
        if line.key in completed and head >= completed[line.key][1]:
            late.append((line.key, head, completed[line.key][1]))
        if head < scheduled.get(line.key, head + 1):
            early.append((line.key, head, scheduled.get(line.key)))

    assert [] == late, "called after their completion was recorded"
    assert [] == early, "called before their intent was recorded"


def recorded_came_from_a_call(found: Found) -> None:
    """Each recorded result is what a call of that very step gave: at least once, and nothing made up."""
    done = {(line.key, line.more) for line in found.ledger.lines("done")}

    made_up = [key for key, (value, _) in _completions(found).items() if (key, short(value)) not in done]
    assert [] == made_up, f"recorded, and given by no call: {made_up}"


def at_most_once(found: Found) -> None:
    """A step that may be called at most once was."""
    calls = Counter(line.key for line in found.ledger.lines("call"))

    twice = {key: calls[key] for key in _once_keys(found) if calls[key] > 1}
    assert {} == twice, f"called more than once: {twice}"


def every_run_ended(found: Found) -> None:
    """Every run ended, and well; nothing is left in the inbox."""
    ends = ended(found)

    others = {run: ends.get(run) for run in found.runs if not isinstance(ends.get(run), e.RunCompleted)}
    assert {} == others, f"runs that didn't complete: {others}"
    assert () == found.pending, "commands are left in the inbox"


def answers_stand(found: Found) -> None:
    """What a caller was told is in the log: runs created, answers taken, results given, outcomes resolved."""
    ends = ended(found)
    answered = {run: event.data for run, event, _ in found.events(e.WaitSatisfied) if event.kind == "suspend"}
    kept = {run: event.data for run, event, _ in found.events(e.SignalReceived)}
    resolved = {f"{run}/{event.name}" for run, event, _ in found.events(e.StepResolved)}
    completed = _completions(found)
    lost: list[tuple[str, str]] = []
    for line in found.ledger.lines("created", "answered", "ended", "resolved", "told"):
        match line.kind:
            case "created":
                stands = line.key in found.runs
            case "answered":
                stands = short(answered.get(line.key, kept.get(line.key))) == line.more
            case "ended":
                stands = line.key in ends and short(getattr(ends[line.key], "result", None)) == line.more
            case "resolved":
                stands = line.key in resolved
            case _:
                stands = line.key in completed and short(completed[line.key][0]) == line.more
        if not stands:
            lost.append((line.kind, line.key))

    assert [] == lost, f"callers were told what isn't in the log: {lost}"


def results_add_up(found: Found) -> None:
    """A mixed run's result is made of what is recorded of its steps and children."""
    completed = {key: value for key, (value, _) in _completions(found).items()}
    resolved = {f"{run}/{event.name}": event.value for run, event, _ in found.events(e.StepResolved)}
    for run, end in ended(found).items():
        if found.created(run).workflow != "mixed":
            continue
        for part, value in end.result.items():
            if part == "answer":
                assert answer_to(run) == value
            elif part not in ("id", "quick", "direct"):
                assert value == completed.get(f"{run}/{part}", resolved.get(f"{run}/{part}")), f"{run}: {part}"


def commands_decided_once(found: Found) -> None:
    """A command from the inbox is decided once."""
    decided = Counter(command_id for command_id, _ in found.inbox)

    twice = {command_id: count for command_id, count in decided.items() if count > 1}
    assert {} == twice, f"commands decided more than once: {twice}"


def rows_are_the_fold(found: Found) -> None:
    """L6: the rows are those that the events fold to."""
    missing = {key for key, value in found.folded.items() if found.rows.get(key) != value}

    wrong = missing | (found.rows.keys() - found.folded.keys())
    assert set() == wrong, f"L6: rows that aren't the fold: {wrong}"


def time_never_goes_back(found: Found) -> None:
    """
    In no stream does recorded time go back, whatever the clock does.

    In the log as a whole it may: a unit whose payload is written as a blob first is overtaken by others.
    """
    back = [stream for stream, times in found.times.items() if sorted(times) != times]
    assert [] == back, f"time goes back in {back}"


def store_is_sound(found: Found) -> None:
    """Chain, versions, index, blobs and rows are as they were written and as they should be, says `verify`."""
    report = verify(found.directory / "data", fold="tests.crash.engine_checks:fold")

    assert None is report.damage, f"damaged: {report.damage}"


Check = Callable[[Found], None]

# In the order in which they say most about what is wrong.
CHECKS: tuple[Check, ...] = (
    called_before_recorded,
    steps_complete_once,
    at_most_once,
    recorded_came_from_a_call,
    answers_stand,
    commands_decided_once,
    rows_are_the_fold,
    time_never_goes_back,
    every_run_ended,
    results_add_up,
    store_is_sound,
)
