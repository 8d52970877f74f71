"""
Going through recorded histories with the code of today.

First the engine's own replay, to the letter: what it lets pass, a deployment lets pass. On the way each request is
compared with the recorded one, which the engine doesn't do, because a step that is charged a different amount is no
reason to stop a run; to a test it is. If the engine would stop, the code goes through the history once more, and is
forgiven what it can be (`polos.testing.recorded_driver`), so that a test tells all that differs, not the first of it.

Bodies are made as an engine makes them, by one that is never started and has a log in memory with the recorded runs.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final

import polos
from polos import values
from polos.engine import events as e
from polos.engine.codec import encode
from polos.engine.evolve import evolve
from polos.engine.json import Json
from polos.engine.projections import run_stream
from polos.engine.state import RunState
from polos.errors import PolosError, PolosUsageError, ValueRefused
from polos.replay.divergence import Divergence
from polos.replay.facts import Fact
from polos.replay.requests import CLOSINGS, ENDS, key_of, name_of
from polos.runtime.bodies import Bodies
from polos.runtime.engine import Engine
from polos.runtime.loading import Stored, input_of, replay
from polos.runtime.settings import Settings
from polos.runtime.unit import Resident
from polos.store.log import AppendUnit, NewRecord, Version
from polos.testing import differences as d
from polos.testing.clock import VirtualClock
from polos.testing.comparing import COMPARERS, Compared, Comparer, same_record
from polos.testing.recorded import BadRecording, RecordedRun
from polos.testing.recorded_driver import Match, NotingDriver
from polos.testing.store import MemoryStore

if TYPE_CHECKING:
    from polos.definition import Workflow

__all__ = ["History"]

_FOLLOWING: Final = (*CLOSINGS, e.ResultReused)  # requests that follow from another one
_POLOS: Final = f"{Path(polos.__file__).parent}{os.sep}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One attempt of a run, as it is recorded."""

    version: int  # of its RunStarted
    events: list[Stored]  # of the run, up to the attempt's end
    facts: list[Fact]  # that the code has seen
    requests: list[e.Event]
    end: e.Event | None


@final
class History:
    """Runs the code against the recorded runs."""

    def __init__(
        self,
        recording: RecordedRun,
        find: Callable[[str], Workflow[Any] | None],
        comparers: Mapping[type[Any], Comparer],
    ) -> None:
        """
        Take what is compared.

        Args:
            recording: the recorded runs.
            find: gives a workflow by id, None if there is none.
            comparers: by types of events, more ways to compare.
        """
        self._recording = recording
        self._find = find
        self._comparers = comparers
        self._created = {record.run: record.event() for record in recording.records if record.version == 1}
        self._engine = self._made()

    def _made(self) -> Engine:
        """Make an engine that is never started, on a log with the recorded runs."""
        store = MemoryStore()
        units: list[AppendUnit] = []
        for run in dict.fromkeys(record.run for record in self._recording.records):
            records: list[NewRecord] = []
            for record in self._recording.of(run):
                name, schema_version, payload = encode(record.event())
                records.append(
                    NewRecord(
                        stream=run_stream(run), type=name, schema_version=schema_version, time_us=record.time_us,
                        payload=payload,
                    )
                )  # fmt: skip
            units.append(AppendUnit(records=tuple(records), expected={run_stream(run): Version(0)}))
        store.log.append(units, epoch=store.acquire_ownership())
        bodies = Bodies(self._find, driver=NotingDriver)
        return Engine(store, clock=VirtualClock(), settings=Settings(), bodies=bodies)

    def of(self, run: str) -> list[d.Difference]:
        """Give what differs in one run."""
        created = self._created[run]
        assert isinstance(created, e.RunCreated), "it was looked at when the file was read"
        workflow = self._find(created.workflow)
        if workflow is None:
            raise PolosUsageError(
                f"no workflow {created.workflow!r} is registered, and {run} is a run of it; import it"
            )
        if workflow.direct or run in self._recording.direct_runs():
            when = "" if workflow.direct else " where this was recorded"
            raise PolosUsageError(
                f"the body of {created.workflow!r} isn't deterministic{when}, so that it is never replayed, and run "
                f"{run} can't be compared with it; take `assert_replays` of it out, or record it without --tree if it "
                "is a run below the one that you test"
            )
        given = input_of(record.event() for record in self._recording.of(run))
        found = list(_input(run, given, workflow))
        attempts = self._attempts(run)
        if not attempts:
            raise BadRecording(f"run {run} hadn't started when it was recorded, so there is nothing to compare")
        for attempt in attempts:
            found += self._attempt(run, attempt)
        return found

    def _attempts(self, run: str) -> list[_Attempt]:
        records = self._recording.of(run)
        events: list[Stored] = [(record.event(), record.time_us, record.position) for record in records]
        state = RunState(run=run)
        try:
            for event, time_us, _ in events:
                evolve(state, event, time_us=time_us)
            starts = [version for version, (event, _, _) in enumerate(events, 1) if isinstance(event, e.RunStarted)]
            return [_attempt(events[: until - 1], start) for start, until in pairwise([*starts, len(events) + 1])]
        except (AssertionError, PolosError, LookupError) as error:
            raise BadRecording(f"the history of run {run} isn't one that an engine writes: {error!r}") from error

    def _code(self, run: str, attempt: _Attempt) -> NotingDriver:
        state = RunState(run=run)
        for event, time_us, _ in attempt.events[: attempt.version]:
            evolve(state, event, time_us=time_us)
        resident = Resident(state)
        started = attempt.events[attempt.version - 1][0]
        assert isinstance(started, e.RunStarted), "an attempt begins with its start"
        resident.input = input_of(event for event, _, _ in attempt.events)
        code = self._engine.bodies.make(self._engine, resident, python=started.python)
        assert isinstance(code, NotingDriver), "a body that isn't deterministic was refused"
        return code

    def _attempt(self, run: str, attempt: _Attempt) -> list[d.Difference]:
        code = self._code(run, attempt)
        try:
            replay(code, attempt.events, attempt_version=attempt.version)
        except (Divergence, PolosUsageError) as error:
            stopped = error
        else:
            found = self._compared(run, attempt, code.matches)
            return found + _ended(run, attempt, code)
        finally:
            code.discard()
        return self._forgiving(run, attempt, stopped)

    def _forgiving(self, run: str, attempt: _Attempt, stopped: PolosUsageError | Divergence) -> list[d.Difference]:
        """Find all that differs where the engine would stop."""
        code = self._code(run, attempt)
        code.foresee(attempt.facts)
        try:
            left = code.play(attempt.facts, attempt.requests)
            found = self._compared(run, attempt, code.matches)
            extra = [
                match for match in code.matches if match.recorded is None and not isinstance(match.asked, CLOSINGS)
            ]
            # Code that waits for what nobody recorded may ask for anything behind it: then nothing is known to be gone.
            held = code.outcome is None and any(code.waits_for(name_of(match.asked)) for match in extra)
            found += [_extra(run, match, left if held else []) for match in extra]
            found += _left(run, attempt, left, held=held)
            found += _moved(run, attempt, code, among_others=bool(extra or left))
            found += _ended(run, attempt, code, held=held)
        except PolosUsageError as error:
            return [d.Diverged(run=run, note=str(error))]
        finally:
            code.discard()
        if not found:
            found.append(d.Diverged(run=run, note=str(stopped)))
        return found

    def _workflow(self, run: str) -> Workflow[Any] | None:
        created = self._created[run]
        return self._find(created.workflow) if isinstance(created, e.RunCreated) else None

    def _compared(self, run: str, attempt: _Attempt, matches: Iterable[Match]) -> list[d.Difference]:
        versions = {id(event): version for version, (event, _, _) in enumerate(attempt.events, 1)}
        answers = {name_of(fact.event): fact for fact in attempt.facts if name_of(fact.event)}
        found: list[d.Difference] = []
        defined_at: str | None = getattr(self._workflow(run), "defined_at", None)  # of an agent
        for match in matches:
            recorded = match.recorded
            if recorded is None:
                continue
            answer = answers.get(name_of(recorded))
            child = self._created.get(recorded.child) if isinstance(recorded, e.ChildStarted) else None
            pair = Compared(
                run=run, version=versions[id(recorded)], recorded=recorded, asked=match.asked,
                line=match.line or defined_at, call=match.call, spec=match.spec,
                answer=None if answer is None else answer.event, answer_version=0 if answer is None else answer.version,
                child=child if isinstance(child, e.RunCreated) else None,
                recorded_us=_time_at(attempt, recorded), asked_us=match.fact_us,
            )  # fmt: skip
            for comparers in (COMPARERS, self._comparers):
                comparer = comparers.get(type(recorded))
                found += [] if comparer is None else comparer(pair)
        return found


def _attempt(events: list[Stored], version: int) -> _Attempt:
    """Sort what one attempt saw and asked for."""
    requests: list[e.Event] = []
    facts: list[Fact] = []
    end: e.Event | None = None
    last_cause = 0
    for at, (event, time_us, position) in enumerate(events[version - 1 :], version):
        cause = getattr(event, "cause", None)
        if cause is not None and not 0 <= cause < at:
            raise LookupError(f"record {at} is said to be caused by record {cause}")
        if cause is not None and cause >= version:
            last_cause = max(last_cause, cause)
            if isinstance(event, ENDS):
                end = event
            else:
                requests.append(event)
        if type(event) in e.FACTS:
            fact = Fact(version=at, event=event, time_us=time_us, position=position)
            if isinstance(event, e.ResultReused):
                fact.source, _, fact.source_position = events[event.version - 1]
            facts.append(fact)
    facts = [fact for fact in facts if fact.version <= last_cause]
    return _Attempt(version=version, events=events, facts=facts, requests=requests, end=end)


def _time_at(attempt: _Attempt, request: e.Event) -> int:
    """Give the time by the code's clock when it asked: that of the latest fact it had seen."""
    cause = int(getattr(request, "cause", 0))
    return max((fact.time_us for fact in attempt.facts if fact.version <= cause), default=0)


def _input(run: str, given: Json, workflow: Workflow[Any]) -> Iterable[d.Difference]:
    """Read the recorded input as the current code does."""
    signature = workflow.signature
    if not signature.takes_payload or (given is None and signature.has_default):
        return
    try:
        values.decode(given, hint=signature.hint)
    except ValueRefused as error:
        yield d.SchemaChanged(run=run, recorded=given, version=1, note=f"the input of the run: {error}")


def _extra(run: str, match: Match, left: Iterable[e.Event]) -> d.Difference:
    """Tell of a new request, and of what the recording has at that point, which may be the same by another name."""
    note: list[str] = []
    if isinstance(match.asked, e.StepScheduled):
        note.append(f"calls {match.asked.function}")
    elif isinstance(match.asked, e.ChildStarted):
        note.append(f"starts workflow {match.asked.workflow!r}")
    here = [
        d.named(type(event).__name__, name_of(event))
        for event in left
        if getattr(event, "cause", 0) == match.cause and not isinstance(event, _FOLLOWING)
    ]
    if here:
        note.append(f"the recording has {', '.join(here)} at this point")
    return d.ExtraStep(
        run=run, step=name_of(match.asked), kind=type(match.asked).__name__, line=match.line, note="\n".join(note)
    )


def _left(run: str, attempt: _Attempt, left: list[e.Event], *, held: bool) -> list[d.Difference]:
    """Tell of recorded requests that the code didn't make: it is done without them, or is held up before them."""
    versions = {id(event): version for version, (event, _, _) in enumerate(attempt.events, 1)}
    found: list[d.Difference] = []
    unreached: list[str] = []
    for event in sorted(left, key=lambda item: versions[id(item)]):
        if isinstance(event, _FOLLOWING):
            continue
        if held:
            unreached.append(name_of(event) or type(event).__name__)
            continue
        note = ""
        if isinstance(event, e.StepScheduled):
            note = f"called {event.function}"
        elif isinstance(event, e.ChildStarted):
            note = f"started workflow {event.workflow!r}"
        found.append(
            d.MissingStep(
                run=run, step=name_of(event), kind=type(event).__name__, version=versions[id(event)], note=note
            )
        )
    if unreached:
        found.append(d.NotReached(run=run, note=f"not compared: {', '.join(unreached)}"))
    return found


def _moved(run: str, attempt: _Attempt, code: NotingDriver, *, among_others: bool) -> list[d.Difference]:
    """Tell of requests that are made on another fact than in the recording, before or behind others than there."""
    pairs = [(match, match.recorded) for match in code.matches if match.recorded is not None]
    if among_others:
        # Where something is new or gone, what follows it shifts; only what changed places is worth a word then.
        order = [key_of(recorded) for _, recorded in pairs]
        kept = [key for key in map(key_of, attempt.requests) if key in set(order)]
        stayed: set[int] = set()
        for block in SequenceMatcher(None, kept, order, autojunk=False).get_matching_blocks():
            stayed.update(range(block.b, block.b + block.size))
        pairs = [pair for index, pair in enumerate(pairs) if index not in stayed]
    found: list[d.Difference] = []
    for match, recorded in pairs:
        cause = int(getattr(recorded, "cause", 0))
        # What stands behind two that changed places is made on another fact, and still behind both.
        before_it = {version for version in code.given if version <= cause}
        if cause != match.cause and before_it != set(code.given[: match.seen]):
            before, now = (_fact(attempt, version) for version in (cause, match.cause))
            found.append(
                d.OrderChanged(
                    run=run, step=name_of(match.asked), kind=type(match.asked).__name__, line=match.line,
                    recorded=f"after {before}", asked=f"after {now}",
                )
            )  # fmt: skip
    return found


def _fact(attempt: _Attempt, version: int) -> str:
    event = attempt.events[version - 1][0]
    return f"{type(event).__name__} {name_of(event)}".strip()


def _ended(run: str, attempt: _Attempt, code: NotingDriver, *, held: bool = False) -> list[d.Difference]:
    """Compare how the attempt ended."""
    recorded = attempt.end
    if recorded is None or isinstance(recorded, e.RunCancelled):
        return []  # under way, or closed from outside: the replay has seen to it that the code fits
    version = 1 + next(at for at, (event, _, _) in enumerate(attempt.events) if event is recorded)
    asked = code.end()
    if asked is None:
        if held or code.forced:
            return []
        waits = ", ".join(sorted(code.pending)) or "something else"
        return [d.EndChanged(run=run, recorded=_end(recorded), asked=f"it waits for {waits}", version=version)]
    if isinstance(recorded, e.RunCompleted) and isinstance(asked, e.RunCompleted):
        if same_record(recorded.result, asked.result):
            return []
        changed = replace(asked, cause=recorded.cause)
        return [
            d.ResultChanged(run=run, recorded=recorded.result, asked=asked.result, version=version, accepted=changed)
        ]
    old, new = _end(recorded), _end(asked)
    if old == new:
        return []
    failed = isinstance(recorded, e.RunFailed) and isinstance(asked, e.RunFailed)
    kind = d.ResultChanged if failed else d.EndChanged
    accepted = replace(cast("Any", asked), cause=cast("Any", recorded).cause) if failed else None
    line = None if code.outcome is None else _raised_at(code.outcome.error)
    return [kind(run=run, recorded=old, asked=new, line=line, version=version, accepted=accepted)]


def _raised_at(error: BaseException | None) -> str | None:
    """Give the last line of the program's own that an error came through: where it was raised, or a step was asked."""
    found: str | None = None
    for frame, line in traceback.walk_tb(None if error is None else error.__traceback__):
        if not frame.f_code.co_filename.startswith(_POLOS):
            found = f"{frame.f_code.co_filename}:{line}"
    return found


def _end(event: e.Event) -> Any:
    """Give what is compared of an end: a failure without its traceback, whose lines move."""
    match event:
        case e.RunFailed() | e.RunRetried():
            return {"failed": {"type": event.error.type, "message": event.error.message}}
        case e.RunContinued():
            return {"continued": event.input}
        case e.RunCompleted():
            return {"completed": event.result}
        case _:
            return type(event).__name__
