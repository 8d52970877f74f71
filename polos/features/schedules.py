"""
Schedules while the engine runs: making them, looking at them, holding them up, firing them by hand.

A workflow that is to have schedules says so: by `@workflow(schedule="0 3 * * *")`, which makes one of the key "global",
or by `schedule=True`, if all of them are made here. What is made here stays until it is deleted, whatever the code says
later; and what the code says is taken up again only when it says something else than before. `client` is a `Polos` or a
`PolosClient`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, cast

from polos.calls import text
from polos.clock import Clock, new_run_id
from polos.engine.json import Json
from polos.engine.schedule_state import ScheduleState, read_schedule_row, schedule_id, split_id
from polos.errors import UnknownSchedule
from polos.runtime.connection import Answer, StoreConnection
from polos.scheduling import Overlap, SaidSchedule
from polos.store.log import Log
from polos.types.schedules import SchedulePayload

__all__ = [
    "ScheduleInfo", "SchedulePayload", "backfill", "create", "delete", "get", "list", "pause", "resume", "trigger",
]  # fmt: skip

UPCOMING: Final = 5
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class SchedulesClient(Protocol):
    """What these functions need of a client."""

    _clock: Clock

    def _connection(self) -> StoreConnection:
        """Give the way to the engine."""
        ...

    def _log(self) -> Log:
        """Give the log, to read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleInfo:
    """
    A schedule as the log has it.

    Attributes:
        id: its id.
        workflow: whose runs it starts.
        key: tells it from other schedules of that workflow.
        cron: when.
        timezone: by the clock of which place.
        overlap: what happens if the run before it is still under way.
        catch_up_seconds: how long ago a missed occurrence may be to be made up; None: the newest one, however old.
        jitter_seconds: at most how much later than its occurrence a run is created.
        paused: whether nothing comes of it for now.
        by: who set it last: "code", or who asked for it.
        last_timestamp: the occurrence that fired last.
        upcoming: the occurrences that come next; none while it is paused.
        buffered: occurrences that have come and wait for the runs under way to end.
        runs: the run created last, and those that were under way then.
    """

    id: str
    workflow: str
    key: str
    cron: str
    timezone: str
    overlap: str
    catch_up_seconds: float | None
    jitter_seconds: float
    paused: bool
    by: str
    last_timestamp: datetime | None
    upcoming: Sequence[datetime]
    buffered: Sequence[datetime] = field(default=())
    runs: Sequence[str] = field(default=())


async def create(
    client: SchedulesClient,
    workflow: str,
    cron: str,
    timezone: str = "UTC",
    key: str = "global",
    *,
    overlap: Overlap = "skip",
    catch_up_seconds: float | None = None,
    jitter_seconds: float = 0,
) -> str:
    """
    Make a schedule, or change the one of that workflow and key. Durable when it returns.

    Making the same again changes nothing; a change counts from that moment on. docs/schedules.md tells the whole story.

    ```python run
    import asyncio, tempfile
    from polos import Polos, SchedulePayload, schedules, workflow

    @workflow(schedule=True)
    async def remind(ctx, payload: SchedulePayload):
        return f"good morning, {payload.key}"

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                made = await schedules.create(polos, "remind", "0 8 * * 1-5", timezone="Europe/Vienna", key="ada")
                print(made, schedules.get(polos, made).upcoming[0])

    asyncio.run(main())
    ```

    Args:
        client: a `Polos` or a `PolosClient`.
        workflow: id of a workflow that is defined with `schedule=True`, or with a schedule of its own.
        cron: five fields (weekdays with 0 or 7 for Sunday), or `@daily` and the like.
        timezone: IANA name of the place whose clock counts.
        key: tells schedules of one workflow apart; their runs have it as `concurrency_key`.
        overlap: what happens to an occurrence while a run of this schedule is under way.
        catch_up_seconds: how old missed occurrences may be to be made up, one after another; what is older is recorded
            as skipped. None: the newest one is, however old.
        jitter_seconds: the run is created up to so much later, by a time that depends on schedule and occurrence alone.

    Returns:
        The schedule's id: always the same for the same workflow and key.

    Raises:
        ValueError: an argument has a value that makes no sense.
        TypeError: an argument is of the wrong type.
        CommandRefused: the workflow can't be scheduled.
    """
    text("workflow", workflow)
    said = SaidSchedule(
        cron=cron, timezone=timezone, key=key, overlap=overlap,
        catch_up_seconds=catch_up_seconds, jitter_seconds=jitter_seconds,
    )  # fmt: skip
    await _tell(client, {"action": "set", "workflow": workflow, "said": cast("Json", asdict(said))})
    return schedule_id(workflow, key)


def get(client: SchedulesClient, id: str) -> ScheduleInfo:
    """
    Give a schedule as the log has it.

    An example stands at `create`.

    Raises:
        UnknownSchedule: there is none of that id.
    """
    text("id", id)
    with client._log().reader() as reader:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # ours, and offered for this
        row = reader.row(("schedule", *split_id(id)))
    state = None if row is None else read_schedule_row(row)
    if state is None or state.said.deleted:
        raise UnknownSchedule(f"there is no schedule {id!r} in this store")
    return _info(client, state)


def list(client: SchedulesClient, workflow: str | None = None) -> Iterator[ScheduleInfo]:  # noqa: A001  # what one looks for
    """
    Give all schedules, or those of a workflow, by workflow and key.

    An example stands at `create`.
    """
    prefix = ("schedule",) if workflow is None else ("schedule", workflow)
    with client._log().reader() as reader:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        states = [read_schedule_row(row) for _, row in reader.rows(prefix)]
    return (_info(client, state) for state in states if not state.said.deleted)


async def pause(client: SchedulesClient, id: str) -> None:
    """
    Let nothing come of a schedule; what is under way goes on. Durable when it returns.

    An example stands at `create`.

    Raises:
        UnknownSchedule: there is none of that id.
    """
    await _act(client, "pause", id)


async def resume(client: SchedulesClient, id: str) -> None:
    """
    Let a schedule that was paused go on; occurrences that came meanwhile are recorded as skipped. Durable on return.

    An example stands at `create`.

    Raises:
        UnknownSchedule: there is none of that id.
    """
    await _act(client, "resume", id)


async def delete(client: SchedulesClient, id: str) -> None:
    """
    Delete a schedule; its runs stay. Durable when it returns.

    An example stands at `create`.

    One that stands in the code comes back when the code says something else of it.

    Raises:
        UnknownSchedule: there is none of that id.
    """
    await _act(client, "delete", id)


async def trigger(client: SchedulesClient, id: str) -> str:
    """
    Create a run now, as if there was an occurrence, paused or not. Durable when it returns.

    An example stands at `create`.

    It counts as under way like any other run of the schedule, and is created even if one is; it then waits in their
    queue until the slot of that key is free.

    Returns:
        The run's id.

    Raises:
        UnknownSchedule: there is none of that id.
        QueueFull: as many runs wait in the workflow's queue as may.
    """
    clock = client._clock  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    run = new_run_id(clock, clock.now_us())
    await _act(client, "trigger", id, run=run)
    return run


async def backfill(client: SchedulesClient, id: str, from_: datetime, to: datetime) -> Sequence[str]:
    """
    Create the runs of past occurrences that never had one, in order. Durable when it returns.

    An example stands at `create`.

    They stand in the queue of their workflow behind the runs that come regularly, and no overlap policy looks at them.

    Args:
        client: a `Polos` or a `PolosClient`.
        id: the schedule's id.
        from_: the first moment; UTC if it names no zone.
        to: the last moment; what lies in the future isn't filled in.

    Returns:
        The ids of the runs that were created; an occurrence that has a run already gets no second one.

    Raises:
        UnknownSchedule: there is none of that id.
        CommandRefused: `to` lies before `from_`, or there are more than a thousand occurrences between them.
        TypeError: one of them is no datetime.
    """
    answer = await _act(client, "backfill", id, from_us=_us("from_", from_), to_us=_us("to", to))
    detail = cast("dict[str, Any]", answer.get("detail") or {})
    return [str(run) for run in detail.get("runs", ())]


def _info(client: SchedulesClient, state: ScheduleState) -> ScheduleInfo:
    said = state.said
    upcoming: Sequence[int] = ()
    if not said.paused:
        now_us = client._clock.now_us()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        upcoming = state.cron.upcoming(max(state.next_us - 1, now_us), UPCOMING)
    return ScheduleInfo(
        id=state.id,
        workflow=said.workflow,
        key=said.key,
        cron=said.cron,
        timezone=said.timezone,
        overlap=said.overlap,
        catch_up_seconds=None if said.catch_up_us is None else said.catch_up_us / 1e6,
        jitter_seconds=said.jitter_us / 1e6,
        paused=said.paused,
        by=said.by,
        last_timestamp=None if state.last_us is None else _datetime(state.last_us),
        upcoming=tuple(map(_datetime, upcoming)),
        buffered=tuple(map(_datetime, state.buffered)),
        runs=state.runs,
    )


def _datetime(moment_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=moment_us)


def _us(name: str, moment: object) -> int:
    if not isinstance(moment, datetime):
        raise TypeError(f"{name} must be a datetime, it is {moment!r}")
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max((aware - _EPOCH) // timedelta(microseconds=1), 0)


async def _act(client: SchedulesClient, action: str, id: str, **more: Json) -> Answer:
    text("id", id)
    return await _tell(client, {"action": action, "schedule": id, **more})


async def _tell(client: SchedulesClient, command: dict[str, Json]) -> Answer:
    return await client._connection().execute({"kind": "schedule", **command})  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
