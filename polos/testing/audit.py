"""
Reads over the engine's shoulder, commit by commit.

What a commit adds is folded at once, and every invariant that can be seen from the log is looked at when it could
first be broken. An `Audit` knows nothing of the engine's memory. It is told of commits by the log itself, so it also
sees the ones whose outcome the engine never learned.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import Final, final

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.evolve import evolve
from polos.engine.projections import RUN_PREFIX, Changes, Rows, advance, advance_schedule, advance_sealed, system_rows
from polos.engine.schedule_state import ScheduleEvent, ScheduleState
from polos.engine.state import ENDED, DebtKind, RunState
from polos.store.log import Log, Position
from polos.types.answers import NotDone
from polos.value_types import type_path

__all__ = ["Audit", "Stored", "comparable"]

Stored = tuple[e.Event, int, int]  # event, time in microseconds, position: as `polos.runtime.loading` has it

_SMALL_BYTES: Final = 1_000
_NOT_DONE: Final = type_path(NotDone)
_decoded = lru_cache(1_000)(decode)  # the lives of a sweep record the same events over and over, and nobody changes one


@final
class Audit:
    """
    What a log says, folded record by record.

    Attributes:
        histories: each run's stream.
        states: each run, folded.
        cuts: each run's versions at which a commit ended: where a crash may have cut it off.
        rows: the rows that the log must have.
        published: the event of a topic that was published at a position.
        diverged: reports of runs whose code didn't fit.
        violations: what was seen that must not be.
    """

    def __init__(self, log: Log) -> None:
        """Read a log from its beginning, and on with each commit."""
        self._log = log
        self._head = Position(0)
        self._time_us = 0
        self.histories: dict[str, list[Stored]] = {}
        self.states: dict[str, RunState] = {}
        self.cuts: dict[str, list[int]] = {}
        self.rows: Rows = {}
        self.schedules: dict[str, ScheduleState] = {}
        self.published: dict[int, e.EventPublished] = {}
        self.diverged: list[e.RunDiverged] = []
        self.violations: list[str] = []
        self._requests: dict[tuple[str, str], e.StepScheduled] = {}
        self._ended: set[tuple[str, str]] = set()
        self._unwell: dict[str, set[str]] = {}
        self._begun: Counter[tuple[str, str]] = Counter()
        self._heard: set[str] = set()
        self.catch_up(self._head)
        self._unsubscribe = log.subscribe(self.catch_up)

    @property
    def head(self) -> int:
        """How far the log has been read; may be asked on another thread."""
        return self._head

    def count(self) -> int:
        """Tell how many events of runs there are."""
        return sum(map(len, self.histories.values()))

    def close(self) -> None:
        """Read no further."""
        self._unsubscribe()

    def catch_up(self, _position: Position) -> None:
        """Fold what is new."""
        grown: dict[str, RunState] = {}
        with self._log.reader() as reader:
            for record in reader.records(after=self._head):
                self._head = record.position
                read = _decoded if len(record.payload) <= _SMALL_BYTES else decode
                event = read(record.type, record.schema_version, record.payload)
                state = self._take(record.stream, event, record.time_us, record.position)
                if state is not None:
                    grown[state.run] = state
        for run, state in grown.items():
            self.cuts.setdefault(run, []).append(state.version)

    def _take(self, stream: str, event: e.Event, time_us: int, position: int) -> RunState | None:
        """Fold an event; gives the run whose it is."""
        state: RunState | None = None
        assert time_us >= self._time_us, "recorded time never goes back"
        self._time_us = time_us
        changes: Changes = {}
        if stream.startswith(RUN_PREFIX):
            run = stream.removeprefix(RUN_PREFIX)
            state = self.states.get(run)
            if state is None:
                state = self.states[run] = RunState(run=run)
                self.histories[run] = []
            self.histories[run].append((event, time_us, position))
            advance(state, event, time_us=time_us, rows=changes)
            self._look(state, event)
        elif isinstance(event, e.RangeSealed):
            advance_sealed(dict(self.states), event, rows=changes)  # who asks for a state that was may still have it
        elif isinstance(event, ScheduleEvent):
            self.schedules[stream] = advance_schedule(self.schedules.get(stream), event, rows=changes)
        else:
            if isinstance(event, e.EventPublished):
                self.published[position] = event
            changes.update(system_rows(event))
        for key, value in changes.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        return state

    def _look(self, state: RunState, event: e.Event) -> None:
        match event:
            case e.StepScheduled():
                self._requests[state.run, event.name] = event
            case e.StepAttemptStarted():
                self._begun[state.run, event.name] += 1
            case e.StepCompleted() | e.StepFailed() | e.StepResolved():
                if isinstance(event, e.StepResolved) and event.outcome == "not_done":
                    return
                step = (state.run, event.name)
                assert step not in self._ended, f"E3: {step} ended twice"
                self._ended.add(step)
                if isinstance(event, e.StepFailed) or getattr(event, "outcome", "") == "failed":
                    self._unwell.setdefault(state.run, set()).add(event.name)
            case e.RunReopened():
                # What ended otherwise than well may end once more.
                self._ended -= {(state.run, name) for name in self._unwell.pop(state.run, set())}
            case e.RunDiverged():
                self.diverged.append(event)
            case e.SignalReceived():
                self._heard.add(event.signal_id)
            case e.WaitSatisfied():
                self._heard.add(event.event_id or "")
            case e.UpdateReceived():
                self._heard.add(event.update_id)
            case _:
                pass
        if state.phase in ENDED:
            kinds = {debt.kind for debt in state.owed.values()}
            assert kinds <= {DebtKind.DELIVER}, f"E4: run {state.run} ended and owes {kinds}"

    # ---------------------------------------------------------------------------------- what tests ask

    def may_call(self, run: str, name: str, number: int, *, pure: bool = False, told: bool = True) -> None:
        """
        Look whether a step's function may be called now; what is wrong is kept, for it is no failure of the step.

        Args:
            run: its run.
            name: its name.
            number: which call of this step it is, from 1.
            pure: whether it has no effect on the world, so that its intent needn't be durable.
            told: whether the engine has been told of all that is durable. A run may have ended without its knowing, for
                a moment; a call that begins in it can't be helped.
        """
        asked = self._requests.get((run, name))
        what = f"call {number} of step {name} of run {run}"
        if asked is None and not pure:
            self.violations.append(f"{what} comes before its intent is durable")
        if (run, name) in self._ended:
            self.violations.append(f"E8: {what} comes after it has ended")
        if told and run in self.states and self.states[run].phase in ENDED:
            self.violations.append(f"E4: {what} comes after the run has ended")
        if asked is not None and asked.effect == "at_most_once" and number > self._begun[run, name]:
            self.violations.append(f"{what}: only {self._begun[run, name]} attempts are recorded")

    def may_call_tool(self, run: str, tool: str, number: int) -> None:
        """
        Look whether the function of a tool may be called now that is called at most once; what is wrong is kept.

        A run is one call that a model asked for. Nothing here says anything about a run that has ended: it may have
        been ended from outside, and its body not know it for a moment.

        Args:
            run: its run.
            tool: its id.
            number: which call of the function in this run it is, from 1.
        """
        not_done, recorded = 0, self.tool_calls(run)
        asked: set[str] = set()
        for event, _, _ in self.histories.get(run, ()):
            match event:
                case e.StepCompleted() if event.name.partition("#")[0] == "_reconcile":
                    not_done += event.type == _NOT_DONE
                case e.WaitStarted(data={"_source": "tool_outcome_unknown"}):
                    asked.add(event.name)
                case e.WaitSatisfied(data={"outcome": "not_done"}) if event.name in asked:
                    not_done += 1
                case _:
                    pass
        what = f"call {number} of tool {tool} in run {run}"
        if number > 1 + not_done:
            self.violations.append(f"{what}: it may be called once, and nobody has said that it wasn't done")
        elif number > recorded:
            self.violations.append(f"{what} comes before its record is durable")

    def tool_calls(self, run: str) -> int:
        """Count the records of a run that the function of a tool is called next."""
        names = {
            event.name
            for event, _, _ in self.histories.get(run, ())
            if isinstance(event, e.ValueRecorded) and event.kind == "tool_call"
        }
        return len(names)  # an attempt that looks one up records it again

    def heard(self, message: str) -> bool:
        """Tell whether a signal, a resume or an update is recorded, by its id."""
        return message in self._heard

    def living(self) -> list[str]:
        """Give the runs that haven't ended, in order of creation."""
        return [run for run, state in self.states.items() if state.phase not in ENDED]

    def end_of(self, run: str) -> e.Event | None:
        """Give the event that ended a run; None for one that is alive, or was reopened since."""
        last: list[e.Event] = []
        for event, _, _ in self.histories[run]:
            if isinstance(event, e.RunReopened):
                last.clear()
            elif isinstance(event, _ENDS):
                last.append(event)
        assert len(last) <= 1, f"run {run} ended {len(last)} times"
        return last[0] if last else None

    def check_rows(self) -> None:
        """Check that the log's rows are those of the fold (L6)."""
        with self._log.reader() as reader:
            found = dict(reader.rows())
        assert self.rows == found, "L6: rows differ from the fold"

    def check_folding(self, run: str, *, looks: int = 100) -> None:
        """
        Check that folding a run in any way gives the same state (E5), on copies all the way (E1).

        Args:
            run: the run.
            looks: at so many of its events, about, copies are made and compared. Copies of a long history at each event
                would be quadratic.
        """
        state = RunState(run=run)
        stride = 1 + len(self.histories[run]) // looks if looks else 0
        for number, (event, time_us, _) in enumerate(self.histories[run]):
            if not stride or number % stride:
                evolve(state, event, time_us=time_us)
                continue
            kept = copy.deepcopy(state)
            after = evolve(copy.deepcopy(state), event, time_us=time_us)
            assert kept == state, "evolve changed what it wasn't given"
            state = after
        assert comparable(self.states[run]) == comparable(state), "E5"


def comparable(state: RunState) -> RunState:
    """Give a state without what says nothing: what is paid leaves the heap of dues only when it comes up."""
    owed = {(debt.version, debt.kind, debt.name) for debt in state.owed.values()}
    return replace(state, dues=sorted(due for due in state.dues if due[1:] in owed))


_ENDS = (e.RunCompleted, e.RunFailed, e.RunCancelled, e.RunContinued)
