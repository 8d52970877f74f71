"""What `polos schedules` and `polos queues` do; see polos/cli/app.py for what they take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from polos.cli.options import Options
from polos.cli.printing import Printer, ago
from polos.errors import EngineNotRunning
from polos.features import queues, schedules
from polos.queueing import RateLimit
from polos.runtime import reads
from polos.runtime.client import PolosClient

__all__ = ["change_queue", "change_schedule", "list_queues", "list_schedules", "show_schedule"]

Change = Callable[[PolosClient], Awaitable[str | None]]

_DONE = {"pause": "is paused", "resume": "goes on", "delete": "is deleted", "trigger": "has a run"}


# -------------------------------------------------------------------------------------- schedules


def list_schedules(options: Options, workflow: str | None) -> None:
    """Print schedules, with when they come round next."""
    printer = Printer(json=options.json)
    with options.store() as store:
        found = list(schedules.list(PolosClient.over(store), workflow))
    if printer.json:
        for one in found:
            printer.object(_plain(one))
        return
    if not found:
        printer.line("no schedules")
        return
    now_us = options.now_us()
    printer.table(
        ("schedule", "cron", "zone", "next", "last", "overlap"),
        [
            (one.id, one.cron, one.timezone, _when(one.upcoming[0], now_us) if one.upcoming else ("paused", "yellow"),
             "" if one.last_timestamp is None else _when(one.last_timestamp, now_us), one.overlap)
            for one in found
        ],
    )  # fmt: skip


def show_schedule(options: Options, schedule: str) -> None:
    """
    Print a schedule.

    Raises:
        UnknownSchedule: there is none of that id.
    """
    printer = Printer(json=options.json)
    with options.store() as store:
        one = schedules.get(PolosClient.over(store), schedule)
    if printer.json:
        printer.object(_plain(one))
        return
    say, now_us = printer.line, options.now_us()
    say((one.id, "bold"), "  ", one.cron, "  ", one.timezone, *([("  paused", "yellow")] if one.paused else []))
    late = "the newest, however old" if one.catch_up_seconds is None else f"up to {one.catch_up_seconds:g} s"
    say(f"  overlap {one.overlap}, catches up {late}, jitter {one.jitter_seconds:g} s, set by {one.by}")
    for word, moments in (("last", [one.last_timestamp] if one.last_timestamp else []), ("waits", one.buffered),
                          ("next", one.upcoming)):  # fmt: skip
        for moment in moments:
            say(f"  {word:<6}", _when(moment, now_us), "  ", moment.isoformat())
    for run in one.runs:
        say("  run   ", run)


def change_schedule(options: Options, schedule: str, action: str) -> None:
    """
    Pause, resume, delete or trigger a schedule.

    Raises:
        UnknownSchedule: there is none of that id.
    """

    async def change(client: PolosClient) -> str | None:
        schedules.get(client, schedule)  # known before it is kept for an engine that would say so to nobody
        match action:
            case "pause":
                await schedules.pause(client, schedule)
            case "resume":
                await schedules.resume(client, schedule)
            case "delete":
                await schedules.delete(client, schedule)
            case _:
                return await schedules.trigger(client, schedule)
        return None

    _change(options, {"schedule": schedule, "action": action}, schedule, change, _DONE[action])


def _plain(one: schedules.ScheduleInfo) -> dict[str, Any]:
    return {
        **asdict(one),
        "last_timestamp": None if one.last_timestamp is None else one.last_timestamp.isoformat(),
        "upcoming": [moment.isoformat() for moment in one.upcoming],
        "buffered": [moment.isoformat() for moment in one.buffered],
    }


def _when(moment: datetime, now_us: int) -> str:
    at_us = reads.microseconds(moment, "moment")
    assert at_us is not None, "a moment was given"
    return ago(at_us, now_us)


# ----------------------------------------------------------------------------------------- queues


def list_queues(options: Options) -> None:
    """Print queues, with their limits and how many runs wait to begin."""
    printer = Printer(json=options.json)
    with options.store() as store:
        found = queues.list(PolosClient.over(store))
    if printer.json:
        for one in found:
            printer.object({
                **asdict(one), "rate_limit": _parts(one.rate_limit), "key_rate_limit": _parts(one.key_rate_limit),
            })  # fmt: skip
        return
    if not found:
        printer.line("no queues")
        return
    printer.table(
        ("queue", "waiting", "limit", "a key", "rate", "rate a key", "at most waiting", ""),
        [
            (one.name, str(one.queued), _number(one.concurrency_limit), _number(one.key_concurrency_limit),
             _rate(one.rate_limit), _rate(one.key_rate_limit), _number(one.max_queued),
             ("paused", "yellow") if one.paused else "")
            for one in found
        ],
    )  # fmt: skip


def change_queue(options: Options, queue: str, *, paused: bool) -> None:
    """Pause or resume a queue."""

    async def change(client: PolosClient) -> None:
        await (queues.pause if paused else queues.resume)(client, queue)

    action = "pause" if paused else "resume"
    _change(options, {"queue": queue, "action": action}, queue, change, _DONE[action])


def _number(limit: int | None) -> str:
    return "" if limit is None else f"{limit:,}"


def _parts(rate: RateLimit | None) -> dict[str, float] | None:
    return None if rate is None else {"limit": rate.limit, "period_seconds": rate.period_seconds}


def _rate(rate: RateLimit | None) -> str:
    return "" if rate is None else f"{rate.limit:,} in {rate.period_seconds:g} s"


# ----------------------------------------------------------------------------------------- acting


def _change(options: Options, what: dict[str, Any], name: str, change: Change, done: str) -> None:
    """Have something changed; what no engine can do now is kept, and that is said instead."""
    printer = Printer(json=options.json)
    outcome: str = "accepted"
    run: str | None = None
    with options.store() as store:
        try:
            run = asyncio.run(_awaited(change(PolosClient.over(store))))
        except EngineNotRunning as error:
            if error.command_id is None:
                raise
            outcome = "queued"
    if printer.json:
        printer.object({**what, "outcome": outcome, "run": run})
    elif outcome == "queued":
        printer.line(f"{name}: ", ("kept for the next engine", "yellow"), ", since none is running")
    else:
        printer.line(f"{name} {done}{'' if run is None else f': {run}'}")


async def _awaited(work: Awaitable[str | None]) -> str | None:
    return await work
