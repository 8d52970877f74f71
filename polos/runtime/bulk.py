"""
Doing the same to many runs: cancelling, retrying, answering all that a filter finds.

The runs are found a page at a time, so that it takes as little memory for a million as for a hundred, and each is its
own command, so that one that refuses holds up nobody; the commands of a page go together and share commits. Nothing is
recorded of the operation itself. That isn't needed: what was done shows in the runs, and doing it once more passes over
them. A run that is being cancelled isn't asked a second time (which would force it), one that goes on again isn't
retried, and one that has its answer doesn't wait for it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, cast

from polos.engine.json import Json
from polos.errors import EngineNotRunning, PolosUsageError
from polos.runtime import reads
from polos.runtime.addressing import address, resume_address, tell
from polos.runtime.connection import ClientStore, Command, StoreConnection
from polos.runtime.listing import Wanted, list_page, run_filter
from polos.store.log import Reader
from polos.types.bulk import REFUSED_KEPT, BulkResult

__all__ = ["ALIVE", "FAILED", "cancel_many", "count_meant", "resume_many", "retry_many"]

PAGE: Final = 100  # runs that are acted upon at once
ALIVE: Final = ("queued", "waiting", "running")
FAILED: Final = ("failed",)

Fits = Callable[[Reader, reads.RunRow], bool]


async def cancel_many(
    connection: StoreConnection, wanted: Wanted, *, by: str, reason: str | None, limit: int | None, everything: bool
) -> BulkResult:
    """Ask all runs to stop that are found and haven't ended; arguments as for `PolosClient.cancel_many`."""
    command: Command = {"kind": "cancel", "by": by, "reason": reason, "once": True}
    found = _checked(wanted, ALIVE, limit, everything=everything)
    return await _Bulk(connection, command, limit, lambda _reader, _row: True).over(found)


async def retry_many(
    connection: StoreConnection,
    wanted: Wanted,
    *,
    by: str,
    reason: str | None,
    limit: int | None,
    everything: bool,
    children: bool,
) -> BulkResult:
    """Let all runs go on that are found and failed; arguments as for `PolosClient.retry_many`."""
    command: Command = {"kind": "retry", "by": by, "reason": reason}
    found = _checked(wanted, FAILED, limit, everything=everything)
    every = children or wanted.get("parent") is not None
    return await _Bulk(connection, command, limit, lambda _reader, row: every or row.parent is None).over(found)


async def resume_many(
    connection: StoreConnection, key: str, data: Json, wanted: Wanted, *, limit: int | None, everything: bool
) -> BulkResult:
    """Answer all runs that are found and wait for it; arguments as for `PolosClient.resume_many`."""
    command: Command = {"kind": "resume", "key": key, "data": data, "waiting": True}
    found = _checked(wanted, ("waiting", "running"), limit, everything=everything)

    def waits(reader: Reader, row: reads.RunRow) -> bool:
        return any(place[4] == row.run for place, _ in reader.rows(("suspend", row.root, key)))

    return await _Bulk(connection, command, limit, waits).over(found)


def count_meant(reader: Reader, wanted: Wanted, statuses: tuple[str, ...], *, children: bool) -> int:
    """Count the runs that an operation would be done to; those that no engine has seen yet aside."""
    every = children or wanted.get("parent") is not None
    return sum(
        every or row.parent is None
        for found in _checked(wanted, statuses, None, everything=False)
        for row in reads.runs_of(reader, found)
    )


def _checked(
    wanted: Wanted, statuses: tuple[str, ...], limit: int | None, *, everything: bool
) -> Iterator[reads.RunFilter]:
    """Give the filters, one for each status that the runs may have."""
    if not isinstance(cast("object", everything), bool):
        raise TypeError(f"everything must be True or False, it is {everything!r}")  # "no" would be everything
    if limit is not None and (isinstance(limit, bool) or not isinstance(cast("object", limit), int) or limit < 1):
        raise PolosUsageError(f"limit is a number from 1, not {limit!r}")
    found = run_filter(wanted)
    if found == reads.RunFilter() and not everything:
        raise PolosUsageError("this would be done to every run; say which are meant, or everything=True")
    return iter([found] if found.status is not None else [replace(found, status=status) for status in statuses])


class _Bulk:
    """One operation: what is said to each run, and what came of it."""

    def __init__(self, connection: StoreConnection, command: Command, limit: int | None, fits: Fits) -> None:
        self._connection = connection
        self._command = command
        self._limit = limit
        self._fits = fits
        self._accepted = self._kept = self._refused_count = 0
        self._refused: dict[str, str] = {}

    async def over(self, filters: Iterator[reads.RunFilter]) -> BulkResult:
        """Act upon the runs of some filters, created before now."""
        now_us = self._connection.clock.now_us() + 1
        for wanted in filters:
            until_us = now_us if wanted.until_us is None else min(wanted.until_us, now_us)
            await self._pages(replace(wanted, until_us=until_us))
        return BulkResult(
            accepted=self._accepted, kept=self._kept, refused=self._refused, refused_count=self._refused_count
        )

    def _left(self) -> int:
        done = self._accepted + self._kept
        return PAGE if self._limit is None else min(PAGE, self._limit - done)

    async def _pages(self, wanted: reads.RunFilter) -> None:
        cursor: str | None = None
        store = self._connection.store
        while (room := self._left()) > 0:
            # What doesn't fit is passed over, so a page may be larger than what is done with it, never the other way.
            page = list_page(store.log, store.inbox, wanted, limit=room, cursor=cursor)
            with store.log.reader() as reader:
                meant = [row for row in page.rows if self._fits(reader, row)]
            # All of the page come to their end before the first failure is told: what was done is done.
            failures = await asyncio.gather(*map(self._one, meant), return_exceptions=True)
            for failure in failures:
                if failure is not None:
                    raise failure
            if page.cursor is None:
                return
            cursor = page.cursor

    async def _one(self, row: reads.RunRow) -> None:
        try:
            told = await tell(
                self._connection, lambda store: self._address(store, row), lambda run, _: {**self._command, "run": run}
            )
        except EngineNotRunning:
            raise  # it is stopping: the others of the page won't fare better
        except PolosUsageError as error:
            self._refuse(row.run, str(error))
            return
        detail = told.answer.get("detail")
        if told.answer["outcome"] == "queued":
            self._kept += 1
        elif isinstance(detail, dict) and detail.get("cancelled") is False:
            self._refuse(row.run, "it has ended meanwhile")
        else:
            self._accepted += 1

    def _address(self, store: ClientStore, row: reads.RunRow) -> str:
        if self._command["kind"] == "resume":
            return resume_address(store, row.run, str(self._command["key"]))
        return address(store, row.run)

    def _refuse(self, run: str, why: str) -> None:
        self._refused_count += 1
        if len(self._refused) < REFUSED_KEPT:
            self._refused[run] = why
