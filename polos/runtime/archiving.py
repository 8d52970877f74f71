"""
Archiving: runs that ended long ago leave the log, and can still be read.

What is archived is a tree: a root run and everything below it, once all of it has ended and the retention of the
root's workflow says so. It goes in three steps, each of which may be the last one of this process:

1. The records are put into *segments*, compressed blobs that are durable before anything names them.
2. A `RangeSealed` record stands for them. It names the segments, so that nothing collects them, and the runs; in the
   same commit the rows of those runs go, and each run gets the one row of a run that was archived. From that moment
   on the tree is archived: whoever asks for it is answered out of its segments.
3. The records leave the log, a portion a commit, and their leaves stay (`Log.seal`). Killed in between, the next engine
   does the rest: only the last `RangeSealed` can have left some, since no other is made before all of it is done.

Killed before the second step nothing has happened but a blob that nothing names, which the collection of garbage takes.

Reading, compressing and sealing are done on a thread, in short views and small commits; the loop only decides. Nothing
is looked for again and again: the end of a run says when its tree will be due, and a look at the index of its workflow
says when the next one is.

What an ended run still keeps others from doing must outlive it, so a tree also stays as long as one of its runs has an
idempotency key that counts, or a start that counts against a rate, or a message on its way to another log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import ARCHIVE_STREAM, RUN_PREFIX, run_stream, sealed_runs
from polos.engine.state import RunState
from polos.errors import BlobMissing, PolosStoreError, StoreClosed, StoreDamaged, StoreFenced
from polos.points import reach
from polos.runtime.portions import Found, Keeps, Portion, look, pack
from polos.runtime.unit import Reply, Unit, Work
from polos.store.log import Epoch, Reader, Version

if TYPE_CHECKING:
    from polos.clock import Alarm
    from polos.retention import Retention
    from polos.runtime.engine import Engine

__all__ = ["Archiving"]

_log = logging.getLogger("polos")
T = TypeVar("T")

# So many records leave the log in one commit, so that it takes some milliseconds.
RECORDS_A_COMMIT: Final = 500
AGAIN_SECONDS: Final = 1.0
COLLECT_US: Final = 3600 * 1_000_000
LAST: Final = 2**63 - 1


@final
class Archiving:
    """Archives what is due, one portion after another."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine."""
        self._engine = engine
        self._epoch = Epoch(0)
        self._due: dict[str, int] = {}  # workflow → when one of its trees may be due
        self._rest: list[dict[str, Version]] = []  # what the last engine sealed and left in the log
        self._collect_us = 0  # when garbage may be collected again
        self._is_garbage = False  # blobs that nothing needs any more may be there
        self._alarm: Alarm | None = None
        self._alarm_us: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: asyncio.Future[Any] | None = None

    # ------------------------------------------------------------------------------------ when

    def start(self, epoch: Epoch) -> None:
        """Go on with what the last engine left, and look at every workflow with a policy."""
        self._epoch = epoch
        with self._engine.store.log.reader() as reader:
            self._rest = _portions(_left(reader))
        self.look_again()

    def ended(self, state: RunState) -> None:
        """The end of a run is durable: its tree may be due some day."""
        policy = self._policy(state.root_workflow)
        if policy is None:
            return
        due_us = self._engine.now_us()
        if policy.max_count is None and policy.max_age_seconds is not None:
            due_us = (state.ended_us or due_us) + round(policy.max_age_seconds * 1e6)
        self._look_at(state.root_workflow, due_us)
        self._arm()

    def look_again(self) -> None:
        """The ends of some runs may have been missed: look at every workflow that has a policy."""
        now_us = self._engine.now_us()
        with self._engine.store.log.reader() as reader:
            for workflow in _workflows(reader):
                if self._policy(workflow) is not None:
                    self._look_at(workflow, now_us)
        self._arm()

    def _look_at(self, workflow: str, due_us: int) -> None:
        known_us = self._due.get(workflow)
        if known_us is None or due_us < known_us:
            self._due[workflow] = due_us

    def _policy(self, workflow: str) -> Retention | None:
        said = self._engine.bodies.retention(workflow)
        found = self._engine.settings.retention if said is None else said
        return found or None

    def _arm(self) -> None:
        """Be woken when the next workflow is to be looked at; while one is, nobody needs to be."""
        if self._task is not None or self._engine.stopping:
            return
        due = [*self._due.values(), *((self._collect_us,) if self._is_garbage else ())]
        due_us = self._engine.now_us() if self._rest else min(due, default=None)
        if due_us == self._alarm_us:
            return
        self._disarm()
        if due_us is not None:
            self._alarm_us = due_us
            self._alarm = self._engine.clock.call_at(due_us, self._begin)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._alarm_us = None

    def _begin(self) -> None:
        self._alarm = self._alarm_us = None
        if self._engine.stopping or self._task is not None:
            return
        self._task = self._engine.loop.create_task(self._work())
        self._engine.background.add(self._task)
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._engine.background.discard(task)
        self._task = None
        if task.cancelled() or self._engine.loop.is_closed():
            return
        error = task.exception()
        if isinstance(error, StoreClosed | StoreFenced):
            return  # the engine is at its end, too
        if error is not None:
            _log.error("archiving stops until the next engine: %s", error, exc_info=error)
            return
        self._arm()

    async def stop(self) -> None:
        """Stop behind what is being done on a thread: nobody may close the store under it."""
        self._disarm()
        if self._task is not None:
            self._task.cancel()
        if self._thread is not None:
            with suppress(Exception):
                await self._thread

    # ------------------------------------------------------------------------------------ what

    async def _work(self) -> None:
        while self._rest:
            await self._take_out(self._rest[0])
            self._rest.pop(0)
            self._is_garbage = True
        while (workflow := self._next()) is not None:
            try:
                await self._archive(workflow)
            except (StoreClosed, StoreFenced):
                raise
            except (PolosStoreError, StoreDamaged, BlobMissing) as error:
                # A full disk has room again some day; damage is told by whoever reads, and isn't to be archived.
                _log.error("runs of %s can't be archived now: %s", workflow, error)
                self._look_at(workflow, self._engine.now_us() + round(60 * AGAIN_SECONDS * 1e6))
                return
        if self._engine.now_us() >= self._collect_us:
            await self._collect()

    async def _collect(self) -> None:
        """Remove blobs that nothing needs: of runs that were archived, and what a killed archiver had put."""
        self._collect_us = self._engine.now_us() + COLLECT_US
        self._is_garbage = False
        try:
            await self._in_thread(self._engine.store.collect_garbage)
        except StoreClosed:
            raise
        except PolosStoreError as error:
            _log.error("garbage can't be collected now: %s", error)

    def _next(self) -> str | None:
        """Give a workflow that is due."""
        now_us = self._engine.now_us()
        due = [workflow for workflow, due_us in self._due.items() if due_us <= now_us]
        if not due:
            return None
        workflow = min(due, key=lambda name: (self._due[name], name))
        del self._due[workflow]
        return workflow

    async def _archive(self, workflow: str) -> None:
        engine = self._engine
        policy = self._policy(workflow)
        if policy is None:
            return
        now_us = engine.now_us()
        found: Found = await self._in_thread(partial(look, engine.store.log, workflow, policy, now_us))
        trees = found.trees
        while trees:
            keeps = Keeps(
                idempotency_us=round(engine.settings.idempotency_seconds * 1e6), rate_us=engine.lines.rate_periods_us()
            )
            packing = partial(
                pack, engine.store.log, engine.store.blobs, trees, keeps, now_us, deltas=policy.keep_deltas,
                packed=partial(reach, "archive_packed_before_seal"),
            )  # fmt: skip
            portion, taken, kept_us = await self._in_thread(packing)
            if kept_us is not None:
                found.not_before(kept_us)
            if portion is not None:
                await self._seal(portion)
            trees = trees[taken:]
        if found.next_us is not None:
            self._look_at(workflow, found.next_us)

    async def _seal(self, portion: Portion) -> None:
        """Record that a portion was archived, and take it out of the log."""
        sealed = self._engine.loop.create_future()

        def apply(unit: Unit) -> Reply:
            with self._engine.store.log.reader() as reader:
                if self._is_sealed(reader, portion):
                    return {"outcome": "sealed"}  # a commit of unknown outcome turned out well
                if not self._is_as_packed(reader, portion):
                    return {"outcome": "changed"}
            unit.append_system(ARCHIVE_STREAM, portion.event(unit.now_us))
            unit.expected.update(portion.versions)
            unit.rows.update(dict.fromkeys(portion.rows))
            return {"outcome": "sealed"}

        def done(reply: Reply) -> None:
            if not sealed.done():
                sealed.set_result(reply["outcome"] == "sealed")

        def fail(error: BaseException) -> None:
            if not sealed.done():
                sealed.set_exception(error)

        self._engine.post(Work(apply, done=done, fail=fail))
        if await sealed:
            reach("archive_sealed_before_taken_out")
            for part in _portions(portion.versions):
                await self._take_out(part)
            self._is_garbage = True

    @staticmethod
    def _is_sealed(reader: Reader, portion: Portion) -> bool:
        first = next(iter(portion.versions)).removeprefix(RUN_PREFIX)
        return reader.row(("archived", first)) is not None

    def _is_as_packed(self, reader: Reader, portion: Portion) -> bool:
        """Tell whether nothing has happened to the runs of a portion since; what did is told, and looked at again."""
        return all(
            stream.removeprefix(RUN_PREFIX) not in self._engine.residents and reader.version(stream) == version
            for stream, version in portion.versions.items()
        )

    async def _take_out(self, streams: dict[str, Version]) -> None:
        """Have sealed records leave the log; tried until it is done, because nothing else may be sealed before."""
        while True:
            try:
                await self._in_thread(partial(self._engine.store.log.seal, streams, epoch=self._epoch))
            except (StoreClosed, StoreFenced, StoreDamaged):
                raise
            except PolosStoreError as error:
                _log.error("archived records can't leave the log now: %s", error)
                await self._engine.pause(AGAIN_SECONDS)
                continue
            reach("archive_taken_out")
            return

    async def _in_thread(self, work: Callable[[], T]) -> T:
        thread = self._thread = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(thread)
        finally:
            if thread.done():
                self._thread = None


# ---------------------------------------------------------------------------------------- reading


def _workflows(reader: Reader) -> list[str]:
    """Give the workflows that have runs, by jumping from one to the next."""
    found: list[str] = []
    after = None
    while True:
        key = next((key for key, _ in reader.rows(("workflow",), after=after, limit=1)), None)
        if key is None:
            return found
        found.append(str(key[1]))
        after = ("workflow", key[1], LAST)


def _left(reader: Reader) -> dict[str, Version]:
    """Give the streams that were sealed last; some of their records may still be in the log."""
    for record in reader.stream(ARCHIVE_STREAM, reverse=True, limit=1):
        event = decode(record.type, record.schema_version, record.payload)
        assert isinstance(event, e.RangeSealed), "the stream of the archive holds nothing else"
        return {run_stream(run["run"]): Version(run["version"]) for run in sealed_runs(event)}
    return {}


def _portions(streams: dict[str, Version]) -> list[dict[str, Version]]:
    """Cut what is to leave the log into commits, a long stream into several."""
    found: list[dict[str, Version]] = []
    size = RECORDS_A_COMMIT
    for stream, version in streams.items():
        done = 0
        while done < version:
            if size >= RECORDS_A_COMMIT:
                found.append({})
                size = 0
            part = min(version - done, RECORDS_A_COMMIT - size)
            done += part
            size += part
            found[-1][stream] = Version(done)
    return found
