"""
What a schedule is, and what becomes of its occurrences.

A schedule is the fold of its stream, and everything that is known of it stands in one row; so an engine that starts
reads none of them. Its next occurrence is a row of its own, ordered by time: whoever wants to know what is due looks
at the first of them, however many there are.

Each occurrence is decided once, in order: `next_us` is the one that comes next, and every event that decides on it
says what follows. So a crash loses none and doubles none, a clock that is set back brings none twice, and one that
jumps ahead, like an engine that was down, finds several that are due and decides them one after another.

What becomes of one depends on two things. *Was it missed*, and too long ago to be made up (`catch_up_us`)? And is a
run of this schedule *under way* (`overlap`)? "Under way" means: created, and not ended; whether it holds a slot of its
queue makes no difference. Occurrences that are made up because a catch-up window was asked for don't overlap with each
other: they wait their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, Final, assert_never
from urllib.parse import quote, unquote

import orjson

from polos.data_class import dataclass
from polos.engine.json import Json
from polos.engine.schedule import Cron, cron_of, jitter_of
from polos.engine.system_events import ScheduleBuffered, ScheduleFired, ScheduleSet, ScheduleSkipped

__all__ = [
    "BUFFERED_MAX", "ON_TIME_US", "OVERLAPS", "ScheduleEvent", "ScheduleState", "close", "decide_due",
    "evolve_schedule", "next_of", "read_schedule_row", "schedule_id", "schedule_rows", "split_id",
]  # fmt: skip

OVERLAPS: Final = ("skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all")
# An occurrence is decided when the engine gets to it; up to here that is no delay.
ON_TIME_US: Final = 10_000_000
# So many occurrences wait for a run to end; their moments stand in the schedule's row.
BUFFERED_MAX: Final = 1_000
# So many are decided in one append unit.
AT_ONCE_MAX: Final = 100

ScheduleEvent = ScheduleSet | ScheduleFired | ScheduleBuffered | ScheduleSkipped
Key = tuple[str | int, ...]
Rows = dict[Key, bytes]


def schedule_id(workflow: str, key: str) -> str:
    """Give the id of a schedule: the same for the same workflow and key, always."""
    return f"{quote(workflow, safe=' /')}:{key}"


def split_id(schedule: str) -> tuple[str, str]:
    """Give workflow and key of a schedule."""
    workflow, _, key = schedule.partition(":")
    return unquote(workflow), key


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """
    A schedule as its events have left it.

    Attributes:
        said: what holds for it; its `next_us` and `due_us` are those of that time.
        next_us: the occurrence that is decided next.
        due_us: when it is.
        last_us: the occurrence that fired last; None before the first.
        runs: those that were under way when the last one was created, and that one.
        buffered: occurrences that wait for them to end, in order.
    """

    said: ScheduleSet
    next_us: int
    due_us: int
    last_us: int | None = None
    runs: tuple[str, ...] = ()
    buffered: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """The schedule's id."""
        return self.said.schedule

    @property
    def quiet(self) -> bool:
        """Whether nothing comes of it for now."""
        return self.said.paused or self.said.deleted

    @property
    def cron(self) -> Cron:
        """What its expression means."""
        return cron_of(self.said.cron, self.said.timezone)


def evolve_schedule(state: ScheduleState | None, event: ScheduleEvent) -> ScheduleState:
    """Apply the next event of its stream to a schedule."""
    if isinstance(event, ScheduleSet):
        if state is None or state.said.deleted:
            return ScheduleState(said=event, next_us=event.next_us, due_us=event.due_us)
        return replace(state, said=event, next_us=event.next_us, due_us=event.due_us)
    assert state is not None, "a schedule's stream begins with what it is"
    next_us = state.next_us if event.next_us is None else event.next_us
    due_us = state.due_us if event.due_us is None else event.due_us
    state = replace(state, next_us=next_us, due_us=due_us)
    match event:
        case ScheduleFired():
            buffered = tuple(at for at in state.buffered if at != event.occurrence_us)
            if event.why == "backfill":
                return state  # it is in nobody's way
            last_us = state.last_us if event.why == "trigger" else event.occurrence_us
            return replace(state, last_us=last_us, runs=(*event.others, event.run), buffered=buffered)
        case ScheduleBuffered():
            return replace(state, buffered=(*state.buffered, event.occurrence_us))
        case ScheduleSkipped():
            return replace(state, buffered=tuple(at for at in state.buffered if at != event.occurrence_us))
        case _:
            assert_never(event)


def schedule_rows(state: ScheduleState | None) -> Rows:
    """Give the rows of a schedule."""
    if state is None:
        return {}
    place = (state.said.workflow, state.said.key)
    rows: Rows = {}
    if state.said.declared is not None:
        rows["schedule_code", *place] = b""
    elif state.said.deleted:
        return rows
    rows["schedule", *place] = orjson.dumps(asdict(state))
    if not state.quiet:
        rows["schedule_due", state.due_us, *place] = b""
        if state.buffered:
            rows["schedule_buffer", *place] = b""
    return rows


def read_schedule_row(row: bytes) -> ScheduleState:
    """Give the schedule that a row holds."""
    found: dict[str, Any] = orjson.loads(row)
    found |= {"said": ScheduleSet(**found["said"]), "runs": tuple(found["runs"]), "buffered": tuple(found["buffered"])}
    return ScheduleState(**found)


# ------------------------------------------------------------------------------------------ deciding


def next_of(said: ScheduleSet | dict[str, Json], schedule: str, after_us: int) -> dict[str, Any]:
    """Give `next_us` and `due_us` of the first occurrence behind a moment."""
    held: dict[str, Any] = said if isinstance(said, dict) else asdict(said)
    next_us = cron_of(held["cron"], held["timezone"]).after(after_us)
    return {"next_us": next_us, "due_us": next_us + jitter_of(schedule, next_us, held["jitter_us"])}


def decide_due(
    state: ScheduleState,
    now_us: int,
    *,
    under_way: tuple[str, ...],
    run_of: Callable[[int], str],
    obstacle: Callable[[], str | None] = lambda: None,
    hurry: bool = False,
) -> Iterator[ScheduleEvent]:
    """
    Decide what has come; at most so many occurrences at once that the rest is due again afterwards.

    Args:
        state: the schedule.
        now_us: the time.
        under_way: its runs that haven't ended.
        run_of: gives the id of the run of an occurrence.
        obstacle: tells why no run can be made now, as the reason that is recorded; None if it can.
        hurry: don't wait for jitter: the schedule is about to change.
    """
    if not state.quiet:
        yield from _Deciding(state, now_us, under_way, run_of, obstacle, hurry=hurry).events()


def close(state: ScheduleState, now_us: int, reason: str) -> Iterator[ScheduleEvent]:
    """Skip everything that has come and isn't decided."""
    if state.next_us <= now_us:
        following = next_of(state.said, state.id, now_us)
        before_us = now_us + 1
        yield ScheduleSkipped(
            schedule=state.id, occurrence_us=state.next_us, before_us=before_us, reason=reason, **following
        )


class _Deciding:
    """The decisions of one look at a schedule."""

    def __init__(
        self, state: ScheduleState, now_us: int, under_way: tuple[str, ...],
        run_of: Callable[[int], str], obstacle: Callable[[], str | None], *, hurry: bool,
    ) -> None:  # fmt: skip
        self.state = state
        self.now_us = now_us
        self.under_way = under_way
        self.run_of = run_of
        self.obstacle = obstacle
        self.hurry = hurry

    def events(self) -> Iterator[ScheduleEvent]:
        """Give what is to be recorded, in order."""
        for event in self._all():
            self.state = evolve_schedule(self.state, event)
            if isinstance(event, ScheduleFired):
                self.under_way = (*event.others, event.run)
            yield event

    def _all(self) -> Iterator[ScheduleEvent]:
        overlap = self.state.said.overlap
        while self.state.buffered and (overlap == "allow_all" or not self.under_way):
            yield self._fire(self.state.buffered[0], "buffered", {})
        if not self._is_due():
            return
        keep_us = self._keep_us()
        if self.state.next_us < keep_us:
            following = next_of(self.state.said, self.state.id, keep_us - 1)
            yield self._skip(self.state.next_us, "missed", following, before_us=keep_us)
        for _ in range(AT_ONCE_MAX):
            if not self._is_due():
                return
            yield from self._one()

    def _is_due(self) -> bool:
        return (self.state.next_us if self.hurry else self.state.due_us) <= self.now_us

    def _keep_us(self) -> int:
        """Tell from which occurrence on they are made up, if they weren't decided in time."""
        said = self.state.said
        on_time_us = self.now_us - said.jitter_us - ON_TIME_US
        if self.state.next_us >= on_time_us:
            return self.state.next_us
        if said.catch_up_us is not None:
            return min(on_time_us, self.now_us - said.jitter_us - said.catch_up_us)
        return min(on_time_us, self.state.cron.before(self.now_us))

    def _one(self) -> Iterator[ScheduleEvent]:
        """Decide the next occurrence."""
        state, said = self.state, self.state.said
        occurrence_us = state.next_us
        following = next_of(said, state.id, occurrence_us)
        free = not (self.under_way or state.buffered)
        if said.overlap == "allow_all" or (free and said.overlap not in {"cancel_other", "terminate_other"}):
            yield self._fire(occurrence_us, "due", following)
        elif said.overlap in {"cancel_other", "terminate_other"}:
            if following["due_us"] <= self.now_us:
                yield self._skip(occurrence_us, "superseded", following)
                return
            for older_us in state.buffered:
                yield self._skip(older_us, "superseded", {})
            if self.under_way:
                yield ScheduleBuffered(schedule=state.id, occurrence_us=occurrence_us, **following)
            else:
                yield self._fire(occurrence_us, "due", following)
        elif not self._waits(occurrence_us):
            yield self._skip(occurrence_us, "overlap", following)
        elif len(state.buffered) >= BUFFERED_MAX:
            yield self._skip(occurrence_us, "buffer_full", following)
        else:
            yield ScheduleBuffered(schedule=state.id, occurrence_us=occurrence_us, **following)

    def _waits(self, occurrence_us: int) -> bool:
        """Tell whether an occurrence waits for the runs under way to end."""
        said = self.state.said
        made_up = said.catch_up_us is not None and occurrence_us < self.now_us - said.jitter_us - ON_TIME_US
        return made_up or said.overlap == "buffer_all" or (said.overlap == "buffer_one" and not self.state.buffered)

    def _fire(self, occurrence_us: int, why: str, following: dict[str, Any]) -> ScheduleEvent:
        if (obstacle := self.obstacle()) is not None:
            return self._skip(occurrence_us, obstacle, following)
        run = self.run_of(occurrence_us)
        others = self.under_way
        return ScheduleFired(
            schedule=self.state.id, occurrence_us=occurrence_us, run=run, why=why, others=others, **following
        )

    def _skip(
        self, occurrence_us: int, reason: str, following: dict[str, Any], *, before_us: int | None = None
    ) -> ScheduleEvent:
        return ScheduleSkipped(
            schedule=self.state.id, occurrence_us=occurrence_us, reason=reason, before_us=before_us, **following
        )
