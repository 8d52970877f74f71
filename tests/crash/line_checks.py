"""
What a log must show of runs that came from queues, schedules and triggers, after whatever happened to it.

As in `engine_checks`, each check is a function named by its promise, and raises AssertionError. Those that hold for
every run are taken from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.schedule import Cron, cron_of
from polos.store.directory import open_store
from polos.store.log import Log

from tests.crash import engine_checks as engine
from tests.crash.line_lives import BACKFILLED_FROM, SCHEDULES, SLOTS, due_events, name_of, tick
from tests.queue_walk import QueueWalk, walk

__all__ = ["CHECKS", "FoundLines", "find"]

PROMISES = (
    engine.called_before_recorded,
    engine.steps_complete_once,
    engine.recorded_came_from_a_call,
    engine.answers_stand,
    engine.commands_decided_once,
    engine.rows_are_the_fold,
    engine.time_never_goes_back,
    engine.every_run_ended,
    engine.store_is_sound,
)


@dataclass(frozen=True, slots=True)
class FoundLines:
    """
    What was found in a directory.

    Attributes:
        found: what `engine_checks` looks at.
        walked: what was counted at each record.
        due: by trigger, the events that count for it, and what its runs got.
        schedules: the events of each schedule.
        published: what the events say, of all topics.
    """

    found: engine.Found
    walked: QueueWalk
    due: dict[str, tuple[list[str], list[list[str]]]]
    schedules: dict[str, list[e.Event]]
    published: list[str]


def find(directory: Path) -> FoundLines:
    """Read a directory that nobody owns."""
    store = open_store(directory / "data", read_only=True)
    try:
        pending = tuple(item.command_id for item in store.inbox.pending())
        return FoundLines(
            found=engine.findings(directory, store.log, pending),
            walked=walk(store.log, QueueWalk(slots=SLOTS, turns=False)),
            due=due_events(store.log),
            schedules={key: _of_schedule(store.log, key) for key in SCHEDULES},
            published=_published(store.log),
        )
    finally:
        store.close()


def _of_schedule(log: Log, key: str) -> list[e.Event]:
    with log.reader() as reader:
        records = reader.stream(f"schedule/{tick.id}:{key}")
        return [decode(record.type, record.schema_version, record.payload) for record in records]


def _published(log: Log) -> list[str]:
    with log.reader() as reader:
        events = [decode(record.type, record.schema_version, record.payload) for record in reader.records()]
    return [name_of(event) for event in events if isinstance(event, e.EventPublished) and name_of(event)]


# ------------------------------------------------------------------------------------------ the checks


def runs_are_as_promised(found: FoundLines) -> None:
    """Steps, answers, commands, rows and ends are as they have to be for every run."""
    for promise in PROMISES:
        promise(found.found)


def limits_hold(found: FoundLines) -> None:
    """At no record is one run too many in a queue, in a key or in an engine."""
    assert [] == found.walked.wrong
    assert min(found.walked.looked[what] for what in ("limit of a queue", "limit of a key", "slots of the engine")) > 0


def one_run_for_each_request(found: FoundLines) -> None:
    """One idempotency key, one run: the one that everybody was told of."""
    made = Counter(event.idempotency_key for _, event, _ in found.found.events(e.RunCreated) if event.idempotency_key)
    told: dict[str, set[str]] = {}
    for line in found.found.ledger.lines("created"):
        if line.more is not None:
            told.setdefault(line.more, set()).add(line.key)

    assert {} == {key: count for key, count in made.items() if count != 1}, "requests that made several runs"
    assert {} == {key: runs for key, runs in told.items() if len(runs) != 1}, "requests that were told of several runs"
    assert {} == {key: runs for key, runs in told.items() if found.found.created(min(runs)).idempotency_key != key}


def each_event_once(found: FoundLines) -> None:
    """What was published is there once, and each trigger handed out each event that counts once, in order."""
    published = Counter(found.published)
    lost = [line.key for line in found.found.ledger.lines("published") if line.key not in published]
    # A caller that is killed before it hears doesn't ask again; a run that published is never made to do so twice.
    twice = {name: count for name, count in published.items() if count > 1}

    assert ([], {}) == (lost, twice)
    for trigger, (names, batches) in found.due.items():
        assert names == [name for batch in batches for name in batch], trigger
        assert batches, f"{trigger} had nothing to do"


def each_occurrence_once(found: FoundLines) -> None:
    """No occurrence is left out, none has two runs, and the run of each was created for it."""
    created = {run for run, event, _ in found.found.events(e.RunCreated) if event.workflow == tick.id}
    for key, events in found.schedules.items():
        said = [event for event in events if isinstance(event, e.ScheduleSet)]
        assert [False, True] == [event.paused for event in said], "saying the same again changes nothing"
        cron, next_us = cron_of(said[0].cron, said[0].timezone), said[0].next_us
        decided: Counter[int] = Counter()
        for event in events:
            if isinstance(event, e.ScheduleFired):
                assert event.run in found.found.runs, f"occurrence {event.occurrence_us} of {key} fired, and has no run"
                created.remove(event.run)
                if event.why != "trigger":
                    decided[event.occurrence_us] += 1
                    _is_for(found, event)
            elif isinstance(event, e.ScheduleSkipped):
                at_us = event.occurrence_us
                while at_us == event.occurrence_us or at_us < (event.before_us or 0):
                    decided[at_us] += 1
                    at_us = cron.after(at_us)
            next_us = getattr(event, "next_us", None) or next_us
        regular = [at_us for at_us in decided if at_us >= said[0].next_us]
        expected = [] if not regular else _between(cron, said[0].next_us, next_us)

        assert expected == sorted(regular), f"{key}: occurrences that are missing or too many"
        assert {} == {at_us: count for at_us, count in decided.items() if count > 1}, f"{key}: decided twice"
    assert set() == created, "runs of no occurrence"


def _is_for(found: FoundLines, fired: e.ScheduleFired) -> None:
    given = found.found.created(fired.run).input
    assert isinstance(given, dict)
    at = BACKFILLED_FROM.fromtimestamp(fired.occurrence_us / 1e6, BACKFILLED_FROM.tzinfo)
    assert str(given["timestamp"]).startswith(f"{at:%Y-%m-%dT%H:%M}"), (given, fired)


def _between(cron: Cron, from_us: int, before_us: int) -> list[int]:
    found: list[int] = []
    while from_us < before_us:
        found.append(from_us)
        from_us = cron.after(from_us)
    return found


def what_was_filled_in_is_there(found: FoundLines) -> None:
    """Whoever was told that past occurrences were filled in finds each of them."""
    fired = {event.occurrence_us for event in found.schedules[SCHEDULES[1]] if isinstance(event, e.ScheduleFired)}
    for line in found.found.ledger.lines("filled"):
        begin = round(line.more * 1e6)
        hours = {begin + hour * timedelta(hours=1) // timedelta(microseconds=1) for hour in range(4)}
        assert hours <= fired, f"life {line.key} was told that {sorted(hours - fired)} have runs"


CHECKS: tuple[Callable[[FoundLines], None], ...] = (
    limits_hold,
    one_run_for_each_request,
    each_event_once,
    each_occurrence_once,
    what_was_filled_in_is_there,
    runs_are_as_promised,
)
