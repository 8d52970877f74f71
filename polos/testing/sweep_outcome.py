"""
How a scenario ended, and whether that is how the undisturbed run ended.

Runs are compared by where they stand in the tree (the name of the step that started them), because ids say nothing; a
child's id in a result stands there as its place.
What a run recorded of time and chance stands in its result under its name, so that a result made of it can be compared
although a crash let time pass. What differs between two runs that nothing disturbed (a function that gives something
else at each call) can't tell anybody that a crash did harm: it is left out, and the report says so.

A `check` may do with an outcome as it likes, sort a list in it or take a part away, so it gets one of its own. The one
that is compared has parts of the log in it, as it was decoded once for all lives: a change there would be a change of
what is right.
"""

from __future__ import annotations

import datetime as dt
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, final

from polos.engine import events as e
from polos.engine.json import Json
from polos.engine.state import RunState, waiting_reason
from polos.engine.state import status as status_of
from polos.llm.jsonish import a_list, an_object
from polos.replay.divergence import Divergence, caller_line
from polos.runtime.bodies import Bodies
from polos.runtime.loading import input_of, replay
from polos.runtime.unit import Resident
from polos.testing.audit import Audit, Stored
from polos.testing.comparing import COMPARERS, Compared, same_record
from polos.testing.differences import ArgumentsChanged
from polos.testing.failing import Raised, RaisedElsewhere, said_by
from polos.testing.lives import Life
from polos.testing.recorded_driver import HeedingDriver
from polos.testing.replays import attempts, fold
from polos.testing.sweep_claims import Claims
from polos.testing.sweep_paths import called, is_triggered, paths_of, started_by_batches
from polos.testing.sweep_points import Left
from polos.testing.under_way import body_waits_at, waits_at

__all__ = [
    "CrashOutcome", "Execution", "cut_short", "differences", "handed_out", "outcome_of", "told_so_far", "unsteady",
]  # fmt: skip

Same = Callable[[Any, Any], object]


@final
@dataclass(slots=True, kw_only=True)
class Execution:
    """
    A run of a scenario.

    Attributes:
        path: where it stands: "" for the root, else the steps that started it, joined by slashes; for one that a
            trigger started the path of the run that published the event, an arrow, and the workflow.
        id: its id.
        workflow: its workflow.
        status: "completed", "failed", "cancelled", "continued", or what it waits for.
        result: what it returned.
        error: type and message of what it failed with.
        state: its `ctx.state` at the end.
        triggered: whether an event started it.
        compared: whether it is held against the undisturbed one. Not so if a batch of events started it, or a run that
            a batch started: after a crash the same events may come in other batches.
    """

    path: str
    id: str
    workflow: str
    status: str
    result: Any = None
    error: tuple[str, str] | None = None
    state: dict[str, Any] | None = None
    triggered: bool = False
    compared: bool = True


@final
@dataclass(slots=True, kw_only=True)
class CrashOutcome:
    """
    How a scenario ended; what `check` gets. An example stands at `CrashReport`.

    Attributes:
        status: of the run: "completed", "failed", "cancelled", or "step_outcome_unknown" if it waits for that.
        result: what it returned.
        error: type and message of what it failed with, None if it didn't.
        state: its `ctx.state`.
        calls: how often the functions of steps were called, by step; functions of tools aren't among them.
        executions: the run and its children, and what triggers made of events.
        crashes: the points at which the process died, in order.
        directory: what `setup` was given; files that steps wrote are there.
        in_process: whether its lives were lived in this process.
        problems: what is wrong with it by itself, whatever the undisturbed run did.
        untrue: what functions given as `reconcile` said, and calls of functions speak against; wrong if nobody checks.
        replayed: what its history, run once more in the process that ended it, asks for otherwise.
        unknown: whether it ended with a step, or a call of a tool, of unknown outcome that nobody resolved.
        recovery: the points that its last life reached.
        left: what a crash at each of these would leave behind, for comparing; empty if it wasn't in this process.
        cuts: how many events there were at each crash.
        claims: what functions given as `reconcile` said of calls; None if it wasn't in this process.
        raised: what `setup`, or a function in `answers`, raised, which was the end of it.
        tell: makes `events`, when somebody asks.
    """

    status: str
    result: Any = None
    error: tuple[str, str] | None = None
    state: dict[str, Any] | None = None
    calls: Counter[str] = field(default_factory=Counter[str])
    executions: list[Execution] = field(default_factory=list[Execution])
    crashes: tuple[str, ...] = ()
    directory: Path = field(default_factory=Path)
    in_process: bool = True
    problems: list[str] = field(default_factory=list[str])
    untrue: list[str] = field(default_factory=list[str])
    replayed: list[str] = field(default_factory=list[str])
    unknown: bool = False
    recovery: list[str] = field(default_factory=list[str])
    left: list[Left] = field(default_factory=list[Left])
    cuts: list[int] = field(default_factory=list[int])
    claims: Claims | None = None
    raised: BaseException | None = None
    tell: Callable[[], list[str]] | list[str] = field(default_factory=list[str])

    @property
    def events(self) -> list[str]:
        """The histories of all runs in words, one line an event, in the order of the log."""
        if callable(self.tell):
            self.tell = self.tell()
        return self.tell

    def to_json(self) -> dict[str, Any]:
        """Give what another process needs to know of it."""
        told = {name: getattr(self, name) for name in _TOLD_ELSEWHERE}
        told["raised"] = "".join(traceback.format_exception(self.raised)) if self.raised else None
        return {**told, "executions": [asdict(execution) for execution in self.executions], "tell": self.events}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> CrashOutcome:
        """Make the outcome of lives in other processes of what `to_json` gave there."""
        found = cls(**told, in_process=False)
        found.calls = Counter(found.calls)
        found.error = _error(found.error)
        found.raised = RaisedElsewhere(told["raised"]) if told["raised"] else None
        found.executions = [Execution(**run | {"error": _error(run["error"])}) for run in told["executions"]]
        return found


def handed_out(outcome: CrashOutcome) -> CrashOutcome:
    """Give an outcome to the program's code: what is changed in it is changed nowhere else."""
    executions = [replace(run, result=_copied(run.result), state=_copied(run.state)) for run in outcome.executions]
    return replace(
        outcome, result=_copied(outcome.result), state=_copied(outcome.state), calls=outcome.calls.copy(),
        executions=executions, problems=[*outcome.problems], untrue=[*outcome.untrue],
        replayed=[*outcome.replayed], cuts=[*outcome.cuts], recovery=[*outcome.recovery],
        left=[*outcome.left], tell=lambda: [*outcome.events],
    )  # fmt: skip


def _copied(value: Json) -> Any:
    """Copy what was read from JSON."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _error(told: Sequence[str] | None) -> tuple[str, str] | None:
    return None if told is None else (told[0], told[1])


_TOLD_ELSEWHERE = (
    "status",
    "result",
    "error",
    "state",
    "calls",
    "problems",
    "untrue",
    "replayed",
    "unknown",
    "recovery",
)


# ---------------------------------------------------------------------------------------- from a life


def outcome_of(life: Life) -> CrashOutcome:
    """Say how the last life of a scenario ended; the life isn't closed yet."""
    audit, root = life.audit, life.task.run
    problems = [*life.problems, *audit.violations]
    audit.violations.clear()
    problems += [f"the code diverged from its history: {event.message}" for event in audit.diverged]
    executions: list[Execution] = []
    replayed: list[str] = []
    paths = paths_of(audit, root)
    children: dict[tuple[type, Any], str] = {
        (str, run): f"<id of {called(path)}>" for run, path in paths.items() if run != root
    }
    loose = started_by_batches(audit, life.task.batched)
    for run, state in audit.states.items():
        executions.append(_execution(state, paths[run], audit.histories[run], children))
        executions[-1].compared = run not in loose
        replayed += [f"{called(paths[run])}: {text}" for text in _replayed(life, run)]
    claims = Claims(audit, life.ledger.notes, {run: called(path) for run, path in paths.items()})
    unknown = bool(life.unsaid) or any(state.unknown for state in audit.states.values())
    if unknown:
        problems += dict.fromkeys(f"{raised}\n    so its outcome stays unknown" for raised in life.unreconciled)
    if life.endless:
        problems.append("it doesn't end: it goes on and on")
    elif not unknown and not problems:
        problems += _stuck(life, paths)
    try:
        audit.check_rows()
    except AssertionError as error:
        problems.append(str(error))
    shown = next((found for found in executions if found.path == ""), None)
    end = _last(executions)
    return CrashOutcome(
        status=end.status if end else "absent",
        result=end.result if end else None,
        error=end.error if end else None,
        state=end.state if end else None,
        calls=life.ledger.by_step(),
        executions=executions if shown else [],
        tell=partial(_told, audit, paths),
        problems=problems,
        untrue=claims.untrue(),
        replayed=replayed,
        unknown=unknown,
        recovery=list(life.points.reached),
        left=list(life.points.left),
        claims=claims,
    )


def cut_short(audit: Audit, root: str, raised: Raised) -> CrashOutcome:
    """Say how a scenario ended that code of the program put an end to, by raising where no engine hears it."""
    tell = partial(_told, audit, paths_of(audit, root))
    return CrashOutcome(status="absent", problems=[str(raised)], raised=raised.error, tell=tell)


def _last(executions: Iterable[Execution]) -> Execution | None:
    """Give the root, or the last of its successors."""
    found = [execution for execution in executions if not execution.path.strip("»")]
    return max(found, key=lambda execution: len(execution.path), default=None)


_TIMES = 3
_KNOWN_MAX = 12  # of a run; more are compared for longer than a replay takes


def _execution(
    state: RunState, path: str, history: list[Stored], children: Mapping[tuple[type, Any], str]
) -> Execution:
    found = Execution(
        path=path, id=state.run, workflow=state.workflow, status=_status(state), state=state.state_value,
        triggered=is_triggered(state),
    )  # fmt: skip
    recorded: dict[tuple[type, Any], str] = dict(children)
    recorded |= {
        (type(event.value), event.value): f"<recorded {event.name!r}>"
        for event, _, _ in history
        if isinstance(event, e.ValueRecorded) and isinstance(event.value, str | int | float)
    }
    recorded |= {(str, one): f"<{what} of an event>" for what, one in _of_events(found, history)}
    for event, _, _ in history:
        if isinstance(event, e.RunCompleted):
            found.result = _plain(event.result, recorded)
        elif isinstance(event, e.RunFailed):
            found.error = (event.error.type, event.error.message)
    return found


def _of_events(run: Execution, history: list[Stored]) -> Iterator[tuple[str, str]]:
    """Give what a run that events started was told of them and that says nothing: ids have those of runs in them."""
    created = history[0][0]
    if run.triggered and isinstance(created, e.RunCreated):
        given = an_object(created.input) or {}
        for event in filter(None, map(an_object, a_list(given.get("events")) or [given])):
            yield from ((name, str(event[name])) for name in ("id", "created_at") if name in event)


def _status(state: RunState) -> str:
    return "step_outcome_unknown" if state.unknown else waiting_reason(state) or status_of(state)


def _plain(value: Json, recorded: Mapping[tuple[type, Any], str]) -> Json:
    if isinstance(value, dict):
        return {key: _plain(item, recorded) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, recorded) for item in value]
    return value if value is None else recorded.get((type(value), value), value)


def _stuck(life: Life, paths: Mapping[str, str]) -> list[str]:
    """Say of each run that lives on what it is about, if it waits for nobody's answer."""
    if life.waits:
        said = "\n".join(life.waits)
        for run, path in paths.items():
            said = said.replace(f"run {run}", called(path))
        return [f"it doesn't end: it waits for {what}, and answers has nothing for it" for what in said.split("\n")]
    found: list[str] = []
    for run in life.audit.living():
        under_way = [attempt for attempt in life.engine.performer.in_flight.values() if attempt.run == run]
        if not under_way:
            state = life.audit.states[run]
            lines = [] if waiting_reason(state) else traceback.format_list(list(body_waits_at(life.engine, run)))
            at = f"; its body waits at\n{''.join(lines).rstrip()}" if lines else ""
            found.append(f"{called(paths[run])} doesn't end: it is {_status(state)}{at}")
            continue
        names = ", ".join(repr(attempt.name) for attempt in under_way)
        lines = traceback.format_list([frame for attempt in under_way for frame in waits_at(attempt)])
        at = f"; it waits at\n{''.join(lines).rstrip()}" if lines else ""
        found.append(f"{called(paths[run])} doesn't end: step {names} never comes back{at}")
    return found


def _replayed(life: Life, run: str) -> list[str]:
    """
    Say what the code asks for otherwise when it is run on its history once more.

    Most crashes leave no trace in the history that recovery ends with, and what was replayed well a few times, for code
    may leave things to chance, is so again.
    """
    whole, known = life.audit.histories[run], life.task.replayed.setdefault(run, [])
    happened = [(event, time_us) for event, time_us, _ in whole]
    if known.count(happened) >= _TIMES:
        return []
    found = _replay(life, run, whole)
    if not found and len(known) < _KNOWN_MAX:
        known.append(happened)
    return found


def _replay(life: Life, run: str, whole: list[Stored]) -> list[str]:
    engine, task = life.engine, life.task
    bodies = Bodies(task.find, described=task.described, driver=HeedingDriver)
    for start, history in attempts(whole):
        created = history[0][0]
        assert isinstance(created, e.RunCreated), "a run's stream begins with its creation"
        resident = Resident(fold(run, history[:start]), durable=start)
        if engine.bodies.missing(resident.state) is not None:
            continue
        resident.input = input_of(event for event, _, _ in history)
        code = bodies.make(engine, resident, python=None)
        if not isinstance(code, HeedingDriver):
            continue
        found: list[str] = []
        code.on_match = partial(_look, life.audit, code, found)
        try:
            replay(code, history, attempt_version=start)
            if found:
                return [f"replayed, it asks for something else: {text}" for text in found]
        except Divergence as divergence:
            return [f"replayed, it diverges from its history: {divergence}"]
        finally:
            code.discard()
    return []


def _look(audit: Audit, code: HeedingDriver, found: list[str], recorded: e.Event, asked: e.Event) -> None:
    """Say in what a request differs from the recorded one that it matches; called at the line that asks."""
    if recorded == asked or type(asked) not in COMPARERS:
        return
    now_us = code.fact_us
    call, spec = code.made_with(asked)
    child: e.Event | None = None
    if isinstance(recorded, e.ChildStarted):
        child = next((event for event, _, _ in audit.histories.get(recorded.child, ())), None)
    pair = Compared(
        run=code.run, version=0, recorded=recorded, asked=asked, recorded_us=now_us, asked_us=now_us, call=call,
        spec=spec, child=child if isinstance(child, e.RunCreated) else None,
    )  # fmt: skip
    for difference in COMPARERS[type(asked)](pair):
        arguments = isinstance(difference, ArgumentsChanged)  # in their order, as the digest has them
        is_record = isinstance(difference.recorded, dict) and not arguments
        if is_record and same_record(difference.recorded, difference.asked):
            continue  # a set is a list in the order of this process's hashes
        line = None if isinstance(asked, e.StateChanged) else caller_line()  # noticed when the code is quiet
        found.append("\n    ".join(replace(difference, line=line).lines()))


def told_so_far(life: Life) -> list[str]:
    """Tell the histories of all runs of a life that isn't over, in words."""
    return _told(life.audit, paths_of(life.audit, life.task.run))


def _told(audit: Audit, paths: Mapping[str, str]) -> list[str]:
    """Tell the histories of all runs in the order of the log."""
    found: list[tuple[int, str]] = []
    for run, history in audit.histories.copy().items():  # others may begin meanwhile, if the life isn't over
        for version, (event, time_us, position) in enumerate(history if run in paths else (), 1):
            found.append((position, _line(paths[run], version, event, time_us)))
    return [line for _, line in sorted(found)]


def _line(path: str, version: int, event: e.Event, time_us: int) -> str:
    at = dt.datetime.fromtimestamp(time_us / 1e6, tz=dt.UTC).isoformat(" ", "milliseconds")[:-6]
    parts = [f"{part}={_short(getattr(event, part))}" for part in _TOLD if getattr(event, part, None) is not None]
    where = f"[{path}] " if path else ""
    return f"{at} {where}{version:>3} {type(event).__name__} {' '.join(parts)}".rstrip()


_TOLD = ("name", "attempt", "value", "result", "error", "key", "data", "patch", "reason", "message")
_SHORT = 60


def _short(value: Any) -> str:
    text = f"{value.type}: {value.message}" if isinstance(value, e.Failure) else repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


# ------------------------------------------------------------------------------------------ comparing

Place = tuple[Any, ...]  # path of a run, name of a field, keys


def unsteady(left: CrashOutcome, right: CrashOutcome) -> set[Place]:
    """Give the places at which two runs that nothing disturbed differ."""
    return {place for place, _, _ in _compare(_view(left), _view(right), ())}


def differences(expected: CrashOutcome, found: CrashOutcome, *, leave_out: set[Place], same: Same | None) -> list[str]:
    """
    Say in words what is wrong with a scenario.

    Args:
        expected: the undisturbed run.
        found: how the scenario ended.
        leave_out: places that aren't compared.
        same: compares results, instead of ``==``.

    Raises:
        Raised: `same` raised.
    """
    # Code that can't be replayed at all is shown by what a crash does with it, which says more.
    told = [*found.problems, *(() if expected.replayed else found.replayed)]
    if told or found.unknown:
        return told
    wanted, got = _view(expected), _view(found)
    if same is not None:
        end = _last(expected.executions)
        key = ("runs", "" if end is None else end.path, "result")
        with said_by("same"):
            is_same = same(_copied(found.result), _copied(expected.result))
        if is_same is False:
            told.append(f"the result is {found.result!r}, undisturbed it is {expected.result!r}")
        leave_out = leave_out | {key}
    for place, left, right in () if wanted == got else _compare(wanted, got, ()):
        if not any(place[: len(kept)] == kept for kept in leave_out):
            told.append(_otherwise(place, left, right))
    return told


def _view(outcome: CrashOutcome) -> Json:
    runs: dict[str, Json] = {}
    for run in filter(attrgetter("compared"), outcome.executions):
        error: Json = None if run.error is None else list(run.error)
        runs[run.path] = {
            "workflow": run.workflow, "status": run.status, "result": run.result, "error": error, "state": run.state,
        }  # fmt: skip
    return {"runs": runs}


@final
class _Absent:
    """What stands for what isn't there, so that it is no value that a program could give."""

    def __repr__(self) -> str:
        return "absent"


_ABSENT: Final = _Absent()


def _compare(left: Json | _Absent, right: Json | _Absent, place: Place) -> list[tuple[Place, Any, Any]]:
    ours, theirs = _parts(left), _parts(right)
    if ours is None or theirs is None or type(left) is not type(right):
        return [] if left == right else [(place, left, right)]
    if not isinstance(left, dict) and len(ours) != len(theirs):
        return [(place, left, right)]
    keys = [*ours, *(key for key in theirs if key not in ours)]
    pairs = ((key, ours.get(key, _ABSENT), theirs.get(key, _ABSENT)) for key in keys)
    return [found for key, one, other in pairs for found in _compare(one, other, (*place, key))]


def _parts(value: Json | _Absent) -> Mapping[Any, Json] | None:
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else None


def _otherwise(place: Place, left: Any, right: Any) -> str:
    """Say what is otherwise than undisturbed, where `left` is."""
    _, path, *rest = place
    if rest:
        inner = "".join(f"[{part!r}]" for part in rest[1:])
        return f"the {rest[0]}{inner} of {called(path)} is {right!r}, undisturbed it is {left!r}"
    if right is _ABSENT:
        return f"{called(path)} isn't there; undisturbed there is one, of workflow {left['workflow']!r}"
    if left is _ABSENT:
        return f"{called(path)}, of workflow {right['workflow']!r}, is there; undisturbed there is none"
    return f"{called(path)} is {right!r}, undisturbed it is {left!r}"
